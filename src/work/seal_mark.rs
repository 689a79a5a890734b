//! The mark of a seal, `run/sealed`: as long as it lies in the data directory, whatever is at hand to unseal it is not
//! used, by a daemon that starts or by a command. So a seal outlives the process and the machine's next start. It guards
//! nothing by itself: whoever may remove it and has the key file needs no daemon to open the vault.

use std::path::{Path, PathBuf};

use crate::base::{
    Context, Error, Result,
    fs::{create_private_dir, sync_parent, write_atomic},
};

const NOT_FOUND: std::io::ErrorKind = std::io::ErrorKind::NotFound;
const TEXT: &[u8] = b"sealed by `cloister seal`; `cloister unseal` lifts it\n";

/// Durable on return.
pub(super) fn set(data_dir: &Path) -> Result<()> {
    let path = place(data_dir);
    create_private_dir(&data_dir.join("run"))?;
    sync_parent(&data_dir.join("run"))?;
    write_atomic(&path, TEXT)
}

pub(super) fn is_set(data_dir: &Path) -> bool {
    // What cannot be looked at counts as there.
    std::fs::symlink_metadata(place(data_dir)).map_or_else(|error| error.kind() != NOT_FOUND, |_| true)
}

/// Durable on return.
pub(super) fn lift(data_dir: &Path) -> Result<()> {
    let path = place(data_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == NOT_FOUND => Ok(()),
        removed => {
            removed.with_context(|| format!("removing {}", path.display()))?;
            sync_parent(&path)
        }
    }
}

/// What everybody hears who would open it with what is at hand.
pub(super) fn refusal() -> Error {
    Error::sealed("the appliance was sealed by `cloister seal`, and nobody has unsealed it since")
        .remedy("unseal it with `cloister unseal`")
}

fn place(data_dir: &Path) -> PathBuf {
    data_dir.join("run").join("sealed")
}
