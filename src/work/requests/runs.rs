//! Training runs.

use std::collections::HashMap;

use crate::{
    base::{Context, Id, Result},
    store::{Rows, Run},
    work::request::{Evaluation, RunRow},
};

/// The kind of the evaluation that every run ends with.
const HELD_OUT: &str = "held-out text";

pub(super) fn run_row(rows: &Rows<'_>, run: Run, names: &HashMap<i64, String>) -> Result<RunRow> {
    let collection =
        rows.snapshot(run.snapshot)?.and_then(|snapshot| names.get(&snapshot.collection).cloned());
    let model = rows.model_of_run(run.id)?.map(|model| model.id);
    let evaluation = model.map(|model| held_out(rows, model)).transpose()?.flatten();
    Ok(RunRow {
        id: run.id,
        name: run.name,
        collection: collection.unwrap_or_default(),
        snapshot: run.snapshot,
        tokenizer: run.tokenizer,
        state: run.state.to_string(),
        steps_done: run.steps_done,
        steps_total: run.steps_total,
        parameters: run.parameters,
        tokens_seen: run.tokens_seen,
        elapsed_s: run.elapsed_s,
        model,
        evaluation,
    })
}

/// The newest evaluation of a model on held-out text.
pub(super) fn held_out(rows: &Rows<'_>, model: Id) -> Result<Option<Evaluation>> {
    let newest = rows.evaluations(model)?.into_iter().rfind(|evaluation| evaluation.kind == HELD_OUT);
    newest.map(|row| serde_json::from_value(row.metrics).context("reading an evaluation")).transpose()
}
