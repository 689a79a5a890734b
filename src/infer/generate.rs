//! One answer from a model out of the vault, for the command line: `model generate` and `chat`.

use serde::{Deserialize, Serialize};

use super::{Event, FinishReason, Generation, Prompt, Sampling, decoder_runner::RunnerOptions, load};
use crate::{
    base::{Error, Id, Monitor, Result},
    device::Choice,
    tensor::DType,
    text::ChatTemplate,
    vault::Depot,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateSpec {
    pub model: Id,
    pub tokenizer: Id,
    /// None: the template of models trained here.
    pub chat_template: Option<String>,
    pub prompt: Prompt,
    pub sampling: Sampling,
    pub stop: Vec<String>,
    /// None: as many as the context holds.
    pub max_tokens: Option<usize>,
    pub ignore_eos: bool,
    /// "f32" or "bf16"; None: what suits the device.
    pub dtype: Option<String>,
    pub device: Choice,
    pub threads: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateOutcome {
    pub text: String,
    /// Of the answer, an end token included.
    pub token_ids: Vec<u32>,
    pub prompt_tokens: usize,
    pub finish_reason: FinishReason,
}

/// Tells the text to the monitor as it comes; a stop that is asked for ends the answer where it is.
///
/// # Errors
/// A request that the model's context cannot hold, before anything starts.
pub fn run(spec: &GenerateSpec, depot: &dyn Depot, monitor: &dyn Monitor) -> Result<GenerateOutcome> {
    spec.sampling.validate()?;
    let device = spec.device.open(spec.threads)?;
    let options = RunnerOptions { whole_sequences: 1, ..RunnerOptions::on(&device)? };
    let options = match spec.dtype.as_deref() {
        Some(name) => RunnerOptions { dtype: dtype(name)?, ..options },
        None => options,
    };
    let engine = load::engine(depot, spec.model, spec.tokenizer, device, options)?;
    let template =
        spec.chat_template.as_deref().map_or_else(|| Ok(ChatTemplate::default()), ChatTemplate::parse)?;
    let prompt = spec.prompt.encode(engine.tokenizer(), &template)?;
    let context = engine.context_tokens();
    if prompt.len() >= context {
        return Err(Error::usage(format!(
            "the prompt has {} tokens, and the model's context holds {context}",
            prompt.len()
        ))
        .remedy("shorten the prompt"));
    }
    let prompt_tokens = prompt.len();
    let mut events = engine.submit(Generation {
        max_tokens: spec.max_tokens.unwrap_or(context - prompt_tokens),
        sampling: spec.sampling.clone(),
        stop: spec.stop.clone(),
        ignore_eos: spec.ignore_eos,
        prompt,
    })?;
    let mut outcome = GenerateOutcome {
        text: String::new(),
        token_ids: Vec::new(),
        prompt_tokens,
        finish_reason: FinishReason::Cancelled,
    };
    loop {
        match events.next_blocking() {
            Event::Token(piece) => {
                outcome.token_ids.push(piece.token);
                outcome.text.push_str(&piece.text);
                monitor.text(&piece.text);
                if monitor.stop_requested() {
                    return Ok(outcome);
                }
            }
            Event::Finished { reason, rest, .. } => {
                outcome.text.push_str(&rest);
                monitor.text(&rest);
                return Ok(GenerateOutcome { finish_reason: reason, ..outcome });
            }
            Event::Failed(error) => return Err(error),
        }
    }
}

/// The number type that a person asked for.
pub fn dtype(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::Bf16),
        other => Err(Error::usage(format!("there is no number type '{other}'")).remedy("it is f32 or bf16")),
    }
}
