//! Ed25519 (RFC 8032). The key pair is expanded from the seed in locked memory for one signature and wiped.

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::{Key, wipe::Wiped};
use crate::base::{Error, Result};

pub const SIGNATURE_BYTES: usize = 64;

/// Signs with a seed that lies in locked memory.
pub struct Signer {
    seed: Key,
    public: PublicKey,
}

/// What a signature is verified with; it may be shown to anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

impl Signer {
    /// The signer whose seed is `seed`.
    pub fn new(seed: Key) -> Self {
        let public = pair(&seed).public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes");
        Self { seed, public: PublicKey(public) }
    }

    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        pair(&self.seed).sign(message).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

impl PublicKey {
    /// # Errors
    /// `Integrity` when the signature is not this key's over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<()> {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(message, signature)
            .map_err(|_| Error::integrity("the signature is not that of this key over this text"))
    }
}

fn pair(seed: &Key) -> Wiped<Ed25519KeyPair> {
    Wiped::new(Ed25519KeyPair::from_seed_unchecked(seed.expose()).expect("a Key has the 32 bytes of a seed"))
}
