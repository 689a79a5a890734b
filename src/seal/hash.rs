//! SHA-256, HMAC-SHA256 and the comparison that takes the same time whatever it finds.

use std::hint::black_box;

use ring::{digest, hmac as ring_hmac};

use super::{Key, wipe::Wiped};

/// A SHA-256 digest or an HMAC-SHA256 code.
pub type Digest = [u8; 32];

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> Digest {
    to_digest(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// SHA-256 of what comes in pieces.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Default for Sha256 {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Sha256 {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Digest {
        to_digest(self.0.finish().as_ref())
    }
}

/// HMAC-SHA256 of `message`.
pub fn hmac(key: &Key, message: &[u8]) -> Digest {
    let key = Wiped::new(ring_hmac::Key::new(ring_hmac::HMAC_SHA256, key.expose()));
    to_digest(ring_hmac::sign(&key, message).as_ref())
}

/// Whether `code` is the HMAC of `message`, in constant time.
#[must_use]
pub fn verify_hmac(key: &Key, message: &[u8], code: &[u8]) -> bool {
    same_bytes(&hmac(key, message), code)
}

/// Whether two values are the same, in a time that depends on their lengths alone.
#[must_use]
pub fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && black_box(a.iter().zip(b).fold(0, |seen, (a, b)| black_box(seen | (a ^ b)))) == 0
}

fn to_digest(bytes: &[u8]) -> Digest {
    bytes.try_into().expect("SHA-256 gives 32 bytes")
}
