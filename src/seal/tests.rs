//! Sealed objects under attack, and known answers.

use std::io::Write;

use super::*;
use crate::base::{Id, IdKind};

fn label() -> Label {
    let id = |kind, last| Id::from_parts(kind, 1_790_000_000_000, [last; 10]);
    Label { install: id(IdKind::Install, 1), object: id(IdKind::Document, 2), version: 1 }
}

fn seal(key: &Key, label: Label, chunk_bytes: u32, plain: &[u8]) -> Vec<u8> {
    let mut writer = SealWriter::with_chunk_bytes(Vec::new(), key, label, plain.len() as u64, chunk_bytes)
        .expect("writer");
    writer.write_all(plain).expect("write");
    writer.finish().expect("finish").0
}

fn open(key: &Key, label: Label, sealed: &[u8]) -> crate::base::Result<Vec<u8>> {
    let mut file = tempfile::tempfile().expect("temporary file");
    file.write_all(sealed).expect("write");
    let reader = SealReader::open(file, key, label)?;
    let mut plain = vec![0; reader.len_bytes() as usize];
    reader.read_at(0, &mut plain)?;
    Ok(plain)
}

#[test]
fn what_was_sealed_comes_back() {
    let key = Key::generate().expect("key");
    for length in [0, 1, 63, 64, 65, 127, 128, 129, 1000] {
        let plain: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let sealed = seal(&key, label(), 64, &plain);
        assert_eq!(sealed.len() as u64, sealed_length_bytes(length, 64));
        assert_eq!(open(&key, label(), &sealed).expect("opens"), plain, "{length}");
    }
}
