//! Tokenizers, and what has to stand before one: a snapshot of the documents as they are now.

use std::collections::HashMap;

use super::{
    Performed,
    data::collection_names,
    prepare::{self, no_tokenizer},
};
use crate::{
    base::{Error, Id, Monitor, Result},
    store::{self, Rows},
    work::{
        jobs,
        policy::Actor,
        request::{Request, TokenizerRow},
        warden::Warden,
    },
};

pub(super) fn train(
    warden: &Warden,
    actor: &Actor,
    request: &Request,
    monitor: &dyn Monitor,
) -> Result<Performed> {
    let Request::TokenizerTrain { collection, vocab_size, lower_case } = request else {
        return Err(Error::failed("this is no tokenizer"));
    };
    jobs::run(warden, actor, request, monitor, |job| {
        let snapshot = prepare::snapshot(job, collection, *lower_case)?;
        let tokenizer = prepare::train_tokenizer(job, snapshot, *vocab_size)?;
        let row = warden.store.read(|rows| {
            let row = rows.tokenizer(tokenizer)?.ok_or_else(|| no_tokenizer(tokenizer))?;
            self::row(rows, row, &collection_names(rows)?)
        })?;
        Ok(Performed::new(&row)?.made(tokenizer).detail("snapshot", snapshot.to_string()))
    })
}

pub(super) fn show(warden: &Warden, one: Option<Id>) -> Result<Performed> {
    let rows: Vec<TokenizerRow> = warden.store.read(|rows| {
        let names = collection_names(rows)?;
        let found = match one {
            Some(id) => vec![rows.tokenizer(id)?.ok_or_else(|| no_tokenizer(id))?],
            None => rows.tokenizers()?,
        };
        found.into_iter().map(|row| self::row(rows, row, &names)).collect()
    })?;
    Performed::new(&rows)
}

pub(super) fn row(
    rows: &Rows<'_>,
    row: store::TokenizerRow,
    names: &HashMap<i64, String>,
) -> Result<TokenizerRow> {
    let snapshot = row.snapshot.map(|id| rows.snapshot(id)).transpose()?.flatten();
    let erased = row.snapshot.map(|id| rows.erased_members(id)).transpose()?.unwrap_or_default();
    let collection = snapshot.and_then(|snapshot| names.get(&snapshot.collection).cloned());
    Ok(TokenizerRow {
        id: row.id,
        collection: collection.unwrap_or_default(),
        snapshot: row.snapshot,
        vocab_size: row.vocab_size,
        bytes_per_token: row.bytes_per_token,
        created_at_ms: row.created_at_ms,
        erased: erased.len() as u64,
    })
}
