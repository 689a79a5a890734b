//! Backups. A repository is a folder, on another disk, that holds any number of backups of one installation:
//!
//! ```text
//! objects/AB/...        sealed objects, shared by all backups and copied once
//! backups/bak_.../      one backup: manifest.json, its signature, the database, the audit log, public keys
//! ```
//!
//! The keys lie apart, `KEYS/bak_.../keys/`: the root file and the keyring, both useless without what unseals them. Without
//! the keys of a backup its objects are noise, so whoever throws keys away early (only that lets an erasure reach a
//! backup) loses nothing else. It promises that what is listed is whole and signed, and that nothing unsealed lies in it.

mod copying;
mod create;
mod manifest;
mod repository;
mod restore;
#[cfg(test)]
mod tests;

pub(super) use create::create;
pub use manifest::Manifest;
pub use repository::{Repository, VerifiedBackup};
pub use restore::Restored;
