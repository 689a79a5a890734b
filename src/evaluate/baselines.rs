//! What simple models reach on the same held-out text, so that a reader can tell learning from noise: byte
//! frequencies, bytes given the two before them, and gzip. Each is given the training text as far as it can
//! use it, and is scored in bits per byte over the same held-out documents as the model.

use flate2::{Compression, write::GzEncoder};
use serde::{Deserialize, Serialize};
use std::io::Write;

use crate::base::{Context, Result};

/// Bits per byte on held-out text. Unlike the model, none of these has to foretell where a document ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baselines {
    /// Byte frequencies of the training text.
    pub unigram: f64,
    /// A byte given the two before it, counted in the training text and smoothed down to shorter contexts.
    pub order2: f64,
    /// gzip at level 9 over all held-out documents in one stream, behind as much of the training text as its
    /// window holds (32 KiB), whose own compressed bytes are not counted. It also learns from the held-out
    /// text as it goes, which neither the model nor the other baselines do.
    pub gzip: f64,
    /// Bytes of training text that the counts were taken from.
    pub fitted_bytes: u64,
}

/// What deflate can look back on.
const GZIP_WINDOW: usize = 32 * 1024;
/// Counts from more text than this no longer change the figure: reading on would only cost time.
pub const FITTED_BYTES_MAX: u64 = 256 << 20;

/// Gathers the training text, then scores the held-out text.
pub struct Fit {
    counts: ByteCounts,
    /// The end of the training text.
    tail: Vec<u8>,
    fitted_bytes: u64,
}

impl Default for Fit {
    fn default() -> Self {
        Self { counts: ByteCounts::new(), tail: Vec::new(), fitted_bytes: 0 }
    }
}

impl Fit {
    pub fn is_full(&self) -> bool {
        self.fitted_bytes >= FITTED_BYTES_MAX
    }

    /// Takes in one training document.
    pub fn learn(&mut self, document: &[u8]) {
        self.counts.learn(document);
        self.fitted_bytes += document.len() as u64;
        self.tail.extend_from_slice(&document[document.len().saturating_sub(GZIP_WINDOW)..]);
        let excess = self.tail.len().saturating_sub(GZIP_WINDOW);
        self.tail.drain(..excess);
    }

    /// Scores the held-out documents; every figure is zero where they hold no byte.
    pub fn score<'a>(&self, heldout: impl Iterator<Item = &'a [u8]>) -> Result<Baselines> {
        let (mut unigram, mut order2, mut bytes) = (0.0, 0.0, 0u64);
        let mut primed = gzip();
        primed.write_all(&self.tail).context("compressing the training text's end")?;
        for document in heldout {
            bytes += document.len() as u64;
            for (at, &byte) in document.iter().enumerate() {
                let before = &document[..at];
                unigram -= self.counts.unigram(byte).log2();
                order2 -= self.counts.order2(before, byte).log2();
            }
            primed.write_all(document).context("compressing the held-out text")?;
        }
        let mut tail = gzip();
        tail.write_all(&self.tail).context("compressing the training text's end")?;
        let finish = |encoder: GzEncoder<Vec<u8>>| encoder.finish().context("finishing the compression");
        let compressed = finish(primed)?.len().saturating_sub(finish(tail)?.len());
        let per_byte = |bits: f64| if bytes == 0 { 0.0 } else { bits / bytes as f64 };
        Ok(Baselines {
            unigram: per_byte(unigram),
            order2: per_byte(order2),
            gzip: per_byte(8.0 * compressed as f64),
            fitted_bytes: self.fitted_bytes,
        })
    }
}

fn gzip() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::best())
}

/// Counts of bytes after contexts of zero, one and two bytes, interpolated after Witten and Bell (1991): a
/// context that was followed by many different bytes trusts the shorter context more.
struct ByteCounts {
    orders: [Counts; 3],
}

/// Counts of one order; a context's row is its bytes as a number.
struct Counts {
    /// context * 256 + byte
    followed_by: Vec<u32>,
    total: Vec<u32>,
    distinct: Vec<u16>,
}

impl Counts {
    fn new(order: u32) -> Self {
        let contexts = 256usize.pow(order);
        Self { followed_by: vec![0; contexts * 256], total: vec![0; contexts], distinct: vec![0; contexts] }
    }

