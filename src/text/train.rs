//! Learning a vocabulary. Texts are streamed in and only the counts of their words are kept, within a bound
//! on the text that is looked at; the outcome depends on the texts alone, not on threads or their order.

use std::time::Instant;

use tokenizers::{
    AddedToken, Trainer,
    models::bpe::{BPE, BpeTrainer},
    pre_tokenizers::byte_level::ByteLevel,
};

use super::{
    Special, Tokenizer, bytes,
    words::{self, Words},
};
use crate::base::{Context, Error, Monitor, Progress, Result};

/// More text than this teaches a vocabulary nothing; it also keeps the trainer's 32-bit counts in range.
pub const SAMPLE_BYTES_MAX: u64 = 512 << 20;
const VOCAB_MIN: usize = 256 + Special::ALL.len() + 1;

/// The vocabulary size that suits a corpus of `corpus_bytes` of text: a small corpus sees rare tokens too
/// seldom to learn them. At most 65,536, so that token ids fit 16 bits.
pub fn vocab_size_for(corpus_bytes: u64) -> usize {
    match corpus_bytes >> 10 {
        0..64 => 512,
        64..256 => 1024,
        256..1024 => 2048,
        1024..8192 => 4096,
        8192..65_536 => 8192,
        65_536..524_288 => 16_384,
        524_288..8_388_608 => 32_768,
        _ => 65_536,
    }
}

impl Tokenizer {
    /// Trains a byte-level BPE vocabulary of at most `vocab_size` tokens, special tokens and the 256 bytes
    /// included, on the first [`SAMPLE_BYTES_MAX`] of `texts`.
    ///
    /// # Errors
    /// A text that cannot be had ends it with that text's error; a stop request with `Interrupted`.
    pub fn train<I>(texts: I, vocab_size: usize, monitor: &dyn Monitor) -> Result<Self>
    where
        I: Iterator<Item = Result<String>> + Send,
    {
        if !(VOCAB_MIN..=super::tokenizer::VOCAB_MAX).contains(&vocab_size) {
            return Err(Error::usage(format!("a vocabulary of {vocab_size} tokens"))
                .remedy(format!("choose from {VOCAB_MIN} to {}", super::tokenizer::VOCAB_MAX)));
        }
        let mut trainer = trainer(vocab_size);
        let words = Words::new()?;
        let feed = Feed::new(texts, monitor);
        let mut failure = None;
        let count = |text: &str| Ok(words.split(text).map(bytes::spell).collect());
        trainer.feed(feed.take_until(&mut failure), count).context("counting the words")?;
        if let Some(error) = failure {
            return Err(error);
        }
        let mut model = BPE::default();
        let specials = trainer.train(&mut model).context("training the vocabulary")?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(words::pre_tokenizer()?));
        tokenizer.with_decoder(Some(ByteLevel::new(false, false, false)));
        tokenizer.add_special_tokens(&specials);
        Self::from_inner(tokenizer)
    }
}

fn trainer(vocab_size: usize) -> BpeTrainer {
    BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet((0..=255).map(bytes::char_of).collect())
        .special_tokens(Special::ALL.iter().map(|special| AddedToken::from(special.text(), true)).collect())
        .build()
}

/// The texts on their way into the trainer, in pieces: counted, reported, and ended at the bound, an error or
/// a stop.
struct Feed<'m, I> {
    texts: I,
    pieces: std::vec::IntoIter<String>,
    monitor: &'m dyn Monitor,
    seen_bytes: u64,
    started: Instant,
}

impl<'m, I: Iterator<Item = Result<String>> + Send> Feed<'m, I> {
    fn new(texts: I, monitor: &'m dyn Monitor) -> Self {
        Self { texts, pieces: Vec::new().into_iter(), monitor, seen_bytes: 0, started: Instant::now() }
    }

    fn take_until(mut self, failure: &mut Option<Error>) -> impl Iterator<Item = String> + Send {
        std::iter::from_fn(move || {
            if failure.is_some() || self.seen_bytes >= SAMPLE_BYTES_MAX {
                return None;
            }
            match self.next_piece() {
                Ok(piece) => piece,
                Err(error) => {
                    *failure = Some(error);
                    None
                }
            }
        })
    }

    fn next_piece(&mut self) -> Result<Option<String>> {
        loop {
            if self.monitor.stop_requested() {
                return Err(Error::interrupted("stopped before the vocabulary was trained"));
            }
            if let Some(piece) = self.pieces.next() {
                self.report(piece.len() as u64);
                return Ok(Some(piece));
            }
            let Some(text) = self.texts.next() else { return Ok(None) };
            self.pieces = words::pieces(&text?).map(str::to_owned).collect::<Vec<_>>().into_iter();
        }
    }

    fn report(&mut self, more_bytes: u64) {
        self.seen_bytes += more_bytes;
        self.monitor.progress(&Progress {
            stage: "tokenizer".to_owned(),
            done: self.seen_bytes,
            unit: "byte".to_owned(),
            elapsed_s: self.started.elapsed().as_secs_f64(),
            ..Progress::default()
        });
    }
}
