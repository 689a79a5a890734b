//! What the warden hands a worker so that it can read or write one object and no other: the key, and what the
//! file must be. It travels over the worker's inherited socket as bytes that the sender and receiver wipe.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ObjectReader, ObjectWriter};
use crate::{
    base::{Context, Error, Id, Result},
    seal::{Digest, KEY_BYTES, Key, Label, WipedVec},
};

/// Leave to read one object.
#[derive(Debug)]
pub struct ReadGrant {
    facts: Facts,
    key: Key,
}

/// Leave to write one object, once, of one length.
#[derive(Debug)]
pub struct WriteGrant {
    facts: Facts,
    key: Key,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    install: Id,
    object: Id,
    version: u64,
    path: PathBuf,
    length_bytes: u64,
    /// Known for an object that exists, all zeros for one that is to be written.
    header_hash: Digest,
}

impl Facts {
    fn label(&self) -> Label {
        Label { install: self.install, object: self.object, version: self.version }
    }

    /// Key first, then the facts: one allocation of the right size, wiped when it goes.
    fn to_wire(&self, key: &Key) -> Result<WipedVec> {
        let facts = serde_json::to_vec(self).context("writing a grant")?;
        let mut wire = WipedVec::zeroed(KEY_BYTES + facts.len());
        key.danger_expose(|bytes| wire[..KEY_BYTES].copy_from_slice(bytes));
        wire[KEY_BYTES..].copy_from_slice(&facts);
        Ok(wire)
    }

    fn from_wire(wire: &[u8]) -> Result<(Self, Key)> {
        let (key, facts) =
            wire.split_at_checked(KEY_BYTES).ok_or_else(|| Error::integrity("a grant is cut short"))?;
        Ok((serde_json::from_slice(facts).context("reading a grant")?, Key::from_slice(key)?))
    }
}

macro_rules! grant {
    ($grant:ident) => {
        impl $grant {
            pub(super) fn new(
                label: Label,
                path: PathBuf,
                length_bytes: u64,
                header_hash: Digest,
                key: Key,
            ) -> Self {
                let Label { install, object, version } = label;
                Self { facts: Facts { install, object, version, path, length_bytes, header_hash }, key }
            }

            pub fn id(&self) -> Id {
                self.facts.object
            }

            pub fn length_bytes(&self) -> u64 {
                self.facts.length_bytes
            }

            /// The grant as bytes for the worker's inherited socket: they hold the key.
            pub fn danger_to_wire(&self) -> Result<WipedVec> {
                self.facts.to_wire(&self.key)
            }

            pub fn from_wire(wire: &[u8]) -> Result<Self> {
                Facts::from_wire(wire).map(|(facts, key)| Self { facts, key })
            }
        }
    };
}

grant!(ReadGrant);
grant!(WriteGrant);

impl ReadGrant {
    pub fn open(&self) -> Result<ObjectReader> {
        ObjectReader::open_file(&self.facts.path, &self.key, self.facts.label(), &self.facts.header_hash)
    }

    /// As [`super::Depot::extent_key`], for a grant of a document.
    pub fn extent_key(&self) -> Result<Key> {
        extent_key(&self.key, self.facts.object)
    }
}

impl WriteGrant {
    pub fn create(&self) -> Result<ObjectWriter> {
        ObjectWriter::create_file(&self.facts.path, &self.key, self.facts.label(), self.facts.length_bytes)
    }

    /// As [`WriteGrant::create`], of an object that carries ciphertext of other keys.
    pub fn create_carrying(&self) -> Result<ObjectWriter> {
        let Facts { path, length_bytes, .. } = &self.facts;
        ObjectWriter::create_carrying_file(path, &self.key, self.facts.label(), *length_bytes)
    }
}

pub(super) fn extent_key(document_key: &Key, document: Id) -> Result<Key> {
    document_key.derive("token extents", &document.to_bytes())
}
