//! Training runs, and the facts that long work states to outlive its process: which checkpoints stand, say.

use rusqlite::params;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Made, Rows, Writes,
    cell::{Place, get, named_column},
    makers,
};
use crate::base::{Id, Result};

named_column! {
    /// Where a run stands.
    RunState {
        Running = "running",
        /// Stopped or cut off; it resumes from its newest checkpoint.
        Interrupted = "interrupted",
        Failed = "failed",
        Done = "done",
    }
}

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub id: Id,
    pub snapshot: Id,
    pub tokenizer: Id,
    pub state: RunState,
    pub started_at_ms: u64,
    pub ended_at_ms: Option<u64>,
    pub steps_done: u64,
    pub steps_total: u64,
    pub parameters: u64,
    pub tokens_seen: u64,
    /// Time spent training.
    pub elapsed_s: f64,
    pub name: String,
    /// Who it is for, what it is for, what it is not for.
    pub purpose: Value,
    /// Everything the trainer needs to go on.
    pub config: Value,
    /// Who began it, went on with it, and made what it learns with.
    pub makers: Vec<Made>,
}

/// A run that is about to start.
#[derive(Clone, Debug)]
pub struct NewRun<'a> {
    pub id: Id,
    pub snapshot: Id,
    pub tokenizer: Id,
    pub started_at_ms: u64,
    pub name: &'a str,
    pub purpose: &'a Value,
    pub config: &'a Value,
    pub makers: &'a [Made],
}

#[derive(Serialize, Deserialize)]
struct Content {
    name: String,
    purpose: Value,
    config: Value,
    #[serde(default)]
    makers: Vec<Made>,
}

const TABLE: &str = "runs";

impl Rows<'_> {
    pub fn run(&self, id: Id) -> Result<Option<Run>> {
        self.one("SELECT * FROM runs WHERE id = ?1", [id], |row| self.run_row(row))
    }

    /// Oldest first.
    pub fn runs(&self) -> Result<Vec<Run>> {
        self.all("SELECT * FROM runs ORDER BY id", [], |row| self.run_row(row))
    }

    /// The last fact of this kind that the owner stated.
    pub fn fact(&self, owner: Id, kind: &str) -> Result<Option<Value>> {
        let key = format!("{owner}|{kind}");
        self.one("SELECT * FROM facts WHERE owner = ?1 AND kind = ?2", params![owner, kind], |row| {
            self.content_of("facts", &key, row)
        })
    }

    /// The facts of one kind, whoever stated them.
    pub fn facts_of_kind(&self, kind: &str) -> Result<Vec<Value>> {
        self.all("SELECT * FROM facts WHERE kind = ?1 ORDER BY owner", [kind], |row| {
            let owner: Id = get(row, "owner")?;
            self.content_of("facts", &format!("{owner}|{kind}"), row)
        })
    }

    fn run_row(&self, row: &rusqlite::Row<'_>) -> Result<Run> {
        let id: Id = get(row, "id")?;
        let content: Content = self.content_of(TABLE, &id.to_string(), row)?;
        Ok(Run {
            id,
            snapshot: get(row, "snapshot")?,
            tokenizer: get(row, "tokenizer")?,
            state: get(row, "state")?,
            started_at_ms: get(row, "started_at_ms")?,
            ended_at_ms: get(row, "ended_at_ms")?,
            steps_done: get(row, "steps_done")?,
            steps_total: get(row, "steps_total")?,
            parameters: get(row, "parameters")?,
            tokens_seen: get(row, "tokens_seen")?,
            elapsed_s: get(row, "elapsed_s")?,
            name: content.name,
            purpose: content.purpose,
            config: content.config,
            makers: makers::stated(content.makers, id),
        })
    }
}

impl Writes<'_> {
    pub fn add_run(&self, new: &NewRun<'_>) -> Result<()> {
        let content = Content {
            name: new.name.to_owned(),
            purpose: new.purpose.clone(),
            config: new.config.clone(),
            makers: new.makers.to_vec(),
        };
        let sealed =
            self.seal_cell(&Place { table: TABLE, row: &new.id.to_string(), version: 1 }, &content)?;
        self.execute(
            "INSERT INTO runs (id, snapshot, tokenizer, state, started_at_ms, steps_done, steps_total,
                               parameters, tokens_seen, elapsed_s, version, content)
             VALUES (?1, ?2, ?3, 'running', ?4, 0, 0, 0, 0, 0, 1, ?5)",
            params![new.id, new.snapshot, new.tokenizer, new.started_at_ms, sealed],
        )?;
        Ok(())
    }

    /// Remembers who works on a run beside those who did.
    pub fn add_run_maker(&self, run: Run, by: &str) -> Result<()> {
        let made = Made { object: run.id, by: Some(by.to_owned()) };
        if run.makers.contains(&made) {
            return Ok(());
        }
        let Run { id, name, purpose, config, mut makers, .. } = run;
        makers.push(made);
        self.reseal(TABLE, id, &Content { name, purpose, config, makers })
    }

    /// Moves a run on; `ended_at_ms` of None means that it runs again.
    pub fn set_run_state(&self, id: Id, state: RunState, ended_at_ms: Option<u64>) -> Result<()> {
        self.execute_one(
            &id,
            "UPDATE runs SET state = ?2, ended_at_ms = ?3 WHERE id = ?1",
            params![id, state, ended_at_ms],
        )
    }

    pub fn set_run_steps(&self, id: Id, steps_done: u64, steps_total: u64) -> Result<()> {
        self.execute_one(
            &id,
            "UPDATE runs SET steps_done = ?2, steps_total = ?3 WHERE id = ?1",
            params![id, steps_done, steps_total],
        )
    }

    pub fn set_run_totals(&self, id: Id, parameters: u64, tokens_seen: u64, elapsed_s: f64) -> Result<()> {
        self.execute_one(
            &id,
            "UPDATE runs SET parameters = ?2, tokens_seen = ?3, elapsed_s = ?4 WHERE id = ?1",
            params![id, parameters, tokens_seen, elapsed_s],
        )
    }

    /// Runs that nothing works on any more, at start.
    pub fn interrupt_runs(&self, now_ms: u64) -> Result<usize> {
        self.execute(
            "UPDATE runs SET state = 'interrupted', ended_at_ms = ?1 WHERE state = 'running'",
            [now_ms],
        )
    }

    /// States a fact in place of the owner's last one of this kind.
    pub fn set_fact(&self, owner: Id, kind: &str, fact: &Value, now_ms: u64) -> Result<()> {
        let key = format!("{owner}|{kind}");
        let last = self.one(
            "SELECT version FROM facts WHERE owner = ?1 AND kind = ?2",
            params![owner, kind],
            |row| get::<u32>(row, "version"),
        )?;
        let version = last.map_or(1, |last| last + 1);
        let sealed = self.seal_cell(&Place { table: "facts", row: &key, version }, fact)?;
        self.execute(
            "INSERT OR REPLACE INTO facts (owner, kind, stated_at_ms, version, content)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            params![owner, kind, now_ms, version, sealed],
        )?;
        Ok(())
    }
}