    fn learn(&mut self, context: usize, byte: u8) {
        let count = &mut self.followed_by[context * 256 + usize::from(byte)];
        self.distinct[context] += u16::from(*count == 0);
        // FITTED_BYTES_MAX is far below u32::MAX, but one document may be of any length.
        *count = count.saturating_add(1);
        self.total[context] = self.total[context].saturating_add(1);
    }

    /// The probability after `context`, given what the shorter context says.
    fn mix(&self, context: usize, byte: u8, shorter: f64) -> f64 {
        let (total, distinct) = (f64::from(self.total[context]), f64::from(self.distinct[context]));
        if total == 0.0 {
            return shorter;
        }
        (f64::from(self.followed_by[context * 256 + usize::from(byte)]) + distinct * shorter)
            / (total + distinct)
    }
}

impl ByteCounts {
    fn new() -> Self {
        Self { orders: [Counts::new(0), Counts::new(1), Counts::new(2)] }
    }

    fn learn(&mut self, document: &[u8]) {
        for (at, &byte) in document.iter().enumerate() {
            for (order, counts) in self.orders.iter_mut().enumerate().take(at + 1) {
                counts.learn(context(&document[..at], order), byte);
            }
        }
    }

    fn unigram(&self, byte: u8) -> f64 {
        self.orders[0].mix(0, byte, 1.0 / 256.0)
    }

    fn order2(&self, before: &[u8], byte: u8) -> f64 {
        let orders = self.orders.iter().enumerate().take(before.len() + 1);
        orders.fold(1.0 / 256.0, |shorter, (order, counts)| counts.mix(context(before, order), byte, shorter))
    }
}

/// The last `order` bytes as a number.
fn context(before: &[u8], order: usize) -> usize {
    before[before.len() - order..].iter().fold(0, |number, &byte| number << 8 | usize::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(text: &[u8]) -> Fit {
        let mut fit = Fit::default();
        fit.learn(text);
        fit
    }

    /// "abab": a twice and b twice, two distinct. P0(a) = (2 + 2/256) / 6. After a: b twice, one distinct,
    /// P1(b|a) = (2 + P0(b)) / 3. After ab: a once, P2(a|ab) = (1 + P1(a|b)) / 2, P1(a|b) = (1 + P0(a)) / 2.
    #[test]
    fn probabilities_by_hand() {
        let fit = fitted(b"abab");
        let p0 = (2.0 + 2.0 / 256.0) / 6.0;
        assert!((fit.counts.unigram(b'a') - p0).abs() < 1e-12);
        assert!((fit.counts.order2(b"a", b'b') - (2.0 + p0) / 3.0).abs() < 1e-12);
        assert!((fit.counts.order2(b"ab", b'a') - (1.0 + (1.0 + p0) / 2.0) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn probabilities_sum_to_one_in_every_context() {
        let fit = fitted(b"the quick brown fox jumps over the lazy dog");
        for before in [&b""[..], b"t", b"th", b"zz", b"\0\xFF", b"he "] {
            let sum: f64 = (0..=255).map(|byte| fit.counts.order2(before, byte)).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{before:?}: {sum}");
        }
    }

    #[test]
    fn order_and_repetition_show() {
        let text = "in the beginning was the word and the word was short. ".repeat(200);
        let scores =
            fitted(text.as_bytes()).score([&text.as_bytes()[..2000]].into_iter()).expect("in memory");
        assert!(scores.gzip < 0.2 && scores.order2 < 1.5 && scores.unigram > 3.0, "{scores:?}");
        let fresh = Fit::default().score([&b"\x00\x80\xFFabc"[..]].into_iter()).expect("in memory");
        assert_eq!((fresh.unigram, fresh.order2), (8.0, 8.0));
    }

    #[test]
    fn no_heldout_text_scores_nothing() {
        let scores = fitted(b"abc").score(std::iter::empty()).expect("in memory");
        assert_eq!((scores.unigram, scores.order2), (0.0, 0.0));
    }

    #[test]
    fn noise_cannot_be_predicted() {
        let mut rng = crate::base::Philox::new(5, 0);
        let mut noise = || (0..50_000).map(|_| rng.next_u32() as u8).collect::<Vec<u8>>();
        let (train, heldout) = (noise(), noise());
        let scores = fitted(&train).score([heldout.as_slice()].into_iter()).expect("in memory");
        assert!(scores.unigram > 7.99 && scores.order2 > 7.99 && scores.gzip > 7.99, "{scores:?}");
    }
}
