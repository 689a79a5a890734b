//! Writes a sealed object as a stream, in bounded memory: plaintext is gathered in a few chunks, sealed in
//! place and handed on.

use std::{
    io::{self, Write},
    thread,
};

use super::{
    CHUNK_BYTES_DEFAULT, Digest, HEADER_BYTES, Header, Key, Label, Sha256, WipedVec,
    cipher::{Cipher, NONCE_BYTES},
    header::{CHUNK_OVERHEAD_BYTES, TRAILER_BYTES},
    threads::{BYTES_PER_THREAD_MIN, join, threads_max},
};
use crate::base::{Context, Error, Result};

/// How much is gathered before it is sealed, by several threads, and written.
const BATCH_BYTES: usize = 4 << 20;

/// A sealed object being written to `W`. The length is known from the start, because it stands in the header;
/// [`SealWriter::finish`] refuses fewer bytes and [`Write::write`] more. What it carries comes before its content.
pub struct SealWriter<W: Write> {
    out: W,
    header: Header,
    content_key: Key,
    /// Room for a batch of chunks as they lie in the file. Plaintext is put where its ciphertext will be.
    batch: WipedVec,
    /// Chunks of the batch that are full, and plaintext bytes in the one after them.
    full_chunks: usize,
    in_chunk: usize,
    /// Index of the first chunk of the batch.
    first_chunk: u64,
    taken_bytes: u64,
    carried: Carried,
    /// A batch could not be written: what stands in the sink is not an object, and never will be.
    broken: bool,
}

/// What was carried so far.
#[derive(Default)]
struct Carried {
    bytes: u64,
    digest: Sha256,
}

/// What a finished object is listed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub label: Label,
    /// Of its content.
    pub length_bytes: u64,
    pub header_hash: Digest,
}

impl<W: Write> SealWriter<W> {
    /// Writes the header of an object of `length_bytes` sealed under `key`.
    pub fn new(out: W, key: &Key, label: Label, length_bytes: u64) -> Result<Self> {
        Self::with_header(out, key, Header::seal(key, label, CHUNK_BYTES_DEFAULT, length_bytes, false)?)
    }

    /// As [`SealWriter::new`], of an object that carries ciphertext of other keys beside `length_bytes` of its own.
    pub fn carrying(out: W, key: &Key, label: Label, length_bytes: u64) -> Result<Self> {
        let length_bytes = length_bytes.saturating_add(TRAILER_BYTES as u64);
        Self::with_header(out, key, Header::seal(key, label, CHUNK_BYTES_DEFAULT, length_bytes, true)?)
    }

    pub(super) fn with_header(
        mut out: W,
        key: &Key,
        (header, bytes): (Header, [u8; HEADER_BYTES]),
    ) -> Result<Self> {
        let label = header.label;
        out.write_all(&bytes).with_context(|| format!("writing the header of object {}", label.object))?;
        let chunks_at_once = (BATCH_BYTES / header.chunk_bytes as usize).max(1) as u64;
        let batch_chunks = chunks_at_once.min(header.chunks()) as usize;
        let longest = header.chunk_length(0) + CHUNK_OVERHEAD_BYTES;
        Ok(Self {
            content_key: header.content_key(key)?,
            batch: WipedVec::zeroed(batch_chunks * longest),
            out,
            header,
            full_chunks: 0,
            in_chunk: 0,
            first_chunk: 0,
            taken_bytes: 0,
            carried: Carried::default(),
            broken: false,
        })
    }

    pub fn label(&self) -> Label {
        self.header.label
    }

    /// Takes `ciphertext` along as it is: that others cannot read it is the caller's care, that nobody alters it the
    /// object's.
    ///
    /// # Errors
    /// `Failed` once content was written, or where the object carries nothing.
    pub fn carry(&mut self, ciphertext: &[u8]) -> Result<()> {
        let object = self.header.label.object;
        if !self.header.carries || self.taken_bytes > 0 || self.broken {
            return Err(Error::failed(format!("object {object} carries nothing at this place")));
        }
        self.broken = true;
        self.out.write_all(ciphertext).with_context(|| format!("writing object {object}"))?;
        self.carried.digest.update(ciphertext);
        self.carried.bytes += ciphertext.len() as u64;
        self.broken = false;
        Ok(())
    }

