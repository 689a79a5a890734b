//! A key: 32 secret bytes in the slab. It cannot be copied, printed or compared with `==`; it can be derived
//! from, used, and, in dangerous words only, exposed.

use ring::hkdf;

use super::{random, slab, wipe::Wiped};
use crate::base::{Error, Result};

pub const KEY_BYTES: usize = 32;

/// Sets our derivations apart from those that any other program makes with the same key.
const DERIVATION_SALT: &[u8] = b"cloister key derivation v1";

/// 32 secret bytes in locked, never-dumped memory, wiped when it is dropped.
pub struct Key(slab::Slot);

impl Key {
    /// A fresh random key.
    ///
    /// # Errors
    /// `Unavailable` when the system gives no locked memory or no randomness.
    pub fn generate() -> Result<Self> {
        let mut key = Self(slab::take()?);
        random::fill(key.0.bytes_mut())?;
        Ok(key)
    }

    /// A key from bytes that came from elsewhere. The caller wipes its own copy.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<Self> {
        let mut key = Self(slab::take()?);
        key.0.bytes_mut().copy_from_slice(bytes);
        Ok(key)
    }

    /// As [`Key::from_bytes`], for bytes cut out of a message: any length but 32 is refused.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.try_into().map_err(|_| {
            Error::integrity(format!("a key has {KEY_BYTES} bytes, and {} were found", bytes.len()))
        })?;
        Self::from_bytes(bytes)
    }

    /// The key for one purpose and context under this one: HKDF-SHA256 (RFC 5869). Different pairs give
    /// independent keys, and no derived key tells anything about this one.
    pub fn derive(&self, purpose: &str, context: &[u8]) -> Result<Self> {
        let mut key = Self(slab::take()?);
        derive_into(self.expose(), purpose, context, key.0.bytes_mut())?;
        Ok(key)
    }

    /// A public value that only this key gives: a key commitment, a fingerprint.
    pub(super) fn derive_public(&self, purpose: &str, context: &[u8]) -> Result<[u8; KEY_BYTES]> {
        let mut value = [0; KEY_BYTES];
        derive_into(self.expose(), purpose, context, &mut value)?;
        Ok(value)
    }

    /// Shows the bytes, for wrapping them or for a worker's inherited socket. Whoever calls this answers for
    /// every copy it makes.
    pub fn danger_expose<T>(&self, use_bytes: impl FnOnce(&[u8; KEY_BYTES]) -> T) -> T {
        use_bytes(self.expose())
    }

    pub(super) fn expose(&self) -> &[u8; KEY_BYTES] {
        self.0.bytes()
    }

    pub(super) fn from_fill(fill: impl FnOnce(&mut [u8; KEY_BYTES]) -> Result<()>) -> Result<Self> {
        let mut key = Self(slab::take()?);
        fill(key.0.bytes_mut())?;
        Ok(key)
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(not shown)")
    }
}

fn derive_into(
    secret: &[u8; KEY_BYTES],
    purpose: &str,
    context: &[u8],
    out: &mut [u8; KEY_BYTES],
) -> Result<()> {
    let purpose_length = u8::try_from(purpose.len())
        .map_err(|_| Error::failed(format!("the purpose '{purpose}' of a key is longer than 255 bytes")))?;
    // The length in front keeps ("ab", "c") and ("a", "bc") apart.
    hkdf_sha256(DERIVATION_SALT, secret, &[&[purpose_length], purpose.as_bytes(), context], out)
        .map_err(|error| error.context(format!("deriving the key for '{purpose}'")))
}

/// HKDF-SHA256 (RFC 5869). The output has at most 255 * 32 bytes.
pub(super) fn hkdf_sha256(salt: &[u8], secret: &[u8], info: &[&[u8]], out: &mut [u8]) -> Result<()> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let extracted = Wiped::new(hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret));
    extracted
        .expand(info, Length(out.len()))
        .and_then(|expanded| expanded.fill(out))
        .map_err(|_| Error::failed(format!("HKDF-SHA256 cannot give {} bytes", out.len())))
}
