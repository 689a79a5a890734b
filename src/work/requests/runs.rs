//! Runs: planning one, training one, going on with one that stopped. What came of it is written down the moment it
//! stands: the model with its lineage first, then what it scores on held-out text.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{
    Performed,
    data::collection_names,
    models,
    prepare::{self, Prepared},
    reached,
};
use crate::{
    base::{Context, Error, ErrorKind, Id, IdKind, Monitor, Result},
    evaluate::{EvaluateOutcome, EvaluateSpec},
    seal::new_id,
    store::{self, Direction, Edge, Made, NewRun, Relation, Rows, Run, RunState},
    train::{
        RunConfig,
        plan::{Plan, PlanSpec},
        pretrain::{Checkpoints, PretrainOutcome, PretrainSpec},
    },
    work::{
        host::{Leave, ids_in},
        jobs::{self, Job},
        policy::Actor,
        protocol::Task,
        request::{Evaluation, Pretrain, Request, RunRow},
        warden::Warden,
    },
};

/// The kind of the evaluation that every run ends with.
const HELD_OUT: &str = "held-out text";

pub(super) fn plan(
    warden: &Warden,
    actor: &Actor,
    request: &Request,
    pretrain: &Pretrain,
    monitor: &dyn Monitor,
) -> Result<Performed> {
    jobs::run(warden, actor, request, monitor, |job| {
        let Prepared { tokenizer, shards, documents, .. } = prepare::all(job, pretrain)?;
        let spec = PlanSpec {
            config: pretrain.config.clone(),
            tokenizer,
            shards: shards.clone(),
            device: warden.device,
            threads: warden.threads,
        };
        let read = shards.into_iter().chain([tokenizer]).collect();
        let leave = Leave { read, extents: documents, ..Leave::default() };
        let plan: Plan = job.stage(Task::Plan(Box::new(spec)), leave)?;
        Performed::new(&plan)
    })
}

pub(super) fn start(
    warden: &Warden,
    actor: &Actor,
    request: &Request,
    pretrain: &Pretrain,
    monitor: &dyn Monitor,
) -> Result<Performed> {
    models::check_name(&pretrain.name)?;
    let purpose = pretrain.config.stated_purpose()?.clone();
    jobs::run(warden, actor, request, monitor, |job| {
        let prepared = prepare::all(job, pretrain)?;
        let id = new_id(IdKind::Run)?;
        let now = warden.now_ms();
        warden.store.write(|rows| {
            let made_by = rows.tokenizer(prepared.tokenizer)?.and_then(|tokenizer| tokenizer.made_by);
            rows.add_run(&NewRun {
                id,
                snapshot: prepared.snapshot,
                tokenizer: prepared.tokenizer,
                started_at_ms: now,
                name: &pretrain.name,
                purpose: &json(&purpose)?,
                config: &json(&pretrain.config)?,
                makers: &[
                    Made { object: id, by: Some(actor.person()) },
                    Made { object: prepared.tokenizer, by: made_by },
                ],
            })?;
            for &parent in prepared.shards.iter().chain([&prepared.tokenizer]) {
                rows.add_edge(Edge { parent, child: id, relation: Relation::ReadBy }, now)?;
            }
            Ok(())
        })?;
        train(job, id, prepared, &pretrain.config, None)
    })
}

pub(super) fn resume(
    warden: &Warden,
    actor: &Actor,
    request: &Request,
    wanted: Option<Id>,
    monitor: &dyn Monitor,
) -> Result<Performed> {
    let run = warden.store.read(|rows| {
        let stopped = |run: &Run| run.state == RunState::Interrupted;
        let found = match wanted {
            Some(id) => rows.run(id)?.ok_or_else(|| Error::not_found(format!("there is no run {id}")))?,
            None => rows.runs()?.into_iter().rfind(stopped).ok_or_else(|| {
                Error::usage("no run was stopped").remedy("`cloister model pretrain` starts one")
            })?,
        };
        if stopped(&found) {
            return Ok(found);
        }
        Err(cannot_go_on(rows, &found)?)
    })?;
    jobs::run(warden, actor, request, monitor, |job| {
        let prepared = prepare::of_run(warden, &run)?;
        let config: RunConfig =
            serde_json::from_value(run.config.clone()).context("reading the configuration of the run")?;
        let fact = warden.store.read(|rows| rows.fact(run.id, Checkpoints::FACT))?;
        let checkpoints = fact
            .map(serde_json::from_value::<Checkpoints>)
            .transpose()
            .context("reading which checkpoints the run has")?;
        let id = run.id;
        warden.store.write(|rows| {
            rows.add_run_maker(run, &actor.person())?;
            rows.set_run_state(id, RunState::Running, None)
        })?;
        train(job, id, prepared, &config, checkpoints)
    })
}

