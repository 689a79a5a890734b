//! Continuous batching: which sequences take part in the next step, and with how many tokens. Decoding
//! sequences and pieces of prompts share a step; a sequence joins when its prompt's blocks are free, and the
//! youngest gives its blocks back, to be computed again later, when an older one needs them.

use std::collections::VecDeque;

use super::{
    blocks::{BlockManager, BlockTable},
    sequence::Sequence,
};

/// The bounds of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepBudget {
    /// Tokens that one step may run: bounds its memory and a decoder's wait.
    pub tokens: usize,
    pub sequences: usize,
    /// Prompts are cut into pieces of so many tokens.
    pub prompt_piece: usize,
}

/// A running sequence's part in a step: its next `tokens` are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Place in [`Scheduler::running`].
    pub place: usize,
    pub tokens: usize,
}

#[derive(Debug)]
pub struct Scheduler<A> {
    blocks: BlockManager,
    budget: StepBudget,
    waiting: VecDeque<Sequence<A>>,
    /// Oldest first.
    running: Vec<Sequence<A>>,
    preemptions: u64,
}

impl<A> Scheduler<A> {
    pub fn new(blocks: BlockManager, budget: StepBudget) -> Self {
        assert!(budget.sequences > 0 && budget.prompt_piece > 0, "a step does something");
        assert!(
            budget.tokens >= budget.sequences + budget.prompt_piece,
            "a piece of a prompt fits beside all that decode: otherwise it might wait for ever"
        );
        Self { blocks, budget, waiting: VecDeque::new(), running: Vec::new(), preemptions: 0 }
    }

    pub fn submit(&mut self, sequence: Sequence<A>) {
        self.waiting.push_back(sequence);
    }

    pub fn running(&self) -> &[Sequence<A>] {
        &self.running
    }

