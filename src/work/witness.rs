//! What the vault and the audit log keep of each other. The log records the vault's root, the keyring keeps the
//! log's newest checkpoint: neither can be put back in time alone without the other telling of it. Both put back
//! together is what only a checkpoint kept outside can notice.

use std::{
    path::Path,
    sync::{MutexGuard, PoisonError},
};

use serde_json::Value;

use super::warden::Warden;
use crate::{
    auditlog::{self, AuditLog, Entry, Outcome},
    base::{Error, Result, hex},
    vault::VaultRoot,
};

/// Done where a root was recorded, failed where the keyring was found not to come of the one that was.
const ACTION: &str = "vault.root";
/// The newest root is looked for among so many of the newest entries first, then among ever more.
const ENTRIES_SEARCHED: u64 = 1000;

/// What the log has of the vault.
#[derive(Default)]
pub(super) struct Witness {
    /// The root that was recorded last; None in a log that has none yet.
    root: Option<VaultRoot>,
    /// Why no further one may be: what was put back would pass for the newest.
    put_back: Option<Error>,
}

impl Witness {
    /// Holds the vault, of which nothing was changed yet, against the log. A keyring that was put back is told of in the
    /// log at once: from then on no number of commits makes it look like the newest.
    ///
    /// # Errors
    /// `Integrity` where the log holds a root that cannot be read.
    pub(super) fn find(log: &AuditLog, directory: &Path, now: &VaultRoot) -> Result<Self> {
        let Some((number, entry)) = newest(directory, log.size(), ENTRIES_SEARCHED)? else {
            return Ok(Self::default());
        };
        let root = root_of(&entry).ok_or_else(|| {
            Error::integrity(format!("entry {number} of the audit log holds no root of the vault"))
        })?;
        let what = if entry.outcome == Outcome::Failed {
            Some(format!("the keyring was put back in time: entry {number} of the audit log says when"))
        } else {
            let what = now.put_back_since(&root);
            if what.is_some() {
                log.append(about(Outcome::Failed, &root).detail("found_epoch", now.epoch))?;
            }
            what
        };
        let put_back = what.map(|what| {
            Error::integrity(what).remedy(
                "restore the whole data directory from one backup, and find out who put the keyring back",
            )
        });
        Ok(Self { root: Some(root), put_back })
    }
}

impl Warden {
    /// Records the vault's root in the log, and the log's newest checkpoint in the keyring.
    ///
    /// # Errors
    /// `Integrity` where the keyring was put back.
    pub(super) fn bear_witness(&self) -> Result<()> {
        let mut witness = self.witness();
        witness.put_back.clone().map_or(Ok(()), Err)?;
        let root = self.vault.root();
        self.audit(about(Outcome::Done, &root))?;
        witness.root = Some(root);
        self.vault.set_witness(self.log.checkpoint().into_bytes())
    }

    /// The root that the log recorded last; None in a log that has none yet.
    pub(super) fn recorded_root(&self) -> Option<VaultRoot> {
        self.witness().root
    }

    /// Asked before what ends with a further root.
    ///
    /// # Errors
    /// `Integrity` where the keyring was put back.
    pub(super) fn keyring_must_stand(&self) -> Result<()> {
        self.witness().put_back.clone().map_or(Ok(()), Err)
    }

    fn witness(&self) -> MutexGuard<'_, Witness> {
        self.witness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn about(outcome: Outcome, root: &VaultRoot) -> Entry {
    Entry::new("cloister", ACTION, outcome)
        .detail("epoch", root.epoch)
        .detail("objects", root.objects)
        .detail("hash", hex(&root.hash))
}

/// The newest entry about the vault's root. Every job and every backup leaves one: it stands near the end, and the
/// whole log is read only where there is none.
fn newest(directory: &Path, entries: u64, first_span: u64) -> Result<Option<(u64, Entry)>> {
    let (mut end, mut span) = (entries, first_span);
    while end > 0 {
        let from = end.saturating_sub(span);
        let mut last = None;
        for entry in auditlog::read(directory, from)? {
            let (number, entry) = entry?;
            if number >= end {
                break;
            }
            if entry.action == ACTION {
                last = Some((number, entry));
            }
        }
        if last.is_some() {
            return Ok(last);
        }
        (end, span) = (from, span.saturating_mul(4));
    }
    Ok(None)
}

fn root_of(entry: &Entry) -> Option<VaultRoot> {
    let number = |name| entry.detail.get(name).and_then(Value::as_u64);
    let digits = entry.detail.get("hash")?.as_str()?;
    let mut hash = [0; 32];
    if digits.len() != 2 * hash.len() || !digits.is_ascii() {
        return None;
    }
    for (place, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * place..][..2], 16).ok()?;
    }
    Some(VaultRoot { epoch: number("epoch")?, objects: number("objects")?, hash })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::tests::Bench;

    #[test]
    fn the_newest_root_is_found_wherever_it_stands() {
        let bench = Bench::new();
        let warden = bench.init();
        let other = || Entry::new("somebody", "something", Outcome::Done);
        for _ in 0..9 {
            warden.audit(other()).unwrap();
        }
        warden.bear_witness().unwrap();
        let last = warden.log.size() - 1;
        for _ in 0..9 {
            warden.audit(other()).unwrap();
        }
        let directory = warden.data_dir.join("audit");
        let place = |entries, span| newest(&directory, entries, span).unwrap().map(|(number, _)| number);
        for span in [1, 2, 3, 9, 10, 1000] {
            assert_eq!(place(warden.log.size(), span), Some(last), "{span}");
            assert_eq!(place(last, span), Some(1), "{span}: init's own");
            assert_eq!(place(1, span), None, "{span}");
        }
        assert_eq!(
            Witness::find(&warden.log, &directory, &warden.vault.root()).unwrap().root,
            warden.recorded_root()
        );
    }

    #[test]
    fn a_root_survives_its_entry_and_a_damaged_one_is_not_guessed() {
        let root = VaultRoot { epoch: 7, objects: 3, hash: std::array::from_fn(|at| 0xF0 ^ at as u8) };
        let entry = |hash: &str| about(Outcome::Done, &root).detail("hash", hash);
        let digits = hex(&root.hash);
        assert_eq!(root_of(&entry(&digits)), Some(root));
        for damaged in ["", &digits[2..], &digits.replace('f', "g"), &"é".repeat(32)] {
            assert_eq!(root_of(&entry(damaged)), None, "{damaged}");
        }
        assert_eq!(root_of(&Entry::new("cloister", ACTION, Outcome::Done)), None);
    }
}
