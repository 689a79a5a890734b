//! What a certificate is known by: SHA-256 over its DER encoding, by which RFC 8705 binds a token to its bearer.

use serde::{Deserialize, Serialize};

use crate::{
    base::{Error, Result},
    seal,
};

const BYTES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; BYTES]);

impl Fingerprint {
    pub fn of(der: &[u8]) -> Self {
        Self(seal::sha256(der))
    }

    /// As `openssl x509 -fingerprint -sha256` writes it, with or without the colons.
    ///
    /// # Errors
    /// `Usage` for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let digits: Vec<u32> = text
            .chars()
            .filter(|&c| c != ':')
            .map(|c| c.to_digit(16))
            .collect::<Option<_>>()
            .unwrap_or_default();
        if digits.len() != 2 * BYTES {
            return Err(Error::usage("this is no SHA-256 fingerprint of a certificate")
                .remedy("`openssl x509 -noout -fingerprint -sha256 -in FILE` prints it"));
        }
        let byte = |at: usize| (digits[2 * at] << 4 | digits[2 * at + 1]) as u8;
        Ok(Self(std::array::from_fn(byte)))
    }
}

/// With colons, as browsers and `openssl` show it.
impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.map(|byte| format!("{byte:02X}")).join(":"))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_openssl_writes_it() {
        // SHA-256 of nothing, from FIPS 180-4's examples.
        let empty =
            "E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24:27:AE:41:E4:64:9B:93:4C:A4:95:99:1B:78:52:B8:55";
        assert_eq!(Fingerprint::of(b"").to_string(), empty);
        for text in [empty.to_owned(), empty.replace(':', ""), empty.to_lowercase()] {
            assert_eq!(Fingerprint::parse(&text).unwrap(), Fingerprint::of(b""));
        }
        for bad in ["", "E3", &empty[1..], &format!("{empty}:00"), &empty.replace('E', "ä")] {
            assert!(Fingerprint::parse(bad).is_err(), "{bad}");
        }
    }
}
