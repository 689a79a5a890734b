//! Sealed cells: one `content` column a row, holding the row's private fields as JSON, sealed under a key derived
//! for that row and bound to table, row, column and version. A cell that was moved, copied to another row or put
//! back in an older version does not open.

use rusqlite::{
    ToSql, params,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Rows, Writes};
use crate::{
    base::{Error, Id, Result},
    seal::{self, Key},
};

/// Where a sealed cell stands.
pub(super) struct Place<'a> {
    pub table: &'static str,
    /// The primary key, as text.
    pub row: &'a str,
    /// How often the row's content was sealed; the first time is 1.
    pub version: u32,
}

impl Place<'_> {
    fn associated_data(&self) -> Vec<u8> {
        format!("{}|{}|content|{}", self.table, self.row, self.version).into_bytes()
    }

    fn row_context(&self) -> Vec<u8> {
        format!("{}|{}", self.table, self.row).into_bytes()
    }
}

impl Rows<'_> {
    pub(super) fn seal_cell<T: Serialize>(&self, place: &Place<'_>, content: &T) -> Result<Vec<u8>> {
        let plain = serde_json::to_vec(content)
            .map_err(|error| Error::failed(format!("writing a row of {}: {error}", place.table)))?;
        let key = self.keys.content[0].derive("store/row", &place.row_context())?;
        seal::seal_blob(&key, &place.associated_data(), &plain)
    }

    pub(super) fn open_cell<T: DeserializeOwned>(&self, place: &Place<'_>, sealed: &[u8]) -> Result<T> {
        let damaged = |why: &str| {
            Error::integrity(format!("row {} of table {} {why}", place.row, place.table))
                .remedy("restore the data directory from a backup")
        };
        let open = |key: &Key| {
            let key = key.derive("store/row", &place.row_context())?;
            seal::open_blob(&key, &place.associated_data(), sealed)
        };
        let plain = self.keys.content.iter().find_map(|key| open(key).ok()).ok_or_else(|| {
            damaged("does not open: it was altered, moved or put back, or the key is another")
        })?;
        serde_json::from_slice(&plain).map_err(|_| damaged("opens, and holds what this version cannot read"))
    }
}

impl Rows<'_> {
    /// The content of the row that a query stands on; the query selects `version` and `content`.
    pub(super) fn content_of<T: DeserializeOwned>(
        &self,
        table: &'static str,
        key: &str,
        row: &rusqlite::Row<'_>,
    ) -> Result<T> {
        let sealed: Vec<u8> = get(row, "content")?;
        self.open_cell(&Place { table, row: key, version: get(row, "version")? }, &sealed)
    }
}

impl Writes<'_> {
    /// Puts other content into a row that is there, as its next version.
    pub(super) fn reseal<T: Serialize>(&self, table: &'static str, row: Id, content: &T) -> Result<()> {
        let version = self
            .one(&format!("SELECT version FROM {table} WHERE id = ?1"), [row], |row| {
                get::<u32>(row, "version")
            })?
            .ok_or_else(|| Error::not_found(format!("there is no {row}")))?
            + 1;
        let sealed = self.seal_cell(&Place { table, row: &row.to_string(), version }, content)?;
        self.execute_one(
            &row,
            &format!("UPDATE {table} SET version = ?2, content = ?3 WHERE id = ?1"),
            params![row, version, sealed],
        )
    }
}

impl ToSql for Id {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.to_string().into())
    }
}

impl FromSql for Id {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map_err(|error: Error| FromSqlError::Other(Box::new(error)))
    }
}

/// One column, with its name where it does not read.
pub(super) fn get<T: FromSql>(row: &rusqlite::Row<'_>, column: &str) -> Result<T> {
    row.get(column).map_err(|error| Error::integrity(format!("column {column}: {error}")))
}

/// A state or kind that is written by its name.
macro_rules! named_column {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant),* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl rusqlite::ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
                Ok(self.as_str().into())
            }
        }

        impl rusqlite::types::FromSql for $name {
            fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
                let text = value.as_str()?;
                Self::ALL
                    .iter()
                    .find(|known| known.as_str() == text)
                    .copied()
                    .ok_or(rusqlite::types::FromSqlError::InvalidType)
            }
        }
    };
}

pub(super) use named_column;
