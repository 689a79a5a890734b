//! Damage at random, for tests: what a disk, a wire or an enemy makes of bytes that were good. The same seed makes the
//! same damage.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Philox;

/// The first tier tries this share of what the long tier does.
pub const FIRST_TIER: u64 = 20;

/// Hands `withstands` so many damaged copies, of one of `wholes` after another.
///
/// # Panics
/// Where `withstands` does, saying of what.
pub fn again_and_again(rounds: u64, seed: u64, wholes: &[Vec<u8>], mut withstands: impl FnMut(&[u8], &[u8])) {
    for round in 0..rounds {
        let whole = &wholes[(round % wholes.len() as u64) as usize];
        let damaged = damaged(whole, &mut Philox::new(seed, round));
        let outcome = catch_unwind(AssertUnwindSafe(|| withstands(whole, &damaged)));
        let shown = || String::from_utf8_lossy(&damaged[..damaged.len().min(2000)]).into_owned();
        assert!(outcome.is_ok(), "seed {seed}, round {round}: {} bytes: {:?}", damaged.len(), shown());
    }
}

/// `whole` after one to four changes, which may leave it as it was.
pub fn damaged(whole: &[u8], random: &mut Philox) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..=random.below(4) {
        if bytes.is_empty() {
            break;
        }
        change(&mut bytes, whole, random);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, whole: &[u8], random: &mut Philox) {
    /// What lengths, counts and text are known to stumble over.
    const ODD: [&[u8]; 10] = [
        &[0],
        &[0xFF],
        &[0xFF; 8],
        &[0; 8],
        b"-1",
        b"18446744073709551616",
        b"1e999",
        b"\"",
        b"[[[[[[[[",
        "\u{FEFF}\u{202E}".as_bytes(),
    ];
    let place = |random: &mut Philox, length: usize| random.below(length as u64) as usize;
    let at = place(random, bytes.len());
    let run = 1 + place(random, 64.min(bytes.len() - at));
    match random.below(9) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next_u32() as u8,
        2 => bytes.insert(at, random.next_u32() as u8),
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..at + run)),
        5 => {
            let again = bytes[at..at + run].to_vec();
            bytes.splice(at..at, again);
        }
        6 => {
            let odd = ODD[place(random, ODD.len())];
            bytes.splice(at..at + run.min(odd.len()), odd.iter().copied());
        }
        7 => bytes[at..at + run].fill(0),
        // Whole pieces that lie elsewhere.
        _ => {
            let from = place(random, whole.len());
            bytes[at..].iter_mut().zip(&whole[from..]).take(run * 16).for_each(|(into, byte)| *into = *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_damages_alike_and_another_does_not() {
        let whole: Vec<u8> = (0..=255).collect();
        let of = |seed| {
            let mut all = Vec::new();
            again_and_again(200, seed, std::slice::from_ref(&whole), |_, damaged| all.push(damaged.to_vec()));
            all
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert!(of(1).iter().filter(|damaged| **damaged != whole).count() > 190);
        again_and_again(10, 1, &[Vec::new()], |_, damaged| assert!(damaged.is_empty()));
    }
}
