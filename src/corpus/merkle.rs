//! The Merkle tree over a snapshot's document versions (hashing as in RFC 6962): one root stands for all of
//! them, and that a document was among them is proved by some twenty digests.

use serde::{Deserialize, Serialize};

use crate::seal::{Digest, Sha256, same_bytes};

/// The digests beside the way from a leaf to the root, lowest first, and where the leaf stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub leaf: u64,
    pub leaves: u64,
    pub beside: Vec<Digest>,
}

pub fn leaf_hash(leaf: &[u8]) -> Digest {
    let mut hash = Sha256::default();
    hash.update(&[0]);
    hash.update(leaf);
    hash.finish()
}

fn node_hash(left: &Digest, right: &Digest) -> Digest {
    let mut hash = Sha256::default();
    hash.update(&[1]);
    hash.update(left);
    hash.update(right);
    hash.finish()
}

/// The root over hashed leaves; over none, the digest of nothing.
pub fn root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => Sha256::default().finish(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(left_leaves(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// The proof for the leaf at `index`; `None` where there is no such leaf.
pub fn prove(leaves: &[Digest], index: usize) -> Option<Proof> {
    if index >= leaves.len() {
        return None;
    }
    let mut beside = Vec::new();
    let (mut within, mut at) = (leaves, index);
    while within.len() > 1 {
        let (left, right) = within.split_at(left_leaves(within.len()));
        if at < left.len() {
            beside.push(root(right));
            within = left;
        } else {
            at -= left.len();
            beside.push(root(left));
            within = right;
        }
    }
    beside.reverse();
    Some(Proof { leaf: index as u64, leaves: leaves.len() as u64, beside })
}

/// Whether `proof` leads from `leaf` to `root`.
#[must_use]
pub fn verify(root: &Digest, leaf: &Digest, proof: &Proof) -> bool {
    // On the way down: how many leaves there are, and on which side ours is.
    let (mut at, mut leaves, mut sides) = (proof.leaf, proof.leaves, Vec::new());
    if at >= leaves {
        return false;
    }
    while leaves > 1 {
        let left = leaves.next_power_of_two() / 2;
        sides.push(at < left);
        (at, leaves) = if at < left { (at, left) } else { (at - left, leaves - left) };
    }
    if sides.len() != proof.beside.len() {
        return false;
    }
    let top = sides.iter().rev().zip(&proof.beside).fold(*leaf, |below, (&ours_is_left, beside)| {
        if ours_is_left { node_hash(&below, beside) } else { node_hash(beside, &below) }
    });
    same_bytes(&top, root)
}

/// The largest power of two below `leaves`, which are two or more.
fn left_leaves(leaves: usize) -> usize {
    leaves.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hex;

    /// The test vectors that certificate-transparency-go publishes for RFC 6962.
    #[test]
    fn gives_the_published_roots() {
        let leaves: Vec<Digest> = [
            &[][..],
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ]
        .map(leaf_hash)
        .to_vec();
        let expected = [
            (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
            (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
            (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
        ];
        for (count, digest) in expected {
            assert_eq!(hex(&root(&leaves[..count])), digest, "{count} leaves");
        }
    }

    #[test]
    fn proves_every_leaf_and_nothing_else() {
        for count in 1..40usize {
            let leaves: Vec<Digest> = (0..count).map(|leaf| leaf_hash(&leaf.to_le_bytes())).collect();
            let top = root(&leaves);
            for index in 0..count {
                let proof = prove(&leaves, index).expect("a leaf");
                assert!(verify(&top, &leaves[index], &proof));
                assert!(!verify(&top, &leaf_hash(b"another"), &proof));
                assert!(!verify(&leaf_hash(b"another"), &leaves[index], &proof));
                let shifted = Proof { leaf: proof.leaf + 1, ..proof.clone() };
                assert!(!verify(&top, &leaves[index], &shifted));
                let longer = Proof { beside: [proof.beside.clone(), vec![top]].concat(), ..proof };
                assert!(!verify(&top, &leaves[index], &longer));
            }
            assert!(prove(&leaves, count).is_none());
        }
    }
}
