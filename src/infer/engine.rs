//! The engine: a model on a thread of its own that answers many requests at once. Requests are checked before
//! anything starts; dropping an answer's [`Events`] cancels it; shutting down finishes what runs, within bounds.
//!
//! A greedy answer is the same, token for token, whatever else is in the batch and whether it was pre-empted.
//! That rests on [`StepModel`]'s promise about the bits of logits, and on the scheduler's cutting a sequence
//! into passes in a way that looks at that sequence alone. A sampled answer depends on its seed besides.

use std::{
    hash::{BuildHasher, Hasher},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub use super::answer::{Event, FinishReason, Generation, Piece, Usage};
use super::{
    answer::{Answer, Slot},
    blocks::BlockManager,
    runner::{Choice, Part, Shape, StepModel},
    scheduler::{Scheduler, StepBudget, Turn},
    sequence::Sequence,
};
use crate::{
    base::{Context, Error, Result},
    text::Tokenizer,
};

#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub budget: StepBudget,
    /// Requests that may be running or waiting; more are refused as busy.
    pub requests_max: usize,
    /// Tokens with which the model ends an answer.
    pub end_tokens: Vec<u32>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let budget = StepBudget { tokens: 512, sequences: 32, prompt_piece: 256 };
        Self { budget, requests_max: 256, end_tokens: Vec::new() }
    }
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    EmptyPrompt,
    NoTokensAsked,
    /// Prompt and answer together would not fit the model's context, or the cache.
    TooLong {
        prompt_tokens: usize,
        max_tokens: usize,
        context_tokens: usize,
    },
    UnknownToken {
        token: u32,
        vocabulary: usize,
    },
    Sampling(Error),
    Busy,
    Stopping,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::EmptyPrompt => Error::usage("the prompt is empty"),
            Refusal::NoTokensAsked => Error::usage("max_tokens is 0: it must be at least 1"),
            Refusal::TooLong { prompt_tokens, max_tokens, context_tokens } => Error::usage(format!(
                "the prompt has {prompt_tokens} tokens and {max_tokens} are asked for, but the model's context \
                 holds {context_tokens}"
            ))
            .remedy("shorten the prompt or ask for fewer tokens"),
            Refusal::UnknownToken { token, vocabulary } => {
                Error::usage(format!("the prompt holds token {token}, the vocabulary ends before {vocabulary}"))
            }
            Refusal::Sampling(error) => error,
            Refusal::Busy => Error::unavailable("as many requests as allowed are running or waiting"),
            Refusal::Stopping => Error::unavailable("the engine is stopping"),
        }
    }
}

/// What the engine counts, for `/metrics`. Totals since it started, and gauges of the last step.
#[derive(Debug, Default)]
pub struct Counters {
    pub running: AtomicU64,
    pub waiting: AtomicU64,
    pub blocks_in_use: AtomicU64,
    pub steps: AtomicU64,
    pub prompt_tokens: AtomicU64,
    pub answer_tokens: AtomicU64,
    pub preemptions: AtomicU64,
}

/// The listening end of one answer. Dropping it cancels the answer.
#[derive(Debug)]
pub struct Events(UnboundedReceiver<Event>);

impl Events {
    /// The next event; after the last one an error event if the engine died over it.
    pub async fn next(&mut self) -> Event {
        self.0.recv().await.unwrap_or_else(engine_died)
    }

    pub fn next_blocking(&mut self) -> Event {
        self.0.blocking_recv().unwrap_or_else(engine_died)
    }
}

fn engine_died() -> Event {
    Event::Failed(Error::failed("the engine stopped before the answer was finished"))
}

enum Command {
    Submit(Box<Sequence<Answer>>),
    /// Take no more, and cancel what is not finished by then.
    Finish(Instant),
}

#[derive(Debug)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    /// None once it was joined.
    thread: Mutex<Option<JoinHandle<()>>>,
    stopping: AtomicBool,
    slots: Arc<AtomicUsize>,
    counters: Arc<Counters>,
    tokenizer: Arc<Tokenizer>,
    shape: Shape,
    requests_max: usize,
}

