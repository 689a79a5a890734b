//! How the keyring changes: commits that wait together become durable together, and each takes the steps among the files
//! that follow from it, or takes back those that prepared it. What other rooms have the keyring keep for them is here too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::PoisonError,
};

use super::{
    Vault,
    keyring::{Change, Keyring},
    object::cause,
    ring_file::RingFile,
};
use crate::base::{Context, Error, Id, Result, fs::sync_parent};

/// Changes that become durable together, what follows from them, and what takes back their preparation.
#[derive(Default)]
pub(super) struct Commit {
    pub changes: Vec<Change>,
    pub then: Vec<Step>,
    pub undo: Vec<Step>,
}

pub(super) enum Step {
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Vault {
    /// Makes a commit durable together with all that wait.
    pub(super) fn change(&self, commit: Commit) -> Result<()> {
        self.group.submit(commit, |commits| self.write(commits))
    }

    fn write(&self, commits: Vec<Commit>) -> Vec<Result<()>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.ring().epoch + 1;
        let changes: Vec<Change> = commits.iter().flat_map(|commit| commit.changes.iter().cloned()).collect();
        if let Err(error) = file.append(epoch, &changes) {
            return commits.into_iter().map(|commit| Err(commit.take_back(error.clone()))).collect();
        }
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        let done = commits.into_iter().map(|commit| Commit::run(commit.then)).collect();
        ring.apply(epoch, changes);
        if file.wants_rewriting() {
            // The commits stand either way. A rewrite that fails is tried again at the next commit, which hears
            // of it where it matters: when the file can take no more.
            let _ = self.rewrite(&mut file, &mut ring);
        }
        done
    }

    #[cfg(test)]
    pub(super) fn fail(&self) {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).fail();
    }

    pub(super) fn rewrite_keyring(&self) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        self.rewrite(&mut file, &mut ring)
    }

    /// Writes the keyring whole under a new key of its own. What older versions of the objects' key still wrap is
    /// wrapped under the newest on this occasion.
    fn rewrite(&self, file: &mut RingFile, ring: &mut Keyring) -> Result<()> {
        let rewrapped = self.rewrapped(ring)?;
        file.replace(&self.root_key(), &rewrapped)?;
        *ring = rewrapped;
        Ok(())
    }

    /// What was last left with [`Vault::set_witness`]; empty if nothing was.
    pub fn witness(&self) -> Vec<u8> {
        self.ring().witness.clone()
    }

    /// Keeps a few bytes for another room, sealed and in step with the keyring: the audit log's newest
    /// checkpoint, so that neither can be put back in time without the other.
    pub fn set_witness(&self, witness: Vec<u8>) -> Result<()> {
        self.change(Commit::of(vec![Change::Witness(witness)]))
    }

    /// Keeps for another room that these are never to be honoured again, whatever a row of the database says: rows can be
    /// put back one by one, and the keyring only as a whole, which the audit log tells of.
    pub fn revoke(&self, ids: &[Id]) -> Result<()> {
        self.change(Commit::of(ids.iter().map(|&id| Change::Revoke(id)).collect()))
    }

    pub fn is_revoked(&self, id: Id) -> bool {
        self.ring().revoked.contains(&id)
    }

    /// Everything that was revoked.
    pub fn revoked(&self) -> BTreeSet<Id> {
        self.ring().revoked.clone()
    }
}

impl Commit {
    pub(super) fn of(changes: Vec<Change>) -> Self {
        Self { changes, ..Self::default() }
    }

    /// Takes every step, also after one that failed, and says which failed first.
    fn run(steps: Vec<Step>) -> Result<()> {
        let mut first = Ok(());
        for step in steps {
            first = first.and(step.run());
        }
        first
    }

    /// Undoes the preparation of a commit that failed with `error`.
    pub(super) fn take_back(self, error: Error) -> Error {
        match Self::run(self.undo) {
            Ok(()) => error,
            Err(second) => error.context(format!("{second}, after this had failed")),
        }
    }
}

impl Step {
    pub(super) fn run(self) -> Result<()> {
        match self {
            Self::Rename(from, to) => {
                fs::rename(&from, &to).with_context(|| format!("renaming {}", from.display()))
            }
            Self::Remove(path) => remove(&path),
        }
    }
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(cause(error).context(format!("removing {}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Syncs each directory that one of the files is in, once.
pub(super) fn sync_directories_of<'p>(paths: impl Iterator<Item = &'p Path>) -> Result<()> {
    let files: BTreeMap<_, _> = paths.map(|path| (path.parent(), path)).collect();
    files.into_values().try_for_each(sync_parent)
}
