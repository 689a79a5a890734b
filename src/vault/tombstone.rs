//! Tombstones, `keys/tombstones`: what was erased, so that no copy from before can bring it back unnoticed. One
//! line an erasure, only ever added to:
//!
//! ```text
//! {"number":0,"install":"ins_…","erasure":"era_…","at_ms":1,"documents":{"doc_…":"ab…"},"emptied":["ans_…"],"previous":""} 12ab…
//! ```
//!
//! The signature is Ed25519, in hexadecimal, by the key that signs receipts and certificates, over the line
//! `cloister tombstone v1` and the JSON before the space. `previous` is the SHA-256 of the line before, so that none can be
//! altered, moved or left out; that the last ones are missing is told by the audit log, which has the SHA-256 of each.
//! A restore puts back the longest that it finds; the next start then erases again whatever it names.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Purpose, Vault};
use crate::{
    base::{Context, Error, Id, Result, fs::write_atomic, hex, unhex},
    seal::sha256,
};

/// The file, among the keys.
pub const TOMBSTONES: &str = "tombstones";
const DOMAIN: &str = "cloister tombstone v1\n";

/// What one erasure took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tombstone {
    number: u64,
    install: Id,
    pub erasure: Id,
    pub at_ms: u64,
    /// The documents' objects, each with the keyed hash of its name in hexadecimal.
    pub documents: BTreeMap<Id, String>,
    /// Answers and opinions whose words went. Lines of older versions have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emptied: Vec<Id>,
    previous: String,
}

/// The file, read and proved.
#[derive(Default)]
struct Field {
    text: String,
    tombstones: Vec<Tombstone>,
    /// SHA-256 of each line, in hexadecimal.
    hashes: Vec<String>,
}

impl Vault {
    /// Every tombstone, oldest first.
    ///
    /// # Errors
    /// `Integrity` where one was altered, moved or left out.
    pub fn tombstones(&self) -> Result<Vec<Tombstone>> {
        self.field().map(|field| field.tombstones)
    }

    /// Sets a tombstone for an erasure, unless it has one; durable when it returns. The value is what the audit log
    /// has of it: the SHA-256 of its line, in hexadecimal.
    pub fn bury(
        &self,
        erasure: Id,
        at_ms: u64,
        documents: &BTreeMap<Id, String>,
        emptied: &[Id],
    ) -> Result<String> {
        let mut field = self.field()?;
        if let Some(place) = field.tombstones.iter().position(|tombstone| tombstone.erasure == erasure) {
            return Ok(field.hashes.swap_remove(place));
        }
        let tombstone = Tombstone {
            number: field.tombstones.len() as u64,
            install: self.install(),
            erasure,
            at_ms,
            documents: documents.clone(),
            emptied: emptied.to_vec(),
            previous: field.hashes.pop().unwrap_or_default(),
        };
        let said = serde_json::to_string(&tombstone).context("writing a tombstone")?;
        let signature = self.signer(Purpose::Signing)?.sign(format!("{DOMAIN}{said}").as_bytes());
        let line = format!("{said} {}", hex(&signature));
        field.text.push_str(&line);
        field.text.push('\n');
        write_atomic(&self.tombstones_path(), field.text.as_bytes())?;
        Ok(hex(&sha256(line.as_bytes())))
    }

    fn field(&self) -> Result<Field> {
        let path = self.tombstones_path();
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Field::default()),
            read => read.with_context(|| format!("reading {}", path.display()))?,
        };
        let key = self.signer(Purpose::Signing)?.public_key();
        let mut field = Field::default();
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(altered(&path, text.lines().count()));
        }
        for line in text.lines() {
            let broken = || altered(&path, field.hashes.len() + 1);
            let (said, signature) = line.rsplit_once(' ').ok_or_else(broken)?;
            let signature = unhex(signature).ok_or_else(broken)?;
            key.verify(format!("{DOMAIN}{said}").as_bytes(), &signature).map_err(|_| broken())?;
            let tombstone: Tombstone = serde_json::from_str(said).map_err(|_| broken())?;
            let in_place = tombstone.number == field.hashes.len() as u64
                && tombstone.previous == field.hashes.last().map_or("", String::as_str)
                && tombstone.install == self.install();
            if !in_place {
                return Err(broken());
            }
            field.hashes.push(hex(&sha256(line.as_bytes())));
            field.tombstones.push(tombstone);
        }
        Ok(Field { text, ..field })
    }

    fn tombstones_path(&self) -> PathBuf {
        self.keys_dir().join(TOMBSTONES)
    }
}

fn altered(path: &Path, line: usize) -> Error {
    Error::integrity(format!("line {line} of {} was altered", path.display()))
        .remedy("put the file back from the newest backup")
}

#[cfg(test)]
#[path = "tombstone_tests.rs"]
mod tests;
