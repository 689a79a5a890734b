//! Quarantine: inputs that could not be read, one row for each name, gone once that name reads well.

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{
    KeyedHash, Rows, Writes,
    cell::{Place, get},
};
use crate::base::{Id, Result};

/// An input that was refused, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    pub id: Id,
    pub collection: i64,
    /// A word for programs: `encrypted`, `truncated`, `too_large`.
    pub reason_code: String,
    pub source_bytes: u64,
    pub refused_at_ms: u64,
    pub name: String,
    pub format: String,
    /// For people.
    pub reason: String,
}

/// A refusal to be recorded.
#[derive(Clone, Debug)]
pub struct NewQuarantined<'a> {
    pub id: Id,
    pub collection: i64,
    pub job: Option<Id>,
    pub reason_code: &'a str,
    pub source_bytes: u64,
    pub refused_at_ms: u64,
    pub name: &'a str,
    pub format: &'a str,
    pub reason: &'a str,
}

#[derive(Serialize, Deserialize)]
struct Content {
    name: String,
    format: String,
    reason: String,
}

const TABLE: &str = "quarantine";

impl Rows<'_> {
    fn quarantine_hash(&self, name: &str) -> KeyedHash {
        self.keyed_hash("document name", name.as_bytes())
    }

    /// What is refused in one collection or in all, oldest first.
    pub fn quarantine(&self, collection: Option<i64>) -> Result<Vec<Quarantined>> {
        self.all(
            "SELECT * FROM quarantine WHERE ?1 IS NULL OR collection = ?1 ORDER BY id",
            [collection],
            |row| self.quarantine_row(row),
        )
    }

    /// What one job refused.
    pub fn quarantine_of_job(&self, job: Id) -> Result<Vec<Quarantined>> {
        self.all("SELECT * FROM quarantine WHERE job = ?1 ORDER BY id", [job], |row| self.quarantine_row(row))
    }

    fn quarantine_row(&self, row: &rusqlite::Row<'_>) -> Result<Quarantined> {
        let id: Id = get(row, "id")?;
        let content: Content = self.content_of(TABLE, &id.to_string(), row)?;
        Ok(Quarantined {
            id,
            collection: get(row, "collection")?,
            reason_code: get(row, "reason_code")?,
            source_bytes: get(row, "source_bytes")?,
            refused_at_ms: get(row, "refused_at_ms")?,
            name: content.name,
            format: content.format,
            reason: content.reason,
        })
    }
}

impl Writes<'_> {
    /// Records a refusal in place of an older one of the same name.
    pub fn add_quarantined(&self, new: &NewQuarantined<'_>) -> Result<()> {
        self.clear_quarantined(new.collection, new.name)?;
        let content = Content {
            name: new.name.to_owned(),
            format: new.format.to_owned(),
            reason: new.reason.to_owned(),
        };
        let sealed =
            self.seal_cell(&Place { table: TABLE, row: &new.id.to_string(), version: 1 }, &content)?;
        self.execute(
            "INSERT INTO quarantine (id, collection, name_hash, reason_code, source_bytes, job, refused_at_ms,
                                     version, content)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?8)",
            params![
                new.id,
                new.collection,
                self.quarantine_hash(new.name),
                new.reason_code,
                new.source_bytes,
                new.job,
                new.refused_at_ms,
                sealed
            ],
        )?;
        Ok(())
    }

    pub fn remove_quarantined(&self, id: Id) -> Result<()> {
        self.execute_one(&id, "DELETE FROM quarantine WHERE id = ?1", [id])
    }

    /// The input of this name reads well now, or is to be recorded anew.
    pub fn clear_quarantined(&self, collection: i64, name: &str) -> Result<()> {
        self.execute(
            "DELETE FROM quarantine WHERE collection = ?1 AND name_hash = ?2",
            params![collection, self.quarantine_hash(name)],
        )?;
        Ok(())
    }
}
