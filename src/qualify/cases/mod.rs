//! The operations, each with the shapes it is tried on: one of everything, ragged edges of every tile, and sizes as they
//! occur. One body serves every device and type.

mod attention;
mod learning;
mod matrices;
mod rows;
mod sampling;

use super::lab::{Lab, Outputs};
use crate::base::Result;

/// As many numbers as a case has letters; the rest are zero.
pub type Sizes = [usize; 5];

/// One operation in one direction.
pub struct Case {
    pub kernel: &'static str,
    /// What the sizes are, in the letters of [`ops`](crate::ops), one a size.
    pub letters: &'static str,
    pub shapes: &'static [Sizes],
    pub run: fn(&mut Lab, Sizes) -> Result<Outputs>,
}

impl Case {
    /// "N 70, I 33, O 65"
    pub fn describe(&self, sizes: Sizes) -> String {
        let named = self.letters.chars().zip(sizes).map(|(letter, size)| format!("{letter} {size}"));
        named.collect::<Vec<_>>().join(", ")
    }
}

/// In the order in which a forward and a backward pass use them.
pub fn all() -> Vec<&'static Case> {
    [matrices::CASES, rows::CASES, attention::CASES, learning::CASES, sampling::CASES]
        .into_iter()
        .flatten()
        .collect()
}
