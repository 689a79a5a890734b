//! One answer while it is being generated: what was asked for, how tokens become text, and when it ends.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;

use super::{
    runner::{Choice, Draw},
    sampler::{Sampler, Sampling},
    stop::{Matched, StopMatcher},
};
use crate::{
    base::Error,
    ops::sample,
    text::{StreamDecoder, Tokenizer},
};

/// A request for text.
#[derive(Clone, Debug)]
pub struct Generation {
    pub prompt: Vec<u32>,
    pub sampling: Sampling,
    /// The answer ends before the first of these; they are never emitted.
    pub stop: Vec<String>,
    pub max_tokens: usize,
    /// Goes on past the model's end tokens; for measurements.
    pub ignore_eos: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended the answer, or a stop string came up.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// Nobody is listening any more, or the engine was told to stop.
    Cancelled,
}

impl FinishReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Tokens that were read and written. An end token that the model chose counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
}

/// What the listener of an answer hears; `Finished` or `Failed` is the last.
#[derive(Clone, Debug)]
pub enum Event {
    Token(Piece),
    Finished {
        reason: FinishReason,
        usage: Usage,
        /// Text that was held back because it might have become a stop string or a character.
        rest: String,
    },
    Failed(Error),
}

/// One token, and the text that became certain with it: often a word, sometimes nothing yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    pub token: u32,
    pub logprob: f32,
    pub text: String,
}

/// How the text of an answer is made and where it goes.
#[derive(Debug)]
pub(super) struct Answer {
    sampler: Sampler,
    decoder: StreamDecoder,
    stop: StopMatcher,
    listener: UnboundedSender<Event>,
    max_tokens: usize,
    ignore_eos: bool,
    pub usage: Usage,
    _slot: Slot,
}

/// A place among the requests that the engine may hold; free again when dropped.
#[derive(Debug)]
pub(super) struct Slot(Arc<AtomicUsize>);

impl Slot {
    /// None when all `slots_max` are taken.
    pub fn take(taken: &Arc<AtomicUsize>, slots_max: usize) -> Option<Self> {
        taken
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
                (taken < slots_max).then_some(taken + 1)
            })
            .ok()
            .map(|_| Self(Arc::clone(taken)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Answer {
    pub fn new(
        generation: &Generation,
        seed: u64,
        vocabulary: usize,
        listener: UnboundedSender<Event>,
        slot: Slot,
    ) -> Self {
        Self {
            sampler: Sampler::new(&generation.sampling, seed, &generation.prompt, vocabulary),
            decoder: StreamDecoder::new(),
            stop: StopMatcher::new(&generation.stop),
            listener,
            max_tokens: generation.max_tokens,
            ignore_eos: generation.ignore_eos,
            usage: Usage { prompt_tokens: generation.prompt.len(), completion_tokens: 0 },
            _slot: slot,
        }
    }

    pub fn is_abandoned(&self) -> bool {
        self.listener.is_closed()
    }

    /// How the next token is to be chosen.
    pub fn draw(&self) -> Draw<'_> {
        self.sampler.draw(self.usage.completion_tokens as u64)
    }

    /// Takes the next token, tells the listener, and says whether the answer is over.
    ///
    /// # Errors
    /// Where there was nothing to choose from: the model's weights or its arithmetic are broken.
    pub fn take(
        &mut self,
        choice: Choice,
        tokenizer: &Tokenizer,
        end_tokens: &[u32],
    ) -> Result<Option<FinishReason>, Error> {
        if choice.token == sample::NOTHING {
            return Err(Error::failed("the model computed no usable logit (all are NaN or infinite)").remedy(
                "the weights are damaged or diverged in training: verify the vault, serve an earlier checkpoint",
            ));
        }
        self.sampler.said(choice.token);
        self.usage.completion_tokens += 1;
        let ended = !self.ignore_eos && end_tokens.contains(&choice.token);
        let (text, stopped) = if ended { (String::new(), false) } else { self.text_of(choice, tokenizer) };
        self.tell(Event::Token(Piece { token: choice.token, logprob: choice.logprob, text }));
        let reason = if ended || stopped {
            Some(FinishReason::Stop)
        } else {
            (self.usage.completion_tokens >= self.max_tokens).then_some(FinishReason::Length)
        };
        Ok(reason)
    }

    /// The last word to the listener.
    pub fn finish(mut self, reason: FinishReason) {
        let unfinished_character = self.decoder.flush();
        let rest = match self.stop.push(&unfinished_character) {
            Matched::Text(text) => text + &self.stop.finish(),
            Matched::Stopped(text) => text,
        };
        self.tell(Event::Finished { reason, usage: self.usage, rest });
    }

    pub fn fail(self, error: Error) {
        self.tell(Event::Failed(error));
    }

    fn text_of(&mut self, choice: Choice, tokenizer: &Tokenizer) -> (String, bool) {
        match self.stop.push(&self.decoder.push(tokenizer, choice.token)) {
            Matched::Text(text) => (text, false),
            Matched::Stopped(text) => {
                self.decoder = StreamDecoder::new();
                (text, true)
            }
        }
    }

    fn tell(&self, event: Event) {
        // A listener that went away is noticed by `is_abandoned` before the next step.
        let _ = self.listener.send(event);
    }
}
