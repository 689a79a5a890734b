//! Keys replaced while objects lie under them: what was sealed stays readable, what unsealed before does not unseal
//! any more, and being cut off anywhere leaves the one or the other.

use std::{
    fs,
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::*;
use crate::{
    base::{ErrorKind, Id, IdKind, Silent},
    seal::{Secret, Share, join_shares, split_key},
    vault::{Depot, keyring, keyring::Entry},
};

struct Site(tempfile::TempDir);

impl Site {
    fn new() -> (Self, Vault) {
        let site = Self(tempfile::tempdir().expect("temporary directory"));
        let vault = Vault::init(&site.data(), &site.key_file("root.key")).expect("init");
        (site, vault)
    }

    fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn key(&self, name: &str) -> PathBuf {
        self.data().join("keys").join(name)
    }

    fn key_file(&self, name: &str) -> Unsealer {
        Unsealer::KeyFile(self.0.path().join(name))
    }

    fn open(&self, by: &Unsealer) -> Result<Vault> {
        Vault::open(&self.data(), Vault::unseal(&self.data(), Some(by))?)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).expect("write");
        path
    }
}

fn put(vault: &Vault, plain: &[u8]) -> Id {
    let mut object = vault.create(IdKind::Document, plain.len() as u64).expect("create");
    object.write_all(plain).expect("write");
    vault.commit(object).expect("commit")
}

fn read(vault: &Vault, id: Id) -> Vec<u8> {
    vault.open(id).and_then(|object| object.read_all()).expect("opens").to_vec()
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.map(|_| ()).expect_err("refused").kind()
}

fn passphrase(text: &str) -> Unsealer {
    Unsealer::Passphrase(Secret::new(text.into()))
}

fn purpose_bytes(vault: &Vault, purpose: Purpose) -> Vec<[u8; 32]> {
    let keys = vault.purpose_keys(purpose).expect("keys");
    keys.iter().map(|key| key.danger_expose(|bytes| *bytes)).collect()
}

#[test]
fn a_rotation_wraps_lazily_and_rewrites_no_data() {
    let (site, vault) = Site::new();
    let old = put(&vault, b"under the first");
    let sealed = fs::read(vault.path(old)).expect("object");
    let grant = vault.reserve(IdKind::Shard, 5).expect("a worker begins");
    vault.rotate().expect("rotates");
    let new = put(&vault, b"under the second");
    let mut worked = grant.create().expect("the worker goes on");
    worked.write_all(b"shard").expect("write");
    worked.finish().expect("written");
    vault.adopt(grant.id()).expect("adopted after the rotation");
    let report = vault.key_report().expect("report");
    assert_eq!((report.objects, report.objects_to_rewrap), (3, 2));
    for (purpose, version) in report.versions {
        assert_eq!(version, if purpose.rotates() { 2 } else { 1 }, "{purpose:?}");
    }
    drop(vault);
    let vault = site.open(&site.key_file("root.key")).expect("opens");
    let texts = |vault: &Vault| [old, new, grant.id()].map(|id| read(vault, id));
    let due = [b"under the first".to_vec(), b"under the second".to_vec(), b"shard".to_vec()];
    assert_eq!(texts(&vault), due);
    // The next time that the keyring is written whole: here because something is erased.
    vault.erase(&[new]).expect("erased");
    assert_eq!(vault.key_report().expect("report").objects_to_rewrap, 0);
    assert_eq!([read(&vault, old), read(&vault, grant.id())], [due[0].clone(), due[2].clone()]);
    assert_eq!(fs::read(vault.path(old)).expect("object"), sealed, "data was rewritten");
    drop(vault);
    let vault = site.open(&site.key_file("root.key")).expect("opens");
    assert_eq!(read(&vault, old), due[0]);
    assert!(vault.verify(None, &Silent).expect("verify").problems.is_empty());
}

