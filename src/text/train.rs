//! Learning a vocabulary. Texts are streamed in and only the counts of their words are kept, within a bound
//! on the text that is looked at; the outcome depends on the texts alone, not on threads or their order.

use std::sync::atomic::{AtomicU64, Ordering};

use tokenizers::{
    AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, TokenizerBuilder, TokenizerImpl,
    models::bpe::{BPE, BpeTrainer},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use super::{Special, Tokenizer, bytes};
use crate::base::{Context, Error, Monitor, Progress, Result};

/// How text falls into words, across which no token reaches: contractions, letter runs with one leading
/// mark or space, up to three digits, runs of other marks, line ends, white space (after cl100k of GPT-4).
/// Runs are bounded, so that one unbroken megabyte is not one word.
pub const WORDS: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)",
    r"|[^\r\n\p{L}\p{N}]?\p{L}{1,64}",
    r"|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]{1,64}[\r\n]{0,4}",
    r"|\s{0,64}[\r\n]{1,64}",
    r"|\s{1,64}(?!\S)",
    r"|\s{1,64}",
);

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
        let mut untrained = untrained()?;
        let mut trainer = trainer(vocab_size);
        let feed = Feed::new(texts, monitor);
        let mut failure = None;
        let texts = feed.take_until(&mut failure);
        untrained.train(&mut trainer, texts).context("training the vocabulary")?;
        match failure {
            Some(error) => Err(error),
            None => Self::from_inner(untrained.into()),
        }
    }
}

type Untrained = TokenizerImpl<
    BPE,
    tokenizers::NormalizerWrapper,
    PreTokenizerWrapper,
    tokenizers::PostProcessorWrapper,
    tokenizers::DecoderWrapper,
>;

fn untrained() -> Result<Untrained> {
    let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Isolated, false)
        .context("compiling the word pattern")?;
    let byte_level = ByteLevel::new(false, false, false);
    let mut tokenizer: Untrained = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(Sequence::new(vec![words.into(), byte_level.into()]).into()))
        .with_decoder(Some(byte_level.into()))
        .build()
        .context("assembling the tokenizer")?;
    // A document that says "<|eos|>" must be counted as the words it is.
    tokenizer.set_encode_special_tokens(true);
    Ok(tokenizer)
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

/// The texts on their way into the trainer: counted, reported, and ended at the bound, an error or a stop.
struct Feed<'m, I> {
    texts: I,
    monitor: &'m dyn Monitor,
    seen_bytes: AtomicU64,
    started: std::time::Instant,
}

impl<'m, I: Iterator<Item = Result<String>> + Send> Feed<'m, I> {
    fn new(texts: I, monitor: &'m dyn Monitor) -> Self {
        Self { texts, monitor, seen_bytes: AtomicU64::new(0), started: std::time::Instant::now() }
    }

    fn take_until(mut self, failure: &mut Option<Error>) -> impl Iterator<Item = String> + Send {
        std::iter::from_fn(move || {
            if failure.is_some() || self.seen_bytes.load(Ordering::Relaxed) >= SAMPLE_BYTES_MAX {
                return None;
            }
            if self.monitor.stop_requested() {
                *failure = Some(Error::interrupted("stopped before the vocabulary was trained"));
                return None;
            }
            match self.texts.next()? {
                Ok(text) => {
                    let done = self.seen_bytes.fetch_add(text.len() as u64, Ordering::Relaxed);
                    self.monitor.progress(&Progress {
                        stage: "tokenizer".into(),
                        done: done + text.len() as u64,
                        unit: "byte".into(),
                        elapsed_s: self.started.elapsed().as_secs_f64(),
                        ..Progress::default()
                    });
                    Some(text)
                }
                Err(error) => {
                    *failure = Some(error);
                    None
                }
            }
        })
    }
}
