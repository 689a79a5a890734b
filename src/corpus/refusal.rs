//! Why an input was not taken, and what its owner can do about it. The reasons are a closed list, so that a
//! steward can filter by them and a program can rely on their names.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Format;

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident: $name:literal, $says:literal, $remedy:literal;)*) => {
        /// Why an input was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[$doc])* #[serde(rename = $name)] $reason),* }

        impl Reason {
            pub const ALL: &'static [Reason] = &[$(Reason::$reason),*];

            /// The name that scripts rely on.
            pub fn name(self) -> &'static str {
                match self { $(Self::$reason => $name),* }
            }

            /// What is wrong, in a few words.
            pub fn says(self) -> &'static str {
                match self { $(Self::$reason => $says),* }
            }

            /// What the owner of the input can do about it.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$reason => $remedy),* }
            }
        }
    };
}

reasons! {
    Unreadable: "unreadable", "cannot be read", "check that it exists and that its permissions let this user read it";
    NotAFile: "not_a_file", "is a socket, a pipe or a device", "leave it out";
    SymlinkLoop: "symlink_loop", "is a link that leads back to a folder above it", "remove the link";
    Repeated: "repeated", "leads to a folder that was already taken under another name", "nothing to do, unless both names should count";
    Empty: "empty", "is empty", "remove it, or copy it again if it should not be";
    TooLarge: "too_large", "is larger than the limit for one file", "split it into smaller files";
    Binary: "binary", "is not text and no format that is read here", "export it as text, PDF or docx";
    Unsupported: "unsupported", "is of a format that is not read yet", "export it as text, PDF or docx";
    Malformed: "malformed", "is not what it claims to be, or is damaged", "open it in the program that made it and save it again";
    Truncated: "truncated", "ends too early", "copy it again from where it came";
    Encrypted: "encrypted", "is protected by a password", "remove the protection and ingest it again";
    NoText: "no_text", "holds no text (a scan, perhaps)", "run it through text recognition (OCR) first";
    TooMuch: "too_much", "unfolds into more than the limit (a decompression bomb, perhaps)", "check where it came from; split it if it is genuine";
    TimedOut: "timed_out", "took longer than the limit to read", "save it again or split it";
    OutOfMemory: "out_of_memory", "needed more memory than the limit to read", "save it again or split it";
    Forbidden: "forbidden", "made its reader ask the kernel for what no reader needs (an attack, perhaps)", "do not open it elsewhere; find out where it came from";
    Crashed: "crashed", "crashed the reader (nothing else was harmed)", "save it again in the program that made it; report it if you may share it";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.says())
    }
}

/// One input that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The absolute path, with `#row` behind it where one row of a file was refused.
    pub name: String,
    pub collection: String,
    pub reason: Reason,
    /// What it was found to be, where that much was clear.
    pub format: Option<Format>,
    /// What exactly was found, without any text of the document; may be empty.
    pub detail: String,
    pub source_bytes: u64,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        write!(f, "; {}", self.reason.remedy())
    }
}

/// A refusal inside a reader, before anyone has put a name to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub reason: Reason,
    pub format: Option<Format>,
    pub detail: String,
}

impl Refused {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, format: None, detail: detail.into() }
    }

    pub fn within(mut self, format: Format) -> Self {
        self.format.get_or_insert(format);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_survive_json() {
        for (at, &reason) in Reason::ALL.iter().enumerate() {
            let json = serde_json::to_string(&reason).expect("plain data");
            assert_eq!(json, format!("\"{}\"", reason.name()));
            assert_eq!(serde_json::from_str::<Reason>(&json).expect("its own name"), reason);
            assert!(Reason::ALL[..at].iter().all(|earlier| earlier.name() != reason.name()));
        }
    }
}