/// What is said of a run that was not stopped, or whose tokens are gone.
fn cannot_go_on(rows: &Rows<'_>, run: &Run) -> Result<Error> {
    let id = run.id;
    if run.state != RunState::Failed || !lost_its_shards(rows, run)? {
        return Ok(Error::usage(format!("run {id} is {}: there is nothing to go on with", run.state)));
    }
    let error = Error::usage(format!(
        "run {id} cannot go on: the token shards that it read were let go by an upgrade, since tokens are now sealed \
         under their documents' keys alone"
    ));
    Ok(match reached::pretrain_anew(rows, run)? {
        Some(command) => {
            error.remedy(format!("a new run of the same configuration makes new ones: {command}"))
        }
        None => error.remedy("nothing is left in its collection to train on"),
    })
}

/// Whether a migration let go of a shard that the run read; its lineage still names it.
fn lost_its_shards(rows: &Rows<'_>, run: &Run) -> Result<bool> {
    let there: HashSet<Id> =
        rows.shards(run.snapshot, run.tokenizer)?.into_iter().map(|shard| shard.id).collect();
    let steps = rows.lineage(run.id, Direction::Up)?;
    let mut read = steps.iter().filter(|step| step.edge.child == run.id).map(|step| step.edge.parent);
    Ok(read.any(|parent| parent.kind() == IdKind::Shard && !there.contains(&parent)))
}

/// Trains, from the beginning or from a checkpoint, and writes down what came of it.
fn train(
    job: &Job<'_>,
    run: Id,
    prepared: Prepared,
    config: &RunConfig,
    resume: Option<Checkpoints>,
) -> Result<Performed> {
    let warden = job.warden;
    job.works_on(run)?;
    let checkpoints: Vec<Id> = resume.as_ref().map(json).transpose()?.iter().flat_map(ids_in).collect();
    let leave = Leave {
        read: prepared.shards.iter().copied().chain([prepared.tokenizer]).chain(checkpoints).collect(),
        extents: prepared.documents.clone(),
        create: &[IdKind::Checkpoint, IdKind::Model],
        facts_of: Some(run),
        ..Leave::default()
    };
    let spec = PretrainSpec {
        run,
        config: config.clone(),
        tokenizer: prepared.tokenizer,
        shards: prepared.shards.clone(),
        device: warden.device,
        threads: warden.threads,
        resume,
    };
    let outcome: Result<PretrainOutcome> = job.stage(Task::Pretrain(Box::new(spec)), leave);
    let outcome = outcome.map_err(|error| stopped(warden, run, error))?;
    finish(job, &prepared, &outcome)?;
    if outcome.heldout.is_some() {
        evaluate(job, &prepared, outcome.model)?;
    }
    let row = warden.store.read(|rows| {
        let found = rows.run(run)?.ok_or_else(|| Error::not_found(format!("there is no run {run}")))?;
        run_row(rows, found, &collection_names(rows)?)
    })?;
    Ok(Performed::new(&row)?
        .made(outcome.model)
        .detail("run", run.to_string())
        .detail("vault_epoch", warden.vault.root().epoch))
}

/// Writes down that a run ended early, and says how to go on.
fn stopped(warden: &Warden, run: Id, error: Error) -> Error {
    let resumable = matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Unavailable);
    let state = if resumable { RunState::Interrupted } else { RunState::Failed };
    let written = warden.store.write(|rows| rows.set_run_state(run, state, Some(warden.now_ms())));
    if let Err(also) = written {
        // The next start of the warden calls it interrupted.
        return error.context(format!("writing down that the run ended failed too ({also})"));
    }
    if !resumable {
        return error;
    }
    let go_on = format!("`cloister model resume {run}` goes on from its newest checkpoint");
    let remedy = match error.remedy_text() {
        Some(first) if error.kind() != ErrorKind::Interrupted => format!("{first}; {go_on}"),
        _ => go_on,
    };
    Error::new(error.kind(), error.to_string()).remedy(remedy)
}

