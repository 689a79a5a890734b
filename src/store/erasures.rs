//! Erasures: what each was asked for, as keyed hashes, which documents it took, and its certificate once it is
//! done. A pending one was begun and is finished before anything else happens.

use std::collections::BTreeMap;

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{
    Rows, Writes,
    cell::{Place, get, named_column},
};
use crate::base::{Error, Id, Result};

named_column! {
    /// Where an erasure stands.
    ErasureState {
        /// The rows are stripped; the keys may still be there.
        Pending = "pending",
        Done = "done",
    }
}

/// One erasure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Erasure {
    pub id: Id,
    pub state: ErasureState,
    /// Who asked: a token's identifier, or `local:UID`.
    pub actor: String,
    pub created_at_ms: u64,
    pub done_at_ms: Option<u64>,
    pub taken: Taken,
    /// Signed JSON, once it is done.
    pub certificate: Option<String>,
}

/// What was asked for, and what it took. No name stands here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Keyed hashes of the subjects that were asked for, in hexadecimal.
    pub subjects: Vec<String>,
    /// The documents that were asked for by identifier.
    pub asked: Vec<Id>,
    /// Every document version that went, with the keyed hash of its name in hexadecimal.
    pub documents: BTreeMap<Id, String>,
    /// Refused inputs of the same names.
    pub quarantined: u64,
    /// Jobs whose requests or failures quoted names.
    pub jobs: u64,
    /// Answers whose prompt and text went, and opinions whose words did.
    pub answers: u64,
    pub feedback: u64,
    /// Which they were; none where an older version erased.
    #[serde(default)]
    pub emptied: Vec<Id>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    taken: Taken,
    certificate: Option<String>,
}

const TABLE: &str = "erasures";

impl Rows<'_> {
    pub fn erasure(&self, id: Id) -> Result<Option<Erasure>> {
        self.one("SELECT * FROM erasures WHERE id = ?1", [id], |row| self.erasure_row(row))
    }

    /// Oldest first; in one state, or in all.
    pub fn erasures(&self, state: Option<ErasureState>) -> Result<Vec<Erasure>> {
        self.all("SELECT * FROM erasures WHERE ?1 IS NULL OR state = ?1 ORDER BY id", [state], |row| {
            self.erasure_row(row)
        })
    }

    fn erasure_row(&self, row: &rusqlite::Row<'_>) -> Result<Erasure> {
        let id: Id = get(row, "id")?;
        let content: Content = self.content_of(TABLE, &id.to_string(), row)?;
        Ok(Erasure {
            id,
            state: get(row, "state")?,
            actor: get(row, "actor")?,
            created_at_ms: get(row, "created_at_ms")?,
            done_at_ms: get(row, "done_at_ms")?,
            taken: content.taken,
            certificate: content.certificate,
        })
    }
}

impl Writes<'_> {
    /// Records an erasure that is to be finished.
    pub fn add_erasure(&self, id: Id, actor: &str, taken: &Taken, now_ms: u64) -> Result<()> {
        let content = Content { taken: taken.clone(), certificate: None };
        let sealed = self.seal_cell(&Place { table: TABLE, row: &id.to_string(), version: 1 }, &content)?;
        self.execute(
            "INSERT INTO erasures (id, state, actor, created_at_ms, version, content)
             VALUES (?1, 'pending', ?2, ?3, 1, ?4)",
            params![id, actor, now_ms, sealed],
        )?;
        Ok(())
    }

    /// What was erased came back with an older copy: it is to be finished again.
    pub fn reopen_erasure(&self, id: Id) -> Result<()> {
        self.execute_one(&id, "UPDATE erasures SET state = 'pending', done_at_ms = NULL WHERE id = ?1", [id])
    }

    pub fn end_erasure(&self, id: Id, certificate: &str, now_ms: u64) -> Result<()> {
        let erasure =
            self.erasure(id)?.ok_or_else(|| Error::not_found(format!("there is no erasure {id}")))?;
        let content = Content { taken: erasure.taken, certificate: Some(certificate.to_owned()) };
        self.reseal(TABLE, id, &content)?;
        self.execute_one(
            &id,
            "UPDATE erasures SET state = 'done', done_at_ms = ?2 WHERE id = ?1 AND state = 'pending'",
            params![id, now_ms],
        )
    }
}
