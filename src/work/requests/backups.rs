//! Backups: making one, and letting old ones go.

use std::path::Path;

use serde_json::Value;

use super::Performed;
use crate::{
    base::{Error, Monitor, Result},
    work::{
        backup::{self, Repository},
        warden::Warden,
    },
};

pub(super) fn create(warden: &Warden, to: &Path, keys: &Path, monitor: &dyn Monitor) -> Result<Performed> {
    let taken = backup::create(warden, to, keys, monitor);
    let finished = warden.finish_erasures_held_up();
    // The backup's own failure is what the asker must hear.
    let row = taken?;
    finished
        .map_err(|error| error.context(format!("{} is made; then an erasure was to be finished", row.id)))?;
    let made = Performed::new(&row)?.made(row.id).detail("vault_epoch", row.vault_epoch);
    Ok(made.detail("objects", row.objects).detail("bytes", row.bytes))
}

pub(super) fn forget(warden: &Warden, from: &Path, keys: &Path, keep: usize) -> Result<Performed> {
    if keep == 0 {
        return Err(Error::usage("at least one backup must stay")
            .remedy("remove the repository's folder yourself if you mean to have none"));
    }
    let gone = Repository::open(from)?.forget(keep, keys, &warden.signer().public_key())?;
    let names: Vec<Value> = gone.iter().map(|id| id.to_string().into()).collect();
    Ok(Performed::new(&gone)?.detail("backups", names))
}
