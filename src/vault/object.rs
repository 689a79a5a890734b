//! An object file being written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{commit::sync_directories_of, keyring::Claim};
use crate::{
    base::{Context, Error, Id, Result, fs::give_to_owner_of_directory},
    seal::{Key, Label, SealWriter, Sealed, Writeback},
};

/// Files that are being written or deleted; swept when the vault is opened.
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";

/// An object being written, into a temporary file beside its place. Dropped, it leaves nothing.
pub struct ObjectWriter {
    sealing: SealWriter<Writeback>,
    temporary: Temporary,
    /// In the vault's own process; a worker's objects are claimed by their grant.
    claim: Option<Claim>,
}

impl ObjectWriter {
    /// Begins the temporary file at `path` for the object `label` under `key`.
    pub fn create_file(path: &Path, key: &Key, label: Label, length_bytes: u64) -> Result<Self> {
        let (file, temporary) = create(path)?;
        Ok(Self { sealing: SealWriter::new(file, key, label, length_bytes)?, temporary, claim: None })
    }

    /// As [`ObjectWriter::create_file`], of one that carries ciphertext of other keys.
    pub fn create_carrying_file(path: &Path, key: &Key, label: Label, length_bytes: u64) -> Result<Self> {
        let (file, temporary) = create(path)?;
        Ok(Self { sealing: SealWriter::carrying(file, key, label, length_bytes)?, temporary, claim: None })
    }

    /// Takes ciphertext along as it is; before any content.
    pub fn carry(&mut self, ciphertext: &[u8]) -> Result<()> {
        self.sealing.carry(ciphertext)
    }

    pub fn id(&self) -> Id {
        self.sealing.label().object
    }

    pub(super) fn with_claim(mut self, claim: Claim) -> Self {
        self.claim = Some(claim);
        self
    }

    pub(super) fn take_claim(&mut self) -> Option<Claim> {
        self.claim.take()
    }

    /// Makes the temporary file whole and durable; it stays until the vault adopts or sweeps it.
    pub fn finish(self) -> Result<Sealed> {
        let written = self.close()?;
        let sealed = written.sealed;
        sync_all(vec![written])?;
        Ok(sealed)
    }

    /// Makes the temporary file whole. [`sync_all`] makes it durable; dropped before, it leaves nothing.
    pub fn close(self) -> Result<Written> {
        let (file, sealed) = self.sealing.finish()?;
        Ok(Written { file: file.into_file(), temporary: self.temporary, sealed })
    }
}

/// An object whose file is whole, and not yet known to be on the disk.
pub struct Written {
    file: File,
    temporary: Temporary,
    sealed: Sealed,
}

/// Makes several objects durable together; they stay until the vault adopts or sweeps them. The disk begins with all of them
/// before the first is waited for: most file systems then make the names of all durable in one go.
pub fn sync_all(mut written: Vec<Written>) -> Result<()> {
    for object in &written {
        Writeback::begin(&object.file);
    }
    for object in &written {
        let path = &object.temporary.path;
        object.file.sync_all().with_context(|| format!("syncing {}", path.display()))?;
    }
    sync_directories_of(written.iter().map(|object| object.temporary.path.as_path()))?;
    written.iter_mut().for_each(|object| object.temporary.kept = true);
    Ok(())
}

impl Write for ObjectWriter {
    fn write(&mut self, plain: &[u8]) -> io::Result<usize> {
        self.sealing.write(plain)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sealing.flush()
    }
}

fn create(path: &Path) -> Result<(Writeback, Temporary)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let create = || {
        let file = options.open(path)?;
        give_to_owner_of_directory(&file, path).map(|()| file)
    };
    let file = create().with_context(|| format!("creating {}", path.display()))?;
    Ok((Writeback::new(file), Temporary { path: path.to_owned(), kept: false }))
}

struct Temporary {
    path: PathBuf,
    kept: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed now is swept when the vault is next opened.
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(super) fn cause(error: io::Error) -> Error {
    crate::base::error::IntoCause::into_cause(error)
}
