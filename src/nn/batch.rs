//! What one pass works on: rows of tokens, packed without padding, and where each sequence begins. Training,
//! prefill and decode differ in nothing else.

use crate::{
    base::Result,
    ops::Exec,
    tensor::{Buf, Tensor},
};

/// The tokens that one running sequence brings to a pass: its whole prompt, a part of it, or the last token.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    pub tokens: &'a [u32],
    /// Tokens already in its pages.
    pub past: usize,
    /// Its pages in order: enough for `past` and `tokens`.
    pub pages: &'a [u32],
}

/// One pass's input, in device memory. Letters as in [`ops`](crate::ops).
pub struct Batch {
    rows: usize,
    sequences: usize,
    tokens: Buf,
    positions: Buf,
    bounds: Buf,
    pub(super) targets: Option<Targets>,
    pub(super) paging: Option<Paging>,
    pub(super) logit_rows: Option<Buf>,
}

pub(super) struct Targets {
    /// `[N]`
    pub ids: Buf,
    /// `[1]` in f32
    pub scale: Buf,
}

pub(super) struct Paging {
    /// `[N]`: where each row's key and value go.
    pub slots: Buf,
    /// `[S,pages of the longest, or a few more]`
    pub tables: Buf,
    /// `[S]`
    pub contexts: Buf,
}

impl Batch {
    /// Whole sequences one after the other; positions begin at 0 in each.
    ///
    /// # Panics
    /// If the lengths do not add up to the tokens.
    pub fn packed(exec: &Exec, tokens: &[u32], lengths: &[usize]) -> Result<Self> {
        assert_eq!(lengths.iter().sum::<usize>(), tokens.len(), "sequence lengths and tokens");
        let positions: Vec<u32> = lengths.iter().flat_map(|&length| 0..length as u32).collect();
        // As many sequences as the next power of two, the last ones empty: what is launched on a card is then the same
        // for most batches, and the same launches are one graph.
        let count = lengths.len().next_power_of_two().min(tokens.len().max(lengths.len()));
        let lengths = lengths.iter().copied().chain(std::iter::repeat(0)).take(count);
        Self::new(exec, tokens, &positions, lengths)
    }

    /// What each row is to predict, and the number that the sum of losses is multiplied with in the gradient: one
    /// over the targets that count in the whole step.
    pub fn with_targets(mut self, exec: &Exec, targets: &[u32], scale: f32) -> Result<Self> {
        assert_eq!(targets.len(), self.rows, "a target for each row");
        let ids = exec.upload([targets.len()], targets)?;
        self.targets = Some(Targets { ids, scale: exec.upload([1], &[scale])? });
        Ok(self)
    }

    /// New tokens of running sequences whose earlier keys and values lie in pages.
    ///
    /// # Panics
    /// If a sequence has too few pages.
    pub fn paged(exec: &Exec, sequences: &[Sequence], page_len: usize) -> Result<Self> {
        let (mut tokens, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in sequences {
            tokens.extend_from_slice(sequence.tokens);
            for position in sequence.past..sequence.past + sequence.tokens.len() {
                positions.push(position as u32);
                slots.push(
                    sequence.pages[position / page_len] * page_len as u32 + (position % page_len) as u32,
                );
            }
        }
        // The width of the tables is a power of two: it grows seldom, and with it what is launched on a card.
        let longest = sequences.iter().map(|sequence| sequence.pages.len()).max().unwrap_or(0);
        let longest = longest.next_power_of_two();
        let mut tables = vec![0; sequences.len() * longest];
        for (table, sequence) in tables.chunks_exact_mut(longest).zip(sequences) {
            table[..sequence.pages.len()].copy_from_slice(sequence.pages);
        }
        let contexts: Vec<u32> =
            sequences.iter().map(|sequence| (sequence.past + sequence.tokens.len()) as u32).collect();
        let lengths = sequences.iter().map(|sequence| sequence.tokens.len());
        let mut batch = Self::new(exec, &tokens, &positions, lengths)?;
        batch.paging = Some(Paging {
            slots: exec.upload([slots.len()], &slots)?,
            tables: exec.upload([sequences.len(), longest], &tables)?,
            contexts: exec.upload([contexts.len()], &contexts)?,
        });
        Ok(batch)
    }

    /// The rows of which logits are wanted; all of them where this is not called.
    pub fn with_logits_of(mut self, exec: &Exec, rows: &[u32]) -> Result<Self> {
        assert!(rows.iter().all(|&row| (row as usize) < self.rows), "a row past the batch");
        self.logit_rows = Some(exec.upload([rows.len()], rows)?);
        Ok(self)
    }

    /// N
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// `[N]`
    pub fn tokens(&self) -> Tensor<'_> {
        self.tokens.view()
    }

    /// `[N]`
    pub fn positions(&self) -> Tensor<'_> {
        self.positions.view()
    }

    /// `[S+1]`
    pub fn bounds(&self) -> Tensor<'_> {
        self.bounds.view().slice_rows(0..self.sequences + 1)
    }

    fn new(
        exec: &Exec,
        tokens: &[u32],
        positions: &[u32],
        lengths: impl Iterator<Item = usize>,
    ) -> Result<Self> {
        let mut bounds = vec![0];
        let mut end = 0;
        bounds.extend(lengths.map(|length| {
            end += length as u32;
            end
        }));
        let sequences = bounds.len() - 1;
        // Room for as many sequences as there can be: where all else lies, and so the peak that a dry run
        // foretells, must not depend on how many there happen to be.
        bounds.resize(bounds.len().max(tokens.len() + 1), end);
        Ok(Self {
            rows: tokens.len(),
            sequences,
            tokens: exec.upload([tokens.len()], tokens)?,
            positions: exec.upload([positions.len()], positions)?,
            bounds: exec.upload([bounds.len()], &bounds)?,
            targets: None,
            paging: None,
            logit_rows: None,
        })
    }
}
