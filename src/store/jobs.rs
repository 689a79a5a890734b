//! Jobs: long work that somebody asked for, one row each, from the queue to its end.

use rusqlite::params;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Rows, Writes,
    cell::{Place, get, named_column},
};
use crate::base::{Error, Id, Result};

named_column! {
    /// Where a job stands.
    JobState {
        Queued = "queued",
        Running = "running",
        /// Stopped on request, or cut off with the warden; what it had reported done is kept.
        Interrupted = "interrupted",
        Failed = "failed",
        Cancelled = "cancelled",
        Done = "done",
    }
}

/// A piece of long work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: Id,
    /// The request's name: `data.ingest`, `model.pretrain`.
    pub kind: String,
    pub state: JobState,
    /// Who asked: a token's identifier, or `local:UID`.
    pub actor: String,
    /// The training run it works on.
    pub run: Option<Id>,
    pub created_at_ms: u64,
    pub started_at_ms: Option<u64>,
    pub ended_at_ms: Option<u64>,
    pub request: Value,
    pub error: Option<Error>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    request: Value,
    error: Option<Error>,
}

const TABLE: &str = "jobs";

impl Rows<'_> {
    pub fn job(&self, id: Id) -> Result<Option<Job>> {
        self.one("SELECT * FROM jobs WHERE id = ?1", [id], |row| self.job_row(row))
    }

    /// The newest `limit`, newest first.
    pub fn jobs(&self, limit: u32) -> Result<Vec<Job>> {
        self.all("SELECT * FROM jobs ORDER BY id DESC LIMIT ?1", [limit], |row| self.job_row(row))
    }

    fn job_row(&self, row: &rusqlite::Row<'_>) -> Result<Job> {
        let id: Id = get(row, "id")?;
        let content: Content = self.content_of(TABLE, &id.to_string(), row)?;
        Ok(Job {
            id,
            kind: get(row, "kind")?,
            state: get(row, "state")?,
            actor: get(row, "actor")?,
            run: get(row, "run")?,
            created_at_ms: get(row, "created_at_ms")?,
            started_at_ms: get(row, "started_at_ms")?,
            ended_at_ms: get(row, "ended_at_ms")?,
            request: content.request,
            error: content.error,
        })
    }
}

impl Writes<'_> {
    pub fn add_job(&self, id: Id, kind: &str, actor: &str, request: &Value, now_ms: u64) -> Result<()> {
        let content = Content { request: request.clone(), error: None };
        let sealed = self.seal_cell(&Place { table: TABLE, row: &id.to_string(), version: 1 }, &content)?;
        self.execute(
            "INSERT INTO jobs (id, kind, state, actor, created_at_ms, version, content)
             VALUES (?1, ?2, 'queued', ?3, ?4, 1, ?5)",
            params![id, kind, actor, now_ms, sealed],
        )?;
        Ok(())
    }

    /// From the queue to work.
    pub fn start_job(&self, id: Id, now_ms: u64) -> Result<()> {
        self.execute_one(
            &id,
            "UPDATE jobs SET state = 'running', started_at_ms = ?2 WHERE id = ?1 AND state = 'queued'",
            params![id, now_ms],
        )
    }

    pub fn set_job_run(&self, id: Id, run: Id) -> Result<()> {
        self.execute_one(&id, "UPDATE jobs SET run = ?2 WHERE id = ?1", params![id, run])
    }

    pub fn end_job(&self, id: Id, state: JobState, error: Option<&Error>, now_ms: u64) -> Result<()> {
        if let Some(error) = error {
            self.set_job_error(id, error)?;
        }
        self.execute_one(
            &id,
            "UPDATE jobs SET state = ?2, ended_at_ms = ?3 WHERE id = ?1 AND state IN ('queued', 'running')",
            params![id, state, now_ms],
        )
    }

    /// Jobs that nothing works on any more, at start; returns them.
    pub fn interrupt_jobs(&self, now_ms: u64) -> Result<Vec<Id>> {
        let cut_off =
            self.all("SELECT id FROM jobs WHERE state IN ('queued', 'running') ORDER BY id", [], |row| {
                get(row, "id")
            })?;
        for &id in &cut_off {
            self.end_job(id, JobState::Interrupted, None, now_ms)?;
        }
        Ok(cut_off)
    }

    fn set_job_error(&self, id: Id, error: &Error) -> Result<()> {
        let job = self.job(id)?.ok_or_else(|| Error::not_found(format!("there is no job {id}")))?;
        self.reseal(TABLE, id, &Content { request: job.request, error: Some(error.clone()) })
    }

    /// Rewrites what jobs quote, in their requests and failures: `redact` says what a text becomes, or that it stays.
    /// Returns how many jobs were changed.
    pub fn redact_jobs(&self, redact: &dyn Fn(&str) -> Option<String>) -> Result<u64> {
        let contents = self.all("SELECT id, version, content FROM jobs ORDER BY id", [], |row| {
            let id: Id = get(row, "id")?;
            Ok((id, self.content_of::<Value>(TABLE, &id.to_string(), row)?))
        })?;
        let mut changed = 0;
        for (id, mut content) in contents {
            if redact_texts(&mut content, redact) {
                self.reseal(TABLE, id, &content)?;
                changed += 1;
            }
        }
        Ok(changed)
    }
}

/// Whether anything in `value` was rewritten.
fn redact_texts(value: &mut Value, redact: &dyn Fn(&str) -> Option<String>) -> bool {
    match value {
        Value::String(text) => redact(text).map(|redacted| *text = redacted).is_some(),
        Value::Array(items) => items.iter_mut().fold(false, |any, item| redact_texts(item, redact) | any),
        Value::Object(fields) => {
            fields.values_mut().fold(false, |any, item| redact_texts(item, redact) | any)
        }
        _ => false,
    }
}
