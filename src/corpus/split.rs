//! Which text trains and which is held out. Each document's place follows from a hash of its own text and
//! the snapshot's seed: adding documents moves none of the others, and the same documents fall alike on
//! every machine.
//!
//! With few documents a split by document would hold out nothing, or half of everything. Below
//! [`DOCUMENTS_MIN`] of them, and for any single document of [`LARGE_BYTES`], the unit is therefore a part:
//! some 4 KiB, cut at paragraphs, so that one file alone gives a held-out set. It is the weaker test (the
//! rest of the same document was trained on), and the snapshot records which one was used.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::seal;

/// From this many documents on, whole documents are held out: with one in twenty held out, the chance that
/// none is falls below one in a hundred.
pub const DOCUMENTS_MIN: usize = 100;
/// A document above this is a library in one file.
pub const LARGE_BYTES: usize = 16 << 20;
/// The size that parts are cut to; the next paragraph's end is looked for behind it.
const PART_BYTES: usize = 4 << 10;

/// On which side a stretch of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    Train,
    HeldOut,
}

/// What is held out as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Document,
    Part,
}

/// How a snapshot is split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitSpec {
    /// The share of units that is held out, in (0, 0.5].
    pub held_out_share: f64,
    /// Another seed gives another split.
    pub seed: u64,
    /// `None`: by the number of documents. A later snapshot of the same collection names the unit of the
    /// earlier one, so that its held-out text stays held out.
    pub unit: Option<Unit>,
}

impl Default for SplitSpec {
    fn default() -> Self {
        Self { held_out_share: 0.05, seed: 0, unit: None }
    }
}

/// A stretch of one document, all on one side. `bytes` are counted in its normalised text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub split: Split,
    pub bytes: u64,
}

/// Where a unit stands in the order in which units are held out: the lowest draws are.
pub fn draw(seed: u64, text_digest: &seal::Digest, part: u64) -> u64 {
    let mut hash = seal::Sha256::default();
    hash.update(b"cloister split v1");
    hash.update(&seed.to_le_bytes());
    hash.update(text_digest.as_ref());
    hash.update(&part.to_le_bytes());
    let digest = hash.finish();
    digest.iter().take(8).fold(0, |draw, &byte| draw << 8 | u64::from(byte))
}

/// Draws below this are held out.
pub fn threshold(held_out_share: f64) -> u64 {
    (held_out_share.clamp(0.0, 1.0) * u64::MAX as f64) as u64
}

/// Cuts a text into parts of about [`PART_BYTES`]: after an empty line where one comes soon enough, else
/// after a line, else after a space, else anywhere between two characters. Empty text has no part.
pub fn parts(text: &str) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut from = 0;
    while from < text.len() {
        let to = from + part_end(&text[from..]);
        parts.push(from..to);
        from = to;
    }
    parts
}

fn part_end(text: &str) -> usize {
    // A short rest stays with the part before it.
    if text.len() <= 2 * PART_BYTES {
        return text.len();
    }
    let tail = &text.as_bytes()[PART_BYTES..2 * PART_BYTES];
    let after = |found: Option<usize>, length: usize| found.map(|at| PART_BYTES + at + length);
    let paragraph = after(tail.windows(2).position(|pair| pair == b"\n\n"), 2);
    let line = || after(tail.iter().position(|&byte| byte == b'\n'), 1);
    let space = || after(tail.iter().position(|&byte| byte == b' '), 1);
    paragraph.or_else(line).or_else(space).unwrap_or_else(|| text.floor_char_boundary(2 * PART_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_text_and_end_at_paragraphs() {
        let paragraph = "word ".repeat(300);
        let text = format!("{paragraph}\n\n").repeat(40);
        let cut = parts(&text);
        assert!(cut.len() > 3);
        assert_eq!(cut.iter().map(|part| &text[part.clone()]).collect::<String>(), text);
        assert!(cut.iter().all(|part| text[part.clone()].ends_with("\n\n")));
    }

    #[test]
    fn text_without_any_bound_is_cut_between_characters() {
        let text = "é".repeat(50_000);
        assert_eq!(parts(&text).iter().map(|part| &text[part.clone()]).collect::<String>(), text);
        assert!(parts("").is_empty());
        assert_eq!(parts("short").as_slice(), std::slice::from_ref(&(0..5)));
    }

    #[test]
    fn appending_text_moves_no_earlier_part() {
        let text = "A line of some length.\n".repeat(3000);
        let longer = format!("{text}{text}");
        let (short, long) = (parts(&text), parts(&longer));
        assert_eq!(short[..short.len() - 1], long[..short.len() - 1]);
    }

    #[test]
    fn the_share_that_is_drawn_is_the_share_asked_for() {
        let below = (0u64..20_000)
            .filter(|number| draw(7, &seal::sha256(&number.to_le_bytes()), 0) < threshold(0.05))
            .count();
        assert!((900..1100).contains(&below), "{below}");
    }
}
