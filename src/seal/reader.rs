//! Reads a sealed object in place: positioned, from any number of threads at once. Ciphertext is read straight
//! to where its plaintext will be, opened there, and wiped there when it is not authentic.
#![allow(unsafe_code)] // preadv, which std does not offer on stable

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    Digest, HEADER_BYTES, Header, Key, Label, Piece, Sha256, WipedVec,
    cipher::{Cipher, NONCE_BYTES, TAG_BYTES},
    header::{CHUNK_OVERHEAD_BYTES, TRAILER_BYTES},
    pages, piece_bytes, read_and_open, wipe,
};
use crate::base::{Context, Error, Result};

/// Chunks that small reads came to last are kept open, so that the next small read beside it costs a copy.
const RECENT_CHUNKS: usize = 16;

/// An open sealed object. No plaintext it returns comes from a chunk that was not authenticated.
pub struct SealReader {
    file: File,
    header: Header,
    content_key: Key,
    /// What lies between header and chunks.
    carried: Carried,
    /// The latest last.
    recent: Mutex<Vec<(u64, Arc<WipedVec>)>>,
}

#[derive(Default)]
struct Carried {
    bytes: u64,
    digest: Digest,
}

impl SealReader {
    /// Opens the object that `label` names and `key` seals.
    ///
    /// # Errors
    /// `Integrity`, naming the object, when the header is not authentic, is another object's, or the file is
    /// not exactly as long as the header demands.
    pub fn open(file: File, key: &Key, label: Label) -> Result<Self> {
        let object = label.object;
        let found_bytes = file.metadata().with_context(|| format!("opening object {object}"))?.len();
        let mut bytes = [0; HEADER_BYTES];
        if found_bytes < HEADER_BYTES as u64 {
            return Err(cut_short(label, HEADER_BYTES as u64 - found_bytes));
        }
        file.read_exact_at(&mut bytes, 0)
            .with_context(|| format!("reading the header of object {object}"))?;
        let header = Header::open(key, label, &bytes)?;
        let due_bytes = header.sealed_length_bytes();
        if found_bytes < due_bytes {
            return Err(cut_short(label, due_bytes - found_bytes));
        }
        let more = found_bytes - due_bytes;
        if more > 0 && !header.carries {
            return Err(Error::integrity(format!("object {object} was extended by {more} bytes")));
        }
        let content_key = header.content_key(key)?;
        let carried = Carried { bytes: more, ..Carried::default() };
        let mut reader = Self { file, header, content_key, carried, recent: Mutex::default() };
        if reader.header.carries {
            reader.read_trailer()?;
        } else if reader.len_bytes() == 0 {
            // No read will ever ask for the one, empty chunk.
            reader.read_chunks(0, &mut [])?;
        }
        Ok(reader)
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Of its content: what it carries is not counted.
    pub fn len_bytes(&self) -> u64 {
        self.header.content_bytes()
    }

    /// How much ciphertext of other keys it carries.
    pub fn carried_bytes(&self) -> u64 {
        self.carried.bytes
    }

    /// Fills `out` with carried ciphertext from `offset` on. It is as the file has it: whoever opens it finds out whether it
    /// was altered, and so does [`SealReader::verify_carried`].
    ///
    /// # Errors
    /// `Integrity` when the file was cut since it was opened; `Usage` when the range goes beyond the end.
    pub fn read_carried_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let object = self.header.label.object;
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > self.carried.bytes) {
            return Err(Error::usage(format!(
                "object {object} carries {} bytes: {} at {offset} cannot be read",
                self.carried.bytes,
                out.len()
            )));
        }
        self.file
            .read_exact_at(out, HEADER_BYTES as u64 + offset)
            .map_err(|error| error_reading(error, object))
    }

    /// Reads all that is carried, through `buffer`.
    ///
    /// # Errors
    /// `Integrity`, naming the object, when it is not what was written.
    pub fn verify_carried(&self, buffer: &mut [u8]) -> Result<()> {
        let mut digest = Sha256::default();
        let mut at = 0;
        while at < self.carried.bytes {
            let part = (self.carried.bytes - at).min(buffer.len() as u64);
            let piece = &mut buffer[..part as usize];
            self.read_carried_at(at, piece)?;
            digest.update(piece);
            at += part;
        }
        if self.header.carries && digest.finish() != self.carried.digest {
            let object = self.header.label.object;
            return Err(Error::integrity(format!("object {object}: what it carries was altered"))
                .remedy("restore the object from a backup"));
        }
        Ok(())
    }

    /// The end of the plaintext says what is carried. Were it not as long as the file has it, no chunk would lie where it
    /// is looked for.
    fn read_trailer(&mut self) -> Result<()> {
        let mut trailer = [0; TRAILER_BYTES];
        let first = self.header.length_bytes - TRAILER_BYTES as u64;
        let chunk_bytes = u64::from(self.header.chunk_bytes);
        self.read_edges(first / chunk_bytes, (first % chunk_bytes) as usize, &mut trailer)?;
        let (length, digest) = trailer.split_at(8);
        let bytes = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        if bytes != self.carried.bytes {
            return Err(Error::integrity(format!(
                "object {} carries {} bytes, and {bytes} were written",
                self.header.label.object, self.carried.bytes
            )));
        }
        self.carried.digest = digest.try_into().expect("32 bytes");
        Ok(())
    }

    /// Where in the file chunk `index` begins.
    fn chunk_at(&self, index: u64) -> u64 {
        HEADER_BYTES as u64 + self.carried.bytes + self.header.chunk_offset(index)
    }

    /// Fills `out` with the plaintext that begins at `offset`. Large ranges are opened by several threads.
    ///
    /// # Errors
    /// `Integrity`, naming object and chunk, when a chunk is not what was sealed there; `out` then holds
    /// nothing of that chunk. `Usage` when the range goes beyond the end.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(out.len() as u64).filter(|&end| end <= self.len_bytes());
        if end.is_none() {
            return Err(Error::usage(format!(
                "object {} has {} bytes: {} at {offset} cannot be read",
                self.header.label.object,
                self.len_bytes(),
                out.len()
            )));
        }
        if out.is_empty() {
            return Ok(());
        }
        let chunk_bytes = u64::from(self.header.chunk_bytes);
        let (first, skip) = (offset / chunk_bytes, (offset % chunk_bytes) as usize);
        let result = self.read_edges(first, skip, out);
        if result.is_err() {
            // Chunks that were opened before the bad one are authentic, but half an answer is none.
            wipe(out);
        }
        result
    }

    /// The whole plaintext, in memory of its own.
    ///
    /// # Errors
    /// As [`SealReader::read_at`].
    pub fn read_all(&self) -> Result<Vec<u8>> {
        let object = self.header.label.object;
        let length = usize::try_from(self.len_bytes())
            .map_err(|_| Error::unavailable(format!("object {object} does not fit into memory")))?;
        // Zeroed by the kernel, page by page as the threads come to them.
        let mut bytes = vec![0; length];
        pages::prefer_large(&bytes);
        self.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// The first and the last chunk may be wanted in part: they go through a buffer of their own.
    fn read_edges(&self, mut first: u64, skip: usize, mut out: &mut [u8]) -> Result<()> {
        let whole = self.header.chunk_length(first);
        if skip > 0 || out.len() < whole {
            let (head, rest) = out.split_at_mut(out.len().min(whole - skip));
            head.copy_from_slice(&self.chunk(first)?[skip..skip + head.len()]);
            (first, out) = (first + 1, rest);
        }
        // What is left begins with a chunk; it ends with one, or with a part of one.
        let chunk_bytes = self.header.chunk_bytes as usize;
        let full = out.len() / chunk_bytes * chunk_bytes;
        let last = first + (full / chunk_bytes) as u64;
        let in_part = out.len() > full && out.len() - full < self.header.chunk_length(last);
        let (middle, tail) = out.split_at_mut(if in_part { full } else { out.len() });
        self.read_whole_chunks(first, middle)?;
        if !tail.is_empty() {
            tail.copy_from_slice(&self.chunk(last)?[..tail.len()]);
        }
        Ok(())
    }

    /// One whole chunk, from those that were opened last or from the file.
    fn chunk(&self, index: u64) -> Result<Arc<WipedVec>> {
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, chunk)) = recent().iter().find(|(number, _)| *number == index) {
            return Ok(chunk.clone());
        }
        let mut chunk = WipedVec::zeroed(self.header.chunk_length(index));
        self.read_chunks(index, &mut chunk)?;
        let chunk = Arc::new(chunk);
        let mut recent = recent();
        if recent.len() == RECENT_CHUNKS {
            recent.remove(0);
        }
        recent.push((index, chunk.clone()));
        Ok(chunk)
    }

    /// Whole chunks, many of them read at once.
    fn read_whole_chunks(&self, first: u64, out: &mut [u8]) -> Result<()> {
        let chunk_bytes = self.header.chunk_bytes as usize;
        let group_chunks = (piece_bytes(out.len()) / chunk_bytes).clamp(1, libc::UIO_MAXIOV as usize / 3);
        let groups = out.chunks_mut(group_chunks * chunk_bytes).enumerate();
        let groups = groups.map(|(number, out)| self.group(first + (number * group_chunks) as u64, out));
        let cipher = Cipher::new(&self.content_key);
        read_and_open(
            groups.collect(),
            |group| self.read_group(group),
            |group| self.open_group(&cipher, group),
        )
        .map(drop)
    }

    /// The chunks from `first` whose plaintext will fill `out` exactly.
    fn group<'o>(&self, first: u64, out: &'o mut [u8]) -> Group<'o> {
        let chunks = out.len().div_ceil(self.header.chunk_bytes as usize).max(1);
        Group { first, edges: vec![([0; NONCE_BYTES], [0; TAG_BYTES]); chunks], out }
    }

    fn read_group(&self, group: &mut Group<'_>) -> Result<()> {
        let (at, chunk_bytes) = (self.chunk_at(group.first), self.header.chunk_bytes as usize);
        let object = self.header.label.object;
        read_scattered(&self.file, at, chunk_bytes, &mut group.edges, group.out).map_err(|error| match error
            .kind()
        {
            io::ErrorKind::UnexpectedEof => {
                Error::integrity(format!("object {object} was cut short while it was read"))
            }
            _ => error_reading(error, object),
        })
    }

    /// Opens chunks that were read, each where it lies.
    fn open_group(&self, cipher: &Cipher, group: Group<'_>) -> Result<()> {
        let Group { first, edges, out } = group;
        let chunk_bytes = self.header.chunk_bytes as usize;
        for (place, (nonce, tag)) in edges.into_iter().enumerate() {
            let index = first + place as u64;
            let start = place * chunk_bytes;
            let text = &mut out[start..start + self.header.chunk_length(index)];
            if cipher.open(nonce, &self.header.chunk_aad(index), tag, text).is_err() {
                wipe(out);
                return Err(Error::integrity(format!(
                    "object {}: chunk {index} of {} is not what was sealed there",
                    self.header.label.object,
                    self.header.chunks()
                ))
                .remedy("restore the object from a backup"));
            }
        }
        Ok(())
    }

    /// Reads and opens the chunks from `first` whose plaintext fills `out` exactly.
    fn read_chunks(&self, first: u64, out: &mut [u8]) -> Result<()> {
        let mut group = self.group(first, out);
        self.read_group(&mut group)?;
        self.open_group(&Cipher::new(&self.content_key), group)
    }
}