    /// Seals what is left and gives the sink back, not flushed to the disk.
    ///
    /// # Errors
    /// `Failed` when fewer bytes came than the header promises.
    pub fn finish(mut self) -> Result<(W, Sealed)> {
        let (label, length_bytes, hash) = (self.header.label, self.header.content_bytes(), self.header.hash);
        if self.taken_bytes != length_bytes {
            return Err(Error::failed(format!(
                "object {}: {} bytes were written, and {length_bytes} were announced",
                label.object, self.taken_bytes
            )));
        }
        if self.header.carries {
            let Carried { bytes, digest } = std::mem::take(&mut self.carried);
            let trailer = [&bytes.to_le_bytes()[..], &digest.finish()].concat();
            let mut rest = &trailer[..];
            while !rest.is_empty() {
                rest = &rest[self.take(rest)?..];
            }
        }
        self.seal_batch()?;
        Ok((self.out, Sealed { label, length_bytes, header_hash: hash }))
    }

    /// Puts the beginning of `plain` where it will be sealed, and says how much of it.
    fn take(&mut self, plain: &[u8]) -> Result<usize> {
        let chunk_bytes = self.header.chunk_bytes as usize;
        let taken = plain.len().min(chunk_bytes - self.in_chunk);
        let at = self.full_chunks * self.stride() + NONCE_BYTES + self.in_chunk;
        self.batch[at..at + taken].copy_from_slice(&plain[..taken]);
        self.in_chunk += taken;
        self.taken_bytes += taken as u64;
        if self.in_chunk == chunk_bytes {
            (self.full_chunks, self.in_chunk) = (self.full_chunks + 1, 0);
            if self.full_chunks * self.stride() == self.batch.len() {
                self.seal_batch()?;
            }
        }
        Ok(taken)
    }

    fn stride(&self) -> usize {
        self.header.chunk_bytes as usize + CHUNK_OVERHEAD_BYTES
    }

    /// Seals and writes the full chunks and the begun one, if any.
    fn seal_batch(&mut self) -> Result<()> {
        let object = self.header.label.object;
        if self.broken {
            return Err(Error::failed(format!("writing object {object} failed before")));
        }
        let begun = self.in_chunk > 0 || self.header.length_bytes == 0;
        let chunks = self.full_chunks + usize::from(begun);
        if chunks == 0 {
            return Ok(());
        }
        // Until it is written, the batch is neither here nor there.
        self.broken = true;
        let last = self.header.chunk_length(self.first_chunk + chunks as u64 - 1) + CHUNK_OVERHEAD_BYTES;
        let end = (chunks - 1) * self.stride() + last;
        let run_chunks = chunks.div_ceil((end / BYTES_PER_THREAD_MIN).clamp(1, threads_max()));
        let run_bytes = run_chunks * self.stride();
        let (header, key, first) = (&self.header, &self.content_key, self.first_chunk);
        let mut runs = self.batch[..end].chunks_mut(run_bytes).enumerate();
        let seal = |(number, run): (usize, &mut [u8])| {
            seal_run(header, &Cipher::new(key), first + (number * run_chunks) as u64, run)
        };
        if run_bytes >= end {
            runs.try_for_each(seal)?;
        } else {
            thread::scope(|scope| {
                let threads: Vec<_> = runs.map(|run| scope.spawn(move || seal(run))).collect();
                threads.into_iter().try_for_each(join)
            })?;
        }
        self.out.write_all(&self.batch[..end]).with_context(|| format!("writing object {object}"))?;
        self.first_chunk += chunks as u64;
        (self.full_chunks, self.in_chunk, self.broken) = (0, 0, false);
        Ok(())
    }
}

/// Seals chunks that lie one after the other, from chunk `first` on.
fn seal_run(header: &Header, cipher: &Cipher, first: u64, run: &mut [u8]) -> Result<()> {
    let stride = header.chunk_bytes as usize + CHUNK_OVERHEAD_BYTES;
    for (index, chunk) in (first..).zip(run.chunks_mut(stride)) {
        let (nonce, rest) = chunk.split_at_mut(NONCE_BYTES);
        let (text, tag) = rest.split_at_mut(header.chunk_length(index));
        let (fresh, made) = cipher.seal(&header.chunk_aad(index), text)?;
        nonce.copy_from_slice(&fresh);
        tag.copy_from_slice(&made);
    }
    Ok(())
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, plain: &[u8]) -> io::Result<usize> {
        let length_bytes = self.header.content_bytes();
        let left = length_bytes - self.taken_bytes;
        if self.broken {
            return Err(io::Error::other(Error::failed("writing this object failed before")));
        }
        if plain.is_empty() {
            return Ok(0);
        }
        if left == 0 {
            return Err(io::Error::other(Error::failed(format!(
                "object {}: more than the announced {length_bytes} bytes were written",
                self.header.label.object
            ))));
        }
        let fits = plain.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.take(&plain[..fits]).map_err(io::Error::other)
    }

    /// Hands on what the sink holds. A begun chunk stays: only a whole one can be sealed.
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
