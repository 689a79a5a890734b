//! A model out of the vault, ready to run.

use std::sync::Arc;

use super::{
    decoder_runner::{DecoderRunner, RunnerOptions},
    engine::EngineOptions,
    prompt::end_tokens,
    scheduler::StepBudget,
};
use crate::{
    base::{Id, Result},
    corpus,
    device::Device,
    infer::Engine,
    model::weights::{self, WeightsFile},
    vault::Depot,
};

/// Opens weights and tokenizer and starts an engine on them.
///
/// # Errors
/// Objects that are missing, damaged or not a model's; a tokenizer of another model; too little memory.
pub fn engine(
    depot: &dyn Depot,
    model: Id,
    tokenizer: Id,
    device: Device,
    options: RunnerOptions,
) -> Result<Engine> {
    let tokenizer = Arc::new(corpus::tokenizer::load(depot, tokenizer)?);
    let loading = || -> Result<DecoderRunner> {
        let file = WeightsFile::open(depot.open(model)?)?;
        let config = file.config()?;
        DecoderRunner::new(device, &config, options, |_, params| weights::load(params, &[file]))
    };
    let runner = loading().map_err(|error| error.context(format!("loading the model {model}")))?;
    let budget = StepBudget {
        tokens: options.sequences + 2 * options.prompt_piece,
        sequences: options.sequences,
        prompt_piece: options.prompt_piece,
    };
    let engine_options =
        EngineOptions { budget, end_tokens: end_tokens(&tokenizer), ..EngineOptions::default() };
    Engine::start(Box::new(runner), tokenizer, engine_options)
}
