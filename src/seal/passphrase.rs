//! Passphrases, and the key that argon2id (RFC 9106) makes of one; passwords, and what tells a right one.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde::{Deserialize, Serialize};

use super::{Key, WipedVec, hmac, random_bytes, verify_hmac, wipe};
use crate::base::{Error, Result};

/// A passphrase, share, key file or token in memory: wiped when it goes, never printed.
pub struct Secret(WipedVec);

impl Secret {
    /// Takes the bytes over; the vector must not have grown from a smaller one that held them too.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    pub fn danger_expose(&self) -> &[u8] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<WipedVec> for Secret {
    fn from(bytes: WipedVec) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

/// What argon2id was told, kept beside what it protects so that later versions may ask for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassphraseParams {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl PassphraseParams {
    /// RFC 9106's second recommendation: 64 MiB, three passes, four lanes.
    pub const RECOMMENDED: Self = Self { memory_kib: 64 << 10, passes: 3, lanes: 4 };
    /// The most that a file can make us spend before we know who wrote it: 1 GiB, 16 passes.
    const MOST: Self = Self { memory_kib: 1 << 20, passes: 16, lanes: 16 };

    /// The key that this passphrase and salt give. Takes a tenth of a second, and is meant to.
    ///
    /// # Errors
    /// `Integrity` when the parameters are out of all reason.
    pub fn key(&self, passphrase: &Secret, salt: &[u8; 16]) -> Result<Key> {
        let most = Self::MOST;
        if self.memory_kib > most.memory_kib || self.passes > most.passes || self.lanes > most.lanes {
            return Err(Error::integrity(format!("argon2id with {self:?} is out of all reason")));
        }
        let params = Params::new(self.memory_kib, self.passes, self.lanes, None)
            .map_err(|error| Error::integrity(format!("argon2id with {self:?}: {error}")))?;
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut memory = vec![Block::default(); argon.params().block_count()];
        let key = Key::from_fill(|key| {
            argon
                .hash_password_into_with_memory(passphrase.danger_expose(), salt, key, &mut memory)
                .map_err(|error| Error::failed(format!("argon2id: {error}")))
        });
        // The memory's last blocks determine the key.
        memory.iter_mut().for_each(|block| wipe(bytemuck::cast_slice_mut(block.as_mut())));
        key
    }
}

/// What the code of a verifier is an HMAC of.
const VERIFIER: &[u8] = b"cloister password v1";

/// Tells a right password from a wrong one and gives neither away: what argon2id was told, its salt, and a code made
/// with the key that it gave.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordVerifier {
    params: PassphraseParams,
    salt: [u8; 16],
    code: [u8; 32],
}

impl PasswordVerifier {
    pub fn new(password: &Secret) -> Result<Self> {
        let (params, salt) = (PassphraseParams::RECOMMENDED, random_bytes::<16>()?);
        let code = hmac(&params.key(password, &salt)?, VERIFIER);
        Ok(Self { params, salt, code })
    }

    /// Accepts nothing, and takes as long over it as any other.
    pub fn of_nobody() -> Self {
        Self { params: PassphraseParams::RECOMMENDED, salt: [0; 16], code: [0; 32] }
    }

    /// # Errors
    /// `Integrity` when its parameters are out of all reason.
    pub fn accepts(&self, password: &Secret) -> Result<bool> {
        let key = self.params.key(password, &self.salt)?;
        Ok(verify_hmac(&key, VERIFIER, &self.code))
    }
}

impl std::fmt::Debug for PasswordVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordVerifier(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_accepts_its_own_password_alone_and_shows_nothing() {
        let password = Secret::new(b"the heron over the mill pond".to_vec());
        let (verifier, other) =
            (PasswordVerifier::new(&password).unwrap(), PasswordVerifier::new(&password).unwrap());
        assert!(verifier.accepts(&password).unwrap() && other.accepts(&password).unwrap());
        assert_ne!(verifier, other, "salts differ");
        for wrong in [&b"the heron over the mill ponD"[..], b"", b"the heron"] {
            assert!(!verifier.accepts(&Secret::new(wrong.to_vec())).unwrap());
        }
        assert!(!PasswordVerifier::of_nobody().accepts(&password).unwrap());
        assert_eq!(format!("{verifier:?}"), "PasswordVerifier(not shown)");
        let kept = serde_json::to_string(&verifier).unwrap();
        assert_eq!(serde_json::from_str::<PasswordVerifier>(&kept).unwrap(), verifier);
    }
}
