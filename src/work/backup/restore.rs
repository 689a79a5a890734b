//! A backup becomes an installation again, on a machine that may never have seen it. Cut off or failed, it leaves none.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::Path,
    sync::Arc,
};

use serde::Serialize;

use super::{
    copying::{Tally, copy, examine, sync},
    create::SECRET_KEYS,
    manifest::{FileRow, Manifest},
    repository::{Repository, remove_folder},
};
use crate::{
    auditlog::{Entry, Outcome},
    base::{
        Context, Error, Id, Monitor, Result,
        fs::{create_private_dir, sync_parent, write_atomic},
        hex,
    },
    improve::receipt,
    vault::{Purpose, RootKey, TOMBSTONES, Vault},
    work::{
        client::{Site, Unsealer},
        lock::Lock,
        policy::{Action, Actor},
        warden::{Warden, hold},
    },
};

/// What was put back.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    pub backup: Id,
    pub install: Id,
    pub taken_at_ms: u64,
    pub objects: u64,
    pub bytes: u64,
    /// What opening it found out of order: work that was going on when the backup was made.
    pub notices: Vec<String>,
}

impl Warden {
    /// Puts a backup, or the newest, into a data directory that is not there yet. The keys lie below `keys`. What was
    /// erased since, as the newest tombstones of the repository or those that were kept in `tombstones` say, is erased again
    /// before anybody reads it.
    ///
    /// # Errors
    /// `Usage` where the data directory holds anything, `Sealed` where the secret does not open the backup's keys,
    /// `Integrity` where a file is not what was signed. The data directory is empty again after each.
    pub fn restore(
        site: &Site,
        from: &Path,
        keys: &Path,
        backup: Option<Id>,
        tombstones: Option<&Path>,
        monitor: &dyn Monitor,
    ) -> Result<Restored> {
        let repository = Repository::open(from)?;
        let backup = repository.choose(backup)?;
        let manifest = repository.manifest(backup, None)?;
        let keys = keys.join(backup.to_string());
        if !keys.is_dir() {
            return Err(Error::not_found(format!(
                "the keys of {backup} are missing: there is no {}",
                keys.display()
            ))
            .remedy("name the folder that `backup create` was given as --keys; without it no object opens"));
        }
        // Before anything is written: a wrong secret should be told at once.
        let root = Vault::unseal(&keys, site.unsealer.as_ref().map(Into::into).as_ref())?;
        let restoring =
            Restoring { site, repository: &repository, manifest: &manifest, keys: &keys, tombstones };
        let is_cut_off = site.data_dir.join(BEGUN).exists() && !Vault::exists(&site.data_dir);
        if !is_cut_off {
            refuse_used_directory(site)?;
        }
        create_private_dir(&site.data_dir)?;
        sync_parent(&site.data_dir)?;
        let lock = hold(&site.data_dir)?;
        if is_cut_off {
            restoring.take_back()?;
        }
        let restored = restoring.run(lock, root, monitor);
        if restored.is_err() {
            // What went wrong is what the asker must hear.
            let _ = restoring.take_back();
        }
        restored
    }
}

/// Stands while the data directory holds part of a backup and no installation. The vault sweeps it when it is opened.
const BEGUN: &str = "keys/restore.tmp";

/// The data directory may hold the key file, and nothing else.
fn refuse_used_directory(site: &Site) -> Result<()> {
    let key_file = match &site.unsealer {
        Some(Unsealer::KeyFile(path) | Unsealer::PassphraseFile(path)) => path.file_name(),
        Some(Unsealer::ShareFiles(_)) | None => None,
    };
    let Ok(entries) = fs::read_dir(&site.data_dir) else { return Ok(()) };
    let mut names = entries.flatten().map(|entry| entry.file_name());
    let no_keys = holds_temporaries_alone(&site.data_dir.join("keys"));
    let is_ours = |name: &OsStr| Some(name) == key_file || name == "run" || (name == "keys" && no_keys);
    match names.find(|name| !is_ours(name)) {
        None => Ok(()),
        Some(name) => Err(Error::usage(format!(
            "{} is not empty: it holds '{}'",
            site.data_dir.display(),
            name.to_string_lossy()
        ))
        .remedy("restore into a new directory, and name it with --data-dir")),
    }
}

/// As where a restore was cut off at its very beginning.
fn holds_temporaries_alone(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|entries| {
        let mut paths = entries.flatten().map(|entry| entry.path());
        paths.all(|path| path.extension().is_some_and(|extension| extension == "tmp"))
    })
}

fn not_what_was_backed_up(path: &Path) -> Error {
    Error::integrity(format!("{} is not what was backed up", path.display()))
        .remedy("`cloister backup verify` names all that is wrong; restore another backup")
}

struct Restoring<'a> {
    site: &'a Site,
    repository: &'a Repository,
    manifest: &'a Manifest,
    /// The folder of this backup's keys.
    keys: &'a Path,
    /// That were kept elsewhere.
    tombstones: Option<&'a Path>,
}

