//! The tokenizer job: a vocabulary learnt from the training side of a snapshot, kept as a sealed
//! `tokenizer.json`, and measured on the side that was held out.

use serde::{Deserialize, Serialize};

use super::{
    parallel,
    snapshot::{Entry, Snapshot},
    split::Split,
};
use crate::{
    base::{Context, Id, IdKind, Monitor, Result},
    text::{Tokenizer, vocab_size_for},
    vault::Depot,
};

/// What to train it on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerSpec {
    pub snapshot: Id,
    /// Special tokens and the 256 bytes included; `None`: what suits the amount of text.
    #[serde(default)]
    pub vocab_size: Option<usize>,
    /// 0: one per core.
    #[serde(default)]
    pub threads: usize,
}

/// The tokenizer that came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenizerOutcome {
    pub tokenizer: Id,
    pub vocab_size: usize,
    pub held_out: Fertility,
}

/// How tightly a tokenizer packs a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fertility {
    pub bytes: u64,
    pub tokens: u64,
}

impl Fertility {
    pub fn bytes_per_token(&self) -> f64 {
        self.bytes as f64 / self.tokens.max(1) as f64
    }
}

/// Trains and keeps a tokenizer.
pub fn run(spec: &TokenizerSpec, depot: &dyn Depot, monitor: &dyn Monitor) -> Result<TokenizerOutcome> {
    let snapshot = Snapshot::load(depot, spec.snapshot)?;
    let vocab_size = spec.vocab_size.unwrap_or_else(|| vocab_size_for(snapshot.amount(Split::Train).bytes));
    let texts =
        snapshot.entries.iter().filter(|entry| side_bytes(entry, Split::Train) > 0).flat_map(|entry| {
            match snapshot.stretches(depot, entry, Split::Train) {
                Ok(stretches) => stretches.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        });
    let tokenizer = Tokenizer::train(texts, vocab_size, monitor)?;
    let held_out = measure(&tokenizer, &snapshot, depot, spec.threads, monitor)?;
    let id = keep(&tokenizer, depot)?;
    Ok(TokenizerOutcome { tokenizer: id, vocab_size: tokenizer.vocab_size(), held_out })
}

/// The tokenizer kept under `id`.
pub fn load(depot: &dyn Depot, id: Id) -> Result<Tokenizer> {
    let json = depot.open(id)?.read_all()?;
    Tokenizer::from_json(&json).with_context(|| format!("loading tokenizer {id}"))
}

/// Keeps a tokenizer as a sealed object.
pub fn keep(tokenizer: &Tokenizer, depot: &dyn Depot) -> Result<Id> {
    let json = tokenizer.to_json()?;
    let mut object = depot.create(IdKind::Tokenizer, json.len() as u64)?;
    std::io::Write::write_all(&mut object, &json).context("writing tokenizer.json")?;
    depot.commit(object)
}

/// How tightly `tokenizer` packs the held-out text of `snapshot`.
pub fn measure(
    tokenizer: &Tokenizer,
    snapshot: &Snapshot,
    depot: &dyn Depot,
    threads: usize,
    monitor: &dyn Monitor,
) -> Result<Fertility> {
    let entries: Vec<&Entry> =
        snapshot.entries.iter().filter(|entry| side_bytes(entry, Split::HeldOut) > 0).collect();
    let mut stage = parallel::Stage::new("tokenizer on held-out text", "document", entries.len() as u64);
    let mut fertility = Fertility::default();
    let count = |entry: &Entry| {
        let mut counted = Fertility::default();
        for text in snapshot.stretches(depot, entry, Split::HeldOut)? {
            counted.bytes += text.len() as u64;
            counted.tokens += tokenizer.encode(&text)?.len() as u64;
        }
        Ok(counted)
    };
    parallel::in_order(threads, entries.into_iter(), count, |counted| {
        fertility.bytes += counted.bytes;
        fertility.tokens += counted.tokens;
        stage.advance(1, monitor)
    })?;
    Ok(fertility)
}

fn side_bytes(entry: &Entry, side: Split) -> u64 {
    entry.spans.iter().filter(|span| span.split == side).map(|span| span.bytes).sum()
}
