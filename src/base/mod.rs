//! What every room stands on: errors that say what to do, identifiers, units, the counter-based
//! random generator, atomic file writes, and the way long work reports itself.

#[cfg(test)]
pub(crate) mod damage;
pub mod error;
pub mod fs;
pub mod group;
mod hex;
pub mod id;
pub mod progress;
pub mod rng;
pub mod units;

pub use error::{Context, Error, ErrorKind, Result};
pub use hex::{hex, unhex};
pub use id::{Id, IdKind};
pub use progress::{Monitor, Progress, Silent};
pub use rng::Philox;
