//! An object file, open for reading or being written.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::keyring::Claim;
use crate::{
    base::{Context, Error, Id, Result, fs::sync_parent},
    seal::{Digest, Key, Label, SealReader, SealWriter, Sealed, WipedVec, Writeback},
};

/// What a sequential read asks of the object at once: enough for several threads, and still in the last cache
/// when the caller comes for it.
const READ_AHEAD_BYTES: usize = 4 << 20;
/// Files that are being written or deleted; swept when the vault is opened.
pub(super) const TEMPORARY_SUFFIX: &str = ".tmp";

/// An object open for reading: as a stream through [`Read`], or at any place through [`ObjectReader::read_at`].
pub struct ObjectReader {
    sealed: SealReader,
    position: u64,
    /// Plaintext that was read ahead, and how much of it was handed out.
    ahead: WipedVec,
    used: usize,
}

impl ObjectReader {
    /// Opens the file at `path`, which must hold the object that `label` and `header_hash` describe.
    ///
    /// # Errors
    /// `Integrity`, naming the object, when the file is missing or holds anything else.
    pub fn open_file(path: &Path, key: &Key, label: Label, header_hash: &Digest) -> Result<Self> {
        let object = label.object;
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Error::integrity(format!("object {object} is missing: {} is not there", path.display()))
                    .remedy("restore the object from a backup")
            }
            _ => cause(error).context(format!("opening {}", path.display())),
        })?;
        let sealed = SealReader::open(file, key, label)?;
        if sealed.header().hash != *header_hash {
            return Err(Error::integrity(format!(
                "object {object} was replaced: its header is authentic, but not the one that was committed"
            )));
        }
        Ok(Self { sealed, position: 0, ahead: WipedVec::default(), used: 0 })
    }

    pub fn id(&self) -> Id {
        self.sealed.header().label.object
    }

    pub fn len_bytes(&self) -> u64 {
        self.sealed.len_bytes()
    }

    /// Fills `out` from `offset`; several threads may do so at once, and a large range is itself read by several.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.sealed.read_at(offset, out)
    }

    /// The whole object in memory.
    pub fn read_all(&self) -> Result<Vec<u8>> {
        self.sealed.read_all()
    }

    /// Refills the buffer that small reads are served from.
    fn read_ahead(&mut self) -> Result<()> {
        let left = self.len_bytes() - self.position;
        let next = usize::try_from(left).map_or(READ_AHEAD_BYTES, |left| left.min(READ_AHEAD_BYTES));
        if self.ahead.len() != next {
            self.ahead = WipedVec::zeroed(next);
        }
        // Should the read fail, nothing of the buffer is left to hand out.
        self.used = next;
        self.sealed.read_at(self.position, &mut self.ahead)?;
        (self.used, self.position) = (0, self.position + next as u64);
        Ok(())
    }
}

impl Read for ObjectReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.used == self.ahead.len() {
            let left = self.len_bytes() - self.position;
            // A large request needs no buffer between.
            let whole = out.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if whole >= READ_AHEAD_BYTES || left == 0 {
                self.sealed.read_at(self.position, &mut out[..whole]).map_err(io::Error::other)?;
                self.position += whole as u64;
                return Ok(whole);
            }
            self.read_ahead().map_err(io::Error::other)?;
        }
        let taken = out.len().min(self.ahead.len() - self.used);
        out[..taken].copy_from_slice(&self.ahead[self.used..][..taken]);
        self.used += taken;
        Ok(taken)
    }

    /// Straight to its place, by several threads.
    fn read_to_end(&mut self, out: &mut Vec<u8>) -> io::Result<usize> {
        let begin = out.len();
        out.extend_from_slice(&self.ahead[self.used..]);
        self.used = self.ahead.len();
        let left = self.len_bytes() - self.position;
        if begin == 0 && out.is_empty() && self.position == 0 {
            *out = self.sealed.read_all().map_err(io::Error::other)?;
        } else {
            let direct = out.len();
            out.resize(direct + usize::try_from(left).map_err(io::Error::other)?, 0);
            self.sealed.read_at(self.position, &mut out[direct..]).map_err(io::Error::other)?;
        }
        self.position += left;
        Ok(out.len() - begin)
    }
}

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
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(path).with_context(|| format!("creating {}", path.display()))?;
        let temporary = Temporary { path: path.to_owned(), kept: false };
        Ok(Self {
            sealing: SealWriter::new(Writeback::new(file), key, label, length_bytes)?,
            temporary,
            claim: None,
        })
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
        let Self { sealing, mut temporary, .. } = self;
        let (file, sealed) = sealing.finish()?;
        file.into_file().sync_all().with_context(|| format!("syncing {}", temporary.path.display()))?;
        sync_parent(&temporary.path)?;
        temporary.kept = true;
        Ok(sealed)
    }
}

impl Write for ObjectWriter {
    fn write(&mut self, plain: &[u8]) -> io::Result<usize> {
        self.sealing.write(plain)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sealing.flush()
    }
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
