//! Verifying a log with nothing but its files and its public key.

use std::{
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    Checkpoint, LogKey,
    log::{CHECKPOINT_FILE, last_segment},
    segment::{Place, Walked, Wrong, segment_path, walk},
};
use crate::{
    base::{Context, Error, ErrorKind, Result},
    seal::Digest,
};

/// Something that is wrong, and the number of the first entry that it touches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Problem {
    pub entry: u64,
    pub what: String,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// Entries that a signed checkpoint vouches for.
    pub entries: u64,
    pub root: Digest,
    /// Bytes after the last checkpoint: an append that is going on, or that a crash cut off.
    pub bytes_unfinished: u64,
    /// In order of the entries; empty when all is well.
    pub problems: Vec<Problem>,
}

impl VerifyReport {
    /// # Errors
    /// `Integrity`, naming the entries that something is wrong with.
    pub fn into_result(self) -> Result<Self> {
        if self.problems.is_empty() {
            return Ok(self);
        }
        let named: Vec<_> = self.problems.iter().take(10).map(|problem| problem.what.as_str()).collect();
        Err(Error::integrity(format!("the audit log was tampered with: {}", named.join("; ")))
            .remedy("keep the log as it is for whoever investigates; restore it from a backup beside it"))
    }
}

/// Verifies the log in `directory`: every entry, every line between them, the last signature, and that the log
/// reaches every checkpoint in `kept` (printed notes, or the one in the keyring) and the one that lies beside it.
///
/// # Errors
/// Only when the files cannot be read; what is wrong with them is in the report.
pub fn verify(directory: &Path, key: &LogKey, kept: &[&str]) -> Result<VerifyReport> {
    let mut problems = Vec::new();
    let kept = open_kept(directory, key, kept, &mut problems)?;
    let watched: Vec<u64> = kept.iter().map(|checkpoint| checkpoint.size).collect();
    check(walk_all(directory, key, last_segment(directory)?, &watched)?, key, &kept, problems)
}

/// Joins what the walks over all segments found, and holds it to the checkpoints that must be reached.
pub(super) fn check(
    walks: Vec<Result<Walked, Wrong>>,
    key: &LogKey,
    kept: &[Checkpoint],
    mut problems: Vec<Problem>,
) -> Result<VerifyReport> {
    let mut joined =
        Joined { place: Place::default(), seen: vec![(0, Place::default().tree.root())], last: None };
    for (number, walked) in (1..).zip(walks) {
        if let Err(wrong) = joined.join(number, walked) {
            problems.push(Problem { entry: wrong.entry, what: wrong.what });
            break;
        }
    }
    let Joined { place, seen, last } = joined;
    let size = place.tree.size();
    let last_note = last.as_ref().and_then(|last| last.last_note.as_ref());
    if problems.is_empty() && last_note.is_some_and(|note| key.open(note).is_err()) {
        let entry = size.saturating_sub(1);
        problems.push(Problem { entry, what: format!("the checkpoint after entry {entry} was altered") });
    }
    if problems.is_empty() {
        problems.extend(kept.iter().filter_map(|checkpoint| not_reached(size, &seen, checkpoint)));
    }
    problems.sort_unstable();
    problems.dedup();
    let bytes_unfinished = last.map_or(0, |last| last.bytes_after as u64);
    Ok(VerifyReport { entries: size, root: place.tree.root(), bytes_unfinished, problems })
}

/// The segments that fit together so far.
struct Joined {
    place: Place,
    seen: Vec<(u64, Digest)>,
    last: Option<Walked>,
}

