//! The vault through its public face: crash points, wrong keys, and everything that verify must name.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::*;
use crate::{
    base::{ErrorKind, Id, IdKind, Result, Silent, fs::SECTOR_BYTES},
    seal::{HEADER_BYTES, Secret, new_id},
};

/// A data directory with a vault, its key file beside it.
pub(super) struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    pub(super) fn new() -> (Self, Vault) {
        let site = Self { directory: tempfile::tempdir().expect("temporary directory") };
        let vault = Vault::init(&site.data(), &site.unsealer()).expect("init");
        (site, vault)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn keyring(&self) -> PathBuf {
        self.data().join("keys/keyring")
    }

    fn unsealer(&self) -> Unsealer {
        fs::create_dir_all(self.directory.path()).expect("directory");
        Unsealer::KeyFile(self.directory.path().join("root.key"))
    }

    fn try_open(&self) -> Result<Vault> {
        Vault::open(&self.data(), Vault::unseal(&self.data(), None)?)
    }

    pub(super) fn open(&self) -> Vault {
        self.try_open().expect("opens")
    }
}

fn put(vault: &Vault, plain: &[u8]) -> Id {
    let mut object = vault.create(IdKind::Document, plain.len() as u64).expect("create");
    object.write_all(plain).expect("write");
    vault.commit(object).expect("commit")
}

fn read(vault: &Vault, id: Id) -> Vec<u8> {
    let mut plain = Vec::new();
    vault.open(id).expect("open").read_to_end(&mut plain).expect("read");
    plain
}

fn temporary(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.tmp", path.display()))
}

fn refused<T>(result: Result<T>, kind: ErrorKind, said: &str) {
    match result {
        Ok(_) => panic!("accepted, where '{said}' was due"),
        Err(error) => assert!(error.kind() == kind && error.to_string().contains(said), "{error:?}"),
    }
}

/// The problems that verify names, as (object, part of what).
fn verify_names(vault: &Vault, recorded: Option<&VaultRoot>, due: &[(String, &str)]) {
    let report = vault.verify(recorded, &Silent).expect("verify runs");
    assert_eq!(report.problems.len(), due.len(), "{:?}", report.problems);
    for (object, what) in due {
        let named = |problem: &Problem| problem.object == *object && problem.what.contains(what);
        assert!(report.problems.iter().any(named), "{object} {what}: {:?}", report.problems);
    }
    let result = report.into_result();
    assert_eq!(result.is_err(), !due.is_empty());
    if let Err(error) = result {
        assert_eq!(error.kind(), ErrorKind::Integrity);
        assert!(due.iter().all(|(object, _)| error.to_string().contains(object.as_str())), "{error}");
    }
}

// What was committed stays.

#[test]
fn what_was_committed_is_there_after_reopening() {
    let (site, vault) = Site::new();
    let texts: Vec<Vec<u8>> = [0, 1, 1000, 65_536, 65_537, 5 << 20].map(|n| vec![n as u8 | 1; n]).into();
    let ids: Vec<Id> = texts.iter().map(|text| put(&vault, text)).collect();
    let root = vault.root();
    drop(vault);
    let vault = site.open();
    assert_eq!((vault.root(), vault.swept()), (root, Swept::default()));
    for (id, text) in ids.iter().zip(&texts) {
        assert_eq!(&read(&vault, *id), text);
    }
    let report = vault.verify(Some(&root), &Silent).expect("verify");
    assert_eq!((report.problems, report.bytes), (vec![], texts.iter().map(|text| text.len() as u64).sum()));
    vault.delete(ids[0]).expect("delete");
    refused(vault.open(ids[0]), ErrorKind::NotFound, "no object");
    refused(vault.delete(ids[0]), ErrorKind::NotFound, "no object");
    assert_eq!(site.open().objects().len(), 5);
}

#[test]
fn a_stream_is_what_was_written_in_whatever_pieces() {
    let (_site, vault) = Site::new();
    let plain: Vec<u8> = (0..(9usize << 20) + 77).map(|place| ((place * 31) >> 3) as u8).collect();
    let id = put(&vault, &plain);
    for piece in [1000, 65_536, 1 << 20, 5 << 20, 9 << 20] {
        let mut object = vault.open(id).expect("open");
        let mut back = vec![0; plain.len()];
        back.chunks_mut(piece).for_each(|piece| object.read_exact(piece).expect("read"));
        assert!(back == plain, "pieces of {piece}");
        assert_eq!(object.read(&mut [0; 10]).expect("end"), 0);
    }
    let mut object = vault.open(id).expect("open");
    let mut back = vec![0; 3_000_000];
    object.read_exact(&mut back).expect("begin");
    object.read_to_end(&mut back).expect("the rest");
    assert!(back == plain);
}

