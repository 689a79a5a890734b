//! What a backup promises: all of it or none, whatever goes on beside it, and not a byte of it altered unnoticed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use super::{Repository, repository::remove_folder};
use crate::{
    auditlog,
    base::{Error, ErrorKind, Id, Result, Silent},
    work::{
        Warden,
        client::{Site, Unsealer},
        request::{BackupRow, Request, TokenSpec},
        tests::{Bench, ask, ingest, lies_in_the_clear},
    },
};

const HERON: &str = "the heron stands over the mill pond\n";

fn back_up(bench: &Bench, warden: &Warden) -> Result<BackupRow> {
    let request = Request::BackupCreate { to: bench.path("disk"), keys: bench.path("stick") };
    ask(warden, request).map(|row| serde_json::from_value(row).unwrap())
}

fn restored_site(bench: &Bench, name: &str) -> Site {
    Site { data_dir: bench.path(name), ..bench.site() }
}

fn restore(bench: &Bench, name: &str, backup: Option<Id>) -> Result<Warden> {
    let site = restored_site(bench, name);
    Warden::restore(&site, &bench.path("disk"), &bench.path("stick"), backup, None, &Silent)?;
    Warden::open(&site)
}

fn names(warden: &Warden) -> Vec<String> {
    let rows = ask(warden, Request::DataLs { collection: None }).unwrap();
    let mut names: Vec<String> =
        rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn expect_error<T>(outcome: Result<T>) -> Error {
    outcome.err().expect("it fails")
}

#[test]
fn a_backup_becomes_the_same_installation_on_another_machine() {
    let bench = Bench::new();
    let warden = bench.init();
    bench.document("a.txt", HERON);
    ingest(&bench, &warden);
    let token = ask(&warden, Request::TokenNew(TokenSpec::of_role("user"))).unwrap();
    let row = back_up(&bench, &warden).unwrap();
    bench.document("b.txt", "this came after the backup\n");
    ingest(&bench, &warden);
    let (install, before) = (warden.install(), names(&warden));
    assert_eq!(before.len(), 2);
    drop(warden);
    fs::remove_dir_all(bench.path("data")).unwrap();

    let warden = restore(&bench, "fresh", None).unwrap();
    assert_eq!(warden.install(), install);
    assert_eq!(names(&warden), before[..1]);
    warden.authenticate(token["token"].as_str().unwrap(), None).unwrap();
    ask(&warden, Request::DataVerify).unwrap();
    ask(&warden, Request::AuditVerify).unwrap();
    let entries = auditlog::read(&bench.path("fresh").join("audit"), 0).unwrap();
    let restored = entries.map(Result::unwrap).find(|(_, entry)| entry.action == "backup.restore");
    assert_eq!(restored.unwrap().1.object, Some(row.id));
    for planted in ["heron", "a.txt", "letters"] {
        assert!(!lies_in_the_clear(&bench.path("disk"), planted), "{planted}");
        assert!(!lies_in_the_clear(&bench.path("stick"), planted), "{planted}");
    }
}

#[test]
fn only_what_is_new_is_copied_and_what_nobody_needs_any_more_goes() {
    let bench = Bench::new();
    let warden = bench.init();
    bench.document("a.txt", HERON);
    ingest(&bench, &warden);
    let first = back_up(&bench, &warden).unwrap();
    assert_eq!(first.new_objects, Some(first.objects));
    bench.document("a.txt", "the heron has flown\n");
    bench.document("b.txt", "and the miller counts his sacks\n");
    ingest(&bench, &warden);
    let old: Vec<Id> = warden.vault.objects();
    warden.vault.delete_all(&old[..1]).unwrap();
    let second = back_up(&bench, &warden).unwrap();
    assert_eq!(second.new_objects, Some(2), "two new texts");

    let repository = Repository::open(&bench.path("disk")).unwrap();
    assert_eq!(repository.backups().unwrap(), [first.id, second.id]);
    let key = warden.signer().public_key();
    for backup in [first.id, second.id] {
        repository.verify(backup, Some(&bench.path("stick")), Some(&key), &Silent).unwrap();
    }
    let forget = |keys| Request::BackupForget { from: bench.path("disk"), keys: bench.path(keys), keep: 1 };
    let error = expect_error(ask(&warden, forget("not there")));
    assert_eq!((error.kind(), repository.backups().unwrap().len()), (ErrorKind::NotFound, 2));
    let gone: Vec<Id> = serde_json::from_value(ask(&warden, forget("stick")).unwrap()).unwrap();
    assert_eq!(gone, [first.id]);
    assert_eq!(repository.backups().unwrap(), [second.id]);
    assert_eq!(fs::read_dir(bench.path("stick")).unwrap().count(), 1, "the keys went first");
    assert_eq!(files_below(&bench.path("disk/objects")).len() as u64, second.objects);
    repository.verify(second.id, None, Some(&key), &Silent).unwrap();
}

#[test]
fn an_object_that_is_deleted_while_it_is_copied_stays_until_it_was() {
    let bench = Bench::new();
    let warden = bench.init();
    bench.document("a.txt", HERON);
    ingest(&bench, &warden);
    let id = warden.vault.objects()[0];
    let (outer, inner) = (warden.vault.hold(), warden.vault.hold());
    warden.vault.delete_all(&[id]).unwrap();
    assert!(!warden.vault.contains(id));
    assert!(inner.file(id).is_ok());
    drop(inner);
    assert!(outer.file(id).is_ok(), "somebody still copies");
    drop(outer);
    assert_eq!(expect_error(warden.vault.hold().file(id)).kind(), ErrorKind::Integrity);
    assert!(files_below(&bench.path("data/objects")).is_empty());
}

#[test]
fn a_backup_made_while_documents_come_in_is_one_moment_of_them() {
    let bench = Bench::new();
    let warden = bench.init();
    let over = AtomicBool::new(false);
    let mut made: Vec<BackupRow> = std::thread::scope(|threads| {
        threads.spawn(|| {
            for number in 0..6 {
                bench.document(&format!("{number}.txt"), &format!("{number}: {}", HERON.repeat(20)));
                ingest(&bench, &warden);
                ask(&warden, Request::TokenNew(TokenSpec::of_role("user"))).unwrap();
            }
            over.store(true, Ordering::Release);
        });
        let mut made = Vec::new();
        while !over.load(Ordering::Acquire) {
            made.push(back_up(&bench, &warden).unwrap());
        }
        made
    });
    made.push(back_up(&bench, &warden).unwrap());
    let mut counts = Vec::new();
    for (number, row) in made.iter().enumerate() {
        let warden = restore(&bench, &format!("fresh-{number}"), Some(row.id)).unwrap();
        ask(&warden, Request::DataVerify).unwrap();
        ask(&warden, Request::AuditVerify).unwrap();
        counts.push(names(&warden).len());
    }
    assert!(counts.is_sorted(), "{counts:?}");
    assert_eq!(counts.last(), Some(&6));
}

#[test]
fn whatever_is_altered_or_missing_is_named_and_nothing_of_it_is_restored() {
    let bench = Bench::new();
    let warden = bench.init();
    bench.document("a.txt", HERON);
    ingest(&bench, &warden);
    let row = back_up(&bench, &warden).unwrap();
    let key = warden.signer().public_key();
    drop(warden);
    let repository = Repository::open(&bench.path("disk")).unwrap();
    let files = [files_below(&bench.path("disk")), files_below(&bench.path("stick"))].concat();
    let files: Vec<_> = files.into_iter().filter(|path| !path.ends_with("lock")).collect();
    assert!(files.len() >= 8, "{files:?}");
    let must_fail = |path: &Path, what: &str| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let verified = repository.verify(row.id, Some(&bench.path("stick")), Some(&key), &Silent);
        let error = expect_error(verified).to_string();
        assert!(error.contains(name.trim_end_matches(".sig")), "{what} {name}: {error}");
        expect_error(restore(&bench, "fresh", Some(row.id)));
        let left = fs::read_dir(bench.path("fresh")).map_or(0, |entries| {
            entries.filter(|entry| entry.as_ref().unwrap().file_name() != "run").count()
        });
        assert_eq!(left, 0, "{what} {name}");
    };
    for path in &files {
        let bytes = fs::read(path).unwrap();
        let mut altered = bytes.clone();
        *altered.last_mut().unwrap() ^= 1;
        // The last byte of some is a line's end, which says nothing.
        altered[bytes.len() / 2] ^= 1;
        fs::write(path, &altered).unwrap();
        must_fail(path, "altered");
        fs::write(path, &bytes[..bytes.len() - bytes.len().min(20)]).unwrap();
        must_fail(path, "cut");
        fs::remove_file(path).unwrap();
        if !path.ends_with("manifest.json") {
            must_fail(path, "missing");
        }
        fs::write(path, &bytes).unwrap();
    }
    repository.verify(row.id, Some(&bench.path("stick")), Some(&key), &Silent).unwrap();
    restore(&bench, "fresh", None).unwrap();
}

