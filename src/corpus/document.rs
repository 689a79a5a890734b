//! What ingest hands over, and to whom: a document as extracted, and the trait of its receiver.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Refusal;
use crate::base::Result;

/// What a file was found to be, by its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Txt,
    Md,
    Html,
    Csv,
    Jsonl,
    Pdf,
    Docx,
}

impl Format {
    pub fn name(self) -> &'static str {
        match self {
            Self::Txt => "txt",
            Self::Md => "md",
            Self::Html => "html",
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Pdf => "pdf",
            Self::Docx => "docx",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A document on its way in. Collection and name together say which document it is: the same pair with
/// another text is a new version of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDocument {
    /// The absolute path it came from, with `#row` behind it where a file holds many documents.
    pub name: String,
    pub collection: String,
    /// Whom it concerns: what `erase` goes by.
    pub subjects: Vec<String>,
    pub licence: Option<String>,
    pub format: Format,
    /// Size of what the text was extracted from.
    pub source_bytes: u64,
    /// Extracted text: UTF-8, lines ended by `\n`, without control characters; normalisation that a user
    /// can choose comes later, with the snapshot.
    pub text: String,
}

/// Without the name and the text: what is printed in a log must not hold them.
impl fmt::Debug for NewDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewDocument({}, {} bytes of text)", self.format, self.text.len())
    }
}

/// What became of a document that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admitted {
    New,
    NewVersion,
    /// The same text under the same name is there already.
    Unchanged,
}

/// Who keeps what ingest finds. Called from one thread, in the order of the walk, in batches, so that a
/// commit is paid once for many small documents.
pub trait Intake: Sync {
    /// Keeps a batch: when it returns, all of it is durable; when it fails, none of it is. One outcome per
    /// document, in order.
    fn admit(&self, batch: Vec<NewDocument>) -> Result<Vec<Admitted>>;
    /// Keeps the reasons why inputs were refused. A name that is refused again replaces its older refusal.
    fn quarantine(&self, batch: Vec<Refusal>) -> Result<()>;
    /// Is told of each process that is started to read documents, by its number, from any thread.
    fn reads(&self, _process: u32) {}
}
