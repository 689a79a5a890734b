//! The system's randomness, and identifiers made with it.

use std::time::{SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};

use crate::base::{Error, Id, IdKind, Result};

/// Fills `bytes` from the system's generator.
pub(super) fn fill(bytes: &mut [u8]) -> Result<()> {
    SystemRandom::new()
        .fill(bytes)
        .map_err(|_| Error::unavailable("the system's random generator gives nothing"))
}

/// `N` random bytes, for salts, tokens and the like. Keys come from [`super::Key::generate`].
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// A new identifier: the time, so that identifiers sort by age, and 80 random bits.
pub fn new_id(kind: IdKind) -> Result<Id> {
    // A clock before 1970 costs the order by age and nothing else.
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64);
    Ok(Id::from_parts(kind, unix_ms, random_bytes()?))
}