#[test]
fn many_threads_commit_at_once() {
    let (site, vault) = Site::new();
    let ids: Vec<(Id, Vec<u8>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8u8)
            .map(|thread| {
                let vault = &vault;
                scope.spawn(move || {
                    let texts = (0..10u8).map(move |n| vec![thread * 16 + n; 100]);
                    texts.map(|text| (put(vault, &text), text)).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("thread")).collect()
    });
    // Their directories were all there from the start.
    assert_eq!(fs::read_dir(site.data().join("objects")).expect("list").count(), 1024);
    drop(vault);
    let vault = site.open();
    assert_eq!(vault.objects().len(), 80);
    assert!(ids.iter().all(|(id, text)| &read(&vault, *id) == text));
}

#[test]
fn a_keyring_that_outgrows_its_first_record_is_rewritten_and_means_the_same() {
    let (site, vault) = Site::new();
    let keep = put(&vault, b"kept");
    let before = fs::read(site.keyring()).expect("keyring");
    let mut longest = 0;
    for round in 0..60u8 {
        vault.set_witness(vec![round; 9000]).expect("commit");
        longest = longest.max(fs::metadata(site.keyring()).expect("keyring").len());
    }
    let now = fs::read(site.keyring()).expect("keyring");
    assert!(longest < 600 << 10 && (now.len() as u64) < longest, "{longest} {}", now.len());
    assert_ne!(before[..88], now[..88], "rewritten under the same key");
    let root = vault.root();
    drop(vault);
    let vault = site.open();
    assert_eq!((vault.root(), vault.witness()), (root, vec![59; 9000]));
    assert_eq!(read(&vault, keep), b"kept");
}

#[test]
fn nothing_readable_lies_on_the_disk() {
    let (site, vault) = Site::new();
    let planted = b"the patient in bed seven has the measles";
    put(&vault, &planted.repeat(5000));
    let mut unfinished = vault.create(IdKind::Document, 1 << 20).expect("create");
    unfinished.write_all(&planted.repeat(30_000)[..1 << 20]).expect("write");
    let mut directories = vec![site.data()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("list") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let bytes = fs::read(&path).expect("read");
                assert!(!bytes.windows(16).any(|window| window == &planted[..16]), "{}", path.display());
            }
        }
    }
}

#[test]
fn erasing_takes_the_key_out_of_the_keyring() {
    let (site, vault) = Site::new();
    let (gone, kept) = (put(&vault, b"gone"), put(&vault, b"kept"));
    let file = fs::read(vault.path(gone)).expect("object");
    let old_keyring = fs::read(site.keyring()).expect("keyring");
    vault.erase(&[gone]).expect("erase");
    drop(vault);
    let vault = site.open();
    refused(vault.open(gone), ErrorKind::NotFound, "no object");
    refused(vault.extent_key(gone), ErrorKind::NotFound, "no object");
    assert_eq!(read(&vault, kept), b"kept");
    // The file under its old name is a stranger now.
    fs::write(vault.path(gone), &file).expect("write");
    verify_names(&vault, None, &[(gone.to_string(), "was added")]);
    let now = fs::read(site.keyring()).expect("keyring");
    assert_ne!(old_keyring[..88], now[..88], "the keyring's key is the old one");
}

#[test]
fn an_erasure_is_finished_by_another_and_takes_nothing_else() {
    let (site, vault) = Site::new();
    let [gone, cut_off, kept] = [b"a", b"b", b"c"].map(|text| put(&vault, text));
    // Cut off between the commit that deletes and the keyring that is written anew.
    vault.delete_all(&[cut_off]).expect("delete");
    let before = fs::read(site.keyring()).expect("keyring");
    vault.erase(&[gone, cut_off]).expect("erase");
    vault.erase(&[gone, cut_off]).expect("once more changes nothing");
    assert_ne!(before[..88], fs::read(site.keyring()).expect("keyring")[..88]);
    assert_eq!(vault.objects(), [kept]);
    drop(vault);
    let vault = site.open();
    assert_eq!(read(&vault, kept), b"c");
    verify_names(&vault, None, &[]);
}

#[test]
fn a_keyring_that_was_replaced_leaves_no_key_in_its_blocks() {
    let (site, vault) = Site::new();
    let gone = put(&vault, b"gone");
    let blocks = fs::File::open(site.keyring()).expect("the file that is to be replaced");
    vault.erase(&[gone]).expect("erase");
    let mut header = [1; 88];
    blocks.read_exact_at(&mut header, 0).expect("read");
    assert_eq!(header, [0; 88]);
}

