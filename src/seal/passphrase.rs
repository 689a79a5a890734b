//! Passphrases, and the key that argon2id (RFC 9106) makes of one.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde::{Deserialize, Serialize};

use super::{Key, WipedVec, wipe};
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
