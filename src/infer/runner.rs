//! What the engine asks of a model: to run the next tokens of several sequences in one pass over a paged cache, and to
//! choose what comes after them.

use crate::{
    base::Result,
    ops::sample::{self, Settings},
};

/// The bounds that a model and its cache set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub vocabulary: usize,
    /// Positions, prompt and answer together, that the model was made for.
    pub context_tokens: usize,
    /// The KV pool: so many blocks of so many positions.
    pub blocks: usize,
    pub block_tokens: usize,
}

/// One sequence's part of a step.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The tokens to run; at least one.
    pub tokens: &'a [u32],
    /// Positions before them that the cache holds.
    pub past: usize,
    /// The sequence's blocks, enough for `past` and `tokens`.
    pub blocks: &'a [u32],
    /// How the token after the last one is chosen; None where none is asked for.
    pub draw: Option<Draw<'a>>,
}

/// How one token is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// Whose `history` is left to the model.
    pub settings: Settings,
    /// `[V]`, see [`sample::IN_PROMPT`]; None where nothing is penalised.
    pub history: Option<&'a [u32]>,
}

impl Draw<'_> {
    /// From logits `[V]` in host memory.
    pub fn choose(&self, logits: &[f32]) -> Choice {
        let (token, logprob) = sample::choose_row(logits, &self.settings, self.history);
        Choice { token, logprob }
    }
}

/// A chosen token and how probable the model held it to be, before penalties and filters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// [`sample::NOTHING`] where no logit was usable.
    pub token: u32,
    /// Natural logarithm of the model's own probability.
    pub logprob: f32,
}

/// A model with its KV pool. The bits of a sequence's logits, and so its tokens, must depend on that sequence's tokens and on how they
/// were cut into parts alone: not on the other parts of a step, nor on which blocks it was given.
pub trait StepModel: Send {
    fn shape(&self) -> Shape;

    /// Runs the parts, keeps their keys and values, and gives a choice for each part that draws, in their order.
    fn step(&mut self, parts: &[Part<'_>]) -> Result<Vec<Choice>>;
}
