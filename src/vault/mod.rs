//! Sealed objects on disk and the keys to them: the root key and what unseals it, the keyring that holds one
//! key per object, the objects themselves, and the proof that all of them are what they were. It promises that
//! an object is either whole, durable and listed, or not there at all; and that nothing missing, added, swapped,
//! altered or rolled back goes unnoticed. What an object means, and who may read it, is for others.

pub mod bench;
mod commit;
mod copy;
mod depot;
mod grant;
mod keyring;
mod object;
mod reader;
mod ring_file;
mod root;
mod rotate;
pub mod secret_file;
mod store;
mod sweep;
mod tombstone;
mod verify;

#[cfg(test)]
mod tests;

pub use copy::{Hold, KeysCopy};
pub use depot::Depot;
pub use grant::{ReadGrant, WriteGrant};
pub use keyring::{Purpose, VaultRoot};
pub use object::{ObjectWriter, Written, sync_all};
pub use reader::ObjectReader;
pub use root::{RootKey, UnsealedBy, Unsealer};
pub use rotate::KeyReport;
pub use store::{Vault, object_path};
pub use sweep::Swept;
pub use tombstone::{TOMBSTONES, Tombstone};
pub use verify::{KEYRING, Problem, VerifyReport};
