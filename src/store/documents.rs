//! Documents: one row a version, the newest of each name being current. The text itself is a sealed object with
//! the row's identifier.

use rusqlite::params;
use serde::{Deserialize, Serialize};

use super::{
    KeyedHash, Rows, Writes,
    cell::{Place, get, named_column},
};
use crate::base::{Id, Result};

named_column! {
    /// Where a document version stands.
    DocumentState {
        Current = "current",
        /// A newer version of the same name was ingested.
        Replaced = "replaced",
        Erased = "erased",
    }
}

/// One version of one document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    pub id: Id,
    pub collection: i64,
    pub state: DocumentState,
    pub format: String,
    pub source_bytes: u64,
    pub text_bytes: u64,
    pub content_hash: KeyedHash,
    pub ingested_at_ms: u64,
    /// Empty once the document was erased.
    pub name: String,
    pub subjects: Vec<String>,
    pub licence: Option<String>,
    /// What the extractor said about the text: its encoding, pages without text.
    pub remarks: Vec<String>,
}

/// A document version to be recorded; its object is already sealed and in the keyring.
#[derive(Clone, Debug)]
pub struct NewDocument<'a> {
    pub id: Id,
    pub collection: i64,
    pub job: Option<Id>,
    pub format: &'a str,
    pub source_bytes: u64,
    pub text_bytes: u64,
    pub content_hash: KeyedHash,
    pub ingested_at_ms: u64,
    pub name: &'a str,
    pub subjects: &'a [String],
    pub licence: Option<&'a str>,
    pub remarks: &'a [String],
}

#[derive(Default, Serialize, Deserialize)]
struct Content {
    name: String,
    subjects: Vec<String>,
    licence: Option<String>,
    remarks: Vec<String>,
}

const TABLE: &str = "documents";
const COLUMNS: &str = "id, collection, state, format, source_bytes, text_bytes, content_hash, ingested_at_ms,
                       version, content";

impl Rows<'_> {
    fn document_hash(&self, name: &str) -> KeyedHash {
        self.keyed_hash("document name", name.as_bytes())
    }

    pub fn document(&self, id: Id) -> Result<Option<Document>> {
        self.one(&format!("SELECT {COLUMNS} FROM documents WHERE id = ?1"), [id], |row| {
            self.document_row(row)
        })
    }

    /// The current version of the document with this name.
    pub fn current_document(&self, collection: i64, name: &str) -> Result<Option<Document>> {
        self.one(
            &format!(
                "SELECT {COLUMNS} FROM documents WHERE collection = ?1 AND name_hash = ?2 AND state = 'current'"
            ),
            params![collection, self.document_hash(name)],
            |row| self.document_row(row),
        )
    }

    /// The current documents of one collection or of all, oldest first.
    pub fn documents(&self, collection: Option<i64>) -> Result<Vec<Document>> {
        self.all(
            &format!(
                "SELECT {COLUMNS} FROM documents
                 WHERE state = 'current' AND (?1 IS NULL OR collection = ?1) ORDER BY id"
            ),
            [collection],
            |row| self.document_row(row),
        )
    }

    /// The documents that carry a subject, in every version that was not erased.
    pub fn documents_of_subject(&self, subject: &str) -> Result<Vec<Id>> {
        self.all(
            "SELECT document FROM document_subjects JOIN documents ON id = document
             WHERE subject_hash = ?1 AND state <> 'erased' ORDER BY document",
            [self.keyed_hash("subject", subject.as_bytes())],
            |row| get(row, "document"),
        )
    }

    /// Every version of the document that `id` is a version of, but for those that were erased, oldest first.
    pub fn versions_of(&self, id: Id) -> Result<Vec<Document>> {
        self.all(
            &format!(
                "SELECT {COLUMNS} FROM documents
                 WHERE state <> 'erased' AND (collection, name_hash) IN
                       (SELECT collection, name_hash FROM documents WHERE id = ?1 AND state <> 'erased')
                 ORDER BY id"
            ),
            [id],
            |row| self.document_row(row),
        )
    }

    /// Every document version that was not erased, oldest first.
    pub fn standing_documents(&self) -> Result<Vec<Document>> {
        self.all(&format!("SELECT {COLUMNS} FROM documents WHERE state <> 'erased' ORDER BY id"), [], |row| {
            self.document_row(row)
        })
    }

    fn document_row(&self, row: &rusqlite::Row<'_>) -> Result<Document> {
        let id: Id = get(row, "id")?;
        let state = get(row, "state")?;
        let content = match state {
            DocumentState::Erased => Content::default(),
            _ => self.content_of(TABLE, &id.to_string(), row)?,
        };
        Ok(Document {
            id,
            collection: get(row, "collection")?,
            state,
            format: get(row, "format")?,
            source_bytes: get(row, "source_bytes")?,
            text_bytes: get(row, "text_bytes")?,
            content_hash: get(row, "content_hash")?,
            ingested_at_ms: get(row, "ingested_at_ms")?,
            name: content.name,
            subjects: content.subjects,
            licence: content.licence,
            remarks: content.remarks,
        })
    }
}

impl Writes<'_> {
    /// Records a version, which takes the place of the current one of that name; returns what it replaced.
    pub fn add_document(&self, new: &NewDocument<'_>) -> Result<Option<Id>> {
        let replaced = self.current_document(new.collection, new.name)?.map(|document| document.id);
        if let Some(old) = replaced {
            self.execute_one(
                &old,
                "UPDATE documents SET state = 'replaced', replaced_by = ?2 WHERE id = ?1",
                params![old, new.id],
            )?;
        }
        let content = Content {
            name: new.name.to_owned(),
            subjects: new.subjects.to_vec(),
            licence: new.licence.map(str::to_owned),
            remarks: new.remarks.to_vec(),
        };
        let sealed =
            self.seal_cell(&Place { table: TABLE, row: &new.id.to_string(), version: 1 }, &content)?;
        self.execute(
            "INSERT INTO documents (id, collection, name_hash, content_hash, state, format, source_bytes,
                                    text_bytes, job, ingested_at_ms, version, content)
             VALUES (?1, ?2, ?3, ?4, 'current', ?5, ?6, ?7, ?8, ?9, 1, ?10)",
            params![
                new.id,
                new.collection,
                self.document_hash(new.name),
                new.content_hash,
                new.format,
                new.source_bytes,
                new.text_bytes,
                new.job,
                new.ingested_at_ms,
                sealed
            ],
        )?;
        for subject in new.subjects {
            self.execute(
                "INSERT OR IGNORE INTO document_subjects (document, subject_hash) VALUES (?1, ?2)",
                params![new.id, self.keyed_hash("subject", subject.as_bytes())],
            )?;
        }
        Ok(replaced)
    }

    /// Strips a document version of its name, its subjects and whatever else was said of it, and of the hashes
    /// that would tell a guess of them.
    pub fn erase_document(&self, id: Id) -> Result<()> {
        self.execute("DELETE FROM document_subjects WHERE document = ?1", [id])?;
        self.execute_one(
            &id,
            "UPDATE documents SET state = 'erased', name_hash = zeroblob(32), content_hash = zeroblob(32),
                                  version = version + 1, content = NULL
             WHERE id = ?1 AND state <> 'erased'",
            [id],
        )
    }
}
