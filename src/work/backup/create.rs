//! Making a backup while everything else goes on. At one moment nobody writes: then the database is pinned, the
//! keyring copied and the end of the audit log noted. What is copied afterwards does not change any more.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{
    copying::{Tally, copy, examine, sync},
    manifest::{FileRow, Manifest},
    repository::{Repository, remove_folder},
};
use crate::{
    auditlog::{CHECKPOINT_FILE, Extent},
    base::{Context, Error, Id, IdKind, Monitor, Result, hex},
    improve::receipt,
    seal::new_id,
    store::Pinned,
    vault::{Hold, KeysCopy, object_path},
    work::{request::BackupRow, warden::Warden},
};

pub(super) const DATABASE: &str = "cloister.db";
/// What opens the vault: these go to the keys' folder, and nowhere else.
pub(super) const SECRET_KEYS: [&str; 2] = ["keys/root.json", "keys/keyring"];

/// Backs an installation up to the repository at `to`, its keys to a folder of their own below `keys`.
pub(in crate::work) fn create(
    warden: &Warden,
    to: &Path,
    keys: &Path,
    monitor: &dyn Monitor,
) -> Result<BackupRow> {
    refuse_own_directory(warden, to)?;
    refuse_own_directory(warden, keys)?;
    let repository = Repository::make(to)?;
    let _held = repository.hold()?;
    repository.sweep(keys)?;
    let known = known_objects(&repository, warden)?;
    let backup = new_id(IdKind::Backup)?;
    let (folder, keys_folder) = (repository.begin(backup)?, keys.join(backup.to_string()));
    let taking =
        Taking { warden, repository: &repository, backup, folder: &folder, keys_folder: &keys_folder };
    let taken = taking.run(&known, monitor);
    if taken.is_err() {
        // Without a manifest it is no backup; what went wrong is what the asker must hear.
        let _ = remove_folder(&keys_folder).and_then(|()| remove_folder(&folder));
    }
    taken
}

/// A backup within the data directory would be lost with it, and would back itself up.
fn refuse_own_directory(warden: &Warden, folder: &Path) -> Result<()> {
    let own = fs::canonicalize(&warden.data_dir).context("finding the data directory")?;
    // The folder itself may not be there yet.
    let there = folder.ancestors().find_map(|ancestor| fs::canonicalize(ancestor).ok());
    if there.is_some_and(|there| there.starts_with(&own)) {
        return Err(Error::usage(format!("{} lies in the data directory", folder.display()))
            .remedy("back up to another disk, and the keys to a third place"));
    }
    Ok(())
}

/// What earlier backups of the repository hold already.
fn known_objects(repository: &Repository, warden: &Warden) -> Result<HashMap<String, FileRow>> {
    let key = warden.signer().public_key();
    let mut known = HashMap::new();
    for backup in repository.backups()? {
        let manifest = repository.manifest(backup, Some(&key)).map_err(|error| {
            error
                .remedy("a repository is for one installation: name another folder, or put this one in order")
        })?;
        known.extend(manifest.objects.into_iter().map(|row| (row.path.clone(), row)));
    }
    Ok(known)
}

struct Taking<'a> {
    warden: &'a Warden,
    repository: &'a Repository,
    backup: Id,
    folder: &'a Path,
    keys_folder: &'a Path,
}

