//! A folder of backups: which there are, whether they are what was signed, and how old ones leave.

use std::{
    collections::HashSet,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    copying::{Tally, examine, sync},
    manifest::{FileRow, MANIFEST_FILE, Manifest},
};
use crate::{
    base::{Context, Error, Id, IdKind, Monitor, Result, fs::create_private_dir},
    seal::PublicKey,
};

/// A folder of backups.
#[derive(Clone, Debug)]
pub struct Repository {
    root: PathBuf,
}

/// The lock on a repository.
pub(super) struct Held(File);

impl Drop for Held {
    fn drop(&mut self) {
        // Closing would not do: a process that is being started holds a copy of the descriptor until it runs its program.
        let _ = self.0.unlock();
    }
}

/// A backup of which every file was read again.
#[derive(Clone, Debug, Serialize)]
pub struct VerifiedBackup {
    pub backup: Id,
    pub taken_at_ms: u64,
    pub files: u64,
    pub bytes: u64,
    /// Hexadecimal.
    pub signed_by: String,
    /// Whether somebody said beforehand that this key is the installation's.
    pub key_was_given: bool,
    /// Whether its keys were there, and what they were.
    pub keys_checked: bool,
}

impl Repository {
    /// A repository that is there.
    ///
    /// # Errors
    /// `NotFound` where the folder is none.
    pub fn open(root: &Path) -> Result<Self> {
        let repository = Self { root: root.to_owned() };
        if !repository.backups_dir().is_dir() {
            return Err(Error::not_found(format!("{} holds no backups", root.display()))
                .remedy("`cloister backup create DIR --keys KEYS` makes one"));
        }
        Ok(repository)
    }

