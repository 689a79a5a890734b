//! The warden and its jobs: what can be asked, who may ask it, and the processes that do it. One process holds a
//! data directory at a time; it alone opens the database, the keyring and the audit log, writes an intent before
//! and an outcome after everything that it is asked, and gives each worker process leave for what its task needs.

pub mod admin;
pub mod backup;
pub mod client;
mod documents;
mod doors;
mod erasure;
mod fingerprint;
mod frame;
mod host;
mod import;
mod init;
mod jobs;
mod kinds;
mod lock;
mod password;
mod people;
pub mod policy;
mod port;
mod precedence;
mod protocol;
pub mod question;
mod reconcile;
pub mod request;
mod requests;
mod scope;
mod seal_mark;
mod sealed;
mod served;
mod sessions;
mod warden;
mod witness;
pub mod worker;

#[cfg(test)]
mod tests;

pub use client::{Site, Unsealer};
pub use doors::Doors;
pub use fingerprint::Fingerprint;
pub use kinds::{Kind, Reach};
pub use policy::{Action, Actor, Caller, Role};
pub use precedence::{Ahead, Precedence};
pub use request::Request;
pub use scope::Scope;
pub use sealed::Sealed;
pub use served::{Deployed, ServedModel};
pub use sessions::Session;
pub use warden::Warden;
