//! The keyring in memory: what is listed, under which wrapped keys, and how a change to it is written down.
//! Keys lie here wrapped, as they do in the file; they are opened one at a time into locked memory.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::{Error, Id, Result},
    seal::{BLOB_OVERHEAD_BYTES, Digest, KEY_BYTES, Key, Sha256, open_blob, seal_blob},
};

pub(super) const WRAPPED_BYTES: usize = KEY_BYTES + BLOB_OVERHEAD_BYTES;
pub(super) type Wrapped = [u8; WRAPPED_BYTES];

/// What a key under the root is for. Each has versions; the newest seals, older ones still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// Wraps the objects' own keys.
    Objects = 1,
    /// Content columns of the database.
    Columns = 2,
    /// Seed that signs the audit log's checkpoints.
    Audit = 3,
    /// HMAC of the tokens that callers present.
    Tokens = 4,
    Backup = 5,
    /// Seed that signs receipts and certificates of erasure.
    Signing = 6,
    /// The server's own identity: its TLS key is sealed under this.
    Identity = 7,
}

impl Purpose {
    pub const ALL: [Self; 7] = [
        Self::Objects,
        Self::Columns,
        Self::Audit,
        Self::Tokens,
        Self::Backup,
        Self::Signing,
        Self::Identity,
    ];

    /// Whether `key rotate` makes a new version. The others are what people outside know the installation by (the
    /// keys that sign, the certificate) and stay what they are.
    pub fn rotates(self) -> bool {
        matches!(self, Self::Objects | Self::Columns | Self::Tokens | Self::Backup)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Columns => "columns",
            Self::Audit => "audit",
            Self::Tokens => "tokens",
            Self::Backup => "backup",
            Self::Signing => "signing",
            Self::Identity => "identity",
        }
    }

    fn from_number(number: u8) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|&purpose| purpose as u8 == number)
            .ok_or_else(|| Error::integrity(format!("the keyring has a key of unknown purpose {number}")))
    }
}

/// What the keyring knows of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub version: u64,
    pub length_bytes: u64,
    pub header_hash: Digest,
    /// Which version of the objects' purpose key the object's own key is wrapped under.
    pub under: u32,
    pub wrapped_key: Wrapped,
}

/// What the keyring will know of an object that is being written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub version: u64,
    pub length_bytes: u64,
    pub under: u32,
    pub wrapped_key: Wrapped,
}

/// The vault as a whole in 32 bytes: the audit log keeps it, so that a vault put back in time is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaultRoot {
    /// Counts what was appended to the keyring: commits that came together count once.
    pub epoch: u64,
    pub objects: u64,
    /// SHA-256 over installation, and identifier, version and header hash of every live object in order; then, where
    /// there are any, over the identifiers that were revoked.
    pub hash: Digest,
}

