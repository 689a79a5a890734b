//! From the run file to a recipe in which nothing is left open: two types, one conversion. The recipe goes
//! into every checkpoint, so that a resumed run follows the one it began with.

use serde::{Deserialize, Serialize};

use super::{
    config::{Params, Precision, Purpose, RunConfig, ScheduleKind},
    schedule::Schedule,
    shape::Shape,
};
use crate::base::{Error, Result};

/// What is known of the data before a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFacts {
    pub vocab: u64,
    /// Positions that are predicted in one pass over the training documents, their ends included.
    pub train_tokens: u64,
    pub heldout_tokens: u64,
    /// Bytes of the held-out documents' text.
    pub heldout_bytes: u64,
}

/// Every number of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    pub purpose: Purpose,
    pub shape: Shape,
    pub precision: Precision,
    pub recompute: bool,
    pub ranks: u64,
    /// Sequences of one pass of one rank.
    pub micro_batch: u64,
    /// Passes of one rank per optimizer step.
    pub accumulate: u64,
    pub steps: u64,
    pub schedule: Schedule,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// On matrices only.
    pub weight_decay: f64,
    /// Bound on the global gradient norm; 0 for none.
    pub clip: f64,
    pub seed: u64,
    pub evaluate_every: u64,
    pub evaluate_tokens: u64,
    pub checkpoint_minutes: f64,
}

/// Tokens per parameter that make the most of a given amount of computing (Hoffmann et al., arXiv:2203.15556).
const TOKENS_PER_PARAMETER: f64 = 20.0;
/// Up to here repeated data is nearly as good as fresh data (Muennighoff et al., arXiv:2305.16264).
const EPOCHS_WORTH_MAKING: f64 = 4.0;
/// Fewer optimizer steps than this waste data, whatever the batch.
const STEPS_WANTED: u64 = 1000;
/// Tokens of one pass where nothing else is said: enough to keep every core busy.
const PASS_TOKENS: u64 = 4096;
/// The dial where nothing at all is said.
const PARAMS_DEFAULT: Params = Params(10_000_000);

impl Recipe {
    /// Settles every number: what `config` states, and for the rest the dial. `flops_per_s` is what training
    /// was measured to reach on this machine, needed where `minutes` is to be turned into size and steps.
    ///
    /// # Errors
    /// `Usage`: no purpose, contradicting or impossible numbers, or data too short for one sequence.
    pub fn settle(config: &RunConfig, data: &DataFacts, flops_per_s: Option<f64>) -> Result<Self> {
        let purpose = config.stated_purpose()?.clone();
        check_ranges(config)?;
        let budget = match config.minutes {
            None => None,
            Some(minutes) => Some(
                60.0 * minutes
                    * flops_per_s.ok_or_else(|| {
                        Error::usage("a run by the clock needs a measurement of this machine first")
                    })?,
            ),
        };
        let shape = settle_shape(config, data, budget)?;
        if data.train_tokens < shape.context {
            return Err(Error::usage(format!(
                "the snapshot has {} training tokens, which is less than one sequence of {}",
                data.train_tokens, shape.context
            ))
            .remedy("ingest more documents, or choose a smaller context"));
        }
        let tokens = settle_tokens(config, data, &shape, budget);
        let ranks = config.ranks.map_or(1, u64::from);
        let rows = settle_rows(config, &shape, tokens, ranks);
        let micro_batch = settle_micro_batch(config, &shape, rows / ranks)?;
        let steps = config.steps.unwrap_or(((tokens / (rows * shape.context) as f64).round() as u64).max(1));
        Ok(Self {
            purpose,
            shape,
            precision: config.precision.unwrap_or_default(),
            recompute: config.recompute.unwrap_or(false),
            ranks,
            micro_batch,
            accumulate: rows / ranks / micro_batch,
            steps,
            schedule: settle_schedule(config, &shape, steps, rows),
            beta1: config.beta1.unwrap_or(0.9),
            beta2: config.beta2.unwrap_or(0.95),
            epsilon: config.epsilon.unwrap_or(1e-8),
            weight_decay: config.weight_decay.unwrap_or(0.1),
            clip: config.clip.unwrap_or(1.0),
            seed: config.seed.unwrap_or(1),
            evaluate_every: config.evaluate_every.unwrap_or((steps / 10).clamp(1, 1000)),
            evaluate_tokens: config.evaluate_tokens.unwrap_or(16_384),
            checkpoint_minutes: config
                .checkpoint_minutes
                .unwrap_or_else(|| config.minutes.map_or(10.0, |minutes| (minutes / 5.0).clamp(0.25, 10.0))),
        })
    }

