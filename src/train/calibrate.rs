//! A run by the clock: a few real steps are timed, and size and number of steps follow from them. It happens once,
//! before the first step; what it settled stands in every checkpoint.

use std::time::{Duration, Instant};

use super::{
    config::{Params, RunConfig},
    data::Data,
    learner::Learner,
    loader::{Order, Packed},
    plan::{Memory, UTILISATION_ASSUMED},
    recipe::Recipe,
    shape::Shape,
};
use crate::{
    base::{
        Error, Monitor, Progress, Result,
        units::{Count, Seconds},
    },
    device::Device,
};

/// How long steps are timed for: a share of the run, within bounds.
const SHARE: f64 = 0.02;
const AT_LEAST: Duration = Duration::from_millis(1500);
const AT_MOST: Duration = Duration::from_secs(20);

/// The recipe for `config.minutes` on this machine.
///
/// # Errors
/// As [`Recipe::settle`].
pub fn settle(
    config: &RunConfig,
    data: &Data,
    device: &Device,
    matrix_flops_per_s: f64,
    monitor: &dyn Monitor,
) -> Result<Recipe> {
    let began = Instant::now();
    let seconds = 60.0 * config.minutes.unwrap_or_default();
    monitor.progress(&Progress { stage: "measure this machine".into(), ..Progress::default() });
    let guess = Recipe::settle(config, &data.facts, Some(matrix_flops_per_s * UTILISATION_ASSUMED))?;
    let first = flops_per_s(&guess, data, device, seconds, monitor)?;
    let shape = Recipe::settle(config, &data.facts, Some(first))?.shape;
    let fixed = with_shape(config, &shape);
    let sized = Recipe::settle(&fixed, &data.facts, Some(first))?;
    let rate =
        if shape == guess.shape { first } else { flops_per_s(&sized, data, device, seconds, monitor)? };
    // What is left for steps when calibration and evaluations have had their time.
    let aside = began.elapsed().as_secs_f64() + evaluation_flops(&sized, data) / rate;
    let left = ((seconds - aside) / seconds).clamp(0.1, 1.0);
    let recipe = Recipe::settle(&fixed, &data.facts, Some(rate * left))?;
    monitor.note(&format!(
        "training reaches {}FLOP/s here; in {} that is {} parameters for {} steps of {} tokens",
        Count(rate),
        Seconds(seconds),
        Params(recipe.shape.parameters()),
        recipe.steps,
        recipe.tokens_per_step(),
    ));
    Ok(recipe)
}

/// What training reaches, by steps of the very recipe on the run's own rows.
fn flops_per_s(
    recipe: &Recipe,
    data: &Data,
    device: &Device,
    seconds: f64,
    monitor: &dyn Monitor,
) -> Result<f64> {
    let memory = Memory::rehearse(recipe, &data.facts, device)?;
    memory.check_fits(device)?;
    let mut learner = Learner::new(memory.rank.exec(device)?, recipe)?;
    learner.init(recipe.seed);
    let mut order = Order::new(data.train.clone(), recipe.shape.context, recipe.seed)?;
    let (mut reader, mut packed) = (data.reader(), Packed::default());
    let rows = recipe.micro_batch * recipe.accumulate;
    let mut row = 0;
    let mut step = |number: u64| -> Result<()> {
        learner.begin_step();
        for _ in 0..recipe.accumulate {
            packed.clear();
            for _ in 0..recipe.micro_batch {
                reader.append(&order.row(row), &mut packed)?;
                row += 1;
            }
            learner.accumulate(&packed, 1.0)?;
        }
        learner.update(0.0, number).map(drop)
    };
    // The first touches the memory and reads the documents.
    step(1)?;
    let long_enough = Duration::from_secs_f64(seconds * SHARE).clamp(AT_LEAST, AT_MOST);
    let began = Instant::now();
    let mut steps = 0;
    while began.elapsed() < long_enough {
        if monitor.stop_requested() {
            return Err(Error::interrupted("stopped before the first step"));
        }
        steps += 1;
        step(1 + steps)?;
    }
    let flops = (steps * rows * recipe.shape.context) as f64 * recipe.shape.flops_per_token().training;
    Ok(flops / began.elapsed().as_secs_f64())
}

/// Evaluations on the way, and the last over every held-out document.
fn evaluation_flops(recipe: &Recipe, data: &Data) -> f64 {
    let every =
        recipe.steps.div_ceil(recipe.evaluate_every) * recipe.evaluate_tokens.min(data.facts.heldout_tokens);
    (every + data.facts.heldout_tokens) as f64 * recipe.shape.flops_per_token().forward
}

fn with_shape(config: &RunConfig, shape: &Shape) -> RunConfig {
    let narrow = |number: u64| Some(number as u32);
    RunConfig {
        params: None,
        layers: narrow(shape.layers),
        dim: narrow(shape.dim),
        heads: narrow(shape.heads),
        kv_heads: narrow(shape.kv_heads),
        ffn: narrow(shape.ffn),
        context: narrow(shape.context),
        tied: Some(shape.tied),
        ..config.clone()
    }
}