/// The model's row, its lineage and the end of the run, in one transaction.
fn finish(job: &Job<'_>, prepared: &Prepared, outcome: &PretrainOutcome) -> Result<()> {
    let warden = job.warden;
    let now = warden.now_ms();
    let PretrainOutcome { run, model, .. } = *outcome;
    warden.store.write(|rows| {
        let found = rows.run(run)?.ok_or_else(|| Error::not_found(format!("there is no run {run}")))?;
        let mut makers = found.makers;
        // Whatever the database says of it by now.
        let here = Made { object: run, by: Some(job.actor.person()) };
        if !makers.contains(&here) {
            makers.push(here);
        }
        rows.keep_object(model)?;
        rows.add_model(&store::Model {
            id: model,
            run: Some(run),
            tokenizer: Some(prepared.tokenizer),
            parameters: outcome.parameters,
            bits_per_byte: outcome.heldout.map(|held_out| held_out.bits_per_byte),
            created_at_ms: now,
            name: found.name,
            purpose: found.purpose,
            details: serde_json::json!({ "recipe": outcome.recipe, "step": outcome.model_step }),
            makers,
        })?;
        rows.add_edge(Edge { parent: run, child: model, relation: Relation::Produced }, now)?;
        rows.add_edge(Edge { parent: prepared.tokenizer, child: model, relation: Relation::UsedBy }, now)?;
        rows.set_run_steps(run, outcome.steps_done, outcome.recipe.steps)?;
        rows.set_run_totals(run, outcome.parameters, outcome.tokens_seen, outcome.elapsed_s)?;
        rows.set_run_state(run, RunState::Done, Some(now))
    })
}

/// The model's held-out bits per byte beside those of what does not learn.
fn evaluate(job: &Job<'_>, prepared: &Prepared, model: Id) -> Result<()> {
    let warden = job.warden;
    let Prepared { snapshot, tokenizer, shards, documents } = prepared;
    let spec = EvaluateSpec {
        model,
        tokenizer: *tokenizer,
        shards: shards.clone(),
        device: warden.device,
        threads: warden.threads,
    };
    let leave = Leave {
        read: shards.iter().copied().chain([*tokenizer, model]).collect(),
        extents: documents.clone(),
        ..Leave::default()
    };
    let outcome: EvaluateOutcome = job.stage(Task::Evaluate(spec), leave)?;
    let evaluation = Evaluation {
        held_out_bits_per_byte: outcome.heldout.bits_per_byte,
        unigram_bits_per_byte: outcome.baselines.unigram,
        order2_bits_per_byte: outcome.baselines.order2,
        gzip_bits_per_byte: outcome.baselines.gzip,
        held_out_bytes: outcome.heldout.bytes,
    };
    let now = warden.now_ms();
    let row = store::Evaluation {
        id: new_id(IdKind::Evaluation)?,
        model,
        snapshot: Some(*snapshot),
        kind: HELD_OUT.to_owned(),
        metrics: json(&evaluation)?,
        created_at_ms: now,
    };
    let edge = Edge { parent: model, child: row.id, relation: Relation::Evaluated };
    warden.store.write(|rows| {
        rows.add_evaluation(&row)?;
        rows.add_edge(edge, now)
    })
}

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
        erased: rows.erased_members(run.snapshot)?.len() as u64,
        model,
        evaluation,
    })
}

/// The newest evaluation of a model on held-out text.
pub(super) fn held_out(rows: &Rows<'_>, model: Id) -> Result<Option<Evaluation>> {
    let newest = rows.evaluations(model)?.into_iter().rfind(|evaluation| evaluation.kind == HELD_OUT);
    newest.map(|row| serde_json::from_value(row.metrics).context("reading an evaluation")).transpose()
}

