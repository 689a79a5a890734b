//! Which keys a query sees within its sequence.

use std::ops::Range;

/// More than any sequence has, and small enough that kernels may add it to a position in 32 bits.
const UNLIMITED: usize = 1 << 30;

/// By position alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Whether a query sees no key after its own.
    pub causal: bool,
    /// How many keys a query sees at most on each side, its own among them (Beltagy et al. 2020); not 0.
    pub window: Option<usize>,
}

impl Mask {
    /// Every key up to the query's own.
    pub const CAUSAL: Self = Self { causal: true, window: None };
    /// Every key.
    pub const FULL: Self = Self { causal: false, window: None };

    /// How far back a query sees.
    pub fn before(self) -> usize {
        self.window.map_or(UNLIMITED, |keys| keys.min(UNLIMITED) - 1)
    }

    /// How far ahead a query sees.
    pub fn after(self) -> usize {
        if self.causal { 0 } else { self.before() }
    }

    /// The keys, of `context` in all, that the query at `position` sees.
    pub fn keys(self, position: usize, context: usize) -> Range<usize> {
        position.saturating_sub(self.before())..context.min(position + self.after() + 1)
    }

    /// The positions, of `context` in all, whose queries see `key`.
    pub fn queries(self, key: usize, context: usize) -> Range<usize> {
        key.saturating_sub(self.after())..context.min(key + self.before() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_queries_are_two_views_of_one_relation() {
        let masks = [
            (Mask::CAUSAL, 0..4),
            (Mask::FULL, 0..9),
            (Mask { causal: true, window: Some(1) }, 3..4),
            (Mask { causal: true, window: Some(3) }, 1..4),
            (Mask { causal: false, window: Some(3) }, 1..6),
            (Mask { causal: false, window: Some(usize::MAX) }, 0..9),
        ];
        for (mask, fourth) in masks {
            assert_eq!(mask.keys(3, 9), fourth, "{mask:?}");
            for (position, key) in (0..9).flat_map(|position| (0..9).map(move |key| (position, key))) {
                let seen = mask.keys(position, 9).contains(&key);
                assert_eq!(mask.queries(key, 9).contains(&position), seen, "{mask:?} {position} {key}");
            }
        }
    }
}
