//! The header of a sealed object, format version 1. All numbers are little-endian.
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | magic `CLOISOBJ` |
//! | 8 | 2 | format version, 1 |
//! | 10 | 2 | algorithm, 1: AES-256-GCM, keys by HKDF-SHA256, header by HMAC-SHA256; 2: the same, and it carries |
//! | 12 | 4 | chunk size: plaintext bytes in every chunk but the last |
//! | 16 | 8 | plaintext length |
//! | 24 | 8 | object version |
//! | 32 | 17 | install id |
//! | 49 | 17 | object id |
//! | 66 | 32 | key commitment |
//! | 98 | 32 | header MAC over all of the above |
//!
//! Then the chunks, each `nonce (12) | ciphertext | tag (16)`, sealed with the associated data
//! `SHA-256 of the header (32) | index (8) | final flag (1)`. An empty object has one chunk, an empty one.
//!
//! An object may carry ciphertext of other keys, which is not sealed a second time: it lies between header and chunks, and
//! the last 40 bytes of the plaintext are its length (8) and its SHA-256 (32).
//!
//! The object's key is never used itself: commitment, MAC key and content key are derived from it for this
//! install, object and version, so AES-GCM is committed to one key, and versions share no nonce space.

use super::{
    Digest, Key,
    cipher::{NONCE_BYTES, TAG_BYTES},
    hmac, same_bytes, sha256, verify_hmac,
};
use crate::base::{Error, Id, Result};

pub const HEADER_BYTES: usize = 130;
/// What a chunk costs beyond its plaintext.
pub(super) const CHUNK_OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;
/// Chosen by measurement; see docs/experiments.md.
pub const CHUNK_BYTES_DEFAULT: u32 = 64 << 10;
/// A header cannot ask for more memory per chunk than this.
const CHUNK_BYTES_MAX: u32 = 16 << 20;
const CHUNK_BYTES_MIN: u32 = 1;
/// The end of the plaintext of an object that carries: length and SHA-256 of what it carries.
pub(super) const TRAILER_BYTES: usize = 8 + 32;
/// More would not fit a file, and keeps every sum below overflow.
const LENGTH_BYTES_MAX: u64 = 1 << 56;

const MAGIC: &[u8; 8] = b"CLOISOBJ";
const FORMAT: u16 = 1;
const ALGORITHM: u16 = 1;
const ALGORITHM_CARRYING: u16 = 2;
const COMMITMENT_AT: usize = 66;
const MAC_AT: usize = COMMITMENT_AT + 32;
const _: () = assert!(MAC_AT + 32 == HEADER_BYTES);

/// What an object is: part of its header, and of every key that is derived for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    pub install: Id,
    pub object: Id,
    pub version: u64,
}

/// A header that was made here or found authentic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub label: Label,
    pub chunk_bytes: u32,
    /// Of all plaintext; where the object carries, its trailer is the end of it.
    pub length_bytes: u64,
    /// Whether ciphertext of other keys lies before the chunks.
    pub carries: bool,
    /// SHA-256 of the whole header: it stands for the object wherever objects are listed.
    pub hash: Digest,
}

/// The length of the file that holds `length_bytes` of plaintext in chunks of `chunk_bytes`.
pub fn sealed_length_bytes(length_bytes: u64, chunk_bytes: u32) -> u64 {
    let chunks = length_bytes.div_ceil(u64::from(chunk_bytes)).max(1);
    HEADER_BYTES as u64 + length_bytes + chunks * CHUNK_OVERHEAD_BYTES as u64
}

impl Header {
    /// Makes the header and its bytes.
    pub(super) fn seal(
        key: &Key,
        label: Label,
        chunk_bytes: u32,
        length_bytes: u64,
        carries: bool,
    ) -> Result<(Self, [u8; HEADER_BYTES])> {
        if length_bytes > LENGTH_BYTES_MAX {
            return Err(Error::usage(format!("{}: {length_bytes} bytes are too many", label.object)));
        }
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        let algorithm = if carries { ALGORITHM_CARRYING } else { ALGORITHM };
        bytes[10..12].copy_from_slice(&algorithm.to_le_bytes());
        bytes[12..16].copy_from_slice(&chunk_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&length_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&label.version.to_le_bytes());
        bytes[32..49].copy_from_slice(&label.install.to_bytes());
        bytes[49..66].copy_from_slice(&label.object.to_bytes());
        bytes[COMMITMENT_AT..MAC_AT].copy_from_slice(&label.commitment(key)?);
        let code = hmac(&label.mac_key(key)?, &bytes[..MAC_AT]);
        bytes[MAC_AT..].copy_from_slice(&code);
        Ok((Self { label, chunk_bytes, length_bytes, carries, hash: sha256(&bytes) }, bytes))
    }

