use super::*;
use crate::{
    base::{ErrorKind, Philox, Silent},
    corpus::{
        snapshot::{
            self, DocumentRef,
            tests::{Bench, spec},
        },
        tokenizer::{self, TokenizerSpec},
    },
};

struct Made {
    bench: Bench,
    documents: Vec<DocumentRef>,
    snapshot: Snapshot,
    tokenizer: Tokenizer,
    outcome: ExtentsOutcome,
}

fn made() -> Made {
    let bench = Bench::new();
    let words = ["notice", "party", "agreement", "shall", "term", "of", "the", "a", "law", "§", "übrig"];
    let mut rng = Philox::new(3, 0);
    let mut essay = |length: usize| {
        let mut text = String::new();
        for number in 1..=length {
            text.push_str(words[rng.below(words.len() as u64) as usize]);
            text.push_str(if number % 12 == 0 { ".\n\n" } else { " " });
        }
        text
    };
    let documents: Vec<DocumentRef> = [3000, 5, 700, 20_000].map(|length| bench.put(&essay(length))).into();
    let snapshot = snapshot::run(&spec(&documents), &bench.vault, &Silent).expect("a snapshot").snapshot;
    let tokenizer_spec = TokenizerSpec { snapshot, vocab_size: Some(400), threads: 2 };
    let trained = tokenizer::run(&tokenizer_spec, &bench.vault, &Silent).expect("a tokenizer");
    assert!(trained.held_out.bytes_per_token() > 2.0, "{:?}", trained.held_out);
    let tokenizer = tokenizer::load(&bench.vault, trained.tokenizer).expect("reads back");
    let extents_spec = ExtentsSpec { snapshot, tokenizer: trained.tokenizer, threads: 3 };
    let outcome = run(&extents_spec, &bench.vault, &Silent).expect("shards");
    let snapshot = Snapshot::load(&bench.vault, snapshot).expect("its manifest");
    Made { bench, documents, snapshot, tokenizer, outcome }
}

#[test]
fn tokens_are_the_text_and_nothing_but_the_text() {
    let Made { bench, snapshot, tokenizer, outcome, .. } = made();
    let set = TokenSet::open(&bench.vault, &outcome.shards).expect("opens");
    let mut ids = Vec::new();
    for entry in &snapshot.entries {
        let mut text = String::new();
        for (index, extent) in set.documents().iter().enumerate() {
            if extent.document == entry.document.document {
                set.read(index, &mut ids).expect("reads");
                assert_eq!(ids.len(), extent.tokens as usize);
                let decoded = tokenizer.decode(&ids);
                assert_eq!(decoded.len() as u64, extent.bytes);
                text.push_str(&decoded);
            }
        }
        assert_eq!(text, snapshot.text(&bench.vault, entry).expect("text"));
    }
    let loaded = set.load(2).expect("loads");
    let mut again = Vec::new();
    for index in 0..set.documents().len() {
        set.read(index, &mut ids).expect("reads");
        loaded.read(index, &mut again);
        assert_eq!(ids, again);
    }
    let held_out = set.documents().iter().filter(|extent| extent.split == Split::HeldOut);
    assert_eq!(held_out.map(|extent| extent.bytes).sum::<u64>(), outcome.held_out.bytes);
    assert_eq!(snapshot.amount(Split::HeldOut).bytes, outcome.held_out.bytes);
}

#[test]
fn erasing_a_document_takes_its_tokens_and_no_others() {
    let Made { bench, documents, outcome, .. } = made();
    bench.vault.delete(documents[0].object).expect("erase");
    let set = TokenSet::open(&bench.vault, &outcome.shards).expect("the shard still opens");
    let mut ids = Vec::new();
    for (index, extent) in set.documents().iter().enumerate() {
        let read = set.read(index, &mut ids);
        match extent.document == documents[0].document {
            true => assert_eq!(read.unwrap_err().kind(), ErrorKind::NotFound),
            false => read.expect("another document's"),
        }
    }
}

#[test]
fn a_long_run_becomes_several_extents() {
    let Made { tokenizer, .. } = made();
    let line = "the party  shall\n\n  give notice; 12345 of the term\r\nor not. ";
    let stretch = line.repeat(5000);
    let runs = runs(&tokenizer, &stretch).expect("runs");
    assert!(runs.len() > 1 && runs.iter().all(|(_, ids)| ids.len() <= EXTENT_TOKENS_MAX));
    let ids: Vec<u32> = runs.iter().flat_map(|(_, ids)| ids.clone()).collect();
    assert_eq!(ids, tokenizer.encode(&stretch).expect("whole"));
    assert_eq!(runs.iter().map(|(bytes, _)| bytes).sum::<usize>(), stretch.len());
}

#[test]
fn index_entries_survive_and_lies_in_them_are_found() {
    let id = |kind, byte| Id::from_parts(kind, 7, [byte; 10]);
    let extent = Extent {
        document: id(IdKind::Document, 1),
        object: id(IdKind::Object, 2),
        part: 77,
        split: Split::HeldOut,
        tokens: 123_456,
        bytes: 1 << 40,
    };
    let entry = index_entry(&extent, 1 << 33, 4567);
    assert_eq!(parse_index_entry(&entry).expect("own entry"), (extent, 1 << 33, 4567));

    let bench = Bench::new();
    let shard = |bytes: &[u8]| {
        let mut object = bench.vault.create(IdKind::Shard, bytes.len() as u64).expect("create");
        object.write_all(bytes).expect("write");
        bench.vault.commit(object).expect("commit")
    };
    let head = |count: u32, width: u32| [&MAGIC[..], &count.to_le_bytes(), &width.to_le_bytes()].concat();
    let lies = [
        Vec::new(),
        b"CLTOK".to_vec(),
        vec![0; 64],
        head(1, 2),
        head(u32::MAX, 2),
        head(0, 3),
        [head(1, 2), entry.to_vec()].concat(),
        [head(1, 2), vec![255; INDEX_ENTRY_BYTES]].concat(),
        [head(1, 2), index_entry(&Extent { tokens: 1, ..extent }, u64::MAX, 31).to_vec()].concat(),
    ];
    for (number, lie) in lies.iter().enumerate() {
        let error = TokenSet::open(&bench.vault, &[shard(lie)]).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "lie {number}: {error}");
    }
    assert!(TokenSet::open(&bench.vault, &[shard(&head(0, 2))]).expect("empty").documents().is_empty());
}
