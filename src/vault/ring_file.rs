//! The keyring on disk, `keys/keyring`: a header that holds the file's own key wrapped under the root, then
//! sealed records. The first record is the whole keyring, each later one a commit; when the commits outgrow the
//! whole, the file is rewritten under a new key and replaced in one step.
//!
//! ```text
//! magic (8) | format (2) | install id (17) | wrapped file key (61)
//! length (4) | its complement (4) | sealed record      record n has n in its associated data
//! ```
//!
//! A record therefore cannot be altered, moved, repeated or left out. Records can be cut off at the end, as a
//! whole file can be put back: the vault's root in the audit log tells that.

use std::{
    fs::{File, Metadata, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::{
    keyring::{Change, Keyring, WRAPPED_BYTES, decode, encode, unwrap, wrap},
    root::RootKey,
};
use crate::{
    base::{
        Context, Error, Id, Result,
        fs::{SECTOR_BYTES, rename_durably, write_atomic},
    },
    seal::{Digest, Key, open_blob, seal_blob, sha256},
};

const MAGIC: &[u8; 8] = b"CLOISRNG";
const FORMAT: u16 = 1;
const HEADER_BYTES: usize = 8 + 2 + 17 + WRAPPED_BYTES;
const PREFIX_BYTES: usize = 8;
/// Commits may take this much even beside a small whole.
const COMMITS_BYTES_MIN: u64 = 256 << 10;

/// The open keyring file, at its end.
pub(super) struct RingFile {
    path: PathBuf,
    file: File,
    file_key: Key,
    header_hash: Digest,
    next_record: u64,
    end: u64,
    /// Where the first record ends.
    whole_end: u64,
    /// Why nothing more may be written: after a failed sync nobody knows what the disk holds.
    broken: Option<Error>,
}

impl RingFile {
    /// Writes `ring` whole under a new file key, replacing what was there, and opens it.
    pub(super) fn rewrite(path: &Path, root: &RootKey, ring: &Keyring) -> Result<Self> {
        let file_key = Key::generate()?;
        let header = make_header(root, &file_key)?;
        let header_hash = sha256(&header);
        let mut bytes = header.to_vec();
        push_record(&mut bytes, &file_key, &header_hash, 0, &encode(ring.epoch, &ring.as_changes()))?;
        write_atomic(path, &bytes).context("replacing the keyring")?;
        let end = bytes.len() as u64;
        let file = open_for_appending(path)?;
        let path = path.to_owned();
        Ok(Self { path, file, file_key, header_hash, next_record: 1, end, whole_end: end, broken: None })
    }

    /// Reads the keyring. A commit that was being written when the machine stopped, and that nobody was told
    /// of, is cut away; the second value says how many bytes that were.
    ///
    /// # Errors
    /// `Integrity` when the file is another installation's or anything in it was altered.
    pub(super) fn open(path: &Path, root: &RootKey) -> Result<(Self, Keyring, u64)> {
        let bytes = std::fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::integrity(format!("the keyring {} is missing", path.display())).remedy(
                    "restore the whole data directory from one backup; without the keyring no object opens",
                )
            }
            _ => super::object::cause(error).context(format!("reading {}", path.display())),
        })?;
        let file_key = open_header(path, root, &bytes)?;
        let header_hash = sha256(&bytes[..HEADER_BYTES]);
        let mut ring = Keyring::default();
        let (mut at, mut next_record, mut whole_end) = (HEADER_BYTES, 0, 0);
        let open = |sealed: &[u8], number| {
            open_blob(&file_key, &aad(&header_hash, number), sealed).map_err(|_| {
                Error::integrity(format!("record {number} of the keyring was altered"))
                    .remedy("restore the whole data directory from one backup")
            })
        };
        loop {
            let next = next_sealed(&bytes[at..]).and_then(|sealed| {
                let record = |sealed| open(sealed, next_record).map(|record| (record, sealed.len()));
                sealed.map(record).transpose()
            });
            let (record, sealed_bytes) = match next {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(_) if next_record > 0 && is_torn_commit(&bytes, at) => break,
                Err(error) => return Err(error),
            };
            let (epoch, changes) = decode(&record)?;
            ring.apply(epoch, changes);
            at += PREFIX_BYTES + sealed_bytes;
            next_record += 1;
            whole_end = if next_record == 1 { at as u64 } else { whole_end };
        }
        if next_record == 0 {
            return Err(Error::integrity("the keyring is cut short")
                .remedy("restore the whole data directory from one backup"));
        }
        let (torn, end) = ((bytes.len() - at) as u64, at as u64);
        let file = open_for_appending(path)?;
        if torn > 0 {
            file.set_len(end).and_then(|()| file.sync_all()).context("cutting an unfinished commit")?;
        }
        let path = path.to_owned();
        Ok((
            Self { path, file, file_key, header_hash, next_record, end, whole_end, broken: None },
            ring,
            torn,
        ))
    }

    /// Writes `ring` under another root beside the keyring at `path`, which stays what it is.
    pub(super) fn write_successor(path: &Path, root: &RootKey, ring: &Keyring) -> Result<Self> {
        Self::rewrite(&successor_of(path), root, ring)
    }

    pub(super) fn take_its_place(&mut self) -> Result<()> {
        let place = self.path.with_extension("");
        rename_durably(&self.path, &place)?;
        self.path = place;
        Ok(())
    }

    /// Gives up a keyring whose root key did not come into force.
    pub(super) fn drop_successor(path: &Path) -> Result<()> {
        let successor = successor_of(path);
        std::fs::remove_file(&successor).with_context(|| format!("removing {}", successor.display()))
    }

    /// Brings a rekey that was cut off to its end: the root key says which keyring counts. Where it opens neither,
    /// both stay, and opening the vault says what is wrong.
    pub(super) fn finish_rekey(path: &Path, root: &RootKey) -> Result<()> {
        let successor = successor_of(path);
        let opens = |path: &Path| -> Result<Option<bool>> {
            match std::fs::read(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                read => {
                    let bytes = read.with_context(|| format!("reading {}", path.display()))?;
                    Ok(Some(open_header(path, root, &bytes).is_ok()))
                }
            }
        };
        match (opens(&successor)?, opens(path)?) {
            (Some(true), _) => {
                let replaced = open_for_appending(path);
                rename_durably(&successor, path)?;
                // Where there is none any more, there is no key of it to overwrite.
                replaced.iter().for_each(overwrite_key);
                Ok(())
            }
            (Some(false), Some(true)) => Self::drop_successor(path),
            _ => Ok(()),
        }
    }

    /// # Errors
    /// Why this file takes no more commits.
    pub(super) fn must_be_whole(&self) -> Result<()> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// Replaces this file by one that holds `ring` whole under a new key.
    ///
    /// # Errors
    /// This file still takes commits after one, unless it is no longer the one that lies on the disk.
    pub(super) fn replace(&mut self, root: &RootKey, ring: &Keyring) -> Result<()> {
        match Self::rewrite(&self.path, root, ring) {
            Ok(new) => std::mem::replace(self, new).overwrite_key(),
            Err(error) => {
                // What went wrong may have gone wrong after the rename: commits to the old file would be lost.
                if !self.lies_on_the_disk() {
                    self.break_off(format!("it was replaced, and then: {error}"));
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Wipes the key of a file that was replaced: where the disk writes in place, the blocks that it leaves behind
    /// open with nothing. Nothing rests on it: a disk that writes elsewhere keeps the old blocks whatever is done.
    pub(super) fn overwrite_key(self) {
        overwrite_key(&self.file);
    }

    fn lies_on_the_disk(&self) -> bool {
        let identity = |found: std::io::Result<Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
        let ours = identity(self.file.metadata());
        ours.is_some() && ours == identity(std::fs::metadata(&self.path))
    }

    /// Appends one commit and returns when it is on the disk.
    pub(super) fn append(&mut self, epoch: u64, changes: &[Change]) -> Result<()> {
        if let Some(why) = &self.broken {
            return Err(why.clone());
        }
        let mut bytes = Vec::new();
        push_record(
            &mut bytes,
            &self.file_key,
            &self.header_hash,
            self.next_record,
            &encode(epoch, changes),
        )?;
        if let Err(error) = self.file.write_all_at(&bytes, self.end).context("appending to the keyring") {
            // A full disk must cost this commit alone: what was half written is taken back.
            if let Err(cut) = self.file.set_len(self.end) {
                self.break_off(format!("an unfinished commit could not be taken back: {cut}"));
            }
            return Err(error);
        }
        if let Err(error) = self.file.sync_data() {
            self.break_off(format!("the disk did not confirm a commit: {error}"));
            return Err(self.broken.clone().expect("broken just above"));
        }
        self.end += bytes.len() as u64;
        self.next_record += 1;
        Ok(())
    }

    pub(super) fn wants_rewriting(&self) -> bool {
        self.end - self.whole_end > self.whole_end.max(COMMITS_BYTES_MIN)
    }

    /// As a disk that takes nothing any more.
    #[cfg(test)]
    pub(super) fn fail(&mut self) {
        self.file = File::open(&self.path).expect("it is there");
    }

    pub(super) fn break_off(&mut self, why: String) {
        let error = Error::unavailable(format!("the keyring takes no more commits: {why}"))
            .remedy("look at the disk, then start Cloister again: it returns to the last confirmed commit");
        self.broken = Some(error);
    }
}

/// Where the keyring of a new root key lies until that key is in force.
fn successor_of(path: &Path) -> PathBuf {
    path.with_extension("next")
}

fn overwrite_key(file: &File) {
    let _ = file.write_all_at(&[0; HEADER_BYTES], 0).and_then(|()| file.sync_data());
}

fn open_for_appending(path: &Path) -> Result<File> {
    OpenOptions::new().write(true).open(path).with_context(|| format!("opening {}", path.display()))
}

fn make_header(root: &RootKey, file_key: &Key) -> Result<[u8; HEADER_BYTES]> {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    header[10..27].copy_from_slice(&root.install().to_bytes());
    let wrapped = wrap(&root.key().derive("keyring file", b"")?, &header[..27], file_key)?;
    header[27..].copy_from_slice(&wrapped);
    Ok(header)
}

fn open_header(path: &Path, root: &RootKey, bytes: &[u8]) -> Result<Key> {
    let named = path.display();
    let header = bytes
        .first_chunk::<HEADER_BYTES>()
        .filter(|header| &header[..8] == MAGIC)
        .ok_or_else(|| Error::integrity(format!("{named} is not a keyring, or is cut short")))?;
    let format = u16::from_le_bytes([header[8], header[9]]);
    if format != FORMAT {
        return Err(Error::integrity(format!("{named} has format {format}; this version reads {FORMAT}")));
    }
    let install = Id::from_bytes(header[10..27].try_into().expect("17 bytes were taken"))
        .map_err(|error| error.context(format!("reading {named}")))?;
    if install != root.install() {
        return Err(Error::integrity(format!(
            "{named} belongs to installation {install}, and this data directory to {}",
            root.install()
        ))
        .remedy("the data directory was put together from two: restore it whole from one backup"));
    }
    unwrap(&root.key().derive("keyring file", b"")?, &header[..27], &header[27..]).map_err(|_| {
        Error::integrity(format!("{named} does not open with this root key, or its header was altered"))
    })
}

/// The sealed record at the start of `bytes`, or nothing when it was never written in full.
fn next_sealed(bytes: &[u8]) -> Result<Option<&[u8]>> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    // Zeros are space that the file system gave and a crash left unfilled.
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    // A damaged length must not pass for a commit that was never finished, and be cut away.
    let length = length_in(prefix).ok_or_else(|| {
        Error::integrity("a record of the keyring was altered")
            .remedy("restore the whole data directory from one backup")
    })?;
    Ok(rest.get(..length))
}

fn length_in(prefix: &[u8; PREFIX_BYTES]) -> Option<usize> {
    let half = |at: usize| u32::from_le_bytes(prefix[at..at + 4].try_into().expect("4 bytes were taken"));
    (half(0) == !half(4)).then_some(half(0) as usize)
}

/// Whether the record at `at`, which does not open, is the commit that was being written when the power went: the last one, of
/// which the disk has some sectors and not others. A sector that it does not have is zeros, as no sealed bytes are.
fn is_torn_commit(bytes: &[u8], at: usize) -> bool {
    let tail = &bytes[at..];
    let length = tail.first_chunk().and_then(length_in);
    let is_last = length.is_none_or(|length| PREFIX_BYTES + length >= tail.len());
    let (begun, sectors) = tail.split_at(tail.len().min(SECTOR_BYTES - at % SECTOR_BYTES));
    let is_empty = |sector: &[u8]| sector.iter().all(|&byte| byte == 0);
    is_last && std::iter::once(begun).chain(sectors.chunks(SECTOR_BYTES)).any(is_empty)
}

fn push_record(
    out: &mut Vec<u8>,
    file_key: &Key,
    header_hash: &Digest,
    number: u64,
    record: &[u8],
) -> Result<()> {
    let sealed = seal_blob(file_key, &aad(header_hash, number), record)?;
    let length = u32::try_from(sealed.len())
        .map_err(|_| Error::failed("the keyring has outgrown what one file can hold (4 GiB)"))?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(&sealed);
    Ok(())
}

fn aad(header_hash: &Digest, record: u64) -> [u8; 40] {
    let mut aad = [0; 40];
    aad[..32].copy_from_slice(header_hash);
    aad[32..].copy_from_slice(&record.to_le_bytes());
    aad
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{
            ErrorKind, IdKind,
            damage::{FIRST_TIER, again_and_again},
        },
        vault::{Unsealer, Vault},
    };

    /// Of a keyring with commits, in the long tier.
    const MUTATIONS: u64 = 100_000;

    #[test]
    fn random_damage_is_refused_or_is_a_commit_that_never_ended() {
        withstands_damage(MUTATIONS / FIRST_TIER);
    }

    #[test]
    #[ignore = "the long tier: minutes"]
    fn random_damage_is_always_refused_or_is_a_commit_that_never_ended() {
        withstands_damage(MUTATIONS);
    }

    /// It opens to what it held after one of its commits, or not at all.
    fn withstands_damage(mutations: u64) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let data = directory.path().join("data");
        drop(Vault::init(&data, &Unsealer::KeyFile(directory.path().join("root.key"))).expect("init"));
        let root = Vault::unseal(&data, None).expect("the key file");
        let path = data.join("keys/keyring");
        let (mut file, ring, _) = RingFile::open(&path, &root).expect("whole");
        let mut stood = vec![ring];
        for number in 0..4 {
            let changes = vec![
                Change::Witness(vec![number; 40]),
                Change::Remove(Id::from_parts(IdKind::Document, 1, [number; 10])),
            ];
            let mut ring = stood[stood.len() - 1].clone();
            file.append(ring.epoch + 1, &changes).expect("room");
            ring.apply(ring.epoch + 1, changes);
            stood.push(ring);
        }
        let whole = std::fs::read(&path).expect("read");
        again_and_again(mutations, 3, &[whole], |_, damaged| {
            std::fs::write(&path, damaged).expect("write");
            match RingFile::open(&path, &root) {
                Ok((_, ring, _)) => assert!(stood.contains(&ring), "it opens to what it never held"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Integrity, "{error}"),
            }
        });
    }
}
