//! Models: what is there, what each is called and for, and text from them.

use std::path::Path;

use serde_json::Value;

use super::{Performed, runs};
use crate::{
    base::{Error, Id, IdKind, Monitor, Result, hex},
    store::{DocumentState, Edge, Made, Model, Relation, Rows, TokenizerRow},
    work::{
        host::Leave,
        import::{ImportOutcome, ImportSpec},
        jobs,
        policy::Actor,
        protocol::Task,
        request::{ModelRow, Request},
        warden::Warden,
    },
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
        erased: erased(rows, model.run)?,
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

/// How many documents that a run learned from were erased since.
pub(super) fn erased(rows: &Rows<'_>, run: Option<Id>) -> Result<u64> {
    let run = run.map(|run| rows.run(run)).transpose()?.flatten();
    let erased = run.map(|run| rows.erased_members(run.snapshot)).transpose()?.unwrap_or_default();
    Ok(erased.len() as u64)
}

/// What an identifier is called, for people who look at a tree of them.
pub(super) fn label(rows: &Rows<'_>, id: Id) -> Result<Option<String>> {
    Ok(match id.kind() {
        IdKind::Document => rows.document(id)?.map(|document| match document.state {
            DocumentState::Erased => "(erased)".to_owned(),
            _ => document.name,
        }),
        IdKind::Snapshot => rows.snapshot(id)?.map(|snapshot| {
            format!("{} documents, root {}", snapshot.documents, hex(&snapshot.merkle_root[..8]))
        }),
        IdKind::Tokenizer => rows.tokenizer(id)?.map(|tokenizer| format!("{} tokens", tokenizer.vocab_size)),
        IdKind::Run => {
            rows.run(id)?.map(|run| format!("{}, {} steps, {}", run.name, run.steps_done, run.state))
        }
        IdKind::Model => rows.model(id)?.map(|model| model.name),
        IdKind::Deployment => rows.deployment(id)?.map(|deployment| {
            let by = deployment.basis().map(|basis| format!(", {basis}")).unwrap_or_default();
            format!("{}, {}{by}", deployment.name, deployment.state)
        }),
        _ => None,
    })
}

pub(super) fn import(
    warden: &Warden,
    actor: &Actor,
    request: &Request,
    directory: &Path,
    name: &str,
    monitor: &dyn Monitor,
) -> Result<Performed> {
    check_name(name)?;
    jobs::run(warden, actor, request, monitor, |job| {
        let leave = Leave { create: &[IdKind::Model, IdKind::Tokenizer], ..Leave::default() };
        let spec = ImportSpec { directory: directory.to_owned() };
        let outcome: ImportOutcome = job.stage(Task::Import(spec), leave)?;
        let (now, by) = (warden.now_ms(), actor.person());
        let row = warden.store.write(|rows| {
            rows.keep_object(outcome.tokenizer)?;
            rows.add_tokenizer(&TokenizerRow {
                id: outcome.tokenizer,
                snapshot: None,
                vocab_size: outcome.vocab_size,
                bytes_per_token: None,
                created_at_ms: now,
                made_by: Some(by.clone()),
            })?;
            rows.keep_object(outcome.model)?;
            let model = Model {
                id: outcome.model,
                run: None,
                tokenizer: Some(outcome.tokenizer),
                parameters: outcome.parameters,
                bits_per_byte: None,
                created_at_ms: now,
                name: name.to_owned(),
                purpose: Value::Null,
                details: serde_json::json!({
                    "imported_from": directory,
                    "config": outcome.config,
                    "chat_template": outcome.chat_template,
                }),
                makers: vec![
                    Made { object: outcome.model, by: Some(by.clone()) },
                    Made { object: outcome.tokenizer, by: Some(by) },
                ],
            };
            rows.add_model(&model)?;
            let edge = Edge { parent: outcome.tokenizer, child: outcome.model, relation: Relation::UsedBy };
            rows.add_edge(edge, now)?;
            model_row(rows, model)
        })?;
        Ok(Performed::new(&row)?.made(outcome.model))
    })
}

/// # Errors
/// `Usage` for what could not be told from an identifier, or would not print.
pub(super) fn check_name(name: &str) -> Result<()> {
    let printable = !name.is_empty() && name.len() <= 200 && !name.chars().any(char::is_control);
    if printable && name.trim() == name && name.parse::<Id>().is_err() {
        return Ok(());
    }
    Err(Error::usage("a model's name is 1 to 200 bytes of printable text, and no identifier"))
}