#[test]
fn what_cannot_be_right_is_refused_before_anything_is_written() {
    let bench = Bench::new();
    let warden = bench.init();
    let inside = Request::BackupCreate { to: bench.path("data").join("b"), keys: bench.path("stick") };
    assert_eq!(expect_error(ask(&warden, inside)).kind(), ErrorKind::Usage);
    assert!(!bench.path("data").join("b").exists());
    let nowhere = Repository::open(&bench.path("disk"));
    assert_eq!(expect_error(nowhere).kind(), ErrorKind::NotFound);

    let row = back_up(&bench, &warden).unwrap();
    let held = Repository::open(&bench.path("disk")).unwrap().hold().unwrap();
    assert_eq!(expect_error(back_up(&bench, &warden)).kind(), ErrorKind::Unavailable);
    drop(held);

    let other = Bench::new();
    let stranger = other.init();
    let mine = Request::BackupCreate { to: bench.path("disk"), keys: bench.path("stick") };
    let error = expect_error(ask(&stranger, mine));
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");

    let used = Warden::restore(&bench.site(), &bench.path("disk"), &bench.path("stick"), None, None, &Silent);
    assert_eq!(expect_error(used).kind(), ErrorKind::Usage);
    let wrong =
        Site { unsealer: Some(Unsealer::KeyFile(other.path("root.key"))), ..restored_site(&bench, "fresh") };
    let error =
        expect_error(Warden::restore(&wrong, &bench.path("disk"), &bench.path("stick"), None, None, &Silent));
    assert_eq!(error.kind(), ErrorKind::Sealed, "{error}");
    assert!(!bench.path("fresh").exists());
    remove_folder(&bench.path("stick").join(row.id.to_string())).unwrap();
    assert_eq!(expect_error(restore(&bench, "fresh", None)).kind(), ErrorKind::NotFound);
}

