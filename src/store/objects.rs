//! Which sealed objects the appliance means to keep. An object is `staged` while its job runs and `kept` once the
//! rows that give it meaning are written; start-up deletes whatever is staged without a job, or unknown here.

use std::collections::HashSet;

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{
    Rows, Writes,
    cell::{get, named_column},
};
use crate::base::{Id, Result};

named_column! {
    /// Whether an object is part of what was acknowledged.
    ObjectState {
        Staged = "staged",
        Kept = "kept",
    }
}

/// A sealed object as the database knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    pub id: Id,
    pub state: ObjectState,
    pub job: Option<Id>,
}

impl Rows<'_> {
    pub fn object(&self, id: Id) -> Result<Option<StoredObject>> {
        self.one("SELECT * FROM objects WHERE id = ?1", [id], object_row)
    }

    /// What a job has written and nobody has kept yet.
    pub fn staged_objects(&self, job: Id) -> Result<Vec<Id>> {
        self.all("SELECT id FROM objects WHERE state = 'staged' AND job = ?1 ORDER BY id", [job], |row| {
            get(row, "id")
        })
    }

    pub fn kept_objects(&self) -> Result<HashSet<Id>> {
        let ids = self.all("SELECT id FROM objects WHERE state = 'kept'", [], |row| get(row, "id"))?;
        Ok(ids.into_iter().collect())
    }
}

impl Writes<'_> {
    pub fn add_object(&self, id: Id, state: ObjectState, job: Option<Id>, now_ms: u64) -> Result<()> {
        self.execute(
            "INSERT INTO objects (id, state, job, created_at_ms) VALUES (?1, ?2, ?3, ?4)",
            params![id, state, job, now_ms],
        )?;
        Ok(())
    }

    pub fn keep_object(&self, id: Id) -> Result<()> {
        self.execute_one(&id, "UPDATE objects SET state = 'kept' WHERE id = ?1", [id])
    }

    pub fn remove_object(&self, id: Id) -> Result<()> {
        self.execute("DELETE FROM objects WHERE id = ?1", [id])?;
        Ok(())
    }

    /// Forgets whatever was staged, at start, when no job runs.
    pub fn remove_staged_objects(&self) -> Result<usize> {
        self.execute("DELETE FROM objects WHERE state = 'staged'", [])
    }
}

fn object_row(row: &rusqlite::Row<'_>) -> Result<StoredObject> {
    Ok(StoredObject { id: get(row, "id")?, state: get(row, "state")?, job: get(row, "job")? })
}