/// Chunks that are read by one system call.
struct Group<'o> {
    first: u64,
    /// Nonce and tag of each.
    edges: Vec<([u8; NONCE_BYTES], [u8; TAG_BYTES])>,
    /// Their text, one after the other.
    out: &'o mut [u8],
}

impl Piece for Group<'_> {
    fn room(&self) -> &[u8] {
        self.out
    }
}

fn cut_short(label: Label, missing_bytes: u64) -> Error {
    Error::integrity(format!("object {} was cut short by {missing_bytes} bytes", label.object))
        .remedy("restore the object from a backup")
}

fn error_reading(error: io::Error, object: crate::base::Id) -> Error {
    Err::<(), _>(error).with_context(|| format!("reading object {object}")).expect_err("made an error above")
}

/// Reads nonce, text and tag of several chunks to their three places, with as few calls as the system allows.
fn read_scattered(
    file: &File,
    mut at: u64,
    chunk_bytes: usize,
    edges: &mut [([u8; NONCE_BYTES], [u8; TAG_BYTES])],
    out: &mut [u8],
) -> io::Result<()> {
    let mut left = out.len() + edges.len() * CHUNK_OVERHEAD_BYTES;
    let place = |bytes: &mut [u8]| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut texts = out.chunks_mut(chunk_bytes);
    let mut places: Vec<libc::iovec> = edges
        .iter_mut()
        .flat_map(|(nonce, tag)| [place(nonce), place(texts.next().unwrap_or_default()), place(tag)])
        .collect();
    let mut next = 0;
    while left > 0 {
        let rest = &places[next..];
        let position = libc::off_t::try_from(at).map_err(io::Error::other)?;
        // SAFETY: every place is a distinct part of `edges` or `out`, both borrowed mutably for this call.
        let got =
            unsafe { libc::preadv(file.as_raw_fd(), rest.as_ptr(), rest.len() as libc::c_int, position) };
        let Ok(mut got) = usize::try_from(got) else {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        };
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (at, left) = (at + got as u64, left - got);
        while got > 0 {
            let part = got.min(places[next].iov_len);
            // SAFETY: `part` is within the place.
            places[next].iov_base = unsafe { places[next].iov_base.byte_add(part) };
            places[next].iov_len -= part;
            got -= part;
            if places[next].iov_len == 0 {
                next += 1;
            }
        }
    }
    Ok(())
}