    /// Sequences of one optimizer step, over all ranks.
    pub fn rows_per_step(&self) -> u64 {
        self.ranks * self.accumulate * self.micro_batch
    }

    pub fn tokens_per_step(&self) -> u64 {
        self.rows_per_step() * self.shape.context
    }

    /// Tokens of the whole run.
    pub fn tokens(&self) -> u64 {
        self.steps * self.tokens_per_step()
    }

    /// FLOPs of matrix products of the whole run, evaluation left out.
    pub fn flops(&self) -> f64 {
        self.tokens() as f64 * self.shape.flops_per_token().training
    }
}

fn check_ranges(config: &RunConfig) -> Result<()> {
    let positive = f64::MIN_POSITIVE..=f64::MAX;
    let share = 0.0..=1.0;
    let numbers = [
        ("minutes", config.minutes, 0.01..=1e7),
        ("epochs", config.epochs, positive.clone()),
        ("rope_theta", config.rope_theta, 1.0..=1e12),
        ("learning_rate", config.learning_rate, f64::MIN_POSITIVE..=10.0),
        ("final_share", config.final_share, share.clone()),
        ("decay_share", config.decay_share, share),
        ("weight_decay", config.weight_decay, 0.0..=10.0),
        ("beta1", config.beta1, 0.0..=0.999_999),
        ("beta2", config.beta2, 0.0..=0.999_999_9),
        ("epsilon", config.epsilon, f64::MIN_POSITIVE..=1.0),
        ("clip", config.clip, 0.0..=f64::MAX),
        ("checkpoint_minutes", config.checkpoint_minutes, positive),
    ];
    for (key, value, range) in numbers {
        // A NaN is in no range.
        if let Some(value) = value.filter(|value| !range.contains(value)) {
            return Err(Error::usage(format!("{key} = {value} is out of range")).remedy(format!(
                "choose it from {} to {}",
                range.start(),
                range.end()
            )));
        }
    }
    let counts = [
        ("batch_tokens", config.batch_tokens),
        ("micro_batch", config.micro_batch.map(u64::from)),
        ("steps", config.steps),
        ("tokens", config.tokens),
        ("ranks", config.ranks.map(u64::from)),
        ("evaluate_every", config.evaluate_every),
        ("evaluate_tokens", config.evaluate_tokens),
    ];
    for (key, value) in counts {
        if value.is_some_and(|value| value == 0 || value > 1 << 50) {
            return Err(Error::usage(format!("{key} must be a number from 1 to 2^50")));
        }
    }
    let lengths = [
        ("minutes", config.minutes.is_some()),
        ("steps", config.steps.is_some()),
        ("tokens", config.tokens.is_some()),
        ("epochs", config.epochs.is_some()),
    ];
    let mut stated = lengths.iter().filter(|(_, stated)| *stated).map(|(key, _)| *key);
    if let (Some(one), Some(other)) = (stated.next(), stated.next()) {
        return Err(Error::usage(format!("{one} and {other} both say how long the run is"))
            .remedy("state one of minutes, steps, tokens and epochs"));
    }
    Ok(())
}

