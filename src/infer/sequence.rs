//! One running request as the scheduler sees it: its tokens so far, and how many of them the cache holds.
//! What to do with its answers is the engine's affair and rides along as `A`.

use super::blocks::BlockTable;

#[derive(Debug)]
pub struct Sequence<A> {
    /// The prompt, then the answer.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Leading tokens whose keys and values lie in the blocks of `table`.
    cached: usize,
    pub(super) table: BlockTable,
    pub answer: A,
}

impl<A> Sequence<A> {
    /// # Panics
    /// If the prompt is empty: there would be nothing to compute the first token from.
    pub fn new(prompt: Vec<u32>, answer: A) -> Self {
        assert!(!prompt.is_empty(), "submit refuses empty prompts");
        Self { prompt_tokens: prompt.len(), tokens: prompt, cached: 0, table: BlockTable::default(), answer }
    }

    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    pub fn answer_tokens(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    pub fn cached(&self) -> usize {
        self.cached
    }

    pub fn table(&self) -> &BlockTable {
        &self.table
    }

    /// Tokens still to be run before the next one can be chosen.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.cached
    }

    /// How many tokens its next pass takes: a piece of the prompt, cut at multiples of `piece`, or one token of
    /// the answer. This looks at the sequence alone, so that its bits do not depend on its company; and it
    /// is the same again when everything is recomputed after a pre-emption.
    pub fn next_pass(&self, piece: usize) -> usize {
        if self.is_decoding() {
            return self.pending().min(1);
        }
        let piece_end = (self.cached / piece + 1) * piece;
        piece_end.min(self.prompt_tokens) - self.cached
    }

    /// Past its prompt.
    pub fn is_decoding(&self) -> bool {
        self.cached >= self.prompt_tokens
    }

    /// The model has run the next `tokens` of it.
    pub fn advance(&mut self, tokens: usize) {
        assert!(tokens <= self.pending(), "more tokens were run than there are");
        self.cached += tokens;
    }

    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
    }

    /// Its blocks are gone: everything must be computed again.
    pub(super) fn forget_cache(&mut self) {
        self.cached = 0;
    }
}
