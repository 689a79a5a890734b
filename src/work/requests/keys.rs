//! Keys: what there are, newer ones, another root key under other unsealers, and letting go of all of them.

use std::sync::{PoisonError, atomic::Ordering};

use super::Performed;
use crate::{
    auditlog::Outcome,
    base::Result,
    vault::{KeyReport, Purpose, Unsealer},
    work::{
        policy::{Action, Actor},
        request::KeyStatus,
        seal_mark,
        warden::Warden,
    },
};

pub(super) fn status(warden: &Warden) -> Result<Performed> {
    Performed::new(&key_status(warden)?)
}

pub(super) fn rotate(warden: &Warden) -> Result<Performed> {
    warden.keyring_must_stand()?;
    warden.vault.rotate()?;
    warden.store.set_keys(&warden.vault.purpose_keys(Purpose::Columns)?)?;
    let tokens_keys = warden.vault.purpose_keys(Purpose::Tokens)?;
    *warden.tokens_keys.write().unwrap_or_else(PoisonError::into_inner) = tokens_keys;
    warden.bear_witness()?;
    let status = key_status(warden)?;
    let version = status.versions.get(Purpose::Objects.as_str()).copied();
    Ok(Performed::new(&status)?.detail("objects_version", version))
}

/// The daemon sees it, and ends: only a process that is gone has forgotten everything. The next one is sealed too, until
/// somebody unseals it.
pub(super) fn seal(warden: &Warden) -> Result<Performed> {
    seal_mark::set(&warden.data_dir)?;
    warden.sealing.store(true, Ordering::Release);
    Performed::new(&())
}

impl Warden {
    /// Whether somebody asked that the daemon go on without keys.
    pub fn is_sealing(&self) -> bool {
        self.sealing.load(Ordering::Acquire)
    }

    /// Puts another root key, which `unsealers` open, in the place of this one. It is no
    /// [`Request`](crate::work::Request): a root key is never replaced over a socket.
    ///
    /// # Errors
    /// `Usage` when an unsealer is of no use, `Unavailable` where the audit log cannot be written.
    pub fn rekey(&self, unsealers: &[Unsealer]) -> Result<KeyStatus> {
        let actor = Actor::this_process();
        self.record(&actor, Action::KeyRekey, None, Outcome::Intent, &[])?;
        if let Err(error) = self.vault.rekey(unsealers) {
            // The failure itself is what the asker must hear, whether or not the log takes it.
            let _ = self.record(&actor, Action::KeyRekey, None, Outcome::Failed, &[]);
            return Err(error);
        }
        self.record(&actor, Action::KeyRekey, None, Outcome::Done, &[])
            .map_err(|error| error.context("it was done, and that could not be recorded"))?;
        key_status(self)
    }
}

fn key_status(warden: &Warden) -> Result<KeyStatus> {
    let KeyReport { unsealed_by, versions, objects, objects_to_rewrap } = warden.vault.key_report()?;
    let versions = versions.into_iter().map(|(purpose, version)| (purpose.as_str().to_owned(), version));
    Ok(KeyStatus {
        unsealed_by: unsealed_by.iter().map(ToString::to_string).collect(),
        versions: versions.collect(),
        objects,
        objects_to_rewrap,
    })
}
