//! One command's surroundings: its settings, its screen, and the way it asks the warden.

use serde::{Serialize, de::DeserializeOwned};

use super::{progress::Line, screen::Screen, settings::Settings};
use crate::{
    base::{Context, Error, Id, IdKind, Result},
    seal::Secret,
    work::{client, request::Request},
};

#[derive(Debug)]
pub struct Session {
    pub settings: Settings,
    pub screen: Screen,
}

impl Session {
    /// Asks, showing progress until the answer comes. Whether a daemon answers or this process does reads the
    /// same.
    pub fn ask<T: DeserializeOwned>(&self, request: Request) -> Result<T> {
        self.ask_with(request, &Secret::new(Vec::new()))
    }

    /// As [`Self::ask`], with a secret that comes with the request.
    pub fn ask_with<T: DeserializeOwned>(&self, request: Request, secret: &Secret) -> Result<T> {
        let line = Line::new();
        let answer = client::run_with(&self.settings.site(), request, secret, &line)?;
        drop(line);
        serde_json::from_value(answer).context("reading the warden's answer")
    }

    /// Asks for text, and prints it as it comes; with `--json` as one document when all of it is there.
    pub fn ask_aloud<T: DeserializeOwned + Serialize>(&self, request: Request) -> Result<T> {
        if self.screen.is_json() {
            let answer: T = self.ask(request)?;
            self.screen.json(&answer)?;
            return Ok(answer);
        }
        let line = Line::aloud(&self.screen);
        let answer = client::run(&self.settings.site(), request, &line);
        drop(line);
        self.screen.line("")?;
        serde_json::from_value(answer?).context("reading the warden's answer")
    }
}

/// A time in milliseconds since 1970, as people and `date` read it.
pub fn time(at_ms: u64) -> String {
    i64::try_from(at_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| "?".into(), |time| time.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// For clap: an identifier of any kind.
pub fn any_id(text: &str) -> Result<Id> {
    text.parse()
}

/// For clap: an identifier of one kind.
macro_rules! id_of {
    ($($name:ident => $kind:ident),* $(,)?) => {$(
        pub fn $name(text: &str) -> Result<Id, Error> {
            Id::parse_as(IdKind::$kind, text)
        }
    )*};
}

id_of! {
    backup_id => Backup, document_id => Document, erasure_id => Erasure, run_id => Run, token_id => Token,
    tokenizer_id => Tokenizer, feedback_id => Feedback, job_id => Job, deployment_id => Deployment,
}
