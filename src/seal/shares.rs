//! Shamir's sharing of a secret (CACM 22(11), 1979), byte by byte over GF(2^8) with AES's polynomial: any
//! `threshold` of the shares give the key, fewer tell nothing at all. The arithmetic takes the same time whatever
//! the bytes are. A share is written in base 32 for paper and telephone:
//!
//! ```text
//! format 1 (1 byte) | set (4) | threshold (1) | number (1) | share (32) | checksum (6)     72 letters
//! ```
//!
//! The checksum tells a slip of the pen from a wrong share before anything is tried with it, and the set tells
//! shares that belong together from those that were given out at another time.

use super::{
    Key, WipedVec,
    key::KEY_BYTES,
    passphrase::Secret,
    random::{fill, random_bytes},
    sha256,
};
use crate::base::{Error, Result};

pub const SET_BYTES: usize = 4;
/// More than anybody hands out, and few enough that each has a number of its own that is not zero.
pub const SHARES_MAX: u8 = 32;

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 1 + SET_BYTES + 1 + 1;
const CHECKSUM_BYTES: usize = 6;
const SHARE_BYTES: usize = HEAD_BYTES + KEY_BYTES + CHECKSUM_BYTES;
const LETTERS: usize = SHARE_BYTES * 8 / 5;
const GROUP_LETTERS: usize = 6;
const _: () = assert!((SHARE_BYTES * 8).is_multiple_of(5) && LETTERS.is_multiple_of(GROUP_LETTERS));
/// Crockford's base 32, as identifiers have it.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Longer than any way of writing a share down.
const TEXT_BYTES_MAX: usize = 512;

/// Which shares belong together, and how many of them it takes. Nothing of it is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareSet {
    pub set: [u8; SET_BYTES],
    pub threshold: u8,
}

/// One share of a key: worth nothing alone.
#[derive(Debug)]
pub struct Share {
    set: ShareSet,
    /// Where the polynomials were evaluated; never zero, which is where the secret lies.
    number: u8,
    values: Key,
}

/// A fresh set of `shares` shares of `secret`, any `threshold` of which give it back.
///
/// # Errors
/// `Usage` when the numbers make no sense.
pub fn split(secret: &Key, shares: u8, threshold: u8) -> Result<Vec<Share>> {
    if threshold < 2 || threshold > shares || shares > SHARES_MAX {
        return Err(Error::usage(format!("{threshold} of {shares} shares cannot be made")).remedy(format!(
            "the threshold is at least 2 and at most the number of shares, and that at most {SHARES_MAX}"
        )));
    }
    let set = ShareSet { set: random_bytes()?, threshold };
    // The coefficients behind the secret, that of the highest power last.
    let coefficients: Vec<Key> =
        (1..threshold).map(|_| Key::from_fill(|key| fill(key))).collect::<Result<_>>()?;
    (1..=shares)
        .map(|number| {
            let values = Key::from_fill(|values| {
                for coefficient in coefficients.iter().rev().chain([secret]) {
                    for (value, &coefficient) in values.iter_mut().zip(coefficient.expose()) {
                        *value = multiply(*value, number) ^ coefficient;
                    }
                }
                Ok(())
            })?;
            Ok(Share { set, number, values })
        })
        .collect()
}

/// The key that these shares give. Whether it is the right one, only what is sealed under it can tell.
///
/// # Errors
/// `Usage` when they are too few, or do not belong together.
pub fn join(shares: &[Share]) -> Result<Key> {
    let first = shares.first().ok_or_else(|| Error::usage("no share was given"))?;
    if shares.iter().any(|share| share.set != first.set) {
        return Err(Error::usage("these shares do not belong together"));
    }
    let distinct = |share: &Share| shares.iter().filter(|other| other.number == share.number).count() == 1;
    if shares.len() != usize::from(first.set.threshold) || !shares.iter().all(distinct) {
        return Err(Error::usage(format!("it takes {} different shares", first.set.threshold)));
    }
    Key::from_fill(|secret| {
        for share in shares {
            // Lagrange's weight at zero; the numbers are no secret, the values are.
            let others = shares.iter().filter(|other| other.number != share.number);
            let weight = others.fold(1, |weight, other| {
                multiply(weight, multiply(other.number, inverse(other.number ^ share.number)))
            });
            for (secret, &value) in secret.iter_mut().zip(share.values.expose()) {
                *secret ^= multiply(value, weight);
            }
        }
        Ok(())
    })
}

