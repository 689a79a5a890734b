//! What is on record: the state of the installation, lineage, the audit log, feedback and jobs.

use std::collections::BTreeMap;

use super::{Performed, data, models, runs, tokenizers};
use crate::{
    auditlog::{self, Consistency},
    base::{Error, Id, Monitor, Result, hex},
    store::{Direction, FeedbackState, Job, Step},
    work::{
        policy::Actor,
        request::{AuditReport, AuditRow, CollectionRow, FeedbackRow, JobRow, Lineage, LineageEdge, Status},
        warden::Warden,
    },
};

/// How many jobs `job ls` shows, newest first.
const JOBS_SHOWN: u32 = 200;
const ENTRIES_SHOWN_MAX: u64 = 100_000;

pub(super) fn status(warden: &Warden) -> Result<Performed> {
    let status = warden.store.read(|rows| {
        let mut refused: BTreeMap<i64, u64> = BTreeMap::new();
        for row in rows.quarantine(None)? {
            *refused.entry(row.collection).or_default() += 1;
        }
        let collections = rows.collections()?.into_iter().map(|collection| CollectionRow {
            quarantined: refused.get(&collection.number).copied().unwrap_or(0),
            name: collection.name,
            documents: collection.documents,
            text_bytes: collection.text_bytes,
        });
        let names = data::collection_names(rows)?;
        let tokenizers: Result<Vec<_>> =
            rows.tokenizers()?.into_iter().map(|row| tokenizers::row(rows, row, &names)).collect();
        let runs: Result<Vec<_>> =
            rows.runs()?.into_iter().map(|run| runs::run_row(rows, run, &names)).collect();
        let models: Result<Vec<_>> =
            rows.models()?.into_iter().map(|model| models::model_row(rows, model)).collect();
        Ok(Status {
            install: warden.install(),
            trial_key: warden.has_trial_key(),
            collections: collections.collect(),
            tokenizers: tokenizers?,
            runs: runs?,
            models: models?,
        })
    })?;
    Performed::new(&status)
}

pub(super) fn lineage(warden: &Warden, id: Id) -> Result<Performed> {
    let edges = |steps: Vec<Step>| {
        steps
            .into_iter()
            .map(|step| LineageEdge {
                depth: step.depth,
                parent: step.edge.parent,
                child: step.edge.child,
                relation: step.edge.relation.to_string(),
                created_at_ms: step.created_at_ms,
            })
            .collect::<Vec<_>>()
    };
    let lineage = warden.store.read(|rows| {
        let up = edges(rows.lineage(id, Direction::Up)?);
        let down = edges(rows.lineage(id, Direction::Down)?);
        if up.is_empty() && down.is_empty() && !rows.is_known(id)? {
            return Err(Error::not_found(format!("nothing here is called {id}")));
        }
        let mut labels = BTreeMap::new();
        let ends = up.iter().chain(&down).flat_map(|edge| [edge.parent, edge.child]);
        for node in ends.chain([id]) {
            if let Some(label) = models::label(rows, node)? {
                labels.insert(node, label);
            }
        }
        Ok(Lineage { id, up, down, labels })
    })?;
    Performed::new(&lineage)
}

pub(super) fn audit_verify(warden: &Warden) -> Result<Performed> {
    let directory = warden.data_dir.join("audit");
    let report = auditlog::verify(&directory, &warden.log.key(), &[])?.into_result()?;
    let root = hex(&report.root);
    Performed::new(&AuditReport { entries: report.entries, root })
}

pub(super) fn audit_list(warden: &Warden, from: Option<u64>, limit: u64) -> Result<Performed> {
    let limit = limit.min(ENTRIES_SHOWN_MAX);
    let from = from.unwrap_or_else(|| warden.log.size().saturating_sub(limit));
    let mut rows = Vec::new();
    for entry in auditlog::read(&warden.data_dir.join("audit"), from)?.take(limit as usize) {
        let (number, entry) = entry?;
        let detail =
            entry.detail.keys().map(|name| (name.clone(), warden.detail_text(&entry, name))).collect();
        rows.push(AuditRow {
            number,
            at_ms: entry.at_ms,
            actor: entry.actor,
            action: entry.action,
            object: entry.object,
            outcome: format!("{:?}", entry.outcome).to_lowercase(),
            detail,
        });
    }
    Performed::new(&rows)
}

pub(super) fn audit_checkpoint(warden: &Warden) -> Result<Performed> {
    Performed::new(&warden.log.checkpoint())
}