impl Joined {
    fn join(&mut self, number: u64, walked: Result<Walked, Wrong>) -> Result<(), Wrong> {
        let size = self.place.tree.size();
        if let Some(last) = self.last.as_ref().filter(|last| last.bytes_after > 0) {
            let what = format!(
                "{} bytes after entry {size} in segment {} are signed by nothing",
                last.bytes_after,
                number - 1
            );
            return Err(Wrong { entry: size, what });
        }
        let walked = walked.map_err(|wrong| Wrong { entry: wrong.entry.max(size), ..wrong })?;
        if walked.begin != self.place {
            let begins = walked.begin.tree.size();
            let what = if begins > size {
                format!("entry {size} is missing: segment {number} begins with entry {begins}")
            } else {
                format!("segment {number}, from entry {begins}, does not follow from the one before it")
            };
            return Err(Wrong { entry: size.min(begins), what });
        }
        self.place = walked.end.clone();
        self.seen.extend_from_slice(&walked.seen);
        let wrong = walked.wrong.clone();
        let last_note = walked.last_note.clone().or_else(|| self.last.take().and_then(|last| last.last_note));
        self.last = Some(Walked { last_note, ..walked });
        wrong.map_or(Ok(()), Err)
    }
}

fn open_kept(
    directory: &Path,
    key: &LogKey,
    kept: &[&str],
    problems: &mut Vec<Problem>,
) -> Result<Vec<Checkpoint>> {
    let mut checkpoints = kept.iter().map(|note| key.open_checkpoint(note)).collect::<Result<Vec<_>>>()?;
    let wrong = match newest_checkpoint(directory, key)? {
        Newest::Signed(checkpoint) => {
            checkpoints.push(checkpoint);
            return Ok(checkpoints);
        }
        Newest::Missing => "the newest checkpoint is missing",
        Newest::Altered => "the newest checkpoint was altered",
    };
    problems.push(Problem { entry: 0, what: wrong.into() });
    Ok(checkpoints)
}

/// The checkpoint beside the segments.
pub(super) enum Newest {
    Signed(Checkpoint),
    Missing,
    Altered,
}

pub(super) fn newest_checkpoint(directory: &Path, key: &LogKey) -> Result<Newest> {
    let path = directory.join(CHECKPOINT_FILE);
    let mut before = None;
    loop {
        let note = match std::fs::read(&path) {
            Ok(note) => note,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Newest::Missing),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        if let Some(checkpoint) =
            std::str::from_utf8(&note).ok().and_then(|note| key.open_checkpoint(note).ok())
        {
            return Ok(Newest::Signed(checkpoint));
        }
        // A running log may be writing it at this moment; what stays the same was altered.
        if before.replace(note.clone()) == Some(note) {
            return Ok(Newest::Altered);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn not_reached(size: u64, seen: &[(u64, Digest)], kept: &Checkpoint) -> Option<Problem> {
    if kept.size > size {
        let what =
            format!("entry {size} is missing: the log was cut, and {} entries were signed for", kept.size);
        return Some(Problem { entry: size, what });
    }
    let reached = seen.iter().any(|(size, root)| (*size, root) == (kept.size, &kept.root));
    let entry = kept.size.saturating_sub(1);
    let what = format!("the entries up to {entry} are not those of a checkpoint that was signed for them");
    (!reached).then_some(Problem { entry, what })
}

/// Walks over all segments, several at a time; the answers are in the segments' order.
fn walk_all(
    directory: &Path,
    key: &LogKey,
    segments: u64,
    watched: &[u64],
) -> Result<Vec<Result<Walked, Wrong>>> {
    let (next, walks) = (AtomicU64::new(1), Mutex::new(Vec::new()));
    let work = || -> Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number > segments {
                return Ok(());
            }
            let path = segment_path(directory, number);
            let walked = match std::fs::read(&path) {
                Ok(bytes) => walk(&bytes, key, number, watched),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    Err(Wrong { entry: 0, what: format!("segment {number} is missing") })
                }
                Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
            };
            walks.lock().unwrap_or_else(PoisonError::into_inner).push((number, walked));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(segments)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().map_err(|_| Error::new(ErrorKind::Failed, "a verifying thread panicked"))?
        })
    })?;
    let mut walks = walks.into_inner().unwrap_or_else(PoisonError::into_inner);
    walks.sort_unstable_by_key(|(number, _)| *number);
    Ok(walks.into_iter().map(|(_, walked)| walked).collect())
}