impl Share {
    pub fn set(&self) -> ShareSet {
        self.set
    }

    pub fn number(&self) -> u8 {
        self.number
    }

    /// The share in groups of letters, to be shown once to whoever is to keep it.
    pub fn danger_to_text(&self) -> Secret {
        let mut bytes = WipedVec::zeroed(SHARE_BYTES);
        bytes[0] = FORMAT;
        bytes[1..=SET_BYTES].copy_from_slice(&self.set.set);
        bytes[SET_BYTES + 1] = self.set.threshold;
        bytes[SET_BYTES + 2] = self.number;
        bytes[HEAD_BYTES..HEAD_BYTES + KEY_BYTES].copy_from_slice(self.values.expose());
        let check = checksum(&bytes[..SHARE_BYTES - CHECKSUM_BYTES]);
        bytes[SHARE_BYTES - CHECKSUM_BYTES..].copy_from_slice(&check);
        let bit = |at: usize| usize::from(bytes[at / 8] >> (7 - at % 8) & 1);
        let mut text = Vec::with_capacity(LETTERS + LETTERS / GROUP_LETTERS);
        for place in 0..LETTERS {
            if place > 0 && place % GROUP_LETTERS == 0 {
                text.push(b'-');
            }
            text.push(ALPHABET[(5 * place..5 * place + 5).fold(0, |value, at| value << 1 | bit(at))]);
        }
        Secret::new(text)
    }

    /// Reads a share as somebody typed it: in either case, with or without its dashes, `O` for `0` and `I` or
    /// `L` for `1`.
    ///
    /// # Errors
    /// `Usage`, which says what does not look like a share, and never repeats any of it.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let broken = |why: &str| {
            Error::usage(format!("this is not a share: {why}"))
                .remedy(format!("a share is {LETTERS} letters and digits, in groups of {GROUP_LETTERS}"))
        };
        let mut bytes = WipedVec::zeroed(SHARE_BYTES);
        let mut letters = 0;
        for &letter in text.iter().take(TEXT_BYTES_MAX) {
            if letter == b'-' || letter.is_ascii_whitespace() {
                continue;
            }
            let value = value_of(letter).ok_or_else(|| broken("it holds what no share holds"))?;
            if letters == LETTERS {
                return Err(broken("it is too long"));
            }
            for bit in 0..5 {
                let at = 5 * letters + bit;
                bytes[at / 8] |= (value >> (4 - bit) & 1) << (7 - at % 8);
            }
            letters += 1;
        }
        if text.len() > TEXT_BYTES_MAX || letters < LETTERS {
            return Err(broken(if letters < LETTERS { "it is too short" } else { "it is too long" }));
        }
        let (said, check) = bytes.split_at(SHARE_BYTES - CHECKSUM_BYTES);
        if !super::same_bytes(&checksum(said), check) {
            return Err(broken("its checksum is wrong, so a letter of it is"));
        }
        let (threshold, number) = (said[SET_BYTES + 1], said[SET_BYTES + 2]);
        let known =
            said[0] == FORMAT && (2..=SHARES_MAX).contains(&threshold) && (1..=SHARES_MAX).contains(&number);
        if !known {
            return Err(broken("it is of a kind that this version does not know"));
        }
        let set = said[1..=SET_BYTES].try_into().expect("four bytes were taken");
        let values = Key::from_slice(&said[HEAD_BYTES..])?;
        Ok(Self { set: ShareSet { set, threshold }, number, values })
    }
}

fn checksum(said: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut whole = WipedVec::zeroed(said.len() + 18);
    whole[..18].copy_from_slice(b"cloister share v1\n");
    whole[18..].copy_from_slice(said);
    *sha256(&whole).first_chunk().expect("a digest has 32 bytes")
}