#[test]
fn a_backup_that_was_cut_off_is_none_and_is_swept() {
    let bench = Bench::new();
    let warden = bench.init();
    let first = back_up(&bench, &warden).unwrap();
    let repository = Repository::open(&bench.path("disk")).unwrap();
    let cut_off = repository.folder(crate::seal::new_id(crate::base::IdKind::Backup).unwrap());
    fs::create_dir_all(&cut_off).unwrap();
    fs::write(cut_off.join("cloister.db"), "half").unwrap();
    let keys = bench.path("stick").join(cut_off.file_name().unwrap());
    fs::create_dir_all(keys.join("keys")).unwrap();
    fs::write(keys.join("keys/keyring"), "half").unwrap();
    assert_eq!(repository.backups().unwrap(), [first.id]);
    assert_eq!(repository.choose(None).unwrap(), first.id);
    back_up(&bench, &warden).unwrap();
    assert!(!cut_off.exists());
    assert!(!keys.exists(), "keys that no `forget` would find");
}

#[test]
fn a_restore_that_was_cut_off_is_begun_again() {
    let bench = Bench::new();
    let warden = bench.init();
    bench.document("a.txt", HERON);
    ingest(&bench, &warden);
    back_up(&bench, &warden).unwrap();
    drop(warden);
    let leave = |name: &str, files: &[&str]| {
        for file in files {
            let path = bench.path(name).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "half").unwrap();
        }
    };
    let half = ["objects/AB/doc", "audit/000001.log", "cloister.db"];
    leave("at-once", &["keys/restore.tmp.7.tmp"]);
    leave("later", &[&half[..], &["keys/restore.tmp"]].concat());
    for name in ["at-once", "later"] {
        let warden = restore(&bench, name, None).unwrap();
        ask(&warden, Request::DataVerify).unwrap();
        assert_eq!(names(&warden).len(), 1);
        let left = files_below(&bench.path(name));
        assert!(left.iter().all(|path| path.extension().is_none_or(|end| end != "tmp")), "{left:?}");
    }
    // Without the mark it is somebody else's.
    leave("foreign", &half);
    assert_eq!(expect_error(restore(&bench, "foreign", None)).kind(), ErrorKind::Usage);
    assert_eq!(files_below(&bench.path("foreign")).len(), half.len());
}
