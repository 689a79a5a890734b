//! Text from a model for whoever sits at the machine. What was asked and answered is kept nowhere.

use super::{Performed, models};
use crate::{
    base::{Error, IdKind, Monitor, Result},
    infer::{
        FinishReason, Prompt, Sampling,
        generate::{GenerateOutcome, GenerateSpec},
    },
    seal::new_id,
    work::{
        host::{self, Leave},
        protocol::Task,
        request::{Chat, Choice, Generate, Generated},
        warden::Warden,
    },
};

pub(super) fn generate(warden: &Warden, generate: &Generate, monitor: &dyn Monitor) -> Result<Performed> {
    let Generate { model, prompt, dtype, choice } = generate;
    answer(warden, model, Prompt::Text(prompt.clone()), dtype.clone(), choice, monitor)
}

pub(super) fn chat(warden: &Warden, chat: &Chat, monitor: &dyn Monitor) -> Result<Performed> {
    answer(warden, &chat.model, Prompt::Chat(chat.messages.clone()), None, &chat.choice, monitor)
}

fn answer(
    warden: &Warden,
    named: &str,
    prompt: Prompt,
    dtype: Option<String>,
    choice: &Choice,
    monitor: &dyn Monitor,
) -> Result<Performed> {
    let model = warden.store.read(|rows| models::find(rows, named))?;
    let tokenizer = model
        .tokenizer
        .ok_or_else(|| Error::usage(format!("model '{named}' has no tokenizer to read a prompt with")))?;
    let plain = Sampling::default();
    let spec = GenerateSpec {
        model: model.id,
        tokenizer,
        chat_template: model.details["chat_template"].as_str().map(str::to_owned),
        prompt,
        sampling: Sampling {
            temperature: choice.temperature,
            top_k: choice.top_k.unwrap_or(plain.top_k),
            top_p: choice.top_p.unwrap_or(plain.top_p),
            min_p: choice.min_p.unwrap_or(plain.min_p),
            seed: choice.seed,
            ..plain
        },
        stop: choice.stop.clone(),
        max_tokens: Some(choice.max_tokens as usize),
        ignore_eos: choice.ignore_eos,
        dtype,
        device: warden.device,
        threads: warden.threads,
    };
    let leave = Leave { read: [model.id, tokenizer].into(), ..Leave::default() };
    // No row: it makes nothing that could be left half-done.
    let outcome = host::run(warden, new_id(IdKind::Job)?, Task::Generate(Box::new(spec)), leave, monitor)?;
    let outcome: GenerateOutcome = host::outcome(outcome)?;
    let generated = Generated {
        model: model.id,
        text: outcome.text,
        token_ids: outcome.token_ids,
        prompt_tokens: outcome.prompt_tokens as u64,
        finish_reason: reason(outcome.finish_reason).to_owned(),
    };
    Ok(Performed::new(&generated)?.made(model.id))
}

/// In the words of the OpenAI API.
fn reason(finished: FinishReason) -> &'static str {
    match finished {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
    }
}
