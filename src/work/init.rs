//! Making an installation. Cut off at any point, it either does not exist yet or is finished when it is next
//! opened.

use super::{
    client::{Site, Unsealer},
    warden::{Warden, hold},
};
use crate::{
    auditlog::{Entry, Outcome},
    base::{
        Error, Result,
        fs::{create_private_dir, sync_parent},
    },
    vault::{self, Vault},
    work::Actor,
};

impl From<&Unsealer> for vault::Unsealer {
    fn from(unsealer: &Unsealer) -> Self {
        match unsealer {
            Unsealer::KeyFile(path) => Self::KeyFile(path.clone()),
            Unsealer::PassphraseFile(path) => Self::PassphraseFile(path.clone()),
            Unsealer::ShareFiles(paths) => Self::ShareFiles(paths.clone()),
        }
    }
}

impl Warden {
    /// Makes a new installation and becomes its warden. A key file that is not there yet is made.
    ///
    /// # Errors
    /// `Usage` where the directory holds an installation or somebody else's files, or no unsealer is named.
    pub fn init(site: &Site) -> Result<Self> {
        let unsealer = site.unsealer.as_ref().ok_or_else(|| {
            Error::usage("an installation needs something that unseals it").remedy(
                "give --key-file F (it is made if it is not there), --passphrase-file F, or --shares N",
            )
        })?;
        Self::init_under(site, &unsealer.into())
    }

    /// As [`Warden::init`], under an unsealer that lies in no file.
    pub fn init_under(site: &Site, unsealer: &vault::Unsealer) -> Result<Self> {
        let data_dir = &site.data_dir;
        if !Vault::exists(data_dir) {
            refuse_foreign_files(site)?;
        }
        create_private_dir(data_dir)?;
        sync_parent(data_dir)?;
        let lock = hold(data_dir)?;
        let vault = Vault::init(data_dir, unsealer)?;
        let warden = Self::assemble(site, lock, vault)?;
        let actor = Actor::this_process().to_string();
        warden.audit(Entry::new(actor, "init", Outcome::Done).object(warden.install()))?;
        warden.bear_witness()?;
        Ok(warden)
    }
}

/// Whatever is not left by an `init` that was cut off is somebody else's.
fn refuse_foreign_files(site: &Site) -> Result<()> {
    let ours = ["keys", "objects", "audit", "run", "cloister.db", "cloister.db-wal", "cloister.db-shm"];
    let key_file = match &site.unsealer {
        Some(Unsealer::KeyFile(path) | Unsealer::PassphraseFile(path)) => path.file_name(),
        Some(Unsealer::ShareFiles(_)) | None => None,
    };
    let Ok(entries) = std::fs::read_dir(&site.data_dir) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !ours.iter().any(|known| name == *known) && Some(name.as_os_str()) != key_file {
            return Err(Error::usage(format!(
                "{} is not empty: it holds '{}'",
                site.data_dir.display(),
                name.to_string_lossy()
            ))
            .remedy("name an empty or new directory with --data-dir"));
        }
    }
    Ok(())
}