#[test]
fn extent_keys_belong_to_one_document() {
    let (site, vault) = Site::new();
    let (a, b) = (put(&vault, b"a"), put(&vault, b"b"));
    let bytes = |vault: &Vault, id| vault.extent_key(id).expect("key").danger_expose(|bytes| *bytes);
    assert_ne!(bytes(&vault, a), bytes(&vault, b));
    let before = bytes(&vault, a);
    assert_eq!(vault.grant(a).expect("grant").extent_key().expect("key").danger_expose(|b| *b), before);
    drop(vault);
    assert_eq!(bytes(&site.open(), a), before);
}

#[test]
fn a_stream_ends_at_the_chunk_that_is_bad() {
    let (_site, vault) = Site::new();
    let plain = vec![7; 6 << 20];
    let id = put(&vault, &plain);
    let path = vault.path(id);
    let mut sealed = fs::read(&path).expect("object");
    let at = sealed.len() - 100_000;
    sealed[at] ^= 1;
    fs::write(&path, sealed).expect("write");
    let (mut object, mut piece, mut good) = (vault.open(id).expect("the header is good"), [0; 4096], 0);
    let error = loop {
        match object.read(&mut piece) {
            Ok(0) => panic!("a damaged object was read to its end"),
            Ok(more) => good += more,
            Err(error) => break error,
        }
    };
    assert!(good <= at && piece.iter().all(|&byte| byte == 7), "{good}");
    let told: Result<()> = crate::base::Context::context(Err::<(), _>(error), "reading");
    refused(told, ErrorKind::Integrity, "is not what was sealed there");
    assert!(object.read(&mut piece).is_err(), "it went on behind the damage");
}

// Workers.

#[test]
fn a_worker_reads_and_writes_under_grants_and_nothing_else() {
    let (site, vault) = Site::new();
    let document = put(&vault, b"a document");
    let wire = vault.grant(document).expect("grant").danger_to_wire().expect("wire");
    let grant = ReadGrant::from_wire(&wire).expect("grant");
    assert_eq!(grant.open().expect("open").read_all().expect("read"), b"a document");
    for length in [0, 31, 32, wire.len() - 1] {
        assert!(ReadGrant::from_wire(&wire[..length]).is_err());
    }

    let reserved = vault.reserve(IdKind::Shard, 7).expect("reserve");
    let grant = WriteGrant::from_wire(&reserved.danger_to_wire().expect("wire")).expect("grant");
    refused(vault.open(grant.id()), ErrorKind::NotFound, "no object");
    refused(vault.adopt(grant.id()), ErrorKind::Failed, "opening");
    let mut object = grant.create().expect("create");
    assert!(grant.create().is_err(), "one grant, one object");
    object.write_all(b"a shard").expect("write");
    object.finish().expect("finish");
    assert_eq!(vault.adopt(grant.id()).expect("adopt"), grant.id());
    refused(vault.adopt(grant.id()), ErrorKind::Failed, "not granted");
    refused(vault.adopt(document), ErrorKind::Failed, "not granted");
    assert_eq!(read(&site.open(), grant.id()), b"a shard");
}

#[test]
fn what_a_worker_wrote_must_be_what_was_granted() {
    let (_site, vault) = Site::new();
    let (a, b) = (vault.reserve(IdKind::Shard, 7).expect("a"), vault.reserve(IdKind::Shard, 7).expect("b"));
    let mut object = a.create().expect("create");
    object.write_all(b"a shard").expect("write");
    object.finish().expect("finish");
    let (written, other) = (temporary(&vault.path(a.id())), temporary(&vault.path(b.id())));
    fs::copy(&written, &other).expect("copy");
    refused(vault.adopt(b.id()), ErrorKind::Integrity, "was swapped");
    let whole = fs::read(&written).expect("read");
    fs::write(&written, &whole[..whole.len() - 1]).expect("cut");
    refused(vault.adopt(a.id()), ErrorKind::Integrity, "cut short");
    vault.abandon(b.id()).expect("abandon");
    assert!(!other.exists());
    vault.abandon(b.id()).expect("twice is as once");
}

#[test]
fn what_is_not_committed_leaves_nothing() {
    let (site, vault) = Site::new();
    let mut object = vault.create(IdKind::Document, 10).expect("create");
    object.write_all(b"half").expect("write");
    let path = temporary(&vault.path(object.id()));
    assert!(path.exists());
    drop(object);
    assert!(!path.exists());
    let mut short = vault.create(IdKind::Document, 10).expect("create");
    short.write_all(b"half").expect("write");
    refused(vault.commit(short), ErrorKind::Failed, "4 bytes were written");
    verify_names(&vault, None, &[]);
    drop(vault);
    assert_eq!(site.open().swept(), Swept::default());
}

// Crash points.

