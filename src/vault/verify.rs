//! Whether every object is there, is the one that was committed, and opens to its last byte; and whether
//! anything else lies among them.

use std::{
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{Depot, Vault, VaultRoot, object::TEMPORARY_SUFFIX, sweep::files};
use crate::{
    base::{Error, ErrorKind, Id, Monitor, Progress, Result},
    seal::WipedVec,
};

const BUFFER_BYTES: usize = 1 << 20;
/// The object of a problem with the keyring as a whole.
pub const KEYRING: &str = "keyring";

/// One thing that is wrong, and what it is wrong with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Problem {
    /// The object's identifier, or the path of a file that is none.
    pub object: String,
    pub what: String,
}

/// What `verify` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    pub root: VaultRoot,
    /// Bytes that were authenticated: plaintext, and ciphertext that objects carry.
    pub bytes: u64,
    /// In order of the objects' names; empty when all is well.
    pub problems: Vec<Problem>,
}

impl VerifyReport {
    /// # Errors
    /// `Integrity`, naming up to ten of the objects that something is wrong with.
    pub fn into_result(self) -> Result<Self> {
        if self.problems.is_empty() {
            return Ok(self);
        }
        let shown: Vec<_> = self.problems.iter().take(10).map(|problem| problem.what.clone()).collect();
        let more = self.problems.len() - shown.len();
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        Err(Error::integrity(format!("{}{more}", shown.join("; ")))
            .remedy("restore the named objects from a backup, and find out who changed them"))
    }
}

impl Vault {
    /// Reads every object to its end. `recorded` is the root that the audit log last recorded: with it, a vault
    /// that was put back in time as a whole is noticed too.
    ///
    /// # Errors
    /// Only when verifying itself fails or is stopped; what is wrong with objects is in the report.
    pub fn verify(&self, recorded: Option<&VaultRoot>, monitor: &dyn Monitor) -> Result<VerifyReport> {
        let (root, ids) = (self.root(), self.objects());
        let put_back = recorded.and_then(|then| root.put_back_since(then));
        let mut problems: Vec<Problem> =
            put_back.map(|what| Problem { object: KEYRING.into(), what }).into_iter().collect();
        problems.extend(self.unlisted()?);
        let found = Mutex::new((problems, 0u64));
        let (next, threads) = (AtomicUsize::new(0), thread::available_parallelism().map_or(1, usize::from));
        thread::scope(|scope| -> Result<()> {
            let workers: Vec<_> = (0..threads.min(ids.len()))
                .map(|_| scope.spawn(|| self.verify_some(&ids, &next, &found, monitor)))
                .collect();
            workers.into_iter().try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        let (mut problems, bytes) = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        problems.sort_unstable();
        Ok(VerifyReport { root, bytes, problems })
    }

    fn verify_some(
        &self,
        ids: &[Id],
        next: &AtomicUsize,
        found: &Mutex<(Vec<Problem>, u64)>,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let mut buffer = WipedVec::zeroed(BUFFER_BYTES);
        while let Some(&id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
            if monitor.stop_requested() {
                return Err(Error::interrupted("verifying was stopped"));
            }
            let read = self.verify_one(id, &mut buffer);
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            match read {
                Ok(bytes) => found.1 += bytes,
                // Deleted since the list was made.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    found.0.push(Problem { object: id.to_string(), what: error.to_string() });
                }
            }
            drop(found);
            monitor.progress(&Progress {
                stage: "verify".into(),
                done: next.load(Ordering::Relaxed).min(ids.len()) as u64,
                total: ids.len() as u64,
                unit: "object".into(),
                ..Progress::default()
            });
        }
        Ok(())
    }

    fn verify_one(&self, id: Id, buffer: &mut [u8]) -> Result<u64> {
        let object = self.open(id)?;
        let length_bytes = object.len_bytes();
        for at in (0..length_bytes).step_by(buffer.len()) {
            let part = usize::try_from(length_bytes - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            object.read_at(at, &mut buffer[..part])?;
        }
        object.verify_carried(buffer)?;
        Ok(length_bytes + object.carried_bytes())
    }

    /// Files that lie among the objects and are none of them.
    fn unlisted(&self) -> Result<Vec<Problem>> {
        let objects = self.objects_dir();
        let stranger = |path: &Path| {
            let place = path.strip_prefix(objects).unwrap_or(path).display().to_string();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // A temporary file of an object is being written at this moment, or is swept at the next opening.
            let stem = name.strip_suffix(TEMPORARY_SUFFIX);
            let Ok(id) = stem.unwrap_or(name).parse::<Id>() else {
                return Some(Problem { what: format!("{place} was added: it is no object"), object: place });
            };
            let listed = stem.is_some() || (self.path(id) == path && self.contains(id));
            let what = format!("object {id} was added: the keyring does not list {place}");
            (!listed).then_some(Problem { object: id.to_string(), what })
        };
        Ok(files(objects)?.iter().filter_map(|path| stranger(path)).collect())
    }
}
