//! Collections: the named groups that documents are ingested into.

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{
    KeyedHash, Rows, Writes,
    cell::{Place, get},
};
use crate::base::Result;

/// A group of documents with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    pub number: i64,
    pub name: String,
    pub created_at_ms: u64,
    /// Documents in their current version.
    pub documents: u64,
    pub text_bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Content {
    name: String,
}

const TABLE: &str = "collections";

impl Rows<'_> {
    fn collection_hash(&self, name: &str) -> KeyedHash {
        self.keyed_hash("collection name", name.as_bytes())
    }

    /// The number of the collection with this name.
    pub fn collection_number(&self, name: &str) -> Result<Option<i64>> {
        self.one("SELECT number FROM collections WHERE name_hash = ?1", [self.collection_hash(name)], |row| {
            get(row, "number")
        })
    }

    pub fn collection_name(&self, number: i64) -> Result<Option<String>> {
        self.one("SELECT version, content FROM collections WHERE number = ?1", [number], |row| {
            let content: Content = self.content_of(TABLE, &number.to_string(), row)?;
            Ok(content.name)
        })
    }

    pub fn collections(&self) -> Result<Vec<Collection>> {
        self.all(
            "SELECT number, created_at_ms, version, content,
                    (SELECT count(*) FROM documents WHERE collection = number AND state = 'current') AS documents,
                    (SELECT coalesce(sum(text_bytes), 0) FROM documents
                      WHERE collection = number AND state = 'current') AS text_bytes
             FROM collections ORDER BY number",
            [],
            |row| {
                let number: i64 = get(row, "number")?;
                let content: Content = self.content_of(TABLE, &number.to_string(), row)?;
                Ok(Collection {
                    number,
                    name: content.name,
                    created_at_ms: get(row, "created_at_ms")?,
                    documents: get(row, "documents")?,
                    text_bytes: get(row, "text_bytes")?,
                })
            },
        )
    }
}

impl Writes<'_> {
    /// The number of the collection with this name, which is made where there is none.
    pub fn ensure_collection(&self, name: &str, now_ms: u64) -> Result<i64> {
        if let Some(number) = self.collection_number(name)? {
            return Ok(number);
        }
        let number = self
            .one("SELECT coalesce(max(number), 0) + 1 AS number FROM collections", [], |row| {
                get(row, "number")
            })?
            .unwrap_or(1);
        let place = Place { table: TABLE, row: &i64::to_string(&number), version: 1 };
        let content = self.seal_cell(&place, &Content { name: name.to_owned() })?;
        self.execute(
            "INSERT INTO collections (number, name_hash, created_at_ms, version, content)
             VALUES (?1, ?2, ?3, 1, ?4)",
            params![number, self.collection_hash(name), now_ms, content],
        )?;
        Ok(number)
    }
}