#[test]
fn a_crash_before_the_commit_leaves_the_object_unmade() {
    let (site, vault) = Site::new();
    let kept = put(&vault, b"kept");
    let mut object = vault.create(IdKind::Document, 4).expect("create");
    object.write_all(b"lost").expect("write");
    let id = object.id();
    object.finish().expect("synced, and then the machine stops");
    verify_names(&vault, None, &[]);
    drop(vault);
    let vault = site.open();
    assert_eq!(vault.swept(), Swept { removed: 1, ..Swept::default() });
    refused(vault.open(id), ErrorKind::NotFound, "no object");
    assert_eq!(read(&vault, kept), b"kept");
    verify_names(&vault, None, &[]);
}

#[test]
fn a_crash_between_commit_and_rename_is_completed() {
    let (site, vault) = Site::new();
    let id = put(&vault, b"committed");
    let path = vault.path(id);
    fs::rename(&path, temporary(&path)).expect("as if it had not been renamed");
    drop(vault);
    let vault = site.open();
    assert_eq!(vault.swept(), Swept { completed: 1, ..Swept::default() });
    assert_eq!(read(&vault, id), b"committed");
    // The same state again, with another's bytes in the temporary file: not the object that was committed.
    fs::write(temporary(&path), b"anything").expect("write");
    fs::remove_file(&path).expect("remove");
    drop(vault);
    let vault = site.open();
    assert_eq!(vault.swept(), Swept { removed: 1, ..Swept::default() });
    verify_names(&vault, None, &[(id.to_string(), "is missing")]);
}

#[test]
fn a_crash_while_deleting_leaves_it_whole_or_gone() {
    let (site, vault) = Site::new();
    let (whole, gone) = (put(&vault, b"whole"), put(&vault, b"gone"));
    let leftover = fs::read(vault.path(gone)).expect("object");
    // Before the keyring: out of its place, still listed.
    fs::rename(vault.path(whole), temporary(&vault.path(whole))).expect("rename");
    // After the keyring: no longer listed, not yet removed.
    vault.delete(gone).expect("delete");
    fs::write(temporary(&vault.path(gone)), leftover).expect("write");
    drop(vault);
    let vault = site.open();
    assert_eq!(vault.swept(), Swept { completed: 1, removed: 1, keyring_bytes_cut: 0 });
    assert_eq!((read(&vault, whole), vault.contains(gone)), (b"whole".to_vec(), false));
    verify_names(&vault, None, &[]);
}

#[test]
fn a_commit_torn_at_any_byte_is_as_if_it_had_not_been() {
    let (site, vault) = Site::new();
    let first = put(&vault, b"first");
    let before = fs::metadata(site.keyring()).expect("keyring").len() as usize;
    let second = put(&vault, b"second");
    let path = vault.path(second);
    drop(vault);
    let (keyring, object) = (fs::read(site.keyring()).expect("keyring"), fs::read(&path).expect("object"));
    for end in (before..keyring.len()).step_by(7).chain([before + 7, before + 8, keyring.len() - 1]) {
        fs::write(site.keyring(), &keyring[..end]).expect("tear");
        let _ = fs::remove_file(&path);
        fs::write(temporary(&path), &object).expect("not renamed yet");
        let vault = site.open();
        let cut = (end - before) as u64;
        assert_eq!(vault.swept(), Swept { completed: 0, removed: 1, keyring_bytes_cut: cut });
        assert_eq!((vault.objects(), read(&vault, first)), (vec![first], b"first".to_vec()));
        let third = put(&vault, b"third");
        drop(vault);
        assert_eq!(read(&site.open(), third), b"third");
    }
    // Space that the file system gave and never filled is torn too.
    let mut unfilled = keyring[..before].to_vec();
    unfilled.resize(before + 300, 0);
    fs::write(site.keyring(), unfilled).expect("tear");
    assert_eq!(site.open().objects(), [first]);
}

#[test]
fn a_commit_of_which_the_disk_has_some_sectors_is_as_if_it_had_not_been() {
    let (site, vault) = Site::new();
    let first = put(&vault, b"first");
    let length = || fs::metadata(site.keyring()).expect("keyring").len() as usize;
    let before = length();
    let many = (0..20).map(|_| vault.create(IdKind::Document, 0).expect("create")).collect();
    vault.commit_all(many).expect("commit");
    let end = length();
    put(&vault, b"last");
    drop(vault);
    let keyring = fs::read(site.keyring()).expect("keyring");
    let without = |sector: usize, end: usize| {
        let mut torn = keyring[..end].to_vec();
        torn[before.max(sector * SECTOR_BYTES)..end.min((sector + 1) * SECTOR_BYTES)].fill(0);
        fs::write(site.keyring(), torn).expect("tear");
    };
    let sectors = before / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES);
    assert!(sectors.len() > 3, "{sectors:?}");
    // Only the last commit can have been going on.
    without(sectors.start + 2, keyring.len());
    refused(site.try_open(), ErrorKind::Integrity, "record 2 of the keyring was altered");
    for sector in sectors {
        without(sector, end);
        let vault = site.open();
        assert_eq!((vault.objects(), vault.swept().keyring_bytes_cut), (vec![first], (end - before) as u64));
    }
}