impl Engine {
    /// # Errors
    /// A tokenizer with more tokens than the model; no thread to be had.
    pub fn start(
        model: Box<dyn StepModel>,
        tokenizer: Arc<Tokenizer>,
        options: EngineOptions,
    ) -> Result<Self> {
        let shape = model.shape();
        if tokenizer.vocab_size() > shape.vocabulary {
            return Err(Error::integrity(format!(
                "the tokenizer has {} tokens, the model's vocabulary {}",
                tokenizer.vocab_size(),
                shape.vocabulary
            ))
            .remedy("serve the model with the tokenizer that it was trained with"));
        }
        let (commands, inbox) = mpsc::channel();
        let counters = Arc::new(Counters::default());
        let requests_max = options.requests_max;
        let blocks = BlockManager::new(shape.blocks, shape.block_tokens);
        let floor = Floor {
            model,
            scheduler: Scheduler::new(blocks, options.budget),
            tokenizer: Arc::clone(&tokenizer),
            end_tokens: options.end_tokens,
            counters: Arc::clone(&counters),
            inbox,
            finish_by: None,
        };
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || floor.run())
            .context("starting the engine's thread")?;
        Ok(Self {
            commands,
            thread: Mutex::new(Some(thread)),
            stopping: AtomicBool::new(false),
            slots: Arc::new(AtomicUsize::new(0)),
            counters,
            tokenizer,
            shape,
            requests_max,
        })
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether the engine takes requests: it was not told to stop and its thread lives.
    pub fn is_ready(&self) -> bool {
        !self.stopping.load(Ordering::Acquire)
            && self.thread().as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Whether its thread ended although nobody told it to: the model panicked.
    pub fn has_died(&self) -> bool {
        !self.stopping.load(Ordering::Acquire) && !self.is_ready()
    }

    /// Positions that one request may take, prompt and answer together.
    pub fn context_tokens(&self) -> usize {
        self.shape.context_tokens.min(self.shape.blocks * self.shape.block_tokens)
    }

    /// Takes a request, or says at once why not.
    pub fn submit(&self, generation: Generation) -> Result<Events, Refusal> {
        self.check(&generation)?;
        let slot = Slot::take(&self.slots, self.requests_max).ok_or(Refusal::Busy)?;
        let (listener, events) = unbounded_channel();
        let answer = Answer::new(&generation, unpredictable_seed(), self.shape.vocabulary, listener, slot);
        let sequence = Sequence::new(generation.prompt, answer);
        if self.stopping.load(Ordering::Acquire) {
            return Err(Refusal::Stopping);
        }
        self.commands.send(Command::Submit(Box::new(sequence))).map_err(|_| Refusal::Stopping)?;
        Ok(Events(events))
    }

    /// Takes no more requests from now on; [`Engine::shutdown`] waits for those that run.
    pub fn stop_accepting(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Finishes what runs and waits, at most `grace`; what is left then is cancelled. Returns when the thread
    /// has ended.
    pub fn shutdown(&self, grace: Duration) {
        self.stop_accepting();
        // Fails only when the thread has ended already.
        let _ = self.commands.send(Command::Finish(Instant::now() + grace));
        let thread = self.thread().take();
        if let Some(thread) = thread {
            // A panic there was told to the listeners, and is_ready said so.
            let _ = thread.join();
        }
    }

    fn thread(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, generation: &Generation) -> Result<(), Refusal> {
        let Generation { prompt, sampling, max_tokens, .. } = generation;
        sampling.validate().map_err(Refusal::Sampling)?;
        if prompt.is_empty() {
            return Err(Refusal::EmptyPrompt);
        }
        if *max_tokens == 0 {
            return Err(Refusal::NoTokensAsked);
        }
        let vocabulary = self.shape.vocabulary;
        if let Some(&token) = prompt.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Refusal::UnknownToken { token, vocabulary });
        }
        let context_tokens = self.context_tokens();
        if prompt.len().saturating_add(*max_tokens) > context_tokens {
            return Err(Refusal::TooLong {
                prompt_tokens: prompt.len(),
                max_tokens: *max_tokens,
                context_tokens,
            });
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
    }
}

/// A seed for those who name none: from the standard library's randomly keyed hash. Not for secrets.
fn unpredictable_seed() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

/// What the engine's thread works with.
struct Floor {
    model: Box<dyn StepModel>,
    scheduler: Scheduler<Answer>,
    tokenizer: Arc<Tokenizer>,
    end_tokens: Vec<u32>,
    counters: Arc<Counters>,
    inbox: mpsc::Receiver<Command>,
    finish_by: Option<Instant>,
}

impl Floor {
    fn run(mut self) {
        while self.take_commands() {
            self.drop_abandoned();
            if self.finish_by.is_some_and(|by| Instant::now() >= by) {
                self.cancel_everything();
            }
            let turns = self.scheduler.schedule();
            if !turns.is_empty()
                && let Err(error) = self.step(&turns)
            {
                self.fail_running(&error);
            }
            self.publish();
        }
    }

