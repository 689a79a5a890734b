//! Models: what is there, what each is called and for, and text from them.

use super::{Performed, runs};
use crate::{
    base::{Error, Id, IdKind, Result},
    store::{Model, Rows},
    work::{request::ModelRow, warden::Warden},
};

pub(super) fn list(warden: &Warden) -> Result<Performed> {
    let rows: Vec<ModelRow> =
        warden.store.read(|rows| rows.models()?.into_iter().map(|model| model_row(rows, model)).collect())?;
    Performed::new(&rows)
}

pub(super) fn show(warden: &Warden, named: &str) -> Result<Performed> {
    let row = warden.store.read(|rows| model_row(rows, find(rows, named)?))?;
    Performed::new(&row)
}

/// The model with this identifier, or the newest of this name.
///
/// # Errors
/// `NotFound`, naming the models that there are.
pub(super) fn find(rows: &Rows<'_>, named: &str) -> Result<Model> {
    let by_id = Id::parse_as(IdKind::Model, named).ok().map(|id| rows.model(id)).transpose()?.flatten();
    if let Some(model) = by_id.map_or_else(|| rows.model_named(named), |model| Ok(Some(model)))? {
        return Ok(model);
    }
    let mut names: Vec<String> = rows.models()?.into_iter().map(|model| model.name).collect();
    names.sort_unstable();
    names.dedup();
    let error = Error::not_found(format!("there is no model '{named}'"));
    Err(match names.as_slice() {
        [] => error.remedy("there is none yet: `cloister model pretrain` makes one"),
        names => error.remedy(format!("the models are {}", names.join(", "))),
    })
}

pub(super) fn model_row(rows: &Rows<'_>, model: Model) -> Result<ModelRow> {
    Ok(ModelRow {
        id: model.id,
        name: model.name,
        run: model.run,
        tokenizer: model.tokenizer,
        parameters: model.parameters,
        evaluation: runs::held_out(rows, model.id)?,
        purpose: serde_json::from_value(model.purpose).ok(),
        created_at_ms: model.created_at_ms,
    })
}

/// What an identifier is called, for people who look at a tree of them.
pub(super) fn label(rows: &Rows<'_>, id: Id) -> Result<Option<String>> {
    Ok(match id.kind() {
        IdKind::Document => rows.document(id)?.map(|document| document.name),
        IdKind::Snapshot => rows.snapshot(id)?.map(|snapshot| {
            format!("{} documents, root {}", snapshot.documents, super::hex(&snapshot.merkle_root[..8]))
        }),
        IdKind::Tokenizer => rows.tokenizer(id)?.map(|tokenizer| format!("{} tokens", tokenizer.vocab_size)),
        IdKind::Run => {
            rows.run(id)?.map(|run| format!("{}, {} steps, {}", run.name, run.steps_done, run.state))
        }
        IdKind::Model => rows.model(id)?.map(|model| model.name),
        _ => None,
    })
}
