//! The one error type: what failed, what failed below it, and what to do about it.
//!
//! It is plain data, so that it crosses a socket unchanged: a worker's failure reads the same in the
//! warden's log and on the terminal of the person who asked.

use std::fmt;

use serde::{Deserialize, Serialize};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller may have to act on; everything finer is in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// It was tried and did not work. Exit code 1.
    Failed,
    /// The request itself is wrong: an unknown name, a bad value. Exit code 2.
    Usage,
    /// Not allowed for this caller. Exit code 3.
    Denied,
    /// Something is not what it was when it was written. Exit code 4.
    Integrity,
    /// The appliance is sealed, or the unsealing secret is wrong. Exit code 5.
    Sealed,
    /// The named thing does not exist. Exit code 1.
    NotFound,
    /// It cannot be done now, and may be later: locked, busy, full, shutting down. Exit code 1.
    Unavailable,
    /// Stopped on request; what was reported done is kept. Exit code 1.
    Interrupted,
}

impl ErrorKind {
    /// The process exit code that scripts rely on.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed | Self::NotFound | Self::Unavailable | Self::Interrupted => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::Integrity => 4,
            Self::Sealed => 5,
        }
    }
}

/// An error: outermost message first, causes below it, and a remedy where one is known.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error(Box<Inner>);

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Inner {
    kind: ErrorKind,
    /// Outermost first.
    messages: Vec<String>,
    remedy: Option<String>,
}

macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {$(
        #[doc = concat!("An error of kind [`ErrorKind::", stringify!($kind), "`].")]
        pub fn $name(message: impl Into<String>) -> Self {
            Self::new(ErrorKind::$kind, message)
        }
    )*};
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, messages: vec![message.into()], remedy: None }))
    }

    constructors! {
        failed => Failed, usage => Usage, denied => Denied, integrity => Integrity, sealed => Sealed,
        not_found => NotFound, unavailable => Unavailable, interrupted => Interrupted,
    }

    /// Says what to do about it; an inner remedy, being closer to the cause, is kept.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedy.get_or_insert_with(|| remedy.into());
        self
    }

    /// Says what was being done when this failed.
    pub fn context(mut self, doing: impl Into<String>) -> Self {
        self.0.messages.insert(0, doing.into());
        self
    }

    /// The same failure, of another kind: a missing file that means a broken vault, say.
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    pub fn remedy_text(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.messages.join(": "))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} [{:?}]", self.0.kind)?;
        self.0.remedy.as_ref().map_or(Ok(()), |remedy| write!(f, " (help: {remedy})"))
    }
}

impl std::error::Error for Error {}

/// Turns any failure into an [`Error`] by saying what was being done. There is deliberately no `From`
/// for foreign errors: "No such file or directory" alone helps nobody.
pub trait Context<T> {
    fn context(self, doing: impl Into<String>) -> Result<T>;
    fn with_context<M: Into<String>>(self, doing: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: IntoCause> Context<T> for std::result::Result<T, E> {
    fn context(self, doing: impl Into<String>) -> Result<T> {
        self.map_err(|error| error.into_cause().context(doing))
    }

    fn with_context<M: Into<String>>(self, doing: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| error.into_cause().context(doing()))
    }
}

/// What can stand below a context: our own errors keep their kind and remedy, others become `Failed`.
pub trait IntoCause {
    fn into_cause(self) -> Error;
}

impl IntoCause for Error {
    fn into_cause(self) -> Error {
        self
    }
}

impl IntoCause for std::io::Error {
    fn into_cause(self) -> Error {
        // A reader or writer of ours had to speak `io::Error`: what it carries is the cause, kind and all.
        if let Some(ours) = self.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            return ours.clone();
        }
        let error = Error::failed(self.to_string());
        match self.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => error
                .with_kind(ErrorKind::Unavailable)
                .remedy("free some space on the disk and run the same command again"),
            std::io::ErrorKind::PermissionDenied => error.remedy("check who owns it and its permissions"),
            _ => error,
        }
    }
}

macro_rules! failed_from {
    ($($foreign:ty),* $(,)?) => {$(
        impl IntoCause for $foreign {
            fn into_cause(self) -> Error {
                Error::failed(self.to_string())
            }
        }
    )*};
}

failed_from!(
    serde_json::Error,
    toml::de::Error,
    toml::ser::Error,
    std::string::FromUtf8Error,
    std::str::Utf8Error,
    std::num::ParseIntError,
    std::num::TryFromIntError,
    Box<dyn std::error::Error + Send + Sync>,
);

/// Implements [`IntoCause`] for a room's foreign error types, as a plain failure.
#[macro_export]
macro_rules! into_cause {
    ($($foreign:ty),* $(,)?) => {$(
        impl $crate::base::error::IntoCause for $foreign {
            fn into_cause(self) -> $crate::base::Error {
                $crate::base::Error::failed(self.to_string())
            }
        }
    )*};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_from_the_outside_in_and_keeps_the_innermost_remedy() {
        let inner: Result<()> =
            Err(std::io::Error::from(std::io::ErrorKind::StorageFull)).context("writing a.log");
        let error =
            inner.context("appending to the audit log").map_err(|e| e.remedy("never shown")).unwrap_err();
        assert!(error.to_string().starts_with("appending to the audit log: writing a.log: "));
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.remedy_text().is_some_and(|remedy| remedy.contains("space")));
    }

    #[test]
    fn keeps_its_kind_through_an_io_error() {
        let carried: Result<()> =
            Err(std::io::Error::other(Error::integrity("chunk 3 is wrong"))).context("reading");
        let error = carried.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Integrity, "reading: chunk 3 is wrong")
        );
    }

    #[test]
    fn crosses_a_socket_unchanged() {
        let error = Error::integrity("object doc_x is cut short")
            .remedy("restore it from a backup")
            .context("verify");
        let there = serde_json::to_string(&error).expect("plain data");
        assert_eq!(serde_json::from_str::<Error>(&there).expect("round trip"), error);
    }
}
