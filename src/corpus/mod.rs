//! From files to tokens: walking folders, extracting text in a caged child, cleaning, snapshots with a
//! held-out split, and sealed token extents. Every input is either taken or refused with a reason, and what
//! is taken depends on its content alone. Rows and sealed objects are kept by whoever implements [`Intake`].

pub mod cage;
pub mod clean;
pub mod document;
pub mod extents;
pub mod extract;
pub mod ingest;
pub mod merkle;
mod parallel;
pub mod refusal;
pub mod sample;
pub mod snapshot;
pub mod split;
pub mod tokenizer;
mod walk;

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod hostile;

pub use document::{Admitted, Format, Intake, NewDocument};
pub use extents::{Extent, TokenSet};
pub use ingest::{IngestReport, IngestSpec};
pub use refusal::{Reason, Refusal};
pub use snapshot::{DocumentRef, Snapshot, SnapshotSpec};
pub use split::Split;
