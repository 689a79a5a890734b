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
    let loaded = set.load().expect("loads");
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
fn altered_tokens_are_refused_and_named() {
    let Made { bench, outcome, .. } = made();
    let shard = outcome.shards[0];
    let path = bench.object_path(shard);
    let mut bytes = std::fs::read(&path).expect("the shard");
    let set = TokenSet::open(&bench.vault, &outcome.shards).expect("opens");
    bytes[crate::seal::HEADER_BYTES + set.places[1].offset as usize + 20] ^= 1;
    std::fs::write(&path, bytes).expect("altered");
    let set = TokenSet::open(&bench.vault, &outcome.shards).expect("its index is whole");
    let mut ids = Vec::new();
    set.read(0, &mut ids).expect("another extent");
    assert_eq!(set.read(1, &mut ids).unwrap_err().kind(), ErrorKind::Integrity);
    assert_eq!(set.load().map(drop).unwrap_err().kind(), ErrorKind::Integrity);
    let report = bench.vault.verify(None, &Silent).expect("verifies");
    assert_eq!(
        report.problems.iter().map(|problem| &problem.object).collect::<Vec<_>>(),
        [&shard.to_string()]
    );
}

#[test]
fn tokens_of_another_tokenizer_are_not_taken_for_these() {
    let Made { bench, outcome, .. } = made();
    let set = TokenSet::open(&bench.vault, &outcome.shards).expect("opens");
    let mut blob = vec![0; set.places[0].length()];
    set.shards[0].0.read_carried_at(set.places[0].offset, &mut blob).expect("reads");
    let key = bench.vault.extent_key(set.extents[0].object).expect("key");
    let other = Source { tokenizer: Id::from_parts(IdKind::Tokenizer, 9, [9; 10]), ..*set.source(0) };
    for (source, opens) in [(*set.source(0), true), (other, false)] {
        let opened = seal::open_blob(&key, &binding(&set.extents[0], &source), &blob);
        assert_eq!(opened.is_ok(), opens);
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
        let mut object = bench.vault.create_carrying(IdKind::Shard, bytes.len() as u64).expect("create");
        object.carry(&[0; 40]).expect("carry");
        object.write_all(bytes).expect("write");
        bench.vault.commit(object).expect("commit")
    };
    let source =
        Source { snapshot: id(IdKind::Snapshot, 3), tokenizer: id(IdKind::Tokenizer, 4), width: Width::Two };
    let head = |count: u32, width: u8| {
        let mut head = head(count, &source);
        head[12] = width;
        head
    };
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
        [head(1, 2), index_entry(&Extent { tokens: 1, ..extent }, 10, 31).to_vec()].concat(),
        [head(1, 2), index_entry(&Extent { tokens: 1, ..extent }, 9, 31).to_vec(), vec![0]].concat(),
    ];
    for (number, lie) in lies.iter().enumerate() {
        let error = TokenSet::open(&bench.vault, &[shard(lie)]).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity, "lie {number}: {error}");
    }
    assert!(TokenSet::open(&bench.vault, &[shard(&head(0, 2))]).expect("empty").documents().is_empty());
}