    pub fn running_mut(&mut self, place: usize) -> &mut Sequence<A> {
        &mut self.running[place]
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    pub fn blocks(&self) -> &BlockManager {
        &self.blocks
    }

    pub fn preemptions(&self) -> u64 {
        self.preemptions
    }

    /// The next step. Empty only when there is nothing to do.
    pub fn schedule(&mut self) -> Vec<Turn> {
        let mut turns = self.continue_running();
        let used: usize = turns.iter().map(|turn| turn.tokens).sum();
        self.admit_waiting(self.budget.tokens - used, &mut turns);
        turns
    }

    /// Takes out, with their blocks freed, all sequences that `leave` names, waiting ones included.
    pub fn remove(&mut self, mut leave: impl FnMut(&Sequence<A>) -> bool) -> Vec<Sequence<A>> {
        let mut left = Vec::new();
        for mut sequence in std::mem::take(&mut self.running) {
            if leave(&sequence) {
                self.blocks.release(&mut sequence.table);
                left.push(sequence);
            } else {
                self.running.push(sequence);
            }
        }
        let (leaving, staying) = self.waiting.drain(..).partition(|sequence| leave(sequence));
        self.waiting = staying;
        left.extend::<VecDeque<_>>(leaving);
        left
    }

    fn continue_running(&mut self) -> Vec<Turn> {
        let mut turns = Vec::new();
        let mut budget = self.budget.tokens;
        let mut place = 0;
        while place < self.running.len() {
            let sequence = &self.running[place];
            // Prompts take what decoding leaves: a long one must not hold up the others.
            let decoding_later = self.running[place + 1..].iter().filter(|s| s.is_decoding()).count();
            let tokens = sequence.next_pass(self.budget.prompt_piece);
            if tokens + decoding_later <= budget && self.make_room(place, tokens) {
                turns.push(Turn { place, tokens });
                budget -= tokens;
            }
            place += 1;
        }
        turns
    }

    /// Grows the blocks of the sequence at `place`, at the cost of younger ones, or of itself: then false.
    fn make_room(&mut self, place: usize, tokens: usize) -> bool {
        loop {
            let sequence = &mut self.running[place];
            let to_tokens = sequence.cached() + tokens;
            if self.blocks.grow(&mut sequence.table, to_tokens) {
                return true;
            }
            self.preempt_youngest();
            if place == self.running.len() {
                return false;
            }
        }
    }

    fn preempt_youngest(&mut self) {
        let mut sequence = self.running.pop().expect("called for a running sequence");
        self.blocks.release(&mut sequence.table);
        sequence.forget_cache();
        self.waiting.push_front(sequence);
        self.preemptions += 1;
    }

    fn admit_waiting(&mut self, mut budget: usize, turns: &mut Vec<Turn>) {
        while self.running.len() < self.budget.sequences && self.may_admit_next(budget) {
            let mut sequence = self.waiting.pop_front().expect("may_admit_next saw it");
            let pending = sequence.pending();
            let grown = self.blocks.grow(&mut sequence.table, pending);
            assert!(grown, "may_admit_next saw the blocks");
            let tokens = sequence.next_pass(self.budget.prompt_piece);
            budget -= tokens;
            turns.push(Turn { place: self.running.len(), tokens });
            self.running.push(sequence);
        }
    }

    /// A newcomer needs the blocks of its whole prompt, and among others one more to grow into: without it,
    /// it would be pre-empted and computed again at once.
    fn may_admit_next(&self, budget: usize) -> bool {
        let spare = if self.running.is_empty() { 0 } else { self.blocks.block_tokens() };
        self.waiting
            .front()
            .filter(|sequence| sequence.next_pass(self.budget.prompt_piece) <= budget)
            .is_some_and(|sequence| self.blocks.can_grow(&BlockTable::default(), sequence.pending() + spare))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Philox;

    fn scheduler(blocks: usize, tokens: usize, sequences: usize) -> Scheduler<u32> {
        let prompt_piece = tokens - sequences;
        Scheduler::new(BlockManager::new(blocks, 4), StepBudget { tokens, sequences, prompt_piece })
    }

    /// Runs one step as the engine does, with a model that always says 7.
    fn step(scheduler: &mut Scheduler<u32>) -> Vec<Turn> {
        let turns = scheduler.schedule();
        for turn in &turns {
            let sequence = scheduler.running_mut(turn.place);
            sequence.advance(turn.tokens);
            if sequence.pending() == 0 {
                sequence.push(7);
            }
        }
        turns
    }

    #[test]
    fn a_long_prompt_is_cut_and_does_not_hold_up_decoding() {
        let mut scheduler = scheduler(100, 12, 4);
        scheduler.submit(Sequence::new(vec![1; 3], 0));
        step(&mut scheduler);
        scheduler.submit(Sequence::new(vec![1; 20], 1));
        scheduler.submit(Sequence::new(vec![1; 2], 2));
        let turn = |place, tokens| Turn { place, tokens };
        // 12 tokens: one decodes, a piece of 8, and a short prompt that still fits.
        assert_eq!(step(&mut scheduler), [turn(0, 1), turn(1, 8), turn(2, 2)]);
        assert_eq!(step(&mut scheduler), [turn(0, 1), turn(1, 8), turn(2, 1)]);
        assert_eq!(step(&mut scheduler), [turn(0, 1), turn(1, 4), turn(2, 1)]);
        assert_eq!(step(&mut scheduler), [turn(0, 1), turn(1, 1), turn(2, 1)]);
    }

    #[test]
    fn a_sequence_is_cut_the_same_way_in_any_company_and_after_preemption() {
        let cuts = |crowd: u32, blocks| {
            let mut scheduler = scheduler(blocks, 12, 4);
            for _ in 0..crowd {
                scheduler.submit(Sequence::new(vec![1; 9], 0));
            }
            scheduler.submit(Sequence::new(vec![1; 19], 1));
            let (mut cuts, mut preemptions) = (Vec::new(), 0);
            while scheduler.running().iter().all(|s| s.answer == 0 || s.answer_tokens() < 9) {
                for turn in step(&mut scheduler) {
                    if scheduler.running()[turn.place].answer == 1 {
                        if scheduler.preemptions() > preemptions {
                            preemptions = scheduler.preemptions();
                            cuts.clear();
                        }
                        cuts.push(turn.tokens);
                    }
                }
                scheduler.remove(|s| s.answer == 0 && s.answer_tokens() > 7);
            }
            (cuts, preemptions)
        };
        let alone = cuts(0, 100);
        assert_eq!(alone, (vec![8, 8, 3, 1, 1, 1, 1, 1, 1, 1, 1], 0));
        assert_eq!(cuts(3, 100), alone);
        let (crowded, preemptions) = cuts(2, 13);
        assert!(preemptions > 0, "the test must exercise pre-emption");
        assert_eq!(crowded, alone.0);
    }

    #[test]
    fn first_come_first_served_even_where_a_smaller_one_would_fit() {
        let mut scheduler = scheduler(3, 64, 4);
        scheduler.submit(Sequence::new(vec![1; 8], 0));
        scheduler.submit(Sequence::new(vec![1; 8], 1));
        scheduler.submit(Sequence::new(vec![1; 2], 2));
        assert_eq!(step(&mut scheduler).len(), 1);
        assert_eq!(scheduler.waiting(), 2);
    }

    #[test]
    fn the_youngest_gives_way_and_comes_back_with_its_answer() {
        let mut scheduler = scheduler(5, 64, 4);
        scheduler.submit(Sequence::new(vec![1; 11], 0));
        scheduler.submit(Sequence::new(vec![1; 4], 1));
        step(&mut scheduler);
        step(&mut scheduler);
        // Three blocks and two are held; the older one's thirteenth position needs one of the younger's.
        assert_eq!(step(&mut scheduler), [Turn { place: 0, tokens: 1 }]);
        assert_eq!((scheduler.preemptions(), scheduler.waiting()), (1, 1));
        scheduler.remove(|sequence| sequence.answer == 0);
        // The prompt is computed again in one piece, the answer token by token.
        assert_eq!(step(&mut scheduler), [Turn { place: 0, tokens: 4 }]);
        assert_eq!(step(&mut scheduler), [Turn { place: 0, tokens: 1 }]);
        assert_eq!(scheduler.running()[0].answer_tokens(), 2, "nothing new yet");
        step(&mut scheduler);
        assert_eq!(scheduler.running()[0].answer_tokens(), 3);
    }

    #[test]
    fn whatever_comes_everyone_finishes_and_all_blocks_come_back() {
        for seed in 0..40 {
            let mut rng = Philox::new(seed, 0);
            let mut scheduler = scheduler(12, 10, 5);
            let (mut submitted, mut finished, mut steps) = (0, 0, 0);
            while finished < 60 {
                if submitted < 60 && rng.below(2) == 0 {
                    // At most 46 positions: what submit lets through fits the pool alone.
                    let answer = 1 + rng.below(16) as u32;
                    scheduler.submit(Sequence::new(vec![1; 1 + rng.below(30) as usize], answer));
                    submitted += 1;
                }
                let turns = step(&mut scheduler);
                assert!(turns.iter().map(|turn| turn.tokens).sum::<usize>() <= 10);
                assert!(!turns.is_empty() || scheduler.is_idle(), "stuck with work left (seed {seed})");
                finished += scheduler.remove(|s| s.answer_tokens() >= s.answer as usize).len();
                steps += 1;
                assert!(steps < 20_000, "no progress (seed {seed})");
            }
            assert_eq!(scheduler.blocks().in_use(), 0);
        }
    }
}
