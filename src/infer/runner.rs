//! What the engine asks of a model: to run the next tokens of several sequences in one pass over a paged cache.

use crate::base::Result;

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
    /// Whether the logits after the last token are asked for.
    pub wants_logits: bool,
}

/// A model with its KV pool. The bits of a sequence's logits must depend on that sequence's tokens and on how they
/// were cut into parts alone: not on the other parts of a step, nor on which blocks it was given.
pub trait StepModel: Send {
    fn shape(&self) -> Shape;

    /// Runs the parts, keeps their keys and values, and puts a row of logits `[V]` for each part that
    /// wants them, in their order, into `logits`, which comes empty.
    fn step(&mut self, parts: &[Part<'_>], logits: &mut Vec<f32>) -> Result<()>;
}