#[test]
fn a_disk_that_takes_nothing_costs_the_commit_and_nothing_else() {
    let (site, vault) = Site::new();
    let kept = put(&vault, b"kept");
    vault.fail();
    let mut object = vault.create(IdKind::Document, 4).expect("create");
    object.write_all(b"lost").expect("write");
    let lost = object.id();
    assert!(vault.commit(object).is_err());
    refused(vault.open(lost), ErrorKind::NotFound, "no object");
    refused(vault.delete(kept), ErrorKind::Unavailable, "takes no more commits");
    assert_eq!(read(&vault, kept), b"kept");
    verify_names(&vault, None, &[]);
    drop(vault);
    let vault = site.open();
    assert_eq!((vault.objects(), vault.swept().removed), (vec![kept], 1));
    vault.delete(kept).expect("it takes commits again");
}

const KILL_DIRECTORY: &str = "CLOISTER_TEST_KILL_DIRECTORY";
const KILLS: u64 = 4;

/// Not a test: what the next one starts and kills. It commits, says so, and deletes.
#[test]
fn commits_until_it_is_killed() {
    let Ok(directory) = std::env::var(KILL_DIRECTORY) else { return };
    let data = PathBuf::from(directory);
    let vault = Vault::open(&data, Vault::unseal(&data, None).expect("root")).expect("opens");
    let mut acknowledged =
        fs::OpenOptions::new().append(true).open(data.join("acknowledged")).expect("made by the test");
    for step in 0..u64::MAX {
        let id = put(&vault, &vec![step as u8; 5000]);
        writeln!(acknowledged, "+{id}").expect("say so");
        if step % 3 == 0 {
            writeln!(acknowledged, "?{id}").expect("say so");
            vault.delete(id).expect("delete");
            writeln!(acknowledged, "-{id}").expect("say so");
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let (site, vault) = Site::new();
    drop(vault);
    let said = site.data().join("acknowledged");
    fs::write(&said, "").expect("write");
    for round in 0..KILLS {
        let mut child = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "vault::tests::commits_until_it_is_killed", "--nocapture"])
            .env(KILL_DIRECTORY, site.data())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("start");
        let before = fs::metadata(&said).expect("there").len();
        let waiting = std::time::Instant::now();
        while fs::metadata(&said).expect("there").len() < before + 2000 + round * 333 {
            assert!(waiting.elapsed().as_secs() < 60, "the child commits nothing");
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        child.kill().expect("kill -9");
        child.wait().expect("gone");
        let vault = site.open();
        verify_names(&vault, None, &[]);
        let text = fs::read_to_string(&said).expect("read");
        let named = |mark: char| -> std::collections::HashSet<Id> {
            text.lines().filter_map(|line| line.strip_prefix(mark)?.parse().ok()).collect()
        };
        let (made, unsure, gone) = (named('+'), named('?'), named('-'));
        let live: std::collections::HashSet<Id> = vault.objects().into_iter().collect();
        assert!(made.iter().all(|id| live.contains(id) || unsure.contains(id)), "a commit was lost");
        assert!(gone.iter().all(|id| !live.contains(id)), "a deletion was lost");
        assert!(live.difference(&made).count() as u64 <= round + 1, "something came from nowhere");
    }
}

// Tampering.

#[test]
fn every_byte_of_the_keyring_counts() {
    let (site, vault) = Site::new();
    put(&vault, b"first");
    put(&vault, b"second");
    let length = || fs::metadata(site.keyring()).expect("keyring").len() as usize;
    // So much of the last commit in its last sector that this is never zeros by chance, as a torn write's is.
    while length() % SECTOR_BYTES < 64 {
        vault.set_witness(vec![1; 64]).expect("commit");
    }
    drop(vault);
    let root = || Vault::unseal(&site.data(), None).expect("root");
    let keyring = fs::read(site.keyring()).expect("keyring");
    for at in 0..keyring.len() {
        let mut changed = keyring.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(site.keyring(), changed).expect("write");
        refused(Vault::open(&site.data(), root()), ErrorKind::Integrity, "keyring");
    }
    fs::write(site.keyring(), &keyring).expect("write");
    assert_eq!(site.open().objects().len(), 2);
    fs::remove_file(site.keyring()).expect("remove");
    refused(site.try_open(), ErrorKind::Integrity, "is missing");
}

#[test]
fn verify_names_what_was_done_to_objects() {
    let (_site, vault) = Site::new();
    let ids: Vec<Id> = (0..8u8).map(|n| put(&vault, &vec![n; 70_000])).collect();
    let path = |place: usize| vault.path(ids[place]);
    let name = |place: usize| ids[place].to_string();
    fs::remove_file(path(0)).expect("missing");
    let (one, two) = (fs::read(path(1)).expect("1"), fs::read(path(2)).expect("2"));
    fs::write(path(1), two).expect("swapped");
    fs::write(path(2), one).expect("swapped");
    let flip = |place: usize, at: u64| {
        let file = fs::OpenOptions::new().read(true).write(true).open(path(place)).expect("open");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ 4], at).expect("write");
    };
    flip(3, 20);
    flip(4, HEADER_BYTES as u64 + 66_000);
    fs::OpenOptions::new().write(true).open(path(5)).expect("open").set_len(1000).expect("cut");
    let stranger = "doc_01JX0000000000000000000000";
    fs::write(path(6).with_file_name(stranger), b"added").expect("added");
    fs::write(path(6).with_file_name("notes.txt"), b"added").expect("added");
    let place =
        path(6).parent().expect("directory").file_name().expect("name").to_str().expect("text").to_owned();
    verify_names(
        &vault,
        None,
        &[
            (name(0), "is missing"),
            (name(1), &format!("was swapped: its file holds object {}", ids[2])),
            (name(2), &format!("was swapped: its file holds object {}", ids[1])),
            (name(3), "altered"),
            (name(4), "chunk 1 of 2"),
            (name(5), "was cut short"),
            (stranger.to_owned(), "was added"),
            (format!("{place}/notes.txt"), "it is no object"),
        ],
    );
    // A copy under its right name in a wrong place is an addition too.
    let copied = path(7).parent().and_then(Path::parent).expect("objects").join("zz").join(name(7));
    fs::create_dir(copied.parent().expect("directory")).expect("directory");
    fs::copy(path(7), &copied).expect("copy");
    let report = vault.verify(None, &Silent).expect("verify");
    assert!(report.problems.iter().any(|problem| problem.object == name(7) && problem.what.contains("zz/")));
}

