//! Keys and everything done with them: locked memory, sealed objects and small sealed values, key derivation,
//! hashes, signatures, passphrases and shares. It promises that key bytes lie in locked, never-dumped memory that is
//! wiped when they go, and that no byte of plaintext leaves before the chunk that holds it is authenticated.
//! Which key belongs to what, and where files lie, is the vault's business. No other room imports `ring`.

mod blob;
mod bulk;
mod cipher;
mod hash;
mod header;
mod key;
mod pages;
mod passphrase;
mod process;
mod random;
mod reader;
mod shares;
mod sign;
mod slab;
mod threads;
mod wipe;
mod writeback;
mod writer;

#[cfg(test)]
mod tests;

pub use blob::{BLOB_OVERHEAD_BYTES, open_blob, open_blob_in_place, seal_blob};
pub use bulk::{Piece, piece_bytes, read_and_open};
pub use hash::{Digest, Sha256, hmac, same_bytes, sha256, verify_hmac};
pub use header::{CHUNK_BYTES_DEFAULT, HEADER_BYTES, Header, Label, sealed_length_bytes};
pub use key::{KEY_BYTES, Key};
pub use passphrase::{PassphraseParams, PasswordVerifier, Secret};
pub use process::forbid_core_dumps;
pub use random::{new_id, random_bytes};
pub use reader::SealReader;
pub use shares::{SET_BYTES, Share, ShareSet, join as join_shares, split as split_key};
pub use sign::{PublicKey, SIGNATURE_BYTES, Signer};
pub use wipe::{WipedVec, wipe};
pub use writeback::Writeback;
pub use writer::{SealWriter, Sealed};