#[test]
fn rotations_at_once_make_versions_that_differ_and_none_is_lost() {
    let (site, vault) = Site::new();
    let before = purpose_bytes(&vault, Purpose::Columns);
    let ids: Vec<Id> = std::thread::scope(|threads| {
        let working: Vec<_> = (0..4u8)
            .map(|number| {
                let vault = &vault;
                threads.spawn(move || {
                    vault.rotate().expect("rotates");
                    put(vault, &[number; 10])
                })
            })
            .collect();
        working.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let keys = purpose_bytes(&vault, Purpose::Columns);
    assert_eq!((keys.len(), keys.last()), (5, before.first()), "newest first");
    assert!((0..5).all(|at| !keys[at + 1..].contains(&keys[at])));
    assert_eq!(purpose_bytes(&vault, Purpose::Audit).len(), 1, "the log's signer stays");
    drop(vault);
    let vault = site.open(&site.key_file("root.key")).expect("opens");
    assert_eq!(purpose_bytes(&vault, Purpose::Columns), keys);
    assert!(ids.iter().enumerate().all(|(number, &id)| read(&vault, id) == [number as u8; 10]));
}

#[test]
fn a_keyring_from_before_rotations_reads_as_the_first_version() {
    let (_site, vault) = Site::new();
    let id = put(&vault, b"x");
    let entry = vault.ring().objects[&id];
    let fields = [&entry.version.to_le_bytes()[..], &entry.length_bytes.to_le_bytes(), &entry.header_hash];
    let body = [&id.to_bytes()[..], &fields.concat(), &entry.wrapped_key].concat();
    let old = [&9u64.to_le_bytes()[..], &[1], &body].concat();
    let put = Change::Put(id, Entry { under: 1, ..entry });
    assert_eq!(keyring::decode(&old).expect("read"), (9, vec![put.clone()]));
    let now = keyring::encode(9, std::slice::from_ref(&put));
    assert_eq!(keyring::decode(&now).expect("read"), (9, vec![put]));
    for length in 9..old.len() {
        assert_eq!(kind(keyring::decode(&old[..length])), ErrorKind::Integrity, "cut at {length}");
    }
    for length in 9..now.len() {
        assert_eq!(kind(keyring::decode(&now[..length])), ErrorKind::Integrity, "cut at {length}");
    }
}

#[test]
fn after_a_rekey_the_old_unsealer_opens_nothing() {
    let (site, vault) = Site::new();
    let id = put(&vault, b"kept");
    let old_root_file = fs::read(site.key("root.json")).expect("root file");
    let (root, keys) = (vault.root(), purpose_bytes(&vault, Purpose::Signing));
    vault.rekey(&[site.key_file("new.key"), passphrase("four words of ours")]).expect("rekeyed");
    let later = put(&vault, b"written after");
    drop(vault);
    assert_eq!(kind(site.open(&site.key_file("root.key"))), ErrorKind::Sealed);
    assert_eq!(kind(site.open(&passphrase("four words of yours"))), ErrorKind::Sealed);
    for by in [site.key_file("new.key"), passphrase("four words of ours")] {
        let vault = site.open(&by).expect("opens");
        assert_eq!([read(&vault, id), read(&vault, later)], [b"kept".to_vec(), b"written after".to_vec()]);
        assert_eq!(purpose_bytes(&vault, Purpose::Signing), keys, "people know the installation by it");
        assert_eq!((vault.install(), vault.root().epoch), (vault.install(), root.epoch + 1));
    }
    // Somebody who kept the old root file and the old key file.
    let new_root_file = fs::read(site.key("root.json")).expect("root file");
    fs::write(site.key("root.json"), old_root_file).expect("write");
    assert_eq!(kind(site.open(&site.key_file("root.key"))), ErrorKind::Integrity);
    fs::write(site.key("root.json"), new_root_file).expect("write");
    site.open(&site.key_file("new.key")).expect("as before");
}

#[test]
fn a_rekey_that_is_refused_changes_nothing() {
    let (site, vault) = Site::new();
    let id = put(&vault, b"kept");
    let files = || [site.key("root.json"), site.key("keyring")].map(|path| fs::read(path).expect("file"));
    let before = files();
    assert_eq!(kind(vault.rekey(&[])), ErrorKind::Usage);
    assert_eq!(kind(vault.rekey(&[passphrase("short")])), ErrorKind::Usage);
    assert_eq!(kind(vault.rekey(&[site.key_file("new.key"), passphrase("short")])), ErrorKind::Usage);
    assert_eq!(kind(vault.rekey(&[Unsealer::ShareFiles(vec![])])), ErrorKind::Usage);
    assert_eq!(kind(vault.rekey(&[Unsealer::KeyFile("/nonexistent/k".into())])), ErrorKind::Failed);
    assert_eq!(files(), before);
    assert!(!site.key("keyring.next").exists());
    assert_eq!(read(&vault, id), b"kept");
    // A keyring that takes no commits takes no rekey either.
    vault.fail();
    assert!(vault.set_witness(vec![1]).is_err());
    assert_eq!(kind(vault.rekey(&[passphrase("four words of ours")])), ErrorKind::Unavailable);
    assert_eq!(files(), before);
}

#[test]
fn a_rekey_cut_off_anywhere_leaves_the_old_root_key_or_the_new_one() {
    let (site, vault) = Site::new();
    let id = put(&vault, b"kept");
    let copy = |from: &Path, to: &Path| assert!(fs::copy(from, to).is_ok());
    let (old_ring, old_root) = (site.file("old-ring", b""), site.file("old-root", b""));
    copy(&site.key("keyring"), &old_ring);
    copy(&site.key("root.json"), &old_root);
    let header = |blocks: fs::File| {
        let mut header = [1; 88];
        blocks.read_exact_at(&mut header, 0).expect("read");
        header
    };
    let blocks = || fs::File::open(site.key("keyring")).expect("the file that is to be replaced");
    let replaced = blocks();
    vault.rekey(&[passphrase("four words of ours")]).expect("rekeyed");
    assert_eq!(header(replaced), [0; 88], "no key is left in its blocks");
    drop(vault);
    let (new_ring, new_root) = (site.file("new-ring", b""), site.file("new-root", b""));
    copy(&site.key("keyring"), &new_ring);
    copy(&site.key("root.json"), &new_root);
    let (by_old, by_new) = (site.key_file("root.key"), passphrase("four words of ours"));

    // Stopped in the middle of writing the new keyring, and with it whole: the old root key is in force.
    for half in [true, false] {
        copy(&old_ring, &site.key("keyring"));
        copy(&old_root, &site.key("root.json"));
        copy(&new_ring, &site.key("keyring.next"));
        if half {
            fs::rename(site.key("keyring.next"), site.key("keyring.next.77.tmp")).expect("rename");
        }
        assert_eq!(kind(site.open(&by_new)), ErrorKind::Sealed);
        assert_eq!(read(&site.open(&by_old).expect("opens"), id), b"kept");
        let left: Vec<_> =
            fs::read_dir(site.key("")).expect("keys").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
    // Stopped between the new root key and the new keyring.
    copy(&new_root, &site.key("root.json"));
    copy(&new_ring, &site.key("keyring.next"));
    assert_eq!(kind(site.open(&by_old)), ErrorKind::Sealed);
    let replaced = blocks();
    assert_eq!(read(&site.open(&by_new).expect("opens"), id), b"kept");
    assert_eq!(header(replaced), [0; 88], "nor in those that are replaced at the next start");
    assert!(!site.key("keyring.next").exists());
    assert_eq!(read(&site.open(&by_new).expect("opens again"), id), b"kept");
    // A stranger's file in its place is no keyring of ours.
    fs::write(site.key("keyring.next"), b"not a keyring").expect("write");
    assert_eq!(read(&site.open(&by_new).expect("opens"), id), b"kept");
    assert!(!site.key("keyring.next").exists());
    // The root key is new, the keyring old, and the one beside it damaged: nothing more is lost by looking.
    copy(&old_ring, &site.key("keyring"));
    let mut damaged = fs::read(&new_ring).expect("file");
    damaged[30] ^= 1;
    fs::write(site.key("keyring.next"), &damaged).expect("write");
    assert_eq!(kind(site.open(&by_new)), ErrorKind::Integrity);
    assert_eq!(fs::read(site.key("keyring.next")).expect("still there"), damaged);
}

#[test]
fn shares_unseal_when_they_are_enough_of_the_right_set() {
    let site = Site(tempfile::tempdir().expect("temporary directory"));
    let make = |shares, threshold| {
        let key = Key::generate().expect("a key");
        let made = split_key(&key, shares, threshold).expect("shares");
        let texts: Vec<_> =
            made.iter().map(|share| share.danger_to_text().danger_expose().to_vec()).collect();
        (Unsealer::Shares { set: made[0].set(), key }, texts)
    };
    let (ours, texts) = make(5, 3);
    let (_, strangers) = make(5, 3);
    let id = put(&Vault::init(&site.data(), &ours).expect("init"), b"shared");
    let file = |name: String, text: &[u8]| site.file(&name, &[text, b"\nkept by somebody\n"].concat());
    let ours: Vec<_> = (0..5).map(|at| file(format!("share-{at}"), &texts[at])).collect();
    let strange: Vec<_> = (0..5).map(|at| file(format!("strange-{at}"), &strangers[at])).collect();
    let given =
        |files: &[&PathBuf]| site.open(&Unsealer::ShareFiles(files.iter().copied().cloned().collect()));
    for files in [[0, 1, 2], [4, 2, 0], [1, 3, 4]] {
        assert_eq!(read(&given(&files.map(|at| &ours[at])).expect("opens"), id), b"shared");
    }
    let damaged = file("damaged".into(), &texts[1][1..]);
    let gone = site.0.path().join("gone");
    for (files, due) in [
        (vec![], ErrorKind::Usage),
        (vec![&ours[0], &ours[1]], ErrorKind::Usage),
        (vec![&ours[0], &ours[1], &ours[1]], ErrorKind::Usage),
        (vec![&ours[0], &ours[1], &strange[2]], ErrorKind::Usage),
        (vec![&ours[0], &damaged, &ours[2]], ErrorKind::Usage),
        (vec![&ours[0], &ours[1], &gone], ErrorKind::Sealed),
        (vec![&strange[0], &strange[1], &strange[2]], ErrorKind::Sealed),
    ] {
        assert_eq!(kind(given(&files)), due, "{files:?}");
    }
    assert_eq!(kind(site.open(&site.key_file("no.key"))), ErrorKind::Sealed);
    let error = Vault::unseal(&site.data(), None).map(|_| ()).expect_err("nothing is remembered");
    assert!(error.to_string().contains("3 shares"), "{error}");
    let read_again: Vec<_> = (0..3).map(|at| Share::parse(&texts[at]).expect("ours")).collect();
    assert!(join_shares(&read_again).is_ok());
}