pub(super) fn audit_key(warden: &Warden) -> Result<Performed> {
    Performed::new(&warden.log.key().to_string())
}

/// The lines themselves, which prove themselves, or a table of the entries, which only says what they say.
pub(super) fn audit_export(warden: &Warden, table: bool, monitor: &dyn Monitor) -> Result<Performed> {
    let extent = warden.log.extent()?;
    if table {
        monitor.text(&auditlog::table_line(&auditlog::COLUMNS.map(str::to_owned))?);
        let entries = auditlog::read(&warden.data_dir.join("audit"), 0)?;
        for entry in entries.take(usize::try_from(extent.entries).unwrap_or(usize::MAX)) {
            let (number, entry) = entry?;
            monitor.text(&auditlog::table_line(&auditlog::table_cells(number, &entry)?)?);
        }
    } else {
        auditlog::export(&extent, &mut |lines| {
            monitor.text(lines);
            Ok(())
        })?;
    }
    let checkpoint = warden.log.key().open_checkpoint(&extent.checkpoint)?;
    let report = AuditReport { entries: checkpoint.size, root: hex(&checkpoint.root) };
    Ok(Performed::new(&report)?.detail("entries", checkpoint.size))
}

pub(super) fn audit_prove(warden: &Warden, since: &str) -> Result<Performed> {
    let (key, directory) = (warden.log.key(), warden.data_dir.join("audit"));
    let earlier = key.open_checkpoint(since)?;
    Performed::new(&Consistency::prove(&directory, &key, earlier.size, warden.log.checkpoint())?)
}

pub(super) fn feedback(warden: &Warden, state: Option<&str>) -> Result<Performed> {
    let state = state.map(parse_state).transpose()?;
    let feedback = warden.store.read(|rows| rows.feedback(state))?;
    Performed::new(&feedback.into_iter().map(feedback_row).collect::<Vec<_>>())
}

pub(super) fn review_feedback(
    warden: &Warden,
    actor: &Actor,
    feedback: Id,
    accept: bool,
) -> Result<Performed> {
    let state = if accept { FeedbackState::Accepted } else { FeedbackState::Rejected };
    let reviewed = warden.store.write(|rows| {
        rows.set_feedback_state(feedback, state, &actor.to_string(), warden.now_ms())?;
        Ok(rows.feedback(Some(state))?.into_iter().find(|row| row.id == feedback))
    })?;
    let row = reviewed.ok_or_else(|| Error::not_found(format!("there is no feedback {feedback}")))?;
    Ok(Performed::new(&feedback_row(row))?.detail("state", state.as_str()))
}

pub(super) fn jobs(warden: &Warden) -> Result<Performed> {
    let jobs = warden.store.read(|rows| rows.jobs(JOBS_SHOWN))?;
    Performed::new(&jobs.into_iter().map(job_row).collect::<Vec<_>>())
}

pub(super) fn job(warden: &Warden, job: Id) -> Result<Performed> {
    Performed::new(&job_row(find_job(warden, job)?))
}

pub(super) fn cancel_job(warden: &Warden, job: Id) -> Result<Performed> {
    let found = find_job(warden, job)?;
    if !warden.jobs.cancel(job) {
        return Err(Error::usage(format!("job {job} is {}, it cannot be cancelled", found.state)));
    }
    Performed::new(&job_row(found))
}

fn find_job(warden: &Warden, job: Id) -> Result<Job> {
    warden.store.read(|rows| rows.job(job))?.ok_or_else(|| {
        Error::not_found(format!("there is no job {job}")).remedy("`cloister job ls` shows them")
    })
}

fn job_row(job: Job) -> JobRow {
    JobRow {
        id: job.id,
        kind: job.kind,
        state: job.state.to_string(),
        actor: job.actor,
        run: job.run,
        created_at_ms: job.created_at_ms,
        ended_at_ms: job.ended_at_ms,
        error: job.error.map(|error| error.to_string()),
    }
}

fn feedback_row(feedback: crate::store::Feedback) -> FeedbackRow {
    FeedbackRow {
        id: feedback.id,
        answer: feedback.answer,
        rating: feedback.rating,
        correction: feedback.correction,
        comment: feedback.comment,
        state: feedback.state.to_string(),
        created_at_ms: feedback.created_at_ms,
    }
}

fn parse_state(text: &str) -> Result<FeedbackState> {
    FeedbackState::ALL.iter().copied().find(|state| state.as_str() == text).ok_or_else(|| {
        Error::usage(format!("feedback has no state '{text}'"))
            .remedy("the states are new, accepted, rejected")
    })
}
