//! Which models are in service: the newest of each name, opened from the vault. A model that does not load is
//! reported and left out; it does not keep the others from being served.

use std::sync::Arc;

use super::{api::Served, records::ModelFacts};
use crate::{
    base::{Id, Result},
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
    let mut served = Vec::new();
    for model in warden.served_models()? {
        let standing =
            current.iter().find(|served| served.facts.id == model.model && !served.engine.has_died());
        if let Some(standing) = standing {
            served.push(Arc::clone(standing));
            continue;
        }
        match open(warden, &model, device.clone()) {
            Ok(opened) => served.push(Arc::new(opened)),
            Err(error) => tracing::error!(model = %model.model, %error, "a model cannot be served"),
        }
    }
    Ok(served)
}

/// The models that should be served, loaded or not: what a [`refresh`] would go by.
pub fn wanted(warden: &Warden) -> Result<Vec<Id>> {
    Ok(warden.served_models()?.into_iter().map(|model| model.model).collect())
}

fn open(warden: &Warden, model: &ServedModel, device: Device) -> Result<Served> {
    let template = match &model.chat_template {
        Some(source) => ChatTemplate::parse(source)?,
        None => ChatTemplate::default(),
    };
    let options = RunnerOptions::on(&device)?;
    let engine = load::engine(warden.depot(), model.model, model.tokenizer, device, options)?;
    let facts = ModelFacts {
        id: model.model,
        name: model.name.clone(),
        created_at_ms: model.created_ms,
        tokenizer: Some(model.tokenizer),
        run: model.run,
        snapshot: model.snapshot,
        dataset_root: model.dataset_root.clone(),
    };
    Ok(Served::new(facts, engine, template))
}