#[test]
fn a_vault_that_was_put_back_in_time_is_noticed() {
    let (site, vault) = Site::new();
    let old = put(&vault, b"old");
    let old_file = fs::read(vault.path(old)).expect("object");
    let old_keyring = fs::read(site.keyring()).expect("keyring");
    vault.delete(old).expect("delete");
    let new = put(&vault, b"new");
    let recorded = vault.root();
    verify_names(&vault, Some(&recorded), &[]);
    drop(vault);
    fs::write(site.keyring(), old_keyring).expect("put back");
    let vault = site.open();
    fs::write(vault.path(old), old_file).expect("put back");
    verify_names(
        &vault,
        Some(&recorded),
        &[("keyring".into(), "put back in time"), (new.to_string(), "was added")],
    );
    // The same number of commits, and not the same ones.
    put(&vault, b"forged");
    vault.delete(old).expect("delete");
    assert_eq!(vault.root().epoch, recorded.epoch);
    verify_names(
        &vault,
        Some(&recorded),
        &[("keyring".into(), "not the one whose root"), (new.to_string(), "was added")],
    );
}

#[test]
fn what_was_revoked_stays_so_and_is_part_of_the_root() {
    let (site, vault) = Site::new();
    let ids = [IdKind::Token, IdKind::User].map(|kind| new_id(kind).expect("an id"));
    let before = vault.root();
    vault.revoke(&ids).expect("commit");
    vault.revoke(&ids[..1]).expect("as it is");
    assert!(ids.iter().all(|&id| vault.is_revoked(id)));
    assert_ne!(vault.root().hash, before.hash);
    let gone = put(&vault, b"gone");
    vault.erase(&[gone]).expect("the keyring is written whole");
    drop(vault);
    assert_eq!(site.open().revoked(), ids.into());
}

#[test]
fn what_belongs_to_another_installation_is_refused() {
    let ((ours, vault), (theirs, their_vault)) = (Site::new(), Site::new());
    let (id, their_id) = (put(&vault, b"ours"), put(&their_vault, b"theirs"));
    fs::copy(their_vault.path(their_id), vault.path(id)).expect("copy");
    verify_names(&vault, None, &[(id.to_string(), "belongs to installation")]);
    let (install, their_install) = (vault.install(), their_vault.install());
    drop((vault, their_vault));

    let their_key = theirs.unsealer();
    let error = Vault::unseal(&ours.data(), Some(&their_key)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Sealed);
    assert!(error.to_string().contains(&install.to_string()), "{error}");
    assert!(error.to_string().contains(&their_install.to_string()), "{error}");

    fs::copy(theirs.keyring(), ours.keyring()).expect("copy");
    refused(ours.try_open(), ErrorKind::Integrity, &their_install.to_string());
    fs::copy(theirs.data().join("keys/root.json"), ours.data().join("keys/root.json")).expect("copy");
    refused(Vault::unseal(&ours.data(), Some(&ours.unsealer())), ErrorKind::Sealed, "was made for");
}

