//! Writes a sealed object as a stream, in bounded memory: plaintext is gathered in a few chunks, sealed in
//! place and handed on.

use std::{
    io::{self, Write},
    thread,
};

use super::{
    CHUNK_BYTES_DEFAULT, Digest, Header, Key, Label, WipedVec,
    cipher::{Cipher, NONCE_BYTES},
    header::CHUNK_OVERHEAD_BYTES,
    threads::{BYTES_PER_THREAD_MIN, join, threads_max},
};
use crate::base::{Context, Error, Result};

/// How much is gathered before it is sealed, by several threads, and written.
const BATCH_BYTES: usize = 4 << 20;

/// A sealed object being written to `W`. The length is known from the start, because it stands in the header;
/// [`SealWriter::finish`] refuses fewer bytes and [`Write::write`] more.
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
    /// A batch could not be written: what stands in the sink is not an object, and never will be.
    broken: bool,
}

/// What a finished object is listed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub label: Label,
    pub length_bytes: u64,
    pub header_hash: Digest,
}

impl<W: Write> SealWriter<W> {
    /// Writes the header of an object of `length_bytes` sealed under `key`.
    pub fn new(out: W, key: &Key, label: Label, length_bytes: u64) -> Result<Self> {
        Self::with_chunk_bytes(out, key, label, length_bytes, CHUNK_BYTES_DEFAULT)
    }

    pub(super) fn with_chunk_bytes(
        mut out: W,
        key: &Key,
        label: Label,
        length_bytes: u64,
        chunk_bytes: u32,
    ) -> Result<Self> {
        let (header, bytes) = Header::seal(key, label, chunk_bytes, length_bytes)?;
        out.write_all(&bytes).with_context(|| format!("writing the header of object {}", label.object))?;
        let chunks_at_once = (BATCH_BYTES / chunk_bytes as usize).max(1) as u64;
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
            broken: false,
        })
    }

    pub fn label(&self) -> Label {
        self.header.label
    }

    /// Seals what is left and gives the sink back, not flushed to the disk.
    ///
    /// # Errors
    /// `Failed` when fewer bytes came than the header promises.
    pub fn finish(mut self) -> Result<(W, Sealed)> {
        let Header { label, length_bytes, hash, .. } = self.header;
        if self.taken_bytes != length_bytes {
            return Err(Error::failed(format!(
                "object {}: {} bytes were written, and {length_bytes} were announced",
                label.object, self.taken_bytes
            )));
        }
        self.seal_batch()?;
        Ok((self.out, Sealed { label, length_bytes, header_hash: hash }))
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
        let left = self.header.length_bytes - self.taken_bytes;
        if self.broken {
            return Err(io::Error::other(Error::failed("writing this object failed before")));
        }
        if plain.is_empty() {
            return Ok(0);
        }
        if left == 0 {
            let Header { label, length_bytes, .. } = self.header;
            return Err(io::Error::other(Error::failed(format!(
                "object {}: more than the announced {length_bytes} bytes were written",
                label.object
            ))));
        }
        let chunk_bytes = self.header.chunk_bytes as usize;
        let taken =
            plain.len().min(chunk_bytes - self.in_chunk).min(usize::try_from(left).unwrap_or(usize::MAX));
        let at = self.full_chunks * self.stride() + NONCE_BYTES + self.in_chunk;
        self.batch[at..at + taken].copy_from_slice(&plain[..taken]);
        self.in_chunk += taken;
        self.taken_bytes += taken as u64;
        if self.in_chunk == chunk_bytes {
            (self.full_chunks, self.in_chunk) = (self.full_chunks + 1, 0);
            if self.full_chunks * self.stride() == self.batch.len() {
                self.seal_batch().map_err(io::Error::other)?;
            }
        }
        Ok(taken)
    }

    /// Hands on what the sink holds. A begun chunk stays: only a whole one can be sealed.
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