fn settle_shape(config: &RunConfig, data: &DataFacts, budget: Option<f64>) -> Result<Shape> {
    match (config.params, budget) {
        (None, Some(budget)) if config.dim.is_none() || config.layers.is_none() => {
            shape_for_budget(config, data, budget)
        }
        (params, _) => Shape::choose(config, params.unwrap_or(PARAMS_DEFAULT).0, data.vocab),
    }
}

/// The largest model that the budget can still show [`TOKENS_PER_PARAMETER`] tokens for each parameter, or
/// a larger one where that would repeat the data more than is worth it.
fn shape_for_budget(config: &RunConfig, data: &DataFacts, budget: f64) -> Result<Shape> {
    let most = EPOCHS_WORTH_MAKING * data.train_tokens as f64;
    let mut chosen = None;
    // From 100 thousand parameters up in steps of a tenth.
    for tenth in 0..120 {
        let params = 1e5 * 1.1f64.powi(tenth);
        let shape = Shape::choose(config, params as u64, data.vocab)?;
        let tokens = budget / shape.flops_per_token().training;
        if chosen.is_some() && tokens < (TOKENS_PER_PARAMETER * shape.parameters() as f64).min(most) {
            break;
        }
        chosen = Some(shape);
    }
    Ok(chosen.expect("the first candidate is always taken"))
}

fn settle_tokens(config: &RunConfig, data: &DataFacts, shape: &Shape, budget: Option<f64>) -> f64 {
    let once = data.train_tokens as f64;
    if let Some(epochs) = config.epochs {
        return epochs * once;
    }
    if let Some(tokens) = config.tokens {
        return tokens as f64;
    }
    budget.map_or_else(
        || (TOKENS_PER_PARAMETER * shape.parameters() as f64).min(EPOCHS_WORTH_MAKING * once),
        |budget| budget / shape.flops_per_token().training,
    )
}

/// Sequences per step: the batch that suits the run's computing (DeepSeek LLM, arXiv:2401.02954, section 3.1),
/// but small enough to leave a short run its steps; a multiple of the ranks and of the passes.
fn settle_rows(config: &RunConfig, shape: &Shape, tokens: f64, ranks: u64) -> u64 {
    let stated_pass = config.micro_batch.map(u64::from);
    let batch = config.batch_tokens.unwrap_or_else(|| {
        let law = 0.292 * (tokens * shape.flops_per_token().training).powf(0.3271);
        let steps = config.steps.unwrap_or(STEPS_WANTED) as f64;
        // The power of two at or below.
        1 << (law.min(tokens / steps).max(2048.0).log2() as u32).min(40)
    });
    let unit = ranks * stated_pass.unwrap_or(1);
    ((batch as f64 / (shape.context * unit) as f64).round() as u64).max(1) * unit
}

fn settle_micro_batch(config: &RunConfig, shape: &Shape, rows: u64) -> Result<u64> {
    if let Some(stated) = config.micro_batch {
        return Ok(u64::from(stated));
    }
    let most = (PASS_TOKENS / shape.context).max(1);
    Ok((1..=most.min(rows)).rev().find(|pass| rows.is_multiple_of(*pass)).unwrap_or(1))
}

