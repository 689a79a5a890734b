//! What the vault and the audit log keep of each other. The log records the vault's root, the keyring keeps the
//! log's newest checkpoint: neither can be put back in time alone without the other telling of it. Both put back
//! together is what only a checkpoint kept outside can notice.

use serde_json::Value;

use super::warden::Warden;
use crate::{
    auditlog::{self, Entry, Outcome},
    base::{Error, Result, hex},
    vault::VaultRoot,
};

const ACTION: &str = "vault.root";

impl Warden {
    /// Records the vault's root in the log, and the log's newest checkpoint in the keyring.
    pub(super) fn bear_witness(&self) -> Result<()> {
        let root = self.vault.root();
        self.audit(
            Entry::new("cloister", ACTION, Outcome::Done)
                .detail("epoch", root.epoch)
                .detail("objects", root.objects)
                .detail("hash", hex(&root.hash)),
        )?;
        self.vault.set_witness(self.log.checkpoint().into_bytes())
    }

    /// The root that the log recorded last; None in a log that has none yet. Reads the whole log.
    ///
    /// # Errors
    /// `Integrity` where the log holds a root that cannot be read.
    pub(super) fn recorded_root(&self) -> Result<Option<VaultRoot>> {
        let mut last = None;
        for entry in auditlog::read(&self.data_dir.join("audit"), 0)? {
            let (number, entry) = entry?;
            if entry.action == ACTION {
                last = Some((number, entry));
            }
        }
        last.map(|(number, entry)| {
            root_of(&entry).ok_or_else(|| {
                Error::integrity(format!("entry {number} of the audit log holds no root of the vault"))
            })
        })
        .transpose()
    }
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

    #[test]
    fn a_root_survives_its_entry_and_a_damaged_one_is_not_guessed() {
        let root = VaultRoot { epoch: 7, objects: 3, hash: std::array::from_fn(|at| 0xF0 ^ at as u8) };
        let entry = |hash: &str| {
            Entry::new("cloister", ACTION, Outcome::Done)
                .detail("epoch", root.epoch)
                .detail("objects", root.objects)
                .detail("hash", hash)
        };
        let digits = hex(&root.hash);
        assert_eq!(root_of(&entry(&digits)), Some(root));
        for damaged in ["", &digits[2..], &digits.replace('f', "g"), &"é".repeat(32)] {
            assert_eq!(root_of(&entry(damaged)), None, "{damaged}");
        }
        assert_eq!(root_of(&Entry::new("cloister", ACTION, Outcome::Done)), None);
    }
}
