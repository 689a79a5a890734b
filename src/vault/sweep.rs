//! What a crash left behind in `objects/`. A temporary file whose header is the one that the keyring lists was
//! committed and not yet renamed: it takes its place. Every other temporary file was never committed: it goes.
//! Files under a final name are never touched; one that is not listed is for `verify` to report.

use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{
    keyring::Keyring,
    object::{TEMPORARY_SUFFIX, cause},
};
use crate::{
    base::{Context, Id, Result},
    seal::{HEADER_BYTES, sha256},
};

/// What opening a vault put in order: worth an audit entry when it is not all zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    /// Objects whose commit was complete but for the last rename.
    pub completed: u64,
    /// Temporary files of objects that were never committed.
    pub removed: u64,
    /// Bytes of an unfinished commit cut from the keyring.
    pub keyring_bytes_cut: u64,
}

pub(super) fn sweep(objects: &Path, ring: &Keyring) -> Result<Swept> {
    let mut swept = Swept::default();
    for path in files(objects)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(stem) = name.strip_suffix(TEMPORARY_SUFFIX) else { continue };
        let named = |doing: &str| format!("{doing} {}", path.display());
        let listed = stem.parse::<Id>().ok().and_then(|id| ring.objects.get(&id));
        let committed =
            listed.is_some_and(|entry| header_hash(&path).is_ok_and(|hash| hash == entry.header_hash));
        let place = path.with_file_name(stem);
        if committed && !place.exists() {
            crate::base::fs::rename_durably(&path, &place)?;
            swept.completed += 1;
        } else {
            fs::remove_file(&path).with_context(|| named("sweeping"))?;
            swept.removed += 1;
        }
    }
    Ok(swept)
}

/// All files two levels down.
pub(super) fn files(objects: &Path) -> Result<Vec<PathBuf>> {
    let list = |directory: &Path| -> Result<Vec<PathBuf>> {
        let read = || fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
        read().map_err(|error| cause(error).context(format!("listing {}", directory.display())))
    };
    let mut files = Vec::new();
    for path in list(objects)? {
        if path.is_dir() { files.extend(list(&path)?) } else { files.push(path) }
    }
    files.sort_unstable();
    Ok(files)
}

fn header_hash(path: &Path) -> io::Result<crate::seal::Digest> {
    let mut header = [0; HEADER_BYTES];
    fs::File::open(path)?.read_exact_at(&mut header, 0)?;
    Ok(sha256(&header))
}
