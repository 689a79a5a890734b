//! One entry of the log.

use std::time::{SystemTime, UNIX_EPOCH};

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    base::{Context, Error, Id, Result},
    seal::{Key, open_blob, seal_blob},
};

/// Longest entry line: what is longer belongs into an object that the entry names.
pub(super) const ENTRY_BYTES_MAX: usize = 16 << 10;

/// How what the entry tells of went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// About to be done; another entry says how it ended.
    Intent,
    Done,
    Failed,
    Denied,
}

/// Who did what to what, and how it went. Neither text of a document nor a person's name belongs into it in
/// the clear; what is personal goes through [`Entry::sealed`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub at_ms: u64,
    /// An identifier, or `local:<uid>` for somebody at the machine itself.
    pub actor: String,
    pub action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Id>,
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub detail: Map<String, Value>,
}

impl Entry {
    /// An entry of this moment.
    pub fn new(actor: impl Into<String>, action: impl Into<String>, outcome: Outcome) -> Self {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64);
        Self { at_ms, actor: actor.into(), action: action.into(), object: None, outcome, detail: Map::new() }
    }

    pub fn object(mut self, object: Id) -> Self {
        self.object = Some(object);
        self
    }

    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.into(), value.into());
        self
    }

    /// A detail that only the holder of `key` reads with [`open_detail`]: the log stays verifiable by those who
    /// must not know it, and erasing the key erases it from a log that cannot be changed.
    pub fn sealed(self, name: &str, key: &Key, plain: &str) -> Result<Self> {
        let blob = seal_blob(key, &detail_aad(&self.action, name), plain.as_bytes())?;
        Ok(self.detail(name, serde_json::json!({ "sealed": Base64::encode_string(&blob) })))
    }

    /// The line without its end, as number `number` of the log.
    pub(super) fn to_line(&self, number: u64) -> Result<Vec<u8>> {
        #[derive(Serialize)]
        struct Line<'a> {
            n: u64,
            #[serde(flatten)]
            entry: &'a Entry,
        }
        let line = serde_json::to_vec(&Line { n: number, entry: self }).context("writing an audit entry")?;
        if line.len() > ENTRY_BYTES_MAX {
            return Err(Error::usage(format!(
                "an audit entry for '{}' has {} bytes, and {ENTRY_BYTES_MAX} are the most",
                self.action,
                line.len()
            )));
        }
        Ok(line)
    }

    pub(super) fn from_line(line: &[u8]) -> Result<(u64, Self)> {
        #[derive(Deserialize)]
        struct Line {
            n: u64,
            at_ms: u64,
            actor: String,
            action: String,
            object: Option<Id>,
            outcome: Outcome,
            #[serde(default)]
            detail: Map<String, Value>,
        }
        let Line { n, at_ms, actor, action, object, outcome, detail } = serde_json::from_slice(line)
            .context("reading an audit entry")
            .map_err(|error| error.with_kind(crate::base::ErrorKind::Integrity))?;
        Ok((n, Self { at_ms, actor, action, object, outcome, detail }))
    }
}

/// Opens a detail that was sealed with [`Entry::sealed`].
///
/// # Errors
/// `Integrity` when it is not a sealed detail of this entry under this key.
pub fn open_detail(entry: &Entry, name: &str, key: &Key) -> Result<String> {
    let broken = || Error::integrity(format!("the entry has no sealed detail '{name}'"));
    let text = entry.detail.get(name).and_then(|value| value.get("sealed")?.as_str()).ok_or_else(broken)?;
    let blob = Base64::decode_vec(text).map_err(|_| broken())?;
    let plain = open_blob(key, &detail_aad(&entry.action, name), &blob)?;
    String::from_utf8(plain).context("reading a sealed detail")
}

fn detail_aad(action: &str, name: &str) -> Vec<u8> {
    [b"cloister audit detail v1 ", action.as_bytes(), b"|", name.as_bytes()].concat()
}