fn value_of(letter: u8) -> Option<u8> {
    let letter = match letter.to_ascii_uppercase() {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        other => other,
    };
    ALPHABET.iter().position(|&known| known == letter).map(|value| value as u8)
}

/// The product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1: no table and no branch that a byte decides.
fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut product) = (a, 0);
    for bit in 0..8 {
        product ^= a & (b >> bit & 1).wrapping_neg();
        a = a << 1 ^ (0x1B & (a >> 7).wrapping_neg());
    }
    product
}

/// `a` to the power of 254, which is its inverse.
fn inverse(a: u8) -> u8 {
    let mut power = a;
    for _ in 0..6 {
        power = multiply(multiply(power, power), a);
    }
    multiply(power, power)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{ErrorKind, Philox};

    fn bytes(key: &Key) -> [u8; KEY_BYTES] {
        *key.expose()
    }

    fn share(number: u8, value: u8) -> Share {
        let values = Key::from_bytes(&[value; KEY_BYTES]).expect("a key");
        Share { set: ShareSet { set: [7; 4], threshold: 3 }, number, values }
    }

    #[test]
    fn the_field_is_that_of_fips_197() {
        assert_eq!(multiply(0x57, 0x83), 0xC1, "section 4.2");
        assert_eq!(multiply(0x57, 0x13), 0xFE, "section 4.2.1");
        assert_eq!(inverse(0x53), 0xCA, "section 4.2's field, as every table of it has it");
        for a in 1..=255 {
            assert_eq!(multiply(a, inverse(a)), 1, "{a}");
            for b in 0..=255 {
                assert_eq!(multiply(a, b), multiply(b, a));
                assert_eq!(multiply(a, b ^ 0x35), multiply(a, b) ^ multiply(a, 0x35));
            }
        }
    }

    /// 0x2A + 0x83 x + 0x57 x^2: at 0 its constant, at 1 the sum of its coefficients.
    #[test]
    fn three_points_of_a_polynomial_give_what_it_is_at_zero() {
        let at = |x| multiply(multiply(0x57, x) ^ 0x83, x) ^ 0x2A;
        assert_eq!([at(0), at(1)], [0x2A, 0x2A ^ 0x83 ^ 0x57]);
        let shares = [share(1, at(1)), share(2, at(2)), share(9, at(9))];
        assert_eq!(bytes(&join(&shares).expect("three")), [0x2A; KEY_BYTES]);
    }

    #[test]
    fn any_that_are_enough_give_the_key_and_any_fewer_do_not() {
        let secret = Key::generate().expect("a key");
        let mut random = Philox::new(3, 0);
        for (shares, threshold) in [(2, 2), (3, 2), (5, 3), (7, 7), (32, 16), (32, 32)] {
            let made = split(&secret, shares, threshold).expect("split");
            let texts: Vec<Secret> = made.iter().map(Share::danger_to_text).collect();
            for _ in 0..8 {
                let mut order: Vec<usize> = (0..texts.len()).collect();
                for at in (1..order.len()).rev() {
                    order.swap(at, random.below(at as u64 + 1) as usize);
                }
                let some = |count: u8| -> Vec<Share> {
                    let chosen = order.iter().take(usize::from(count));
                    chosen.map(|&at| Share::parse(texts[at].danger_expose()).expect("ours")).collect()
                };
                assert_eq!(bytes(&join(&some(threshold)).expect("enough")), bytes(&secret));
                assert_eq!(join(&some(threshold - 1)).expect_err("too few").kind(), ErrorKind::Usage);
                if threshold < shares {
                    assert!(join(&some(threshold + 1)).is_err(), "the caller takes as many as it needs");
                }
            }
        }
    }

    #[test]
    fn one_share_less_leaves_every_secret_possible() {
        // With one of two shares known, each of the 256 values of a byte has a second share that gives it.
        let known = Share { set: ShareSet { set: [0; 4], threshold: 2 }, ..share(1, 0x5A) };
        let mut seen = [false; 256];
        for value in 0..=255 {
            let guessed = Share { set: known.set, ..share(2, value) };
            let known = Share { set: known.set, ..share(1, 0x5A) };
            seen[usize::from(bytes(&join(&[known, guessed]).expect("two"))[0])] = true;
        }
        assert!(seen.iter().all(|&seen| seen));
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        let secret = Key::generate().expect("a key");
        for (shares, threshold) in [(0, 0), (1, 1), (5, 1), (5, 0), (2, 3), (33, 2), (255, 255)] {
            let error = split(&secret, shares, threshold).map(|_| ()).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Usage, "{threshold} of {shares}");
        }
    }

    #[test]
    fn shares_that_do_not_belong_together_are_refused() {
        let secret = Key::generate().expect("a key");
        let one = |set: Vec<Share>, at: usize| set.into_iter().nth(at).expect("there");
        let set = || split(&secret, 3, 2).expect("split");
        assert!(join(&[one(set(), 0), one(set(), 1)]).is_err(), "of two sets");
        let twice = one(set(), 0).danger_to_text();
        let again = || Share::parse(twice.danger_expose()).expect("ours");
        assert!(join(&[again(), again()]).is_err(), "the same twice");
        assert!(join(&[]).is_err());
    }

    /// Worked out apart from this program: base 32 of the bytes 1, 7 7 7 7, 3, 2, 32 times 0xAB, and the first six
    /// bytes of SHA-256 over `cloister share v1`, a line end, and those.
    #[test]
    fn a_share_is_written_as_it_always_was() {
        let text = share(2, 0xAB).danger_to_text();
        let text = std::str::from_utf8(text.danger_expose()).expect("ASCII");
        assert_eq!(text, WRITTEN);
    }

    const WRITTEN: &str =
        "043GE1-R70C1A-QAXBNE-NTQAXB-NENTQA-XBNENT-QAXBNE-NTQAXB-NENTQA-XBNENT-QAXHTD-J7GVV1";

    #[test]
    fn a_share_is_read_as_people_type_it() {
        let text = share(2, 0xAB).danger_to_text().danger_expose().to_vec();
        let plain: Vec<u8> = text.iter().copied().filter(|&letter| letter != b'-').collect();
        let spaced = [b"  ".to_vec(), text.clone(), b" \r\n".to_vec()].concat();
        let aloud = String::from_utf8(text.to_ascii_lowercase()).expect("ASCII").replace('0', "o");
        let ones = aloud.replace('1', "l").into_bytes();
        for typed in [&text, &plain, &spaced, &aloud.into_bytes(), &ones, &text.to_ascii_lowercase()] {
            let read = Share::parse(typed).expect("the same share");
            assert_eq!((read.number(), read.set().threshold, bytes(&read.values)), (2, 3, [0xAB; KEY_BYTES]));
        }
    }

    #[test]
    fn whatever_is_no_share_is_refused_and_not_repeated() {
        let text = share(2, 0xAB).danger_to_text().danger_expose().to_vec();
        let refused = |typed: &[u8]| {
            let error = Share::parse(typed).map(|_| ()).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Usage);
            let said = format!("{error:?}").to_uppercase();
            assert!(!String::from_utf8_lossy(&text).split('-').any(|group| said.contains(group)), "{said}");
        };
        // Every letter changed, every cut, two letters swapped.
        for at in (0..text.len()).filter(|&at| text[at] != b'-') {
            let mut changed = text.clone();
            changed[at] = if changed[at] == b'7' { b'8' } else { b'7' };
            refused(&changed);
            refused(&text[..at]);
            let mut swapped = text.clone();
            swapped.swap(at, (at + 8) % text.len());
            if swapped != text && swapped[at] != b'-' && text[(at + 8) % text.len()] != b'-' {
                refused(&swapped);
            }
        }
        refused(&[&text[..], b"0"].concat());
        refused(&[&text[..], &[b'-'; TEXT_BYTES_MAX]].concat());
        for junk in [
            &b""[..],
            b"-",
            b"U",
            "é".as_bytes(),
            b"\xFF\x00",
            b"CLOISTER-KEY-1:",
            &[b'0'; 72],
            &[b'0'; 9999],
        ] {
            refused(junk);
        }
    }
}