    /// Reads a header and finds it authentic, and that of `expected`.
    ///
    /// # Errors
    /// `Integrity`, naming the object and what is wrong with it.
    pub(super) fn open(key: &Key, expected: Label, bytes: &[u8; HEADER_BYTES]) -> Result<Self> {
        let broken = |what: String| Error::integrity(format!("object {} {what}", expected.object));
        let field = Fields(bytes);
        if &bytes[..8] != MAGIC {
            return Err(broken("does not begin as a sealed object".into()));
        }
        let (format, algorithm) = (field.u16(8), field.u16(10));
        if format != FORMAT || ![ALGORITHM, ALGORITHM_CARRYING].contains(&algorithm) {
            return Err(broken(format!(
                "has format {format} with algorithm {algorithm}; this version reads {FORMAT} with {ALGORITHM} or \
                 {ALGORITHM_CARRYING}"
            ))
            .remedy("open it with the version of Cloister that wrote it, or restore it from a backup"));
        }
        // Who it claims to be comes before the cryptography, so that a swap is called a swap.
        let id = |at| {
            Id::from_bytes(field.array(at)).map_err(|_| broken("has an identifier of no known kind".into()))
        };
        let found = Label { install: id(32)?, object: id(49)?, version: field.u64(24) };
        expected.must_be(found)?;
        if !same_bytes(&expected.commitment(key)?, &bytes[COMMITMENT_AT..MAC_AT]) {
            return Err(broken("was sealed under another key, or its header was altered".into()));
        }
        if !verify_hmac(&expected.mac_key(key)?, &bytes[..MAC_AT], &bytes[MAC_AT..]) {
            return Err(broken("has a header that was altered".into()));
        }
        let (chunk_bytes, length_bytes) = (field.u32(12), field.u64(16));
        let carries = algorithm == ALGORITHM_CARRYING;
        let least_bytes = if carries { TRAILER_BYTES as u64 } else { 0 };
        if !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes)
            || !(least_bytes..=LENGTH_BYTES_MAX).contains(&length_bytes)
        {
            return Err(broken(format!("states chunks of {chunk_bytes} and {length_bytes} bytes in all")));
        }
        Ok(Self { label: found, chunk_bytes, length_bytes, carries, hash: sha256(bytes) })
    }

    pub(super) fn content_key(&self, key: &Key) -> Result<Key> {
        key.derive("object content", &self.label.context())
    }

    /// At least one: an empty object has an empty chunk.
    pub(super) fn chunks(&self) -> u64 {
        self.length_bytes.div_ceil(u64::from(self.chunk_bytes)).max(1)
    }

    /// Plaintext bytes in chunk `index`.
    pub(super) fn chunk_length(&self, index: u64) -> usize {
        let before = index * u64::from(self.chunk_bytes);
        (self.length_bytes - before).min(u64::from(self.chunk_bytes)) as usize
    }

    /// Where chunk `index` begins, counted from the first.
    pub(super) fn chunk_offset(&self, index: u64) -> u64 {
        index * (u64::from(self.chunk_bytes) + CHUNK_OVERHEAD_BYTES as u64)
    }

    pub(super) fn chunk_aad(&self, index: u64) -> [u8; 41] {
        let mut aad = [0; 41];
        aad[..32].copy_from_slice(&self.hash);
        aad[32..40].copy_from_slice(&index.to_le_bytes());
        aad[40] = u8::from(index + 1 == self.chunks());
        aad
    }

    /// Plaintext bytes that are the caller's own.
    pub(super) fn content_bytes(&self) -> u64 {
        self.length_bytes - if self.carries { TRAILER_BYTES as u64 } else { 0 }
    }

    /// Without what it carries.
    pub fn sealed_length_bytes(&self) -> u64 {
        sealed_length_bytes(self.length_bytes, self.chunk_bytes)
    }
}

impl Label {
    fn must_be(&self, found: Label) -> Result<()> {
        let object = self.object;
        let broken = |what: String| Err(Error::integrity(format!("object {object} {what}")));
        if found.install != self.install {
            return broken(format!("belongs to installation {}, not to {}", found.install, self.install));
        }
        if found.object != object {
            return broken(format!("was swapped: its file holds object {}", found.object));
        }
        if found.version < self.version {
            return broken(format!("was rolled back to version {} from {}", found.version, self.version));
        }
        if found.version > self.version {
            return broken(format!("has version {} where {} is known", found.version, self.version));
        }
        Ok(())
    }

    fn context(&self) -> [u8; 42] {
        let mut context = [0; 42];
        context[..17].copy_from_slice(&self.install.to_bytes());
        context[17..34].copy_from_slice(&self.object.to_bytes());
        context[34..].copy_from_slice(&self.version.to_le_bytes());
        context
    }

    fn commitment(&self, key: &Key) -> Result<Digest> {
        key.derive_public("object commitment", &self.context())
    }

    fn mac_key(&self, key: &Key) -> Result<Key> {
        key.derive("object header", &self.context())
    }
}

/// Little-endian numbers at known places.
struct Fields<'a>(&'a [u8; HEADER_BYTES]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().expect("N bytes were taken")
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}
