//! Which models are in service, opened from the vault. A model that does not load is reported and left out; it does not keep
//! the others from being served.

use std::sync::Arc;

use super::{api::Served, records::ModelFacts};
use crate::{
    base::Result,
    device::Device,
    infer::{decoder_runner::RunnerOptions, load},
    text::ChatTemplate,
    work::{ServedModel, Warden},
};

/// What should be served now, given what is: engines that still stand are kept, one that died is started again.
///
/// # Errors
/// Only where the warden cannot say what there is.
pub fn refresh(warden: &Warden, current: &[Arc<Served>], device: &Device) -> Result<Vec<Arc<Served>>> {
    let mut served: Vec<Arc<Served>> = Vec::new();
    for model in warden.served_models()? {
        let facts = facts(&model);
        let standing = current
            .iter()
            .chain(&served)
            .filter(|served| served.facts.id == model.model && !served.engine.has_died());
        // The very same before one of the same model.
        let standing = standing.max_by_key(|served| *served.facts == facts).cloned();
        match standing {
            Some(same) if *same.facts == facts => served.push(same),
            Some(other) => served.push(Arc::new(other.with_facts(facts))),
            None => match open(warden, &model, facts, device.clone()) {
                Ok(opened) => served.push(Arc::new(opened)),
                Err(error) => tracing::error!(model = %model.model, %error, "a model cannot be served"),
            },
        }
    }
    Ok(served)
}

/// Those of `current` whose name something still stands for.
pub fn still_named(current: &[Arc<Served>], wanted: &[ServedModel]) -> Vec<Arc<Served>> {
    let is_named = |served: &&Arc<Served>| wanted.iter().any(|model| model.name == served.facts.name);
    current.iter().filter(is_named).cloned().collect()
}

fn facts(model: &ServedModel) -> ModelFacts {
    ModelFacts {
        id: model.model,
        name: model.name.clone(),
        created_at_ms: model.created_ms,
        tokenizer: Some(model.tokenizer),
        run: model.run,
        snapshot: model.snapshot,
        dataset_root: model.dataset_root.clone(),
        deployed: model.deployed,
    }
}

fn open(warden: &Warden, model: &ServedModel, facts: ModelFacts, device: Device) -> Result<Served> {
    let template = match &model.chat_template {
        Some(source) => ChatTemplate::parse(source)?,
        None => ChatTemplate::default(),
    };
    let options = RunnerOptions::on(&device)?;
    let engine = load::engine(warden.depot(), model.model, model.tokenizer, device, options)?;
    Ok(Served::new(facts, engine, template))
}
