//! The lock on a data directory: whoever holds it is the warden. The kernel lets go of it when the process ends,
//! however it ends.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    time::{Duration, Instant},
};

use crate::base::{Context, Error, Result, fs::create_private_dir};

/// A process that is being started has our descriptors until it runs its own program: a lock that this very process let go
/// of may be held for so long.
const STARTING_MAX: Duration = Duration::from_millis(500);

/// The held lock; dropping it lets go.
pub(super) struct Lock {
    file: File,
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A lock that an earlier life of this process took: it is held as long as any descriptor of it is open.
impl From<OwnedFd> for Lock {
    fn from(descriptor: OwnedFd) -> Self {
        Self { file: descriptor.into() }
    }
}

/// What came of trying.
pub(super) enum Attempt {
    Held(Lock),
    /// Another process is the warden.
    Taken {
        pid: Option<u32>,
    },
}

/// Tries to become the warden of `data_dir`.
pub(super) fn try_lock(data_dir: &Path) -> Result<Attempt> {
    let run = data_dir.join("run");
    create_private_dir(&run)?;
    let path = run.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).with_context(|| format!("opening {}", path.display()))?;
    let until = Instant::now() + STARTING_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {
                let pid = holder(&mut file);
                if pid != Some(std::process::id()) || Instant::now() > until {
                    return Ok(Attempt::Taken { pid });
                }
                std::thread::sleep(STARTING_MAX / 100);
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(Attempt::Held(Lock { file }))
}

/// The process that has written its number into the lock. None of one that is about to: it is there all the same.
fn holder(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.rewind().and_then(|()| lock.read_to_string(&mut text)).ok()?;
    text.trim().parse().ok()
}

/// The error for somebody who must be the warden and cannot.
pub(super) fn taken(data_dir: &Path, pid: Option<u32>) -> Error {
    let holder = pid.map_or("another process".to_owned(), |pid| format!("process {pid}"));
    Error::unavailable(format!("{} is in use by {holder}", data_dir.display()))
        .remedy("wait until it ends, or stop it; only one process at a time works on a data directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_hears_the_number_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let first = try_lock(directory.path()).unwrap();
        assert!(matches!(first, Attempt::Held(_)));
        let Attempt::Taken { pid } = try_lock(directory.path()).unwrap() else { panic!("taken twice") };
        assert_eq!(pid, Some(std::process::id()));
        let error = taken(directory.path(), pid);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(first);
        assert!(matches!(try_lock(directory.path()).unwrap(), Attempt::Held(_)));
    }
}