// Unsealing.

#[test]
fn a_wrong_passphrase_is_sealed_and_the_right_one_opens() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let passphrase = |text: &str| Unsealer::Passphrase(Secret::new(text.into()));
    let id = put(&Vault::init(directory.path(), &passphrase("correct horse battery")).expect("init"), b"x");
    for wrong in ["incorrect horse", "", "correct horse battery ", "Correct horse battery"] {
        let unsealed = Vault::unseal(directory.path(), Some(&passphrase(wrong)));
        refused(unsealed, ErrorKind::Sealed, "the passphrase does not open");
    }
    let file = directory.path().join("passphrase");
    for ending in ["", "\n", "\r\n", "\nsecond line"] {
        fs::write(&file, format!("correct horse battery{ending}")).expect("write");
        let root =
            Vault::unseal(directory.path(), Some(&Unsealer::PassphraseFile(file.clone()))).expect("unseals");
        assert_eq!(read(&Vault::open(directory.path(), root).expect("opens"), id), b"x");
    }
    refused(Vault::unseal(directory.path(), None), ErrorKind::Sealed, "by a passphrase");
    let key_file = Unsealer::KeyFile(file);
    refused(Vault::unseal(directory.path(), Some(&key_file)), ErrorKind::Sealed, "has no key file");
    let gone = Unsealer::PassphraseFile(directory.path().join("gone"));
    refused(Vault::unseal(directory.path(), Some(&gone)), ErrorKind::Sealed, "is not there");
}

#[test]
fn a_key_file_is_remembered_moved_and_missed() {
    let (site, vault) = Site::new();
    drop(vault);
    let Unsealer::KeyFile(place) = site.unsealer() else { unreachable!("it is a key file") };
    let text = fs::read_to_string(&place).expect("key file");
    assert!(text.contains("# installation: ins_") && text.contains("CLOISTER-KEY-1:"), "{text}");
    let moved = site.directory.path().join("moved.key");
    fs::rename(&place, &moved).expect("move");
    refused(Vault::unseal(&site.data(), None), ErrorKind::Sealed, "is not there");
    let out_of_reach = |unsealer| Vault::out_of_reach(&site.data(), unsealer).expect("reads");
    let why = out_of_reach(None).expect("moved away");
    assert!(why.kind() == ErrorKind::Sealed && why.to_string().contains("cannot be read"), "{why}");
    assert!(out_of_reach(Some(&Unsealer::KeyFile(moved.clone()))).is_none());
    let content = Secret::new(fs::read(&moved).expect("key file"));
    Vault::unseal(&site.data(), Some(&Unsealer::Key(content))).expect("what it holds, wherever it lay");
    Vault::unseal(&site.data(), Some(&Unsealer::KeyFile(moved.clone()))).expect("moved");
    // The comments are not the key.
    fs::write(&moved, text.lines().last().expect("key line")).expect("write");
    Vault::unseal(&site.data(), Some(&Unsealer::KeyFile(moved.clone()))).expect("bare");
    let damaged = text.replace("CLOISTER-KEY-1:", "CLOISTER-KEY-1:A");
    for (bytes, kind, said) in [
        (damaged.into_bytes(), ErrorKind::Sealed, "is damaged"),
        (vec![7; 32], ErrorKind::Sealed, "does not open"),
        (vec![7; 31], ErrorKind::Usage, "too few"),
        (vec![], ErrorKind::Usage, "too few"),
        (vec![7; 70_000], ErrorKind::Usage, "longer than"),
    ] {
        fs::write(&moved, bytes).expect("write");
        refused(Vault::unseal(&site.data(), Some(&Unsealer::KeyFile(moved.clone()))), kind, said);
    }
}

#[test]
fn a_key_file_that_was_being_made_when_the_power_went_is_made_anew() {
    for unfinished in [&b""[..], &[0; 300]] {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (data, place) = (directory.path().join("data"), directory.path().join("root.key"));
        fs::write(&place, unfinished).expect("write");
        Vault::init(&data, &Unsealer::KeyFile(place.clone())).expect("init");
        let length = fs::metadata(&place).expect("key file").len();
        assert!((200..=512).contains(&length), "{length} bytes: a sector at most");
        Vault::unseal(&data, None).expect("unseals");
    }
}