fn settle_schedule(config: &RunConfig, shape: &Shape, steps: u64, rows: u64) -> Schedule {
    let computing = (steps * rows * shape.context) as f64 * shape.flops_per_token().training;
    // The same paper's law, bounded above where small models begin to be unstable.
    let peak = config.learning_rate.unwrap_or_else(|| (0.3118 * computing.powf(-0.125)).min(3e-3));
    Schedule {
        kind: config.schedule.unwrap_or(ScheduleKind::Cosine),
        peak,
        final_share: config.final_share.unwrap_or(0.1),
        warmup_steps: config.warmup_steps.unwrap_or((steps / 20).clamp(10, 2000).min(steps / 2)),
        steps,
        decay_share: config.decay_share.unwrap_or(0.2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: DataFacts =
        DataFacts { vocab: 2048, train_tokens: 400_000, heldout_tokens: 40_000, heldout_bytes: 120_000 };

    fn config() -> RunConfig {
        RunConfig { purpose: Some(Purpose::trial()), ..RunConfig::default() }
    }

    #[test]
    fn the_dial_alone_settles_everything() {
        let config = RunConfig { params: Some(Params(10_000_000)), ..config() };
        let recipe = Recipe::settle(&config, &DATA, None).expect("sound");
        assert_eq!(recipe.rows_per_step(), recipe.ranks * recipe.micro_batch * recipe.accumulate);
        let epochs = recipe.tokens() as f64 / DATA.train_tokens as f64;
        assert!((3.9..4.1).contains(&epochs), "short data is passed four times: {epochs}");
        assert!(recipe.schedule.warmup_steps > 0 && recipe.schedule.warmup_steps * 2 <= recipe.steps);
    }

    #[test]
    fn what_is_stated_is_kept() {
        let stated = RunConfig {
            layers: Some(3),
            dim: Some(96),
            heads: Some(3),
            context: Some(64),
            batch_tokens: Some(1024),
            micro_batch: Some(2),
            ranks: Some(2),
            steps: Some(17),
            learning_rate: Some(5e-4),
            warmup_steps: Some(0),
            clip: Some(0.0),
            ..config()
        };
        let recipe = Recipe::settle(&stated, &DATA, None).expect("sound");
        assert_eq!((recipe.ranks, recipe.micro_batch, recipe.accumulate), (2, 2, 4));
        assert_eq!((recipe.tokens_per_step(), recipe.steps), (1024, 17));
        assert_eq!((recipe.schedule.peak, recipe.schedule.warmup_steps, recipe.clip), (5e-4, 0, 0.0));
    }

    #[test]
    fn more_minutes_give_a_larger_model_and_fill_the_time() {
        let mut last = 0;
        for minutes in [0.2, 3.0, 60.0] {
            let config = RunConfig { minutes: Some(minutes), ..config() };
            let rate = 1e11;
            let recipe = Recipe::settle(&config, &DATA, Some(rate)).expect("sound");
            let filled = recipe.flops() / rate / 60.0 / minutes;
            assert!((0.8..1.2).contains(&filled), "{minutes}: {filled} {recipe:?}");
            assert!(recipe.shape.parameters() > last, "{minutes}");
            last = recipe.shape.parameters();
        }
        assert!(Recipe::settle(&RunConfig { minutes: Some(1.0), ..config() }, &DATA, None).is_err());
    }

    #[test]
    fn refuses_what_cannot_be() {
        let c = config;
        let bad = [
            ("learning_rate", RunConfig { learning_rate: Some(f64::NAN), ..c() }),
            ("learning_rate", RunConfig { learning_rate: Some(-1e-3), ..c() }),
            ("beta2", RunConfig { beta2: Some(1.0), ..c() }),
            ("final_share", RunConfig { final_share: Some(1.5), ..c() }),
            ("minutes", RunConfig { minutes: Some(0.0), ..c() }),
            ("clip", RunConfig { clip: Some(-1.0), ..c() }),
            ("checkpoint_minutes", RunConfig { checkpoint_minutes: Some(0.0), ..c() }),
            ("ranks", RunConfig { ranks: Some(0), ..c() }),
            ("steps", RunConfig { steps: Some(0), ..c() }),
            ("micro_batch", RunConfig { micro_batch: Some(0), ..c() }),
            ("evaluate_every", RunConfig { evaluate_every: Some(0), ..c() }),
            ("steps and epochs", RunConfig { steps: Some(3), epochs: Some(1.0), ..c() }),
            ("training tokens", RunConfig { context: Some(500_000), ..c() }),
            ("purpose", RunConfig::default()),
        ];
        for (named, config) in bad {
            let error = Recipe::settle(&config, &DATA, Some(1e11)).unwrap_err();
            assert_eq!(error.kind(), crate::base::ErrorKind::Usage, "{named}");
            assert!(error.to_string().contains(named), "{named}: {error}");
        }
    }
}
