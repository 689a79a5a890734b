//! The log handed over: as it is, for whoever verifies it, or as a table, for whoever only reads.
//!
//! The lines of an export are those of the segments, one after the other, byte for byte: headers, entries and
//! checkpoints. So an export proves itself, with the public key and nothing else. A table cannot.

use std::io::BufRead;

use super::{
    Checkpoint, Entry, LogKey, VerifyReport,
    log::Extent,
    segment::{SEGMENT_START, Walked, Wrong, walk},
    verify::check,
};
use crate::base::{Context, Error, Result};

/// Where the pieces of an export go, each of whole lines.
pub type Sink<'a> = dyn FnMut(&str) -> Result<()> + 'a;

/// Hands over every line of the log as it stood.
///
/// # Errors
/// Whatever reading fails with, and what `sink` says.
pub fn export(log: &Extent, sink: &mut Sink) -> Result<()> {
    for (path, length_bytes) in &log.segments {
        let mut bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        // What follows is being written.
        bytes.truncate(usize::try_from(*length_bytes).unwrap_or(usize::MAX));
        sink(&String::from_utf8(bytes).context("reading the audit log")?)?;
    }
    Ok(())
}

/// The head of a table, and a line of it.
pub const COLUMNS: [&str; 8] = ["entry", "at_ms", "actor", "role", "action", "object", "outcome", "detail"];

/// An entry as the line of a table. A cell that a spreadsheet would run is led by an apostrophe.
pub fn table_line(cells: &[String]) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let safe = cells.iter().map(|cell| {
        if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{cell}") } else { cell.clone() }
    });
    writer.write_record(safe).map_err(|error| Error::failed(format!("writing a table: {error}")))?;
    let bytes = writer.into_inner().map_err(|error| Error::failed(format!("writing a table: {error}")))?;
    String::from_utf8(bytes).context("writing a table")
}

/// The cells of an entry, below [`COLUMNS`].
pub fn table_cells(number: u64, entry: &Entry) -> Result<Vec<String>> {
    let mut detail = entry.detail.clone();
    let role = detail.remove("role").and_then(|role| role.as_str().map(str::to_owned)).unwrap_or_default();
    let outcome = serde_json::to_value(entry.outcome).context("writing a table")?;
    Ok(vec![
        number.to_string(),
        entry.at_ms.to_string(),
        entry.actor.clone(),
        role,
        entry.action.clone(),
        entry.object.map(|object| object.to_string()).unwrap_or_default(),
        outcome.as_str().unwrap_or_default().to_owned(),
        if detail.is_empty() { String::new() } else { serde_json::Value::Object(detail).to_string() },
    ])
}

/// Verifies an export as [`super::verify`] does a log. What nothing but a checkpoint kept elsewhere shows is that
/// whole groups were left out at its end: give those that you keep as `kept`.
///
/// # Errors
/// Only when it cannot be read, or a kept checkpoint is not one of this key; what is wrong is in the report.
pub fn verify_export(export: impl BufRead, key: &LogKey, kept: &[&str]) -> Result<VerifyReport> {
    let kept = kept.iter().map(|note| key.open_checkpoint(note)).collect::<Result<Vec<_>>>()?;
    let segments = Segments { lines: export, ahead: Vec::new(), number: 0 };
    let watched: Vec<u64> = kept.iter().map(|checkpoint: &Checkpoint| checkpoint.size).collect();
    let walks = segments.map(|segment| {
        let (number, bytes) = segment?;
        Ok(walk(&bytes, key, number, &watched))
    });
    check(walks.collect::<Result<Vec<Result<Walked, Wrong>>>>()?, key, &kept, Vec::new())
}

/// The segments of an export, each with its number in the order of their coming.
struct Segments<R> {
    lines: R,
    /// The header of the next one.
    ahead: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Iterator for Segments<R> {
    type Item = Result<(u64, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = std::mem::take(&mut self.ahead);
        loop {
            let mut line = Vec::new();
            match self.lines.read_until(b'\n', &mut line).context("reading an export") {
                Err(error) => return Some(Err(error)),
                Ok(0) => break,
                Ok(_) if line.starts_with(SEGMENT_START) && !bytes.is_empty() => {
                    self.ahead = line;
                    break;
                }
                Ok(_) => bytes.extend_from_slice(&line),
            }
        }
        self.number += 1;
        (!bytes.is_empty()).then_some(Ok((self.number, bytes)))
    }
}
