//! Consistency proofs (RFC 6962, section 2.1.2): that the log of today begins with the log of an earlier checkpoint,
//! shown by a few hashes to whoever keeps the two checkpoints and has no entry of the log.

use std::{io::BufRead, ops::Range, path::Path};

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};

use super::{
    LogKey,
    log::last_segment,
    segment::{is_checkpoint, segment_path},
    tree::{Frontier, leaf_hash, node_hash},
};
use crate::{
    base::{Context, Error, Result},
    seal::Digest,
};

/// A proof as it is handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consistency {
    /// Entries of the earlier checkpoint.
    pub from: u64,
    /// The later checkpoint, a signed note.
    pub checkpoint: String,
    /// In base 64, in the order of the RFC.
    pub hashes: Vec<String>,
}

impl Consistency {
    /// Proves from the files in `directory` that their first `from` entries are those of the log when it had
    /// so many. `checkpoint` is one of the log's own, over all that it has now.
    ///
    /// # Errors
    /// `Usage` where the log never was so long; whatever reading it fails with.
    pub fn prove(directory: &Path, key: &LogKey, from: u64, checkpoint: String) -> Result<Self> {
        let to = key.open_checkpoint(&checkpoint)?.size;
        if from > to {
            return Err(Error::usage(format!("the log has {to} entries, and {from} are to be proved")));
        }
        let hashes = hashes(leaves(directory)?, from, to)?;
        Ok(Self { from, checkpoint, hashes: hashes.iter().map(|hash| Base64::encode_string(hash)).collect() })
    }

    /// Checks the proof against an earlier checkpoint that was kept. Says how many entries the later one has.
    ///
    /// # Errors
    /// `Integrity` where the later log does not begin with the earlier.
    pub fn verify(&self, key: &LogKey, earlier: &str) -> Result<u64> {
        let (earlier, later) = (key.open_checkpoint(earlier)?, key.open_checkpoint(&self.checkpoint)?);
        let broken = || {
            Error::integrity(format!(
                "the log of {} entries is not proved to begin with the {} that were signed earlier",
                later.size, earlier.size
            ))
        };
        let decode = |text: &String| -> Option<Digest> { Base64::decode_vec(text).ok()?.try_into().ok() };
        let hashes: Option<Vec<Digest>> = self.hashes.iter().map(decode).collect();
        let hashes = hashes.filter(|_| self.from == earlier.size).ok_or_else(broken)?;
        if leads(&hashes, (earlier.size, &earlier.root), (later.size, &later.root)) {
            Ok(later.size)
        } else {
            Err(broken())
        }
    }
}

/// The subtrees whose roots a proof from `from` to `to` entries consists of.
fn ranges(from: u64, to: u64) -> Vec<Range<u64>> {
    fn descend(from: u64, within: Range<u64>, known: bool, found: &mut Vec<Range<u64>>) {
        let size = within.end - within.start;
        if from == size {
            if !known {
                found.push(within);
            }
            return;
        }
        // The largest power of two below the size.
        let left = 1 << (size - 1).ilog2();
        let middle = within.start + left;
        if from <= left {
            descend(from, within.start..middle, known, found);
            found.push(middle..within.end);
        } else {
            descend(from - left, middle..within.end, false, found);
            found.push(within.start..middle);
        }
    }
    let mut found = Vec::new();
    if from > 0 && from < to {
        descend(from, 0..to, true, &mut found);
    }
    found
}

/// One pass over the leaves, whatever their number.
fn hashes(leaves: impl Iterator<Item = Result<Digest>>, from: u64, to: u64) -> Result<Vec<Digest>> {
    let ranges = ranges(from, to);
    let mut trees = vec![Frontier::default(); ranges.len()];
    let mut read = 0;
    for leaf in leaves.take(usize::try_from(to).unwrap_or(usize::MAX)) {
        let leaf = leaf?;
        if let Some(at) = ranges.iter().position(|range| range.contains(&read)) {
            trees[at].push(leaf);
        }
        read += 1;
    }
    if read < to {
        return Err(Error::integrity(format!("entry {read} is missing: the log was signed for {to}")));
    }
    Ok(trees.iter().map(Frontier::root).collect())
}

