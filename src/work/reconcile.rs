//! What the warden puts in order when it opens a data directory: whatever an earlier process had reported done
//! stays, whatever it had only begun goes, and what was interrupted is called so.

use std::collections::HashSet;

use super::{host::ids_in, warden::Warden};
use crate::{
    auditlog::{self, Outcome},
    base::{Error, Id, IdKind, Result},
};

/// How many of the newest entries of the audit log are held against the database.
const ENTRIES_COMPARED: u64 = 1000;

/// Returns what the administrator should hear.
///
/// # Errors
/// `Integrity` where the database is older than the audit log: to put things in order after it would delete what
/// it no longer knows.
pub(super) fn run(warden: &Warden) -> Result<Vec<String>> {
    refuse_an_older_database(warden)?;
    let mut notices = Vec::new();
    notices.extend(warden.keyring_must_stand().err().map(|error| error.to_string()));
    notices.extend(warden.keep_revocations()?);
    notices.extend(warden.finish_erasures(None)?);
    let now = warden.now_ms();
    let interrupted = warden.store.write(|rows| {
        rows.interrupt_runs(now)?;
        rows.fail_pending_answers(now)?;
        rows.remove_staged_objects()?;
        rows.interrupt_jobs(now)
    })?;
    drop_stray_checkpoints(warden)?;
    let kept = warden.store.read(|rows| rows.kept_objects())?;
    let held: HashSet<Id> = warden.vault.objects().into_iter().collect();
    let half_done: Vec<Id> = held.difference(&kept).copied().collect();
    if !half_done.is_empty() {
        warden.vault.delete_all(&half_done)?;
    }
    for job in interrupted {
        notices.push(format!("job {job} was cut off; what it had reported done is kept"));
    }
    let lost = kept.difference(&held).count();
    if lost > 0 {
        notices.push(format!(
            "{lost} objects that the database lists have no key: the keyring may be older than the database; \
             `cloister data verify` names them"
        ));
    }
    Ok(notices)
}

/// An outcome is written after its rows: what the log says was done, the database knows.
fn refuse_an_older_database(warden: &Warden) -> Result<()> {
    let from = warden.log.size().saturating_sub(ENTRIES_COMPARED);
    for entry in auditlog::read(&warden.data_dir.join("audit"), from)? {
        let (number, entry) = entry?;
        let made = entry.object.filter(|id| MADE_WITH_ROWS.contains(&id.kind()));
        let Some(object) = made.filter(|_| entry.outcome == Outcome::Done) else { continue };
        if !warden.store.read(|rows| rows.is_known(object))? {
            return Err(Error::integrity(format!(
                "the database does not know {object}, which entry {number} of the audit log says was done: \
                 it was put back from an older day"
            ))
            .remedy("restore the whole data directory from one backup"));
        }
    }
    Ok(())
}

/// Kinds whose rows stay for ever.
const MADE_WITH_ROWS: [IdKind; 5] =
    [IdKind::Job, IdKind::Tokenizer, IdKind::Model, IdKind::Erasure, IdKind::Deployment];

/// A checkpoint is kept as long as a fact of its run names it.
fn drop_stray_checkpoints(warden: &Warden) -> Result<()> {
    warden.store.write(|rows| {
        let named: HashSet<Id> = rows.facts_of_kind("checkpoints")?.iter().flat_map(ids_in).collect();
        let kept = rows.kept_objects()?;
        let stray = kept.iter().filter(|id| id.kind() == IdKind::Checkpoint && !named.contains(id));
        stray.copied().try_for_each(|id| rows.remove_object(id))
    })
}