    /// Waits where there is nothing to do. False when the thread should end.
    fn take_commands(&mut self) -> bool {
        loop {
            let idle = self.scheduler.is_idle();
            if idle && self.finish_by.is_some() {
                return false;
            }
            let command = if idle {
                self.inbox.recv().map_err(|_| mpsc::TryRecvError::Disconnected)
            } else {
                self.inbox.try_recv()
            };
            match command {
                Ok(Command::Submit(sequence)) => self.scheduler.submit(*sequence),
                Ok(Command::Finish(by)) => self.finish_by = Some(by),
                Err(mpsc::TryRecvError::Empty) => return true,
                Err(mpsc::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn drop_abandoned(&mut self) {
        for sequence in self.scheduler.remove(|sequence| sequence.answer.is_abandoned()) {
            sequence.answer.finish(FinishReason::Cancelled);
        }
    }

    fn cancel_everything(&mut self) {
        for sequence in self.scheduler.remove(|_| true) {
            sequence.answer.finish(FinishReason::Cancelled);
        }
    }

    /// The pass failed for all in it: each is told, and the engine goes on with those that wait.
    fn fail_running(&mut self, error: &Error) {
        let running = self.scheduler.running().len();
        let mut place = 0;
        let failed = self.scheduler.remove(|_| {
            place += 1;
            place <= running
        });
        for sequence in failed {
            sequence.answer.fail(error.clone().context("running the model"));
        }
    }

    fn step(&mut self, turns: &[Turn]) -> Result<()> {
        let parts: Vec<Part<'_>> =
            turns.iter().map(|turn| part_of(&self.scheduler.running()[turn.place], turn.tokens)).collect();
        let choices = self.model.step(&parts)?;
        let drawing = parts.iter().filter(|part| part.draw.is_some()).count();
        if choices.len() != drawing {
            return Err(Error::failed(format!("{} tokens for {drawing} sequences", choices.len())));
        }
        self.take_tokens(turns, choices);
        Ok(())
    }

    fn take_tokens(&mut self, turns: &[Turn], choices: Vec<Choice>) {
        let mut choices = choices.into_iter();
        let mut endings: Vec<(usize, Result<FinishReason>)> = Vec::new();
        for turn in turns {
            let sequence = self.scheduler.running_mut(turn.place);
            sequence.advance(turn.tokens);
            if sequence.pending() > 0 {
                continue;
            }
            if sequence.answer_tokens() == 0 {
                self.counters.prompt_tokens.fetch_add(sequence.prompt_tokens() as u64, Ordering::Relaxed);
            }
            let choice = choices.next().expect("step counted them");
            match sequence.answer.take(choice, &self.tokenizer, &self.end_tokens) {
                Ok(reason) => {
                    sequence.push(choice.token);
                    self.counters.answer_tokens.fetch_add(1, Ordering::Relaxed);
                    endings.extend(reason.map(|reason| (turn.place, Ok(reason))));
                }
                Err(error) => endings.push((turn.place, Err(error))),
            }
        }
        self.end(endings);
    }

    fn end(&mut self, endings: Vec<(usize, Result<FinishReason>)>) {
        let mut place = 0;
        let running = self.scheduler.running().len();
        let gone = self.scheduler.remove(|_| {
            place += 1;
            place <= running && endings.iter().any(|(ending, _)| *ending + 1 == place)
        });
        for (sequence, (_, ending)) in gone.into_iter().zip(endings) {
            match ending {
                Ok(reason) => sequence.answer.finish(reason),
                Err(error) => sequence.answer.fail(error),
            }
        }
    }

    fn publish(&self) {
        let counters = &self.counters;
        counters.running.store(self.scheduler.running().len() as u64, Ordering::Relaxed);
        counters.waiting.store(self.scheduler.waiting() as u64, Ordering::Relaxed);
        counters.blocks_in_use.store(self.scheduler.blocks().in_use() as u64, Ordering::Relaxed);
        counters.preemptions.store(self.scheduler.preemptions(), Ordering::Relaxed);
        counters.steps.fetch_add(1, Ordering::Relaxed);
    }
}

fn part_of(sequence: &Sequence<Answer>, tokens: usize) -> Part<'_> {
    let past = sequence.cached();
    Part {
        tokens: &sequence.tokens()[past..past + tokens],
        past,
        blocks: sequence.table().ids(),
        draw: (tokens == sequence.pending()).then(|| sequence.answer.draw()),
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
