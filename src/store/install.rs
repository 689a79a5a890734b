//! The one row that says whose database this is.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::{
    Rows, Writes,
    cell::{Place, get},
};
use crate::base::{Error, Id, Result};

/// The installation that the database belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Install {
    pub id: Id,
    pub created_at_ms: u64,
}

/// Which names serve nothing but what was approved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Governance {
    /// All of them do.
    pub approved_only: bool,
    /// Those for which something was proposed once.
    pub names: BTreeSet<String>,
}

/// The identifier again, sealed: it opens under the right key alone.
#[derive(Serialize, Deserialize)]
struct Content {
    id: Id,
    #[serde(default)]
    governance: Governance,
}

const TABLE: &str = "install";

/// Before any migration: the table itself may be missing.
pub(super) fn is_there(connection: &Connection) -> bool {
    connection.query_row("SELECT 1 FROM install", [], |_| Ok(())).is_ok()
}

impl Writes<'_> {
    pub(super) fn add_install(&self, id: Id, now_ms: u64) -> Result<()> {
        let place = Place { table: TABLE, row: "1", version: 1 };
        let content = self.seal_cell(&place, &Content { id, governance: Governance::default() })?;
        self.execute(
            "INSERT INTO install (one, id, created_at_ms, version, content) VALUES (1, ?1, ?2, 1, ?3)",
            params![id, now_ms, content],
        )?;
        Ok(())
    }

    pub fn set_governance(&self, governance: &Governance) -> Result<()> {
        let (version, content) = self.install_content()?;
        let place = Place { table: TABLE, row: "1", version: version + 1 };
        let sealed = self.seal_cell(&place, &Content { governance: governance.clone(), ..content })?;
        self.execute_one(
            &"installation",
            "UPDATE install SET version = ?1, content = ?2",
            params![place.version, sealed],
        )
    }
}

impl Rows<'_> {
    /// None where the making of the database was cut short.
    pub fn install(&self) -> Result<Option<Install>> {
        self.one("SELECT id, created_at_ms FROM install", [], |row| {
            Ok(Install { id: get(row, "id")?, created_at_ms: get(row, "created_at_ms")? })
        })
    }

    pub fn governance(&self) -> Result<Governance> {
        Ok(self.install_content()?.1.governance)
    }

    fn install_content(&self) -> Result<(u32, Content)> {
        let found = self.one("SELECT version, content FROM install", [], |row| {
            Ok((get(row, "version")?, self.content_of(TABLE, "1", row)?))
        })?;
        found.ok_or_else(|| Error::integrity("the database has no installation"))
    }

    pub(super) fn prove_install(&self, expected: Id) -> Result<()> {
        let found = self
            .one("SELECT id, version, content FROM install", [], |row| {
                let id: Id = get(row, "id")?;
                if id != expected {
                    return Ok((id, false));
                }
                let content: Content = self.content_of(TABLE, "1", row).map_err(|_| foreign(id, expected))?;
                Ok((id, content.id == expected))
            })?
            .ok_or_else(|| {
                Error::integrity("the database has no installation: its making was cut short")
                    .remedy("remove the data directory and run `cloister init` again")
            })?;
        if found.1 { Ok(()) } else { Err(foreign(found.0, expected)) }
    }
}

fn foreign(found: Id, expected: Id) -> Error {
    Error::integrity(format!("the database belongs to installation {found}, the keys to {expected}"))
        .remedy("files of two data directories were mixed: restore each from its own backup")
}