/// RFC 9162, section 2.1.4.2.
fn leads(hashes: &[Digest], earlier: (u64, &Digest), later: (u64, &Digest)) -> bool {
    let ((from, from_root), (to, to_root)) = (earlier, later);
    if from == 0 || from >= to {
        // An empty log begins every other; of equal ones the roots tell.
        let same = from == to && from_root == to_root;
        return hashes.is_empty()
            && (same || from == 0 && from < to && *from_root == Frontier::default().root());
    }
    let mut path: Vec<Digest> = hashes.to_vec();
    if from.is_power_of_two() {
        path.insert(0, *from_root);
    }
    let Some((&first, rest)) = path.split_first() else { return false };
    let shift = (from - 1).trailing_ones();
    let (mut old, mut new) = ((from - 1) >> shift, (to - 1) >> shift);
    let (mut old_root, mut new_root) = (first, first);
    for hash in rest {
        if new == 0 {
            return false;
        }
        if old & 1 == 1 || old == new {
            old_root = node_hash(hash, &old_root);
            new_root = node_hash(hash, &new_root);
            while old & 1 == 0 && old != 0 {
                (old, new) = (old >> 1, new >> 1);
            }
        } else {
            new_root = node_hash(&new_root, hash);
        }
        (old, new) = (old >> 1, new >> 1);
    }
    new == 0 && old_root == *from_root && new_root == *to_root
}

/// The leaf of every entry, in order, as the files have them.
fn leaves(directory: &Path) -> Result<impl Iterator<Item = Result<Digest>>> {
    let directory = directory.to_owned();
    let segments = 1..=last_segment(&directory)?;
    Ok(segments.flat_map(move |number| -> Box<dyn Iterator<Item = Result<Digest>>> {
        let path = segment_path(&directory, number);
        let file = match std::fs::File::open(&path).with_context(|| format!("reading {}", path.display())) {
            Ok(file) => file,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        // The first line is the header.
        let lines = std::io::BufReader::new(file).split(b'\n').skip(1);
        let lines = lines.map(|line| line.context("reading a segment of the audit log"));
        let is_entry = |line: &Result<Vec<u8>>| line.as_ref().map_or(true, |line| !is_checkpoint(line));
        Box::new(lines.filter(is_entry).map(|line| line.map(|line| leaf_hash(&line))))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(number: u64) -> Digest {
        leaf_hash(&number.to_be_bytes())
    }

    fn root(size: u64) -> Digest {
        let mut tree = Frontier::default();
        (0..size).for_each(|number| tree.push(leaf(number)));
        tree.root()
    }

    fn proof(from: u64, to: u64) -> Vec<Digest> {
        hashes((0..to).map(|number| Ok(leaf(number))), from, to).expect("long enough")
    }

    /// The example of RFC 6962, section 2.1.3: a tree of seven leaves, grown from three, four and six.
    #[test]
    fn the_ranges_are_those_of_the_rfc() {
        assert_eq!(ranges(3, 7), [2..3, 3..4, 0..2, 4..7]);
        assert_eq!(ranges(4, 7).iter().map(|range| (range.start, range.end)).collect::<Vec<_>>(), [(4, 7)]);
        assert_eq!(ranges(6, 7), [4..6, 6..7, 0..4]);
        assert!(ranges(7, 7).is_empty() && ranges(0, 7).is_empty());
    }

    #[test]
    fn every_earlier_log_is_proved_and_no_other() {
        for to in 1..40 {
            for from in 0..=to {
                let hashes = proof(from, to);
                let (old, new) = (root(from), root(to));
                assert!(leads(&hashes, (from, &old), (to, &new)), "{from} {to}");
                let other = leaf(1000);
                assert!(!leads(&hashes, (from, &other), (to, &new)), "another past: {from} {to}");
                if from > 0 {
                    assert!(!leads(&hashes, (from, &old), (to, &other)), "another present: {from} {to}");
                }
                if from > 0 && from < to {
                    for at in 0..hashes.len() {
                        let mut wrong = hashes.clone();
                        wrong[at] = other;
                        assert!(!leads(&wrong, (from, &old), (to, &new)), "hash {at} of {from} {to}");
                    }
                    assert!(
                        !leads(&hashes[..hashes.len() - 1], (from, &old), (to, &new)),
                        "cut: {from} {to}"
                    );
                    let longer = [&hashes[..], &[other]].concat();
                    assert!(!leads(&longer, (from, &old), (to, &new)), "longer: {from} {to}");
                    assert!(!leads(&hashes, (from - 1, &root(from - 1)), (to, &new)), "shorter past");
                }
            }
        }
    }
}