impl VaultRoot {
    /// What is wrong with a vault that has this root after the log recorded `then`: it was put back in time. None where
    /// it may have come of that one.
    pub fn put_back_since(&self, then: &Self) -> Option<String> {
        if self.epoch < then.epoch {
            return Some(format!(
                "the keyring was put back in time: it is at commit {}, the audit log at {}",
                self.epoch, then.epoch
            ));
        }
        let is_another = self.epoch == then.epoch && self != then;
        is_another.then(|| {
            format!("the keyring is not the one whose root the audit log has for commit {}", self.epoch)
        })
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Put(Id, Entry),
    Remove(Id),
    Purpose(Purpose, u32, Wrapped),
    /// What another room asks to be kept here: the latest checkpoint of the audit log.
    Witness(Vec<u8>),
    /// What another room asks never to be honoured again: a token, a user.
    Revoke(Id),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keyring {
    pub epoch: u64,
    pub objects: BTreeMap<Id, Entry>,
    pub purposes: BTreeMap<(Purpose, u32), Wrapped>,
    pub witness: Vec<u8>,
    pub revoked: BTreeSet<Id>,
}

impl Keyring {
    pub(super) fn apply(&mut self, epoch: u64, changes: Vec<Change>) {
        self.epoch = epoch;
        for change in changes {
            match change {
                Change::Put(id, entry) => drop(self.objects.insert(id, entry)),
                Change::Remove(id) => drop(self.objects.remove(&id)),
                Change::Purpose(purpose, version, wrapped) => {
                    self.purposes.insert((purpose, version), wrapped);
                }
                Change::Witness(witness) => self.witness = witness,
                Change::Revoke(id) => drop(self.revoked.insert(id)),
            }
        }
    }

    /// Changes that make this keyring out of an empty one.
    pub(super) fn as_changes(&self) -> Vec<Change> {
        let purposes =
            self.purposes.iter().map(|(&(purpose, version), &key)| Change::Purpose(purpose, version, key));
        let objects = self.objects.iter().map(|(&id, &entry)| Change::Put(id, entry));
        let revoked = self.revoked.iter().map(|&id| Change::Revoke(id));
        purposes.chain(objects).chain([Change::Witness(self.witness.clone())]).chain(revoked).collect()
    }

    /// Every version of a purpose's key, oldest first.
    pub(super) fn versions(&self, purpose: Purpose) -> impl DoubleEndedIterator<Item = (u32, &Wrapped)> {
        let versions = self.purposes.range((purpose, 0)..=(purpose, u32::MAX));
        versions.map(|(&(_, version), wrapped)| (version, wrapped))
    }

    pub(super) fn newest(&self, purpose: Purpose) -> Option<(u32, &Wrapped)> {
        self.versions(purpose).next_back()
    }

    pub(super) fn root(&self, install: Id) -> VaultRoot {
        let mut hash = Sha256::default();
        hash.update(b"cloister vault root v1");
        hash.update(&install.to_bytes());
        for (id, entry) in &self.objects {
            hash.update(&id.to_bytes());
            hash.update(&entry.version.to_le_bytes());
            hash.update(&entry.header_hash);
        }
        for (place, id) in self.revoked.iter().enumerate() {
            if place == 0 {
                hash.update(b"revoked");
            }
            hash.update(&id.to_bytes());
        }
        VaultRoot { epoch: self.epoch, objects: self.objects.len() as u64, hash: hash.finish() }
    }
}

/// Wraps `key` so that it opens only with the same `aad`.
pub(super) fn wrap(under: &Key, aad: &[u8], key: &Key) -> Result<Wrapped> {
    let wrapped = key.danger_expose(|bytes| seal_blob(under, aad, bytes))?;
    Ok(wrapped.try_into().expect("a sealed key has a known length"))
}

pub(super) fn unwrap(under: &Key, aad: &[u8], wrapped: &[u8]) -> Result<Key> {
    let mut bytes = open_blob(under, aad, wrapped)?;
    let key = Key::from_slice(&bytes);
    crate::seal::wipe(&mut bytes);
    key
}

/// A record of the keyring file before it is sealed: epoch, then the changes.
pub(super) fn encode(epoch: u64, changes: &[Change]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + changes.len() * (1 + 4 + 17 + 8 + 8 + 32 + WRAPPED_BYTES));
    out.extend_from_slice(&epoch.to_le_bytes());
    for change in changes {
        match change {
            Change::Put(id, entry) => {
                out.push(5);
                out.extend_from_slice(&entry.under.to_le_bytes());
                out.extend_from_slice(&id.to_bytes());
                out.extend_from_slice(&entry.version.to_le_bytes());
                out.extend_from_slice(&entry.length_bytes.to_le_bytes());
                out.extend_from_slice(&entry.header_hash);
                out.extend_from_slice(&entry.wrapped_key);
            }
            Change::Remove(id) => {
                out.push(2);
                out.extend_from_slice(&id.to_bytes());
            }
            Change::Purpose(purpose, version, wrapped) => {
                out.extend_from_slice(&[3, *purpose as u8]);
                out.extend_from_slice(&version.to_le_bytes());
                out.extend_from_slice(wrapped);
            }
            Change::Witness(witness) => {
                out.push(4);
                out.extend_from_slice(&(witness.len() as u32).to_le_bytes());
                out.extend_from_slice(witness);
            }
            Change::Revoke(id) => {
                out.push(6);
                out.extend_from_slice(&id.to_bytes());
            }
        }
    }
    out
}

pub(super) fn decode(mut bytes: &[u8]) -> Result<(u64, Vec<Change>)> {
    let bytes = &mut bytes;
    let epoch = u64::from_le_bytes(take(bytes)?);
    let mut changes = Vec::new();
    while !bytes.is_empty() {
        let [kind] = take(bytes)?;
        changes.push(match kind {
            // As it was before keys could be rotated.
            1 => put(bytes, 1)?,
            5 => {
                let under = u32::from_le_bytes(take(bytes)?);
                put(bytes, under)?
            }
            2 => Change::Remove(Id::from_bytes(take(bytes)?)?),
            3 => {
                let [purpose] = take(bytes)?;
                Change::Purpose(
                    Purpose::from_number(purpose)?,
                    u32::from_le_bytes(take(bytes)?),
                    take(bytes)?,
                )
            }
            4 => {
                let length = u32::from_le_bytes(take(bytes)?) as usize;
                let (witness, rest) = bytes.split_at_checked(length).ok_or_else(cut_short)?;
                *bytes = rest;
                Change::Witness(witness.to_vec())
            }
            6 => Change::Revoke(Id::from_bytes(take(bytes)?)?),
            other => {
                return Err(Error::integrity(format!("the keyring has a change of unknown kind {other}")));
            }
        });
    }
    Ok((epoch, changes))
}

fn put(bytes: &mut &[u8], under: u32) -> Result<Change> {
    let id = Id::from_bytes(take(bytes)?)?;
    let entry = Entry {
        version: u64::from_le_bytes(take(bytes)?),
        length_bytes: u64::from_le_bytes(take(bytes)?),
        header_hash: take(bytes)?,
        under,
        wrapped_key: take(bytes)?,
    };
    Ok(Change::Put(id, entry))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk().ok_or_else(cut_short)?;
    *bytes = rest;
    Ok(*taken)
}

fn cut_short() -> Error {
    Error::integrity("a record of the keyring is cut short")
}