impl Taking<'_> {
    fn run(&self, known: &HashMap<String, FileRow>, monitor: &dyn Monitor) -> Result<BackupRow> {
        let warden = self.warden;
        warden.bear_witness()?;
        let hold = warden.vault.hold();
        let taken_at_ms = warden.now_ms();
        // Rows are written before the log says that they are, and objects before their rows: in this order, what each of
        // the three says, the others know.
        let (database, (listed, log)) =
            warden.store.pin(|| warden.vault.copy_keys(self.keys_folder, || warden.log.extent()))?;
        let objects: Vec<(Id, String)> = listed.objects.iter().map(|&id| (id, object_name(id))).collect();
        let (old, new): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|(_, path)| self.is_there(path, known));
        let new_bytes = new.iter().map(|(id, _)| length(&hold, *id)).sum::<Result<u64>>()?;
        let audit_bytes: u64 = log.segments.iter().map(|(_, bytes)| bytes).sum();
        let mut tally = Tally::new("backup", new_bytes + audit_bytes, monitor);
        let files = self.copy_files(&database, &log, &mut tally)?;
        drop(database);
        let keys = SECRET_KEYS.iter().map(|path| examine(self.keys_folder, path, &mut tally));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        let mut rows: Vec<FileRow> = old.iter().map(|(_, path)| known[path].clone()).collect();
        for (id, path) in &new {
            rows.push(copy(hold.file(*id)?, u64::MAX, self.repository.root(), path, &mut tally)?);
        }
        rows.sort_by(|a, b| a.path.cmp(&b.path));
        sync(self.repository.root())?;
        sync(self.keys_folder)?;
        let manifest = self.manifest(taken_at_ms, &listed, log, [files, keys, rows]);
        manifest.write(self.folder, warden.signer())?;
        Ok(BackupRow {
            id: self.backup,
            install: manifest.install,
            taken_at_ms,
            objects: manifest.objects.len() as u64,
            bytes: manifest.bytes(),
            new_objects: Some(new.len() as u64),
            new_bytes: Some(new_bytes),
            vault_epoch: manifest.vault_epoch,
        })
    }

    /// Whether the repository holds this file. Its content is for [`Repository::verify`].
    fn is_there(&self, path: &str, known: &HashMap<String, FileRow>) -> bool {
        let length = fs::metadata(self.repository.root().join(path)).map(|found| found.len());
        known.get(path).is_some_and(|row| length.is_ok_and(|length| length == row.bytes))
    }

    fn copy_files(&self, database: &Pinned, log: &Extent, tally: &mut Tally<'_>) -> Result<Vec<FileRow>> {
        database.copy_to(&self.folder.join(DATABASE))?;
        let mut rows = vec![examine(self.folder, DATABASE, tally)?];
        for (segment, bytes) in &log.segments {
            let file = File::open(segment).with_context(|| format!("opening {}", segment.display()))?;
            let path = format!("audit/{}", name_of(segment));
            rows.push(copy(file, *bytes, self.folder, &path, tally)?);
        }
        let checkpoint = log.checkpoint.as_bytes();
        rows.push(copy(checkpoint, u64::MAX, self.folder, &format!("audit/{CHECKPOINT_FILE}"), tally)?);
        for path in public_key_files(&self.warden.data_dir)? {
            let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
            rows.push(copy(file, u64::MAX, self.folder, &format!("keys/{}", name_of(&path)), tally)?);
        }
        Ok(rows)
    }

    fn manifest(
        &self,
        taken_at_ms: u64,
        listed: &KeysCopy,
        log: Extent,
        [files, keys, objects]: [Vec<FileRow>; 3],
    ) -> Manifest {
        Manifest {
            format: Manifest::format(),
            backup: self.backup,
            install: self.warden.install(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            taken_at_ms,
            public_key: receipt::key_text(&self.warden.signer().public_key()),
            vault_epoch: listed.root.epoch,
            vault_root: hex(&listed.root.hash),
            audit_checkpoint: log.checkpoint,
            files,
            keys,
            objects,
        }
    }
}

fn length(hold: &Hold<'_>, id: Id) -> Result<u64> {
    Ok(hold.file(id)?.metadata().with_context(|| format!("looking at object {id}"))?.len())
}

/// Where an object lies, in a repository as in a data directory.
fn object_name(id: Id) -> String {
    object_path(Path::new("objects"), id).to_string_lossy().into_owned()
}

/// What lies among the keys and may be seen by anybody, or is sealed itself.
fn public_key_files(data_dir: &Path) -> Result<Vec<PathBuf>> {
    let keys = data_dir.join("keys");
    let mut files = Vec::new();
    for entry in fs::read_dir(&keys).with_context(|| format!("listing {}", keys.display()))? {
        let path = entry.with_context(|| format!("listing {}", keys.display()))?.path();
        let secret = SECRET_KEYS.contains(&format!("keys/{}", name_of(&path)).as_str());
        let unfinished = path.extension().is_some_and(|extension| extension == "tmp" || extension == "next");
        if path.is_file() && !secret && !unfinished {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
