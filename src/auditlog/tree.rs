//! The Merkle tree of RFC 6962, section 2.1, kept as its right edge: enough to add leaves and to know the root.

use std::iter;

use crate::seal::{Digest, Sha256, sha256};

/// The hash of an entry.
pub fn leaf_hash(entry: &[u8]) -> Digest {
    let mut hash = Sha256::default();
    hash.update(&[0]);
    hash.update(entry);
    hash.finish()
}

pub(super) fn node_hash(left: &Digest, right: &Digest) -> Digest {
    let mut bytes = [1; 65];
    bytes[1..33].copy_from_slice(left);
    bytes[33..].copy_from_slice(right);
    sha256(&bytes)
}

/// The perfect subtrees that a tree of some size falls into, from left to right: one for each bit of the size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    subtrees: Vec<Digest>,
}

impl Frontier {
    /// The frontier of a tree of `size` leaves, unless there are too many or too few subtrees for that.
    pub fn from_parts(size: u64, subtrees: Vec<Digest>) -> Option<Self> {
        (subtrees.len() == size.count_ones() as usize).then_some(Self { size, subtrees })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn subtrees(&self) -> &[Digest] {
        &self.subtrees
    }

    pub fn push(&mut self, leaf: Digest) {
        // Every trailing one bit of the size is a subtree that the new leaf completes to one twice as large.
        let merged = iter::repeat_n((), self.size.trailing_ones() as usize).fold(leaf, |right, ()| {
            let left = self.subtrees.pop().expect("a subtree for each bit of the size");
            node_hash(&left, &right)
        });
        self.subtrees.push(merged);
        self.size += 1;
    }

    /// The root of the tree. That of an empty one is the hash of nothing.
    pub fn root(&self) -> Digest {
        let mut edge = self.subtrees.iter().rev();
        let Some(&last) = edge.next() else { return sha256(b"") };
        edge.fold(last, |right, left| node_hash(left, &right))
    }
}
