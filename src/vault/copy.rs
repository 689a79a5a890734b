//! What a backup takes of a vault: the keyring as it stands at one moment, and the files of the objects that it
//! lists. Objects are never rewritten, so only deleting one could come between; a hold keeps its file until the hold is let go.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{MutexGuard, PoisonError},
};

use super::{
    Vault, VaultRoot,
    commit::remove,
    object::cause,
    ring_file::RingFile,
    store::{RING_FILE, ROOT_FILE, temporary},
};
use crate::base::{
    Context, Error, Id, Result,
    fs::{create_private_dir, sync_parent, write_atomic},
};

/// Files of deleted objects that somebody still copies.
#[derive(Default)]
pub(super) struct Held {
    holds: usize,
    /// To be removed with the last hold.
    files: Vec<PathBuf>,
}

/// While this lives, deleting an object takes its key and leaves its file. What a crash leaves of these is swept at the next
/// opening.
pub struct Hold<'v>(&'v Vault);

/// What was listed when the keys were copied.
#[derive(Clone, Debug)]
pub struct KeysCopy {
    pub root: VaultRoot,
    pub objects: Vec<Id>,
}

impl Vault {
    /// Keeps every object's file in reach until the hold is dropped.
    pub fn hold(&self) -> Hold<'_> {
        self.held().holds += 1;
        Hold(self)
    }

    /// Copies the root file and the keyring, the latter under a file key of its own, to where a vault in `directory`
    /// would have them. `meanwhile` runs before the keyring sees another commit.
    pub fn copy_keys<T>(
        &self,
        directory: &Path,
        meanwhile: impl FnOnce() -> Result<T>,
    ) -> Result<(KeysCopy, T)> {
        let keys = directory.join("keys");
        create_private_dir(&keys)?;
        sync_parent(&keys)?;
        // A rekey changes both files: not between the two.
        let _no_rekey = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let _no_commit = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let root_file = self.keys_dir().join(ROOT_FILE);
        let text = fs::read(&root_file).with_context(|| format!("reading {}", root_file.display()))?;
        write_atomic(&keys.join(ROOT_FILE), &text)?;
        let ring = self.ring();
        RingFile::rewrite(&keys.join(RING_FILE), &self.root_key(), &ring)?;
        let copy =
            KeysCopy { root: ring.root(self.install()), objects: ring.objects.keys().copied().collect() };
        Ok((copy, meanwhile()?))
    }

    /// Removes the files of objects that no key opens any more, now or when nobody copies them.
    pub(super) fn remove_unless_held(&self, files: Vec<PathBuf>) -> Result<()> {
        let mut held = self.held();
        if held.holds > 0 {
            held.files.extend(files);
            return Ok(());
        }
        drop(held);
        files.iter().try_for_each(|file| remove(file))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold<'_> {
    /// The sealed file of an object that was listed when the hold began.
    ///
    /// # Errors
    /// `Integrity` where it is not there.
    pub fn file(&self, id: Id) -> Result<File> {
        let path = self.0.path(id);
        // One that is being deleted lies under its temporary name, and moves back if that fails.
        for place in [&path, &temporary(&path), &path] {
            match File::open(place) {
                Ok(file) => return Ok(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(cause(error).context(format!("opening {}", place.display()))),
            }
        }
        Err(Error::integrity(format!("object {id} is missing: {} is not there", path.display()))
            .remedy("`cloister data verify` names all that are; restore them from an earlier backup"))
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut held = self.0.held();
        held.holds -= 1;
        if held.holds == 0 {
            for file in held.files.drain(..) {
                // The next opening sweeps it.
                let _ = remove(&file);
            }
        }
    }
}
