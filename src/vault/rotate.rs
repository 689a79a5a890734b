//! New keys for old: a further version of the purpose keys, and another root key under other unsealers. Neither
//! rewrites any object. After a rotation new objects' keys are wrapped under the new version at once, those that
//! are there when the keyring is next written whole. After a rekey the keyring on the disk is another one: what
//! unsealed the old root key opens nothing of it.

use std::{fs, sync::PoisonError};

use super::{
    Purpose, UnsealedBy, Unsealer, Vault,
    commit::Commit,
    keyring::{Change, Keyring},
    ring_file::RingFile,
    store::{RING_FILE, ROOT_FILE, keys_of, wrap_purpose},
};
use crate::{
    base::{Context, Result, fs::write_atomic},
    seal::Key,
};

/// What keys there are. It holds none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyReport {
    pub unsealed_by: Vec<UnsealedBy>,
    /// The newest version of each purpose's key.
    pub versions: Vec<(Purpose, u32)>,
    pub objects: u64,
    /// Objects whose keys an older version still wraps.
    pub objects_to_rewrap: u64,
}

impl Vault {
    pub fn key_report(&self) -> Result<KeyReport> {
        let unsealed_by = super::RootKey::unsealed_by(&self.keys_dir().join(ROOT_FILE))?;
        let ring = self.ring();
        let newest = |purpose| ring.newest(purpose).map_or(0, |(version, _)| version);
        let older = ring.objects.values().filter(|entry| entry.under != newest(Purpose::Objects));
        Ok(KeyReport {
            unsealed_by,
            versions: Purpose::ALL.into_iter().map(|purpose| (purpose, newest(purpose))).collect(),
            objects: ring.objects.len() as u64,
            objects_to_rewrap: older.count() as u64,
        })
    }

    /// Makes a new version of every purpose key that is nobody else's to know. One commit: all of them or none.
    pub fn rotate(&self) -> Result<()> {
        let _one_at_a_time = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = {
            let ring = self.ring();
            let root = self.root_key();
            let next = |purpose: Purpose| {
                let version = ring.newest(purpose).map_or(0, |(version, _)| version) + 1;
                Ok(Change::Purpose(
                    purpose,
                    version,
                    wrap_purpose(&root, purpose, version, &Key::generate()?)?,
                ))
            };
            let rotating = Purpose::ALL.into_iter().filter(|purpose| purpose.rotates());
            rotating.map(next).collect::<Result<Vec<_>>>()?
        };
        self.change(Commit::of(changes))?;
        let ring = self.ring();
        let keys = keys_of(&self.root_key(), &ring, Purpose::Objects)?;
        *self.objects_keys.write().unwrap_or_else(PoisonError::into_inner) = keys.into_iter().collect();
        Ok(())
    }

    /// Puts another root key, which `unsealers` open, in the place of this one.
    ///
    /// The new keyring is written beside the old one first. The root file is what decides: once it is replaced the
    /// new keyring counts, and opening the vault brings it into place if this did not.
    ///
    /// # Errors
    /// `Usage` when an unsealer is of no use; then nothing was changed.
    pub fn rekey(&self, unsealers: &[Unsealer]) -> Result<()> {
        let _one_at_a_time = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.must_be_whole()?;
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        let successor = self.root_key().successor()?;
        let mut next = self.rewrapped(&ring)?;
        for purpose in Purpose::ALL {
            for (version, key) in keys_of(&self.root_key(), &ring, purpose)? {
                next.purposes.insert((purpose, version), wrap_purpose(&successor, purpose, version, &key)?);
            }
        }
        let root_file = self.keys_dir().join(ROOT_FILE);
        let text = successor.wrapped_by(unsealers)?;
        let before = fs::read(&root_file).with_context(|| format!("reading {}", root_file.display()))?;
        let mut written = RingFile::write_successor(&self.keys_dir().join(RING_FILE), &successor, &next)?;
        if let Err(error) = write_atomic(&root_file, text.as_bytes()) {
            if fs::read(&root_file).is_ok_and(|now| now == before) {
                RingFile::drop_successor(&self.keys_dir().join(RING_FILE))?;
                return Err(error);
            }
            file.break_off(format!("the root key was replaced, and then: {error}"));
            return Err(error);
        }
        if let Err(error) = written.take_its_place() {
            file.break_off(format!("the root key was replaced, and then: {error}"));
            return Err(error);
        }
        std::mem::replace(&mut *file, written).overwrite_key();
        *ring = next;
        *self.root.write().unwrap_or_else(PoisonError::into_inner) = successor;
        Ok(())
    }

    /// The keyring with every object's key under the newest version.
    pub(super) fn rewrapped(&self, ring: &Keyring) -> Result<Keyring> {
        let mut rewrapped = ring.clone();
        let newest = ring.newest(Purpose::Objects).map_or(0, |(version, _)| version);
        for (&id, entry) in rewrapped.objects.iter_mut().filter(|(_, entry)| entry.under != newest) {
            let key = self.unwrap_object(id, entry.under, &entry.wrapped_key)?;
            (entry.under, entry.wrapped_key) = self.wrap_object(id, &key)?;
        }
        Ok(rewrapped)
    }
}

#[cfg(test)]
#[path = "rotate_tests.rs"]
mod tests;