    /// A repository that is there, or a new one.
    pub(super) fn make(root: &Path) -> Result<Self> {
        let repository = Self { root: root.to_owned() };
        create_private_dir(&repository.backups_dir())?;
        create_private_dir(&root.join("objects"))?;
        Ok(repository)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn backups_dir(&self) -> PathBuf {
        self.root.join("backups")
    }

    pub(super) fn folder(&self, backup: Id) -> PathBuf {
        self.backups_dir().join(backup.to_string())
    }

    /// Keeps everybody else from writing for as long as the hold lives.
    ///
    /// # Errors
    /// `Unavailable` where somebody writes already.
    pub(super) fn hold(&self) -> Result<Held> {
        let path = self.root.join("lock");
        let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Held(file)),
            Err(TryLockError::WouldBlock) => {
                Err(Error::unavailable(format!("another backup is being written to {}", self.root.display()))
                    .remedy("wait until it ends"))
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("locking {}", path.display()))
            }
        }
    }

    /// Every backup, the oldest first.
    pub fn backups(&self) -> Result<Vec<Id>> {
        let (listed, _) = self.folders()?;
        Ok(listed)
    }

    /// The backup that was asked for, or the newest.
    pub fn choose(&self, asked: Option<Id>) -> Result<Id> {
        let backups = self.backups()?;
        let found = match asked {
            Some(id) => backups.into_iter().find(|&backup| backup == id),
            None => backups.into_iter().next_back(),
        };
        found.ok_or_else(|| {
            let what = asked.map_or("a finished backup".to_owned(), |id| format!("the backup {id}"));
            Error::not_found(format!("{} does not hold {what}", self.root.display()))
                .remedy("`cloister backup ls DIR` shows what it holds")
        })
    }

    /// What a backup consists of; see [`Manifest::read`].
    pub fn manifest(&self, backup: Id, key: Option<&PublicKey>) -> Result<Manifest> {
        let manifest = Manifest::read(&self.folder(backup), key)?;
        if manifest.backup != backup {
            return Err(Error::integrity(format!("the manifest of {backup} is that of {}", manifest.backup)));
        }
        Ok(manifest)
    }

    /// Reads every file of a backup again. `keys` is where the folders of keys lie, `key` the installation's public key.
    ///
    /// # Errors
    /// `Integrity`, naming up to ten files that are missing or are not what was signed.
    pub fn verify(
        &self,
        backup: Id,
        keys: Option<&Path>,
        key: Option<&PublicKey>,
        monitor: &dyn Monitor,
    ) -> Result<VerifiedBackup> {
        let manifest = self.manifest(backup, key)?;
        let (folder, keys) = (self.folder(backup), keys.map(|keys| keys.join(backup.to_string())));
        let below = |root: &Path, rows: &[FileRow]| -> Vec<(PathBuf, FileRow)> {
            rows.iter().map(|row| (root.to_owned(), row.clone())).collect()
        };
        let mut rows = below(&folder, &manifest.files);
        rows.extend(below(&self.root, &manifest.objects));
        rows.extend(keys.iter().flat_map(|keys| below(keys, &manifest.keys)));
        let bytes = rows.iter().map(|(_, row)| row.bytes).sum();
        let mut tally = Tally::new("check", bytes, monitor);
        let mut wrong = Vec::new();
        for (root, row) in &rows {
            match examine(root, &row.path, &mut tally) {
                Ok(found) if found == *row => {}
                Ok(_) => wrong.push(format!("{} is not what was backed up", root.join(&row.path).display())),
                Err(error) if error.kind() == crate::base::ErrorKind::Interrupted => return Err(error),
                Err(error) => wrong.push(error.to_string()),
            }
        }
        if !wrong.is_empty() {
            let more = wrong.len().saturating_sub(10);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            wrong.truncate(10);
            return Err(Error::integrity(format!("backup {backup}: {}{more}", wrong.join("; ")))
                .remedy("use another backup, and make a new one to another place"));
        }
        Ok(VerifiedBackup {
            backup,
            taken_at_ms: manifest.taken_at_ms,
            files: rows.len() as u64,
            bytes,
            signed_by: manifest.public_key,
            key_was_given: key.is_some(),
            keys_checked: keys.is_some(),
        })
    }

    /// Removes all backups but the newest `keep`, their keys, and the objects that no other backup has. Returns what went.
    ///
    /// # Errors
    /// `Integrity` where a manifest that stays cannot be read: nothing is removed then.
    pub(in crate::work) fn forget(&self, keep: usize, keys: &Path, key: &PublicKey) -> Result<Vec<Id>> {
        if !keys.is_dir() {
            return Err(Error::not_found(format!("there is no folder {}", keys.display()))
                .remedy("bring the medium with the keys: those of a backup that is forgotten must go too"));
        }
        let _held = self.hold()?;
        let mut leaving = self.backups()?;
        let staying = leaving.split_off(leaving.len().saturating_sub(keep));
        let mut kept = HashSet::new();
        for backup in staying {
            kept.extend(self.manifest(backup, Some(key))?.objects.into_iter().map(|row| row.path));
        }
        // Keys first: what is cut off here can at least not be opened. And manifests before what they list.
        remove_keys(keys, leaving.iter().map(Id::to_string))?;
        for &backup in &leaving {
            let manifest = self.folder(backup).join(MANIFEST_FILE);
            fs::remove_file(&manifest).with_context(|| format!("removing {}", manifest.display()))?;
        }
        sync(&self.root)?;
        self.sweep(keys)?;
        self.remove_objects(&kept)?;
        sync(&self.root)?;
        Ok(leaving)
    }

    /// Begins the folder of a backup, before anything of it lies elsewhere: by it [`Repository::sweep`] finds the rest.
    pub(super) fn begin(&self, backup: Id) -> Result<PathBuf> {
        let folder = self.folder(backup);
        create_private_dir(&folder)?;
        sync(&self.root)?;
        Ok(folder)
    }

    /// Removes what a backup that was cut off left, its keys first. For whoever holds the repository.
    pub(super) fn sweep(&self, keys: &Path) -> Result<()> {
        let (_, unfinished) = self.folders()?;
        remove_keys(keys, unfinished.iter().filter_map(|folder| folder.file_name()))?;
        unfinished.iter().try_for_each(|folder| remove_folder(folder))
    }

    /// The backups that are whole, and the folders of those that are not.
    fn folders(&self) -> Result<(Vec<Id>, Vec<PathBuf>)> {
        let (mut whole, mut unfinished) = (Vec::new(), Vec::new());
        for path in list(&self.backups_dir())? {
            let id = path.file_name().and_then(|name| Id::parse_as(IdKind::Backup, name.to_str()?).ok());
            match id {
                Some(id) if path.join(MANIFEST_FILE).is_file() => whole.push(id),
                Some(_) => unfinished.push(path),
                None => {}
            }
        }
        whole.sort_unstable();
        Ok((whole, unfinished))
    }

    fn remove_objects(&self, kept: &HashSet<String>) -> Result<()> {
        for fan in list(&self.root.join("objects"))? {
            for path in list(&fan)? {
                let name = path.strip_prefix(&self.root).unwrap_or(&path).to_string_lossy().into_owned();
                if !kept.contains(&name) {
                    fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
                }
            }
        }
        Ok(())
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    read().with_context(|| format!("listing {}", directory.display()))
}

/// Removes the keys of these backups for good.
fn remove_keys(keys: &Path, backups: impl Iterator<Item = impl AsRef<Path>>) -> Result<()> {
    let mut there = backups.map(|backup| keys.join(backup)).filter(|folder| folder.exists()).peekable();
    if there.peek().is_none() {
        return Ok(());
    }
    there.try_for_each(|folder| remove_folder(&folder))?;
    sync(keys)
}

pub(super) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}