fn json<T: serde::Serialize>(value: &T) -> Result<Value> {
    serde_json::to_value(value).context("writing a row")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        store::{NewDocument, Shard, Snapshot, TokenizerRow},
        work::tests::{Bench, ask},
    };

    /// A run of two steps over one shard.
    fn run(warden: &Warden, collection: &str, state: RunState) -> Id {
        let [document, snapshot, tokenizer, shard, run] =
            [IdKind::Document, IdKind::Snapshot, IdKind::Tokenizer, IdKind::Shard, IdKind::Run]
                .map(|kind| new_id(kind).unwrap());
        warden
            .store
            .write(|rows| {
                let collection = rows.ensure_collection(collection, 1)?;
                rows.add_document(&NewDocument {
                    id: document,
                    collection,
                    job: None,
                    format: "txt",
                    source_bytes: 1,
                    text_bytes: 1,
                    content_hash: [1; 32],
                    ingested_at_ms: 1,
                    name: "a.txt",
                    subjects: &[],
                    licence: None,
                    remarks: &[],
                })?;
                let manifest = Snapshot {
                    id: snapshot,
                    collection,
                    merkle_root: [7; 32],
                    documents: 1,
                    duplicates: 0,
                    train_bytes: 1,
                    held_out_bytes: 1,
                    created_at_ms: 1,
                    spec: json!({ "clean": { "lower_case": true } }),
                };
                rows.add_snapshot(&manifest, &[document])?;
                rows.add_tokenizer(&TokenizerRow {
                    id: tokenizer,
                    snapshot: Some(snapshot),
                    vocab_size: 300,
                    bytes_per_token: None,
                    created_at_ms: 1,
                    made_by: None,
                })?;
                rows.add_shard(&Shard { id: shard, snapshot, tokenizer, created_at_ms: 1 })?;
                rows.add_run(&NewRun {
                    id: run,
                    snapshot,
                    tokenizer,
                    started_at_ms: 1,
                    name: "tiny",
                    purpose: &json!({}),
                    config: &json!({ "steps": 2 }),
                    makers: &[],
                })?;
                for (parent, child, relation) in [
                    (snapshot, shard, Relation::Tokenized),
                    (tokenizer, shard, Relation::Tokenized),
                    (shard, run, Relation::ReadBy),
                    (tokenizer, run, Relation::ReadBy),
                ] {
                    rows.add_edge(Edge { parent, child, relation }, 1)?;
                }
                rows.set_run_state(run, state, Some(2))
            })
            .unwrap();
        run
    }

    #[test]
    fn a_run_whose_shards_an_upgrade_let_go_says_so_and_names_the_command_of_a_new_one() {
        let bench = Bench::new();
        let warden = bench.init();
        let [stopped, done] = [("mill pond", RunState::Interrupted), ("b", RunState::Done)]
            .map(|(name, state)| run(&warden, name, state));
        drop(warden);
        let migration = include_str!("../../../migrations/0006_carried_tokens.sql");
        rusqlite::Connection::open(bench.path("data").join("cloister.db"))
            .unwrap()
            .execute_batch(migration)
            .unwrap();
        let warden = bench.open();
        // Of a failure since.
        let failed = run(&warden, "c", RunState::Failed);
        let refused = |run| {
            let error = ask(&warden, Request::ModelResume { run: Some(run) }).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains(&run.to_string()), "{error}");
            (error.to_string(), error.remedy_text().map(str::to_owned))
        };
        let (said, remedy) = refused(stopped);
        assert!(said.contains("token shards") && said.contains("upgrade"), "{said}");
        let tokenizer = warden.store.read(|rows| rows.run(stopped)).unwrap().unwrap().tokenizer;
        let command = format!(
            "cloister model pretrain --data 'mill pond' --name tiny --tokenizer {tokenizer} --lower-case --set steps=2"
        );
        assert!(remedy.as_ref().is_some_and(|remedy| remedy.ends_with(&command)), "{remedy:?}");
        for (run, state) in [(done, "done"), (failed, "failed")] {
            let (said, _) = refused(run);
            assert!(said.contains(&format!("is {state}")) && !said.contains("shards"), "{said}");
        }
    }
}
