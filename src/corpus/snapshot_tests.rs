use std::{collections::BTreeSet, io::Write};

use super::*;
use crate::{
    base::{ErrorKind, Silent},
    vault::{Unsealer, Vault, object_path},
};

/// A vault in a folder of its own, and documents put into it.
pub(crate) struct Bench {
    pub vault: Vault,
    directory: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let key_file = Unsealer::KeyFile(directory.path().join("root.key"));
        let vault = Vault::init(&directory.path().join("data"), &key_file).expect("a vault");
        Self { vault, directory }
    }

    pub fn object_path(&self, id: Id) -> std::path::PathBuf {
        object_path(&self.directory.path().join("data/objects"), id)
    }

    pub fn put(&self, text: &str) -> DocumentRef {
        let mut object = self.vault.create(IdKind::Document, text.len() as u64).expect("create");
        object.write_all(text.as_bytes()).expect("write");
        let id = self.vault.commit(object).expect("commit");
        DocumentRef { document: id, version: 1, object: id }
    }
}

pub(crate) fn spec(documents: &[DocumentRef]) -> SnapshotSpec {
    SnapshotSpec {
        documents: documents.to_vec(),
        clean: Clean::default(),
        split: SplitSpec::default(),
        threads: 3,
    }
}

fn make(bench: &Bench, documents: &[DocumentRef]) -> Snapshot {
    let outcome = run(&spec(documents), &bench.vault, &Silent).expect("a snapshot");
    Snapshot::load(&bench.vault, outcome.snapshot).expect("its manifest")
}

fn essay(number: usize) -> String {
    format!("Document {number} says what only document {number} says.\n\n").repeat(3)
}

fn held_out(snapshot: &Snapshot) -> Vec<Id> {
    let is_held_out = |entry: &&Entry| entry.spans.iter().any(|span| span.split == Split::HeldOut);
    snapshot.entries.iter().filter(is_held_out).map(|entry| entry.document.document).collect()
}

#[test]
fn adding_documents_moves_none_of_the_others() {
    let bench = Bench::new();
    let mut documents: Vec<DocumentRef> = (0..120).map(|number| bench.put(&essay(number))).collect();
    let before = make(&bench, &documents);
    assert_eq!(before.unit, Unit::Document);
    let first = held_out(&before);
    assert!((1..20).contains(&first.len()), "{} of 120", first.len());

    documents.extend((120..200).map(|number| bench.put(&essay(number))));
    let after = held_out(&make(&bench, &documents));
    assert!(first.iter().all(|id| after.contains(id)));
    // Identifiers of one millisecond are in no order.
    let older = documents[..120].iter().map(|document| document.document);
    let held_out: BTreeSet<Id> = older.filter(|id| after.contains(id)).collect();
    assert_eq!(held_out, first.into_iter().collect());
}

#[test]
fn the_same_texts_fall_alike_in_another_vault() {
    let places = |order: &mut dyn Iterator<Item = usize>| {
        let bench = Bench::new();
        let numbers: Vec<usize> = order.collect();
        let documents: Vec<DocumentRef> = numbers.iter().map(|&number| bench.put(&essay(number))).collect();
        let held_out = held_out(&make(&bench, &documents));
        let mut places: Vec<usize> = numbers
            .into_iter()
            .zip(&documents)
            .filter(|(_, document)| held_out.contains(&document.document))
            .map(|(number, _)| number)
            .collect();
        places.sort_unstable();
        places
    };
    assert_eq!(places(&mut (0..110)), places(&mut (0..110).rev()));
}

#[test]
fn one_document_alone_gives_a_held_out_set() {
    let bench = Bench::new();
    let text: String = (0..2000).map(essay).collect();
    let document = bench.put(&text);
    let snapshot = make(&bench, &[document]);
    let (train, held_out) = (snapshot.amount(Split::Train), snapshot.amount(Split::HeldOut));
    let clean = Clean::default().apply(text);
    assert_eq!(snapshot.unit, Unit::Part);
    assert_eq!(train.bytes + held_out.bytes, clean.len() as u64);
    assert!(held_out.bytes * 40 > train.bytes && held_out.bytes * 10 < train.bytes, "{held_out:?} {train:?}");

    // The stretches of both sides, put together again, are the text.
    let entry = &snapshot.entries[0];
    let mut sides = [Split::Train, Split::HeldOut]
        .map(|side| snapshot.stretches(&bench.vault, entry, side).expect("stretches").into_iter());
    let again: String = entry
        .spans
        .iter()
        .map(|span| sides[usize::from(span.split == Split::HeldOut)].next().expect("a stretch per span"))
        .collect();
    assert_eq!(again, clean);
}

#[test]
fn the_older_of_equal_documents_stays_and_empty_ones_are_named() {
    let bench = Bench::new();
    let original = bench.put("The same words.\n\nAnd more.");
    let other = bench.put("Other words.");
    let copy = bench.put("The same words.  \r\n\r\n\n\nAnd more.\n");
    let empty = bench.put(" \n \u{200B}\n");
    let snapshot = make(&bench, &[copy, empty, other, original]);
    assert_eq!(snapshot.duplicates, [Duplicate { document: copy, of: original.document }]);
    assert_eq!(snapshot.empty, [empty]);
    assert_eq!(snapshot.entries.len(), 2);
}

#[test]
fn membership_is_proved_against_the_root_alone() {
    let bench = Bench::new();
    let documents: Vec<DocumentRef> = (0..9).map(|number| bench.put(&essay(number))).collect();
    let snapshot = make(&bench, &documents);
    let (leaf, proof) = snapshot.prove(documents[4].document).expect("it is in it");
    assert!(merkle::verify(&snapshot.root(), &leaf, &proof));
    let elsewhere = bench.put("not part of it").document;
    assert!(snapshot.prove(elsewhere).is_none());
    let other = make(&bench, &documents[..8]);
    assert!(!merkle::verify(&other.root(), &leaf, &proof));
}

#[test]
fn what_cannot_be_split_or_is_gone_is_refused() {
    let bench = Bench::new();
    let document = bench.put("A few words.");
    let error = run(&spec(&[document]), &bench.vault, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(run(&spec(&[]), &bench.vault, &Silent).is_err());
    for share in [0.0, -1.0, 0.6, f64::NAN] {
        let mut spec = spec(&[document]);
        spec.split.held_out_share = share;
        assert_eq!(run(&spec, &bench.vault, &Silent).unwrap_err().kind(), ErrorKind::Usage);
    }
    let other = bench.put("Some more.");
    let snapshot = make(&bench, &[document, other]);
    bench.vault.delete(document.object).expect("erase");
    let entry = snapshot.entries.iter().find(|entry| entry.document == document).expect("its entry");
    assert_eq!(snapshot.text(&bench.vault, entry).unwrap_err().kind(), ErrorKind::NotFound);
}
