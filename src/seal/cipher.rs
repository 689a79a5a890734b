//! AES-256-GCM over one chunk, in place. The expanded key lives as long as the call that needs it (making one
//! costs a fraction of a microsecond) and is wiped after it.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

use super::{Key, random, wipe::Wiped};
use crate::base::{Error, Result};

pub(super) const NONCE_BYTES: usize = 12;
pub(super) const TAG_BYTES: usize = 16;

/// An expanded AES-256-GCM key.
pub(super) struct Cipher(Wiped<LessSafeKey>);

/// The chunk or value is not what was sealed: the caller knows its name and says so.
#[derive(Debug)]
pub(super) struct NotAuthentic;

impl Cipher {
    pub(super) fn new(key: &Key) -> Self {
        let unbound = UnboundKey::new(&AES_256_GCM, key.expose()).expect("a Key has the 32 bytes of AES-256");
        Self(Wiped::new(LessSafeKey::new(unbound)))
    }

    /// Encrypts in place under a fresh random nonce and returns nonce and tag.
    pub(super) fn seal(
        &self,
        aad: &[u8],
        in_place: &mut [u8],
    ) -> Result<([u8; NONCE_BYTES], [u8; TAG_BYTES])> {
        let mut nonce = [0; NONCE_BYTES];
        random::fill(&mut nonce)?;
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), in_place)
            .map_err(|_| Error::failed(format!("{} bytes are too many for one chunk", in_place.len())))?;
        Ok((nonce, tag.as_ref().try_into().expect("a GCM tag has 16 bytes")))
    }

    /// Decrypts in place. When the tag does not fit, nothing of the plaintext remains.
    pub(super) fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        tag: [u8; TAG_BYTES],
        in_place: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        match self.0.open_in_place_separate_tag(nonce, Aad::from(aad), Tag::from(tag), in_place, 0..) {
            Ok(_) => Ok(()),
            Err(_) => {
                super::wipe(in_place);
                Err(NotAuthentic)
            }
        }
    }
}