impl Restoring<'_> {
    fn run(&self, lock: Arc<Lock>, root: RootKey, monitor: &dyn Monitor) -> Result<Restored> {
        let Manifest { backup, install, taken_at_ms, files, keys, objects, .. } = self.manifest;
        if root.install() != *install {
            return Err(Error::integrity(format!(
                "{backup} is of installation {install}, and these keys of {}",
                root.install()
            )));
        }
        let folder = self.repository.folder(*backup);
        create_private_dir(&self.site.data_dir.join("keys"))?;
        write_atomic(&self.site.data_dir.join(BEGUN), backup.to_string().as_bytes())?;
        sync(&self.site.data_dir)?;
        let mut tally = Tally::new("restore", self.manifest.bytes(), monitor);
        self.put_back(&folder, files, &mut tally)?;
        self.put_back(self.repository.root(), objects, &mut tally)?;
        self.put_newest_tombstones()?;
        // The root file comes last: with it the installation exists, and without it nothing does.
        let is_root_file = |row: &FileRow| row.path == SECRET_KEYS[0];
        let (root_file, others): (Vec<_>, Vec<_>) = keys.iter().cloned().partition(is_root_file);
        self.put_back(self.keys, &others, &mut tally)?;
        sync(&self.site.data_dir)?;
        root_file.iter().try_for_each(|row| self.put_root_file(row, &mut tally))?;
        let vault = Vault::open(&self.site.data_dir, root)?;
        self.must_be_what_was_signed(&vault)?;
        let warden = Warden::assemble(self.site, lock, vault)?;
        let entry =
            Entry::new(Actor::this_process().to_string(), Action::BackupRestore.as_str(), Outcome::Done);
        let entry = entry.object(*backup).detail("vault_epoch", self.manifest.vault_epoch);
        // Without them, whoever restored said that nothing was erased since the newest backup.
        warden.audit(entry.detail("tombstones_brought", self.tombstones.is_some()))?;
        warden.bear_witness()?;
        Ok(Restored {
            backup: *backup,
            install: *install,
            taken_at_ms: *taken_at_ms,
            objects: objects.len() as u64,
            bytes: self.manifest.bytes(),
            notices: warden.notices().map(str::to_owned).collect(),
        })
    }

    fn put_back(&self, root: &Path, rows: &[FileRow], tally: &mut Tally<'_>) -> Result<()> {
        for row in rows {
            let from = root.join(&row.path);
            let file = File::open(&from).with_context(|| format!("opening {}", from.display()))?;
            if copy(file, u64::MAX, &self.site.data_dir, &row.path, tally)? != *row {
                return Err(not_what_was_backed_up(&from));
            }
        }
        Ok(())
    }

    /// Of the tombstones that there are, in this and other backups and kept elsewhere, those that say most: each begins as
    /// the others do. Whether they are signed is for the start to see, which obeys them.
    fn put_newest_tombstones(&self) -> Result<()> {
        let in_backup = |backup: Id| self.repository.folder(backup).join("keys").join(TOMBSTONES);
        let mut newest = match self.tombstones {
            Some(kept) => fs::read(kept).with_context(|| format!("reading {}", kept.display()))?,
            None => Vec::new(),
        };
        for path in self.repository.backups()?.into_iter().map(in_backup) {
            let text = match fs::read(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                read => read.with_context(|| format!("reading {}", path.display()))?,
            };
            if !newest.starts_with(&text) && !text.starts_with(&newest) {
                return Err(Error::integrity(format!(
                    "{} does not go on as other tombstones do",
                    path.display()
                ))
                .remedy(
                    "an altered one is no longer signed; two installations may have gone on from one backup",
                ));
            }
            newest = if text.len() > newest.len() { text } else { newest };
        }
        if newest.is_empty() {
            return Ok(());
        }
        let keys = self.site.data_dir.join("keys");
        create_private_dir(&keys)?;
        write_atomic(&keys.join(TOMBSTONES), &newest)
    }

    /// Its content is durable before it has its name: whoever finds the name must find a root file.
    fn put_root_file(&self, row: &FileRow, tally: &mut Tally<'_>) -> Result<()> {
        let from = self.keys.join(&row.path);
        if examine(self.keys, &row.path, tally)? != *row {
            return Err(not_what_was_backed_up(&from));
        }
        let text = fs::read(&from).with_context(|| format!("reading {}", from.display()))?;
        write_atomic(&self.site.data_dir.join(&row.path), &text)
    }

    /// Only now are there keys to hold the manifest against: until here its own word was taken.
    fn must_be_what_was_signed(&self, vault: &Vault) -> Result<()> {
        let manifest = self.manifest;
        let key = receipt::key_text(&vault.signer(Purpose::Signing)?.public_key());
        if key != manifest.public_key {
            return Err(Error::integrity(format!(
                "{} was signed by the key {}, and the installation's is {key}",
                manifest.backup, manifest.public_key
            ))
            .remedy("somebody else made this manifest: find out who, and restore another backup"));
        }
        let root = vault.root();
        if (root.epoch, hex(&root.hash)) != (manifest.vault_epoch, manifest.vault_root.clone()) {
            return Err(Error::integrity(format!(
                "the keyring is not the one that {} was made with",
                manifest.backup
            )));
        }
        Ok(())
    }

    fn take_back(&self) -> Result<()> {
        let data_dir = &self.site.data_dir;
        // Without the root file it is no installation. The folder with the mark that it was begun goes last.
        for name in [SECRET_KEYS[0], "cloister.db", "cloister.db-wal", "cloister.db-shm", "cloister.db.tmp"] {
            match fs::remove_file(data_dir.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("removing {name}"));
                }
                _ => {}
            }
        }
        ["objects", "audit"].iter().try_for_each(|name| remove_folder(&data_dir.join(name)))?;
        sync(data_dir)?;
        remove_folder(&data_dir.join("keys"))
    }
}
