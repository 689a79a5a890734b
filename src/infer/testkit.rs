//! A model for tests without weights: it keeps tokens in its pool where a real one keeps keys and values, and
//! its logits are a hash of all tokens that it finds there. A wrong block, position or length changes its answers.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::runner::{Choice, Part, Shape, StepModel};
use crate::{
    base::{Error, Philox, Result, Silent},
    text::Tokenizer,
};

pub(crate) fn tokenizer() -> Arc<Tokenizer> {
    let texts = ["the controller shall notify the authority", "the processor shall notify the controller"];
    let texts = texts.iter().cycle().take(20).map(|text| Ok((*text).to_owned()));
    Arc::new(Tokenizer::train(texts, 300, &Silent).expect("trains"))
}

#[derive(Debug)]
pub(crate) struct ToyModel {
    pub shape: Shape,
    /// The token at each position of each block.
    pool: Vec<u32>,
    pub step_time: Duration,
    /// No step begins while a test holds it.
    pub gate: Arc<Mutex<()>>,
    /// Fails at this step.
    pub fails_at: usize,
    pub panics_at: usize,
    /// Steps so far, for tests to watch.
    pub steps: Arc<AtomicUsize>,
}

impl ToyModel {
    pub fn new(vocabulary: usize, context_tokens: usize, blocks: usize) -> Self {
        Self {
            shape: Shape { vocabulary, context_tokens, blocks, block_tokens: 4 },
            pool: vec![u32::MAX; blocks * 4],
            step_time: Duration::ZERO,
            gate: Arc::default(),
            fails_at: usize::MAX,
            panics_at: usize::MAX,
            steps: Arc::default(),
        }
    }

    /// Its logits after `tokens`.
    pub fn logits(vocabulary: usize, tokens: &[u32]) -> Vec<f32> {
        let seed = tokens.iter().fold(17u64, |hash, &token| {
            (hash ^ u64::from(token)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
        });
        let mut rng = Philox::new(seed, 0);
        (0..vocabulary).map(|_| rng.normal()).collect()
    }

    fn place(&self, part: &Part<'_>, position: usize) -> usize {
        part.blocks[position / self.shape.block_tokens] as usize * self.shape.block_tokens
            + position % self.shape.block_tokens
    }
}

impl StepModel for ToyModel {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn step(&mut self, parts: &[Part<'_>]) -> Result<Vec<Choice>> {
        drop(self.gate.lock().expect("no test panics while it holds the gate"));
        std::thread::sleep(self.step_time);
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        assert_ne!(step, self.panics_at, "a panic that the test asked for");
        if step == self.fails_at {
            return Err(Error::failed("out of memory"));
        }
        for part in parts {
            for (offset, &token) in part.tokens.iter().enumerate() {
                let place = self.place(part, part.past + offset);
                self.pool[place] = token;
            }
        }
        let choose = |part: &Part<'_>| {
            let length = part.past + part.tokens.len();
            let tokens: Vec<u32> =
                (0..length).map(|position| self.pool[self.place(part, position)]).collect();
            part.draw.map(|draw| draw.choose(&Self::logits(self.shape.vocabulary, &tokens)))
        };
        Ok(parts.iter().filter_map(choose).collect())
    }
}
