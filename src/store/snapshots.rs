//! Dataset snapshots with their members, and what is made of them on the way to a run: tokenizers and shards.

use rusqlite::params;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Rows, Writes,
    cell::{Place, get},
};
use crate::base::{Id, Result};

/// A frozen list of document versions. The manifest is a sealed object with the same identifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub id: Id,
    pub collection: i64,
    /// Over the document versions: proves membership.
    pub merkle_root: [u8; 32],
    pub documents: u64,
    /// Exact copies that were left out.
    pub duplicates: u64,
    pub train_bytes: u64,
    pub held_out_bytes: u64,
    pub created_at_ms: u64,
    /// How it was made: normalisation, share held out.
    pub spec: Value,
}

/// A snapshot to be recorded.
pub type NewSnapshot = Snapshot;

/// A trained or imported tokenizer; `tokenizer.json` is a sealed object with the same identifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenizerRow {
    pub id: Id,
    /// None where it was imported.
    pub snapshot: Option<Id>,
    pub vocab_size: u64,
    /// On held-out text.
    pub bytes_per_token: Option<f64>,
    pub created_at_ms: u64,
    /// None where it was made before this was kept.
    pub made_by: Option<String>,
}

/// A sealed object of token extents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    pub id: Id,
    pub snapshot: Id,
    pub tokenizer: Id,
    pub created_at_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct TokenizerContent {
    made_by: Option<String>,
}

const TABLE: &str = "snapshots";
const TOKENIZERS: &str = "tokenizers";
const COLUMNS: &str = "id, collection, merkle_root, documents, duplicates, train_bytes, held_out_bytes,
                       created_at_ms, version, content";

impl Rows<'_> {
    pub fn snapshot(&self, id: Id) -> Result<Option<Snapshot>> {
        self.one(&format!("SELECT {COLUMNS} FROM snapshots WHERE id = ?1"), [id], |row| {
            self.snapshot_row(row)
        })
    }

    /// Oldest first.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.all(&format!("SELECT {COLUMNS} FROM snapshots ORDER BY id"), [], |row| self.snapshot_row(row))
    }

    /// In the snapshot's order.
    pub fn snapshot_members(&self, snapshot: Id) -> Result<Vec<Id>> {
        self.all(
            "SELECT document FROM snapshot_members WHERE snapshot = ?1 ORDER BY position",
            [snapshot],
            |row| get(row, "document"),
        )
    }

    /// Its members that were erased since.
    pub fn erased_members(&self, snapshot: Id) -> Result<Vec<Id>> {
        self.all(
            "SELECT document FROM snapshot_members JOIN documents ON id = document
             WHERE snapshot = ?1 AND state = 'erased' ORDER BY position",
            [snapshot],
            |row| get(row, "document"),
        )
    }

    pub fn snapshots_with_document(&self, document: Id) -> Result<Vec<Id>> {
        self.all(
            "SELECT DISTINCT snapshot FROM snapshot_members WHERE document = ?1 ORDER BY snapshot",
            [document],
            |row| get(row, "snapshot"),
        )
    }

    pub fn tokenizer(&self, id: Id) -> Result<Option<TokenizerRow>> {
        self.one("SELECT * FROM tokenizers WHERE id = ?1", [id], |row| self.tokenizer_row(row))
    }

    /// Oldest first.
    pub fn tokenizers(&self) -> Result<Vec<TokenizerRow>> {
        self.all("SELECT * FROM tokenizers ORDER BY id", [], |row| self.tokenizer_row(row))
    }

    /// The shards of a snapshot under a tokenizer, oldest first.
    pub fn shards(&self, snapshot: Id, tokenizer: Id) -> Result<Vec<Shard>> {
        self.all(
            "SELECT * FROM shards WHERE snapshot = ?1 AND tokenizer = ?2 ORDER BY id",
            [snapshot, tokenizer],
            |row| {
                let created_at_ms = get(row, "created_at_ms")?;
                Ok(Shard { id: get(row, "id")?, snapshot, tokenizer, created_at_ms })
            },
        )
    }

    fn tokenizer_row(&self, row: &rusqlite::Row<'_>) -> Result<TokenizerRow> {
        let id: Id = get(row, "id")?;
        let made_by = match get::<u32>(row, "version")? {
            // From before this was kept.
            0 => None,
            _ => self.content_of::<TokenizerContent>(TOKENIZERS, &id.to_string(), row)?.made_by,
        };
        Ok(TokenizerRow {
            id,
            snapshot: get(row, "snapshot")?,
            vocab_size: get(row, "vocab_size")?,
            bytes_per_token: get(row, "bytes_per_token")?,
            created_at_ms: get(row, "created_at_ms")?,
            made_by,
        })
    }

    fn snapshot_row(&self, row: &rusqlite::Row<'_>) -> Result<Snapshot> {
        let id: Id = get(row, "id")?;
        Ok(Snapshot {
            id,
            collection: get(row, "collection")?,
            merkle_root: get(row, "merkle_root")?,
            documents: get(row, "documents")?,
            duplicates: get(row, "duplicates")?,
            train_bytes: get(row, "train_bytes")?,
            held_out_bytes: get(row, "held_out_bytes")?,
            created_at_ms: get(row, "created_at_ms")?,
            spec: self.content_of(TABLE, &id.to_string(), row)?,
        })
    }
}

impl Writes<'_> {
    pub fn add_snapshot(&self, new: &NewSnapshot, members: &[Id]) -> Result<()> {
        let sealed =
            self.seal_cell(&Place { table: TABLE, row: &new.id.to_string(), version: 1 }, &new.spec)?;
        self.execute(
            "INSERT INTO snapshots (id, collection, merkle_root, documents, duplicates, train_bytes,
                                    held_out_bytes, created_at_ms, version, content)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1, ?9)",
            params![
                new.id,
                new.collection,
                new.merkle_root,
                new.documents,
                new.duplicates,
                new.train_bytes,
                new.held_out_bytes,
                new.created_at_ms,
                sealed
            ],
        )?;
        for (position, document) in members.iter().enumerate() {
            self.execute(
                "INSERT INTO snapshot_members (snapshot, position, document) VALUES (?1, ?2, ?3)",
                params![new.id, position, document],
            )?;
        }
        Ok(())
    }

    pub fn add_tokenizer(&self, new: &TokenizerRow) -> Result<()> {
        let place = Place { table: TOKENIZERS, row: &new.id.to_string(), version: 1 };
        let sealed = self.seal_cell(&place, &TokenizerContent { made_by: new.made_by.clone() })?;
        self.execute(
            "INSERT INTO tokenizers (id, snapshot, vocab_size, bytes_per_token, created_at_ms, version, content)
             VALUES (?1, ?2, ?3, ?4, ?5, 1, ?6)",
            params![new.id, new.snapshot, new.vocab_size, new.bytes_per_token, new.created_at_ms, sealed],
        )?;
        Ok(())
    }

    pub fn add_shard(&self, new: &Shard) -> Result<()> {
        self.execute(
            "INSERT INTO shards (id, snapshot, tokenizer, created_at_ms) VALUES (?1, ?2, ?3, ?4)",
            params![new.id, new.snapshot, new.tokenizer, new.created_at_ms],
        )?;
        Ok(())
    }
}