#[test]
fn any_file_of_random_bytes_can_be_the_key_file() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (data, place) = (directory.path().join("data"), directory.path().join("token"));
    fs::write(&place, [0xC3; 48]).expect("write");
    let id = put(&Vault::init(&data, &Unsealer::KeyFile(place.clone())).expect("init"), b"x");
    assert_eq!(fs::read(&place).expect("read"), [0xC3; 48]);
    let vault = Vault::open(&data, Vault::unseal(&data, None).expect("unseals")).expect("opens");
    assert_eq!(read(&vault, id), b"x");
}

#[test]
fn the_root_file_cannot_be_altered() {
    let (site, vault) = Site::new();
    drop(vault);
    let place = site.data().join("keys/root.json");
    let text = fs::read_to_string(&place).expect("root file");
    let alter = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        fs::write(&place, text.replacen(from, to, 1)).expect("write");
        Vault::unseal(&site.data(), Some(&site.unsealer()))
    };
    refused(alter("root.key", "evil.key"), ErrorKind::Integrity, "was altered");
    refused(alter("root key v1", "root key v2"), ErrorKind::Integrity, "it says");
    refused(alter("\"mac\": \"", "\"mac\": \"!"), ErrorKind::Integrity, "damaged");
    refused(alter("key_file", "kay_file"), ErrorKind::Integrity, "unknown variant");
    refused(alter("{", ""), ErrorKind::Integrity, "is not a root file");
    fs::write(&place, &text).expect("write");
    site.open();
    fs::remove_file(&place).expect("remove");
    refused(Vault::unseal(&site.data(), None), ErrorKind::NotFound, "there is no root key file");
}

#[test]
fn a_vault_is_made_once_and_from_usable_secrets() {
    let (site, vault) = Site::new();
    refused(Vault::init(&site.data(), &site.unsealer()), ErrorKind::Usage, "already holds an installation");
    put(&vault, b"precious");
    drop(vault);
    fs::remove_file(site.data().join("keys/root.json")).expect("remove");
    refused(Vault::init(&site.data(), &site.unsealer()), ErrorKind::Usage, "already holds sealed objects");

    let fresh = tempfile::tempdir().expect("temporary directory");
    let short = Unsealer::Passphrase(Secret::new(b"1234567".to_vec()));
    refused(Vault::init(fresh.path(), &short), ErrorKind::Usage, "7 bytes");
    let nowhere = Unsealer::KeyFile("/nonexistent/place/root.key".into());
    refused(Vault::init(fresh.path(), &nowhere), ErrorKind::Failed, "/nonexistent/place");
    assert!(!Vault::exists(fresh.path()));
    let good = Unsealer::Passphrase(Secret::new(b"long enough".to_vec()));
    Vault::init(fresh.path(), &good).expect("what failed before is not in the way");
}

#[test]
fn keys_for_purposes_differ_and_last() {
    let (site, vault) = Site::new();
    let keys = |vault: &Vault| -> Vec<[u8; 32]> {
        let key = |purpose| vault.purpose_key(purpose).expect("key").danger_expose(|bytes| *bytes);
        Purpose::ALL.into_iter().map(key).collect()
    };
    let before = keys(&vault);
    let distinct: std::collections::BTreeSet<_> = before.iter().collect();
    assert_eq!(distinct.len(), Purpose::ALL.len());
    let public = vault.signer(Purpose::Audit).expect("signer").public_key();
    drop(vault);
    let vault = site.open();
    assert_eq!((keys(&vault), vault.signer(Purpose::Audit).expect("signer").public_key()), (before, public));
}

/// The long tier: `cargo test --release -- --ignored`. Threads that commit, read and delete, and a reopening
/// after each round.
const ROUNDS: u64 = 40;

#[test]
#[ignore = "the long tier: minutes"]
fn threads_never_see_half_an_object() {
    let (site, mut vault) = Site::new();
    for round in 0..ROUNDS {
        std::thread::scope(|scope| {
            for thread in 0..6u64 {
                let vault = &vault;
                scope.spawn(move || {
                    for step in 0..40u64 {
                        let text = format!("{round} {thread} {step} ").repeat(1 + (step * 37 % 900) as usize);
                        let id = put(vault, text.as_bytes());
                        assert_eq!(read(vault, id), text.as_bytes());
                        if step % 3 != 0 {
                            vault.delete(id).expect("delete");
                        }
                    }
                });
            }
        });
        let root = vault.root();
        drop(vault);
        vault = site.open();
        assert_eq!((vault.root(), vault.swept()), (root, Swept::default()));
    }
    verify_names(&vault, None, &[]);
}
