//! The vault through its public face: crash points, wrong keys, and everything that verify must name.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
};

use super::*;
use crate::{
    base::{ErrorKind, Id, IdKind, Silent},
    seal::Secret,
};

fn unsealer(directory: &Path) -> Unsealer {
    Unsealer::KeyFile(directory.join("root.key"))
}

fn reopen(directory: &Path) -> Vault {
    let root = Vault::unseal(directory, None).expect("unseals with the remembered key file");
    Vault::open(directory, root).expect("opens")
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

#[test]
fn what_was_committed_is_there_after_reopening() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let vault = Vault::init(directory.path(), &unsealer(directory.path())).expect("init");
    let texts: Vec<Vec<u8>> = [0, 1, 1000, 65_536, 65_537, 3 << 20].map(|n| vec![n as u8 | 1; n]).into();
    let ids: Vec<Id> = texts.iter().map(|text| put(&vault, text)).collect();
    let root = vault.root();
    drop(vault);
    let vault = reopen(directory.path());
    assert_eq!((vault.root(), vault.swept()), (root, Swept::default()));
    for (id, text) in ids.iter().zip(&texts) {
        assert_eq!(&read(&vault, *id), text);
    }
    let report = vault.verify(Some(&root), &Silent).expect("verify");
    assert_eq!((report.problems, report.bytes), (vec![], texts.iter().map(|text| text.len() as u64).sum()));
    vault.delete(ids[0]).expect("delete");
    assert_eq!(vault.open(ids[0]).map(|_| ()).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_wrong_passphrase_is_sealed_and_the_right_one_opens() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let passphrase = |text: &str| Unsealer::Passphrase(Secret::new(text.into()));
    let id = put(&Vault::init(directory.path(), &passphrase("correct horse battery")).expect("init"), b"x");
    let error = Vault::unseal(directory.path(), Some(&passphrase("incorrect horse"))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Sealed);
    let root = Vault::unseal(directory.path(), Some(&passphrase("correct horse battery"))).expect("unseals");
    assert_eq!(read(&Vault::open(directory.path(), root).expect("opens"), id), b"x");
}
