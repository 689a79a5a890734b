//! File writes that either happen whole or not at all.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown, lchown},
    path::Path,
};

use super::{Context, Error, Result};

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// Replaces `path` with `bytes` so that a crash leaves the old content or the new, never a mixture, and
/// a return means it is on the disk. The file is readable by its owner only.
///
/// # Errors
/// Any failure to write, flush or rename, with the path; the old file then still stands.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary_beside(path)?;
    let written = write_synced(&temporary, bytes).and_then(|()| rename_durably(&temporary, path));
    if written.is_err() {
        // The write's own failure is what the caller must hear of, not that of the clean-up.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Renames a synced file into place and makes the rename itself durable.
pub fn rename_durably(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).with_context(|| format!("renaming {} to {}", from.display(), to.display()))?;
    sync_parent(to)
}

/// Makes the directory entry of `path` durable: a new or renamed file survives a power cut only after this.
pub fn sync_parent(path: &Path) -> Result<()> {
    let parent = parent_of(path);
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("syncing {}", parent.display()))
}

/// Creates a directory and its parents, readable by their owner only: whoever owns what it lies in, where root makes it.
pub fn create_private_dir(path: &Path) -> Result<()> {
    let create = || -> std::io::Result<()> {
        let is_new = !path.exists();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        match owner_to_give(path)? {
            Some((uid, gid)) if is_new => lchown(path, Some(uid), Some(gid)),
            _ => Ok(()),
        }
    };
    create().with_context(|| format!("creating the directory {}", path.display()))
}

/// Gives a file that this process has just made to whoever owns the directory, where root made it: an administrator's
/// command must leave nothing that the service, under a user of its own, cannot open.
pub fn give_to_owner_of_directory(file: &File, path: &Path) -> std::io::Result<()> {
    owner_to_give(path)?.map_or(Ok(()), |(uid, gid)| fchown(file, Some(uid), Some(gid)))
}

/// User and group of the directory that `path` lies in; None where this process is not root, or they are root's.
fn owner_to_give(path: &Path) -> std::io::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let directory = std::fs::metadata(parent_of(path))?;
    Ok((directory.uid() != 0).then_some((directory.uid(), directory.gid())))
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes what [`write_atomic`] left in `directory` when the machine stopped in the middle of it. For whoever
/// alone writes there, before the first write.
pub fn remove_temporaries(directory: &Path) -> Result<()> {
    let doing = || format!("sweeping {}", directory.display());
    for entry in std::fs::read_dir(directory).with_context(doing)? {
        let path = entry.with_context(doing)?.path();
        if path.extension().is_some_and(|extension| extension == "tmp") {
            std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let write = |path: &Path| -> std::io::Result<()> {
        // Left by a process of the same number; nothing that lies there is written through.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = options.open(path)?;
        give_to_owner_of_directory(&file, path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write(path).with_context(|| format!("writing {}", path.display()))
}

fn temporary_beside(path: &Path) -> Result<std::path::PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::failed(format!("{} names no file", path.display())))?;
    let mut temporary = name.to_os_string();
    temporary.push(format!(".{}.tmp", std::process::id()));
    Ok(path.with_file_name(temporary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_nothing_beside() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("a");
        write_atomic(&path, b"one").expect("first");
        write_atomic(&path, b"two").expect("second");
        assert_eq!(std::fs::read(&path).expect("read"), b"two");
        assert_eq!(std::fs::read_dir(directory.path()).expect("list").count(), 1);
    }

    #[test]
    fn what_a_crash_left_half_written_is_swept() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("a");
        write_atomic(&path, b"one").expect("write");
        std::fs::write(temporary_beside(&path).expect("name"), b"tw").expect("half of it");
        remove_temporaries(directory.path()).expect("sweep");
        assert_eq!(std::fs::read_dir(directory.path()).expect("list").count(), 1);
        assert!(remove_temporaries(&path).is_err());
    }

    #[test]
    fn nothing_that_lies_at_the_temporary_name_is_written_through() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (path, other) = (directory.path().join("a"), directory.path().join("other"));
        std::fs::write(&other, b"kept").expect("write");
        std::os::unix::fs::symlink(&other, temporary_beside(&path).expect("name")).expect("link");
        write_atomic(&path, b"one").expect("write");
        assert_eq!([&path, &other].map(|path| std::fs::read(path).expect("read")), [&b"one"[..], b"kept"]);
    }

    #[test]
    fn what_root_makes_in_somebody_elses_directory_is_theirs() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root makes files that others own");
            return;
        }
        let directory = tempfile::tempdir().expect("temporary directory");
        let theirs = directory.path().join("theirs");
        create_private_dir(&theirs).expect("a directory");
        lchown(&theirs, Some(65534), Some(65533)).expect("given away");
        write_atomic(&theirs.join("file"), b"x").expect("write");
        create_private_dir(&theirs.join("folder")).expect("a directory");
        for name in ["file", "folder"] {
            let made = std::fs::metadata(theirs.join(name)).expect("made");
            assert_eq!((made.uid(), made.gid()), (65534, 65533), "{name}");
        }
        assert_eq!(std::fs::metadata(directory.path()).expect("there").uid(), 0);
    }

    #[test]
    fn says_where_it_failed() {
        let error = write_atomic(Path::new("/nonexistent/a"), b"x").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/a"), "{error}");
    }
}
