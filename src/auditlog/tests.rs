//! The log under attack: everything that can be done to its files, and the number that verify names.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{segment::segment_path, *};
use crate::{
    base::{ErrorKind, Id, IdKind},
    seal::{Key, Signer},
};

fn install() -> Id {
    Id::from_parts(IdKind::Install, 1_790_000_000_000, [7; 10])
}

fn signer() -> Signer {
    Signer::new(Key::from_bytes(&[42; 32]).expect("key"))
}

fn key() -> LogKey {
    LogKey::new(install(), signer().public_key())
}

fn open(directory: &Path) -> crate::base::Result<AuditLog> {
    AuditLog::open(directory, install(), signer(), None)
}

fn entry(number: u64) -> Entry {
    let mut entry = Entry::new("local:0", "test.act", Outcome::Done).detail("step", number);
    entry.at_ms = 1_790_000_000_000 + number;
    entry
}

/// A log of six entries, each a group of its own.
fn six(directory: &Path) -> PathBuf {
    let log = open(directory).expect("open");
    for number in 0..6 {
        assert_eq!(log.append(entry(number)).expect("append"), number);
    }
    segment_path(directory, 1)
}

fn problems(directory: &Path) -> Vec<Problem> {
    verify(directory, &key(), &[]).expect("verify").problems
}

#[test]
fn entries_come_back_and_verify() {
    let directory = tempfile::tempdir().expect("temporary directory");
    six(directory.path());
    let log = open(directory.path()).expect("again");
    assert_eq!((log.size(), log.recovered()), (6, Recovered::default()));
    assert_eq!(log.append(entry(6)).expect("append"), 6);
    let report = verify(directory.path(), &key(), &[&log.checkpoint()]).expect("verify");
    assert_eq!((report.entries, report.problems), (7, vec![]));
    let back: Vec<_> = read(directory.path(), 2).expect("read").map(|entry| entry.expect("entry")).collect();
    assert_eq!(back, (2..7).map(|number| (number, entry(number))).collect::<Vec<_>>());
}
