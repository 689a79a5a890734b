use std::fs;

use super::*;
use crate::{
    base::{ErrorKind, IdKind},
    seal::new_id,
    vault::tests::Site,
};

fn id(kind: IdKind) -> Id {
    new_id(kind).expect("an id")
}

fn documents(count: usize) -> BTreeMap<Id, String> {
    (0..count).map(|number| (id(IdKind::Document), hex(&[number as u8; 32]))).collect()
}

#[test]
fn tombstones_stay_in_order_and_an_erasure_has_one() {
    let (site, vault) = Site::new();
    assert_eq!(vault.tombstones().expect("none yet"), []);
    let erasures = [id(IdKind::Erasure), id(IdKind::Erasure)];
    let (first, second) = (documents(2), documents(1));
    let emptied = [id(IdKind::Answer), id(IdKind::Feedback)];
    let hash = vault.bury(erasures[0], 5, &first, &[]).expect("buried");
    vault.bury(erasures[1], 6, &second, &emptied).expect("buried");
    assert_eq!(vault.bury(erasures[0], 7, &first, &[]).expect("as it is"), hash);
    drop(vault);
    let read = site.open().tombstones().expect("they read");
    let taken: Vec<_> = read.iter().map(|stone| (stone.erasure, stone.at_ms, &stone.documents)).collect();
    assert_eq!(taken, [(erasures[0], 5, &first), (erasures[1], 6, &second)]);
    assert_eq!((&read[0].emptied[..], &read[1].emptied[..]), (&[][..], &emptied[..]));
    let path = site.data().join("keys").join(TOMBSTONES);
    let line = fs::read_to_string(path).expect("the file").lines().next().expect("a line").to_owned();
    assert_eq!(hash, hex(&sha256(line.as_bytes())), "what the log has is the hash of the line");
    assert!(!line.contains("emptied"), "as older versions wrote it: {line}");
}

#[test]
fn an_altered_moved_or_missing_tombstone_is_noticed() {
    let (site, vault) = Site::new();
    for number in 0..3 {
        vault.bury(id(IdKind::Erasure), number, &documents(1), &[]).expect("buried");
    }
    let path = site.data().join("keys").join(TOMBSTONES);
    let whole = fs::read_to_string(&path).expect("the file");
    let lines: Vec<&str> = whole.lines().collect();
    let altered = whole.replacen("\"at_ms\":1", "\"at_ms\":9", 1);
    assert_ne!(altered, whole);
    let (_elsewhere, foreign) = Site::new();
    foreign.bury(id(IdKind::Erasure), 0, &documents(1), &[]).expect("buried");
    let foreign = fs::read_to_string(foreign.tombstones_path()).expect("the file");
    for text in [
        altered,
        [lines[1], lines[0], lines[2]].join("\n"),
        [lines[0], lines[2]].join("\n"),
        [lines[1], lines[2]].join("\n"),
        whole[..whole.len() - 9].to_owned(),
        whole.replace(' ', ""),
        format!("{whole}{{}} {}\n", "00".repeat(64)),
        foreign,
    ] {
        fs::write(&path, &text).expect("write");
        let error = vault.tombstones().map(drop).expect_err(&text);
        assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
        assert!(vault.bury(id(IdKind::Erasure), 9, &documents(1), &[]).is_err(), "nothing is built on it");
    }
    fs::write(&path, &whole).expect("write");
    assert_eq!(vault.tombstones().expect("as it was").len(), 3);
}
