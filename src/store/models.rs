//! Models and their evaluations.

use rusqlite::params;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    KeyedHash, Made, Rows, Writes,
    cell::{Place, get},
    makers,
};
use crate::base::{Id, Result};

/// A model: trained here, or imported. Its weights are a sealed object with the same identifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    pub id: Id,
    /// None where it was imported.
    pub run: Option<Id>,
    pub tokenizer: Option<Id>,
    pub parameters: u64,
    /// On held-out text of its snapshot.
    pub bits_per_byte: Option<f64>,
    pub created_at_ms: u64,
    pub name: String,
    pub purpose: Value,
    /// Sizes, source, chat template: whatever describes it.
    pub details: Value,
    /// Who made it and what it was made of.
    pub makers: Vec<Made>,
}

/// A model to be recorded.
pub type NewModel = Model;

/// What a model measured on something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    pub id: Id,
    pub model: Id,
    pub snapshot: Option<Id>,
    pub kind: String,
    /// Numbers by name; no text of documents.
    pub metrics: Value,
    pub created_at_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Content {
    name: String,
    purpose: Value,
    details: Value,
    #[serde(default)]
    makers: Vec<Made>,
}

const TABLE: &str = "models";

impl Rows<'_> {
    fn model_hash(&self, name: &str) -> KeyedHash {
        self.keyed_hash("model name", name.as_bytes())
    }

    pub fn model(&self, id: Id) -> Result<Option<Model>> {
        self.one("SELECT * FROM models WHERE id = ?1", [id], |row| self.model_row(row))
    }

    /// The newest model of this name.
    pub fn model_named(&self, name: &str) -> Result<Option<Model>> {
        self.one(
            "SELECT * FROM models WHERE name_hash = ?1 ORDER BY id DESC LIMIT 1",
            [self.model_hash(name)],
            |row| self.model_row(row),
        )
    }

    pub fn model_of_run(&self, run: Id) -> Result<Option<Model>> {
        self.one("SELECT * FROM models WHERE run = ?1 ORDER BY id DESC LIMIT 1", [run], |row| {
            self.model_row(row)
        })
    }

    /// Oldest first.
    pub fn models(&self) -> Result<Vec<Model>> {
        self.all("SELECT * FROM models ORDER BY id", [], |row| self.model_row(row))
    }

    pub fn evaluations(&self, model: Id) -> Result<Vec<Evaluation>> {
        self.all("SELECT * FROM evaluations WHERE model = ?1 ORDER BY id", [model], |row| {
            let metrics: String = get(row, "metrics")?;
            Ok(Evaluation {
                id: get(row, "id")?,
                model,
                snapshot: get(row, "snapshot")?,
                kind: get(row, "kind")?,
                metrics: serde_json::from_str(&metrics).unwrap_or(Value::Null),
                created_at_ms: get(row, "created_at_ms")?,
            })
        })
    }

    fn model_row(&self, row: &rusqlite::Row<'_>) -> Result<Model> {
        let id: Id = get(row, "id")?;
        let content: Content = self.content_of(TABLE, &id.to_string(), row)?;
        Ok(Model {
            id,
            run: get(row, "run")?,
            tokenizer: get(row, "tokenizer")?,
            parameters: get(row, "parameters")?,
            bits_per_byte: get(row, "bits_per_byte")?,
            created_at_ms: get(row, "created_at_ms")?,
            name: content.name,
            purpose: content.purpose,
            details: content.details,
            makers: makers::stated(content.makers, id),
        })
    }
}

impl Writes<'_> {
    pub fn add_model(&self, new: &NewModel) -> Result<()> {
        let NewModel { name, purpose, details, makers, .. } = new.clone();
        let content = Content { name, purpose, details, makers };
        let sealed =
            self.seal_cell(&Place { table: TABLE, row: &new.id.to_string(), version: 1 }, &content)?;
        self.execute(
            "INSERT INTO models (id, name_hash, run, tokenizer, parameters, bits_per_byte, created_at_ms,
                                 version, content)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?8)",
            params![
                new.id,
                self.model_hash(&new.name),
                new.run,
                new.tokenizer,
                new.parameters,
                new.bits_per_byte,
                new.created_at_ms,
                sealed
            ],
        )?;
        Ok(())
    }

    pub fn add_evaluation(&self, new: &Evaluation) -> Result<()> {
        self.execute(
            "INSERT INTO evaluations (id, model, snapshot, kind, metrics, created_at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![new.id, new.model, new.snapshot, new.kind, new.metrics.to_string(), new.created_at_ms],
        )?;
        Ok(())
    }
}
