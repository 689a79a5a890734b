//! Identifiers: a kind, 48 bits of time and 80 random bits, written as `doc_01JX…` (a ULID behind a prefix).
//! They sort by age, say what they name, and tell nothing of the content.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Error, Result};

/// Crockford's base 32: no I, L, O or U, so an identifier survives being read aloud.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const TEXT_LEN: usize = 26;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $prefix:literal),* $(,)?) => {
        /// What an [`Id`] names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum IdKind { $($(#[$doc])* $kind),* }

        impl IdKind {
            pub const ALL: &'static [IdKind] = &[$(IdKind::$kind),*];

            pub fn prefix(self) -> &'static str {
                match self { $(Self::$kind => $prefix),* }
            }
        }
    };
}

kinds! {
    Install = "ins",
    Document = "doc",
    /// An ingested input that could not be read.
    Quarantine = "qua",
    /// A dataset snapshot: the frozen list of document versions a run sees.
    Snapshot = "ds",
    Tokenizer = "tok",
    /// A file of token extents.
    Shard = "shd",
    Run = "run",
    Checkpoint = "ckp",
    Model = "mdl",
    Adapter = "lora",
    Evaluation = "evl",
    Deployment = "dep",
    Job = "job",
    User = "usr",
    Token = "key",
    /// One answer that was served; its receipt has the same id.
    Answer = "ans",
    Feedback = "fbk",
    /// A sealed object that is none of the above: keyring, backup part.
    Object = "obj",
    Backup = "bak",
    /// An erasure of documents; its certificate has the same id.
    Erasure = "era",
}

/// A 128-bit identifier. `Copy`, ordered by kind and then by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    kind: IdKind,
    bits: u128,
}

impl Id {
    /// An identifier from the time and 80 random bits; `seal::new_id` brings both.
    pub fn from_parts(kind: IdKind, unix_ms: u64, random: [u8; 10]) -> Self {
        let random = random.iter().fold(0u128, |bits, &byte| bits << 8 | u128::from(byte));
        Self { kind, bits: u128::from(unix_ms & 0xFFFF_FFFF_FFFF) << 80 | random }
    }

    pub fn kind(self) -> IdKind {
        self.kind
    }

    /// Kind, then the 128 bits in big-endian order: what goes into headers and associated data.
    pub fn to_bytes(self) -> [u8; 17] {
        let mut bytes = [0; 17];
        bytes[0] = self.kind as u8;
        bytes[1..].copy_from_slice(&self.bits.to_be_bytes());
        bytes
    }

    pub fn from_bytes(bytes: [u8; 17]) -> Result<Self> {
        let kind = *IdKind::ALL
            .get(usize::from(bytes[0]))
            .ok_or_else(|| Error::integrity(format!("no kind of identifier has number {}", bytes[0])))?;
        let mut bits = [0; 16];
        bits.copy_from_slice(&bytes[1..]);
        Ok(Self { kind, bits: u128::from_be_bytes(bits) })
    }

    /// Parses and demands the kind, for arguments that can name one kind of thing only.
    pub fn parse_as(kind: IdKind, text: &str) -> Result<Self> {
        let id: Self = text.parse()?;
        if id.kind == kind { Ok(id) } else { Err(malformed(text, kind.prefix())) }
    }
}

fn malformed(text: &str, prefix: &str) -> Error {
    let shown: String = text.chars().take(60).collect();
    Error::usage(format!("'{shown}' is not an identifier"))
        .remedy(format!("identifiers look like {prefix}_01JX… ({TEXT_LEN} letters and digits)"))
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; TEXT_LEN];
        for (place, letter) in text.iter_mut().rev().enumerate() {
            *letter = ALPHABET[(self.bits >> (5 * place) & 31) as usize];
        }
        write!(f, "{}_{}", self.kind.prefix(), std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (prefix, letters) = text.split_once('_').ok_or_else(|| malformed(text, "doc"))?;
        let kind =
            *IdKind::ALL.iter().find(|kind| kind.prefix() == prefix).ok_or_else(|| malformed(text, "doc"))?;
        // The first letter carries three bits: 26 letters hold 130, an identifier 128.
        if letters.len() != TEXT_LEN || letters.as_bytes()[0] > b'7' {
            return Err(malformed(text, prefix));
        }
        let mut bits = 0u128;
        for letter in letters.bytes() {
            let value = ALPHABET
                .iter()
                .position(|&known| known == letter.to_ascii_uppercase())
                .ok_or_else(|| malformed(text, prefix))?;
            bits = bits << 5 | value as u128;
        }
        Ok(Self { kind, bits })
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_text_and_bytes() {
        for &kind in IdKind::ALL {
            let id = Id::from_parts(kind, 1_790_000_000_123, [0xFF, 0, 1, 2, 3, 4, 5, 6, 7, 0x80]);
            assert_eq!(id.to_string().parse::<Id>().expect("own text"), id);
            assert_eq!(id.to_string().to_lowercase().parse::<Id>().expect("lower case"), id);
            assert_eq!(Id::from_bytes(id.to_bytes()).expect("own bytes"), id);
        }
    }

    #[test]
    fn sorts_by_age() {
        let older = Id::from_parts(IdKind::Run, 1, [255; 10]);
        let newer = Id::from_parts(IdKind::Run, 2, [0; 10]);
        assert!(older < newer && older.to_string() < newer.to_string());
    }

    #[test]
    fn refuses_what_is_not_one() {
        let overflow = format!("doc_8{}", "0".repeat(25));
        for text in [
            "",
            "doc",
            "doc_",
            "doc_1",
            "cat_01JX00000000000000000000ZZ",
            "doc_0U000000000000000000000000",
            &overflow,
        ] {
            assert!(text.parse::<Id>().is_err(), "{text}");
        }
        let run = Id::from_parts(IdKind::Run, 1, [0; 10]).to_string();
        assert!(Id::parse_as(IdKind::Model, &run).is_err());
    }
}
