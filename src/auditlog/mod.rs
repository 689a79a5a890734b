//! Who did what, and when: append-only segments under one Merkle tree (RFC 6962), every group of entries closed
//! by a signed checkpoint. It promises that an entry is on the disk when `append` returns, and that with the
//! public key alone anybody finds an edited, dropped, added, reordered or cut entry and its number. What is
//! worth an entry, and an index to search them by, is for others.
//!
//! A segment, `audit/000001.log`, is lines of JSON, so that it can be read with nothing but a pager:
//!
//! ```text
//! {"segment":1,...}            header: where in the tree the segment begins
//! {"n":0,"at_ms":...}          an entry; its leaf is SHA-256(0x00 | line), without the line's end
//! {"checkpoint":"..."}         a signed note over all entries so far, after each group
//! ```
//!
//! A checkpoint is a C2SP signed note: origin, number of entries, root of the tree, and then, in lines of our
//! own, the hash of the header or checkpoint line before it and the leaf of each entry since. The root vouches
//! for every entry, that chain for every other line, and the leaves tell which entry was touched.

mod entry;
mod export;
mod log;
mod note;
mod proof;
mod read;
mod segment;
mod tree;
mod verify;

#[cfg(test)]
mod tests;

pub use entry::{Entry, Outcome, open_detail};
pub use export::{COLUMNS, export, table_cells, table_line, verify_export};
pub use log::{AuditLog, CHECKPOINT_FILE, Extent, Recovered};
pub use note::{Checkpoint, LogKey};
pub use proof::Consistency;
pub use read::{Entries, read};
pub use tree::{Frontier, leaf_hash};
pub use verify::{Problem, VerifyReport, verify};
