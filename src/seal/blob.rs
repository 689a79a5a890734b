//! Small sealed values: wrapped keys, database columns, token extents. One value, one AEAD call:
//!
//! ```text
//! format 1 (1 byte) | random nonce (12) | ciphertext | tag (16)
//! ```
//!
//! The associated data says where the value belongs, so that it cannot be moved. Nonces are random: one key
//! seals at most 2^32 values (NIST SP 800-38D, 8.3).

use std::ops::Range;

use super::{
    Key,
    cipher::{Cipher, NONCE_BYTES, TAG_BYTES},
};
use crate::base::{Error, Result};

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 1 + NONCE_BYTES;

/// How much longer a sealed value is than its plaintext.
pub const BLOB_OVERHEAD_BYTES: usize = HEAD_BYTES + TAG_BYTES;

/// Seals `plain`; `aad` must be given again to open it.
pub fn seal_blob(key: &Key, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
    let mut blob = Vec::with_capacity(plain.len() + BLOB_OVERHEAD_BYTES);
    blob.resize(HEAD_BYTES, FORMAT);
    blob.extend_from_slice(plain);
    let (nonce, tag) = Cipher::new(key).seal(aad, &mut blob[HEAD_BYTES..])?;
    blob[1..HEAD_BYTES].copy_from_slice(&nonce);
    blob.extend_from_slice(&tag);
    Ok(blob)
}

/// Opens a sealed value.
///
/// # Errors
/// `Integrity` when it was altered, belongs elsewhere, or was sealed under another key: these cannot be told
/// apart. The caller adds what it was.
pub fn open_blob(key: &Key, aad: &[u8], blob: &[u8]) -> Result<Vec<u8>> {
    let mut opened = blob.to_vec();
    let plain = open_blob_in_place(key, aad, &mut opened)?;
    opened.truncate(plain.end);
    opened.drain(..plain.start);
    Ok(opened)
}

/// Opens a sealed value where it lies, and says which part of `blob` is the plaintext now.
///
/// # Errors
/// As [`open_blob`]; `blob` then holds nothing of the plaintext.
pub fn open_blob_in_place(key: &Key, aad: &[u8], blob: &mut [u8]) -> Result<Range<usize>> {
    let Some((&mut FORMAT, rest)) = blob.split_first_mut() else {
        return Err(Error::integrity("a sealed value does not begin as one of format 1"));
    };
    let parts = rest.split_first_chunk_mut().and_then(|(nonce, rest)| {
        let (text, tag) = rest.split_last_chunk_mut()?;
        Some((nonce, text, tag))
    });
    let Some((nonce, text, tag)) = parts else {
        return Err(Error::integrity("a sealed value is cut short"));
    };
    Cipher::new(key)
        .open(*nonce, aad, *tag, text)
        .map_err(|_| Error::integrity("a sealed value was altered, moved, or sealed under another key"))?;
    Ok(HEAD_BYTES..HEAD_BYTES + text.len())
}
