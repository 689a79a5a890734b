//! What a run needs before its first step. A snapshot of the same documents, a tokenizer and shards that are
//! there already are used as they are.

use std::collections::HashSet;

use crate::{
    base::{Error, Id, IdKind, Result},
    corpus::{
        DocumentRef, Snapshot, SnapshotSpec,
        clean::Clean,
        extents::{ExtentsOutcome, ExtentsSpec},
        snapshot::SnapshotOutcome,
        split::SplitSpec,
        tokenizer::{TokenizerOutcome, TokenizerSpec},
    },
    store::{self, Edge, Relation, Run},
    work::{
        host::Leave,
        jobs::Job,
        protocol::Task,
        request::Pretrain,
        requests::{data::number_of, reached},
        warden::Warden,
    },
};

/// Everything that a run reads.
pub(super) struct Prepared {
    pub snapshot: Id,
    pub tokenizer: Id,
    pub shards: Vec<Id>,
    /// The documents of the snapshot.
    pub documents: HashSet<Id>,
}

pub(super) fn all(job: &Job<'_>, pretrain: &Pretrain) -> Result<Prepared> {
    let snapshot = snapshot(job, &pretrain.collection, pretrain.lower_case)?;
    let tokenizer = match pretrain.tokenizer {
        Some(id) => known_tokenizer(job.warden, id)?,
        None => match newest_tokenizer(job.warden, snapshot)? {
            Some(id) => id,
            None => train_tokenizer(job, snapshot, pretrain.vocab_size)?,
        },
    };
    let documents = documents_of(job.warden, snapshot)?;
    let shards = shards(job, snapshot, tokenizer, &documents)?;
    Ok(Prepared { snapshot, tokenizer, shards, documents })
}

/// What a stopped run was reading.
///
/// # Errors
/// `Usage` where its snapshot has lost a document since.
pub(super) fn of_run(warden: &Warden, run: &Run) -> Result<Prepared> {
    let documents = documents_of(warden, run.snapshot)?;
    let gone: Vec<Id> =
        documents.iter().copied().filter(|&document| !warden.vault.contains(document)).collect();
    if let Some(first) = gone.first() {
        let reached = warden.store.read(|rows| reached::by(rows, &gone))?;
        let anew = reached.into_iter().find(|reached| reached.id == run.id).and_then(|run| run.retrain);
        let error = Error::usage(format!("document {first} of the run's snapshot was erased"));
        return Err(match anew {
            Some(command) => error.remedy(format!("a new run takes a snapshot of what is there: {command}")),
            None => error.remedy("nothing is left in its collection to train on"),
        });
    }
    let shards = warden.store.read(|rows| rows.shards(run.snapshot, run.tokenizer))?;
    Ok(Prepared {
        snapshot: run.snapshot,
        tokenizer: run.tokenizer,
        shards: shards.into_iter().map(|shard| shard.id).collect(),
        documents,
    })
}

/// The snapshot of a collection as it is now.
pub(super) fn snapshot(job: &Job<'_>, collection: &str, lower_case: bool) -> Result<Id> {
    let warden = job.warden;
    let clean = Clean { lower_case, ..Clean::default() };
    let (number, documents, newest) = warden.store.read(|rows| {
        let number = number_of(rows, collection)?;
        let documents: Vec<Id> = rows.documents(Some(number))?.iter().map(|document| document.id).collect();
        let newest = rows.snapshots()?.into_iter().rfind(|snapshot| snapshot.collection == number);
        Ok((number, documents, newest))
    })?;
    if documents.is_empty() {
        return Err(Error::usage(format!("collection '{collection}' holds no document"))
            .remedy("`cloister data ingest PATH --collection NAME` takes some in"));
    }
    let held: HashSet<Id> = documents.iter().copied().collect();
    if let Some(newest) = &newest {
        let manifest = Snapshot::load(&warden.vault, newest.id)?;
        if manifest.clean == clean && members(&manifest) == held {
            return Ok(newest.id);
        }
    }
    let spec = SnapshotSpec {
        documents: documents.iter().map(|&id| DocumentRef { document: id, version: 1, object: id }).collect(),
        clean,
        split: SplitSpec::default(),
        threads: warden.threads.unwrap_or(0),
    };
    let leave = Leave { read: held.clone(), extents: held, create: &[IdKind::Snapshot], ..Leave::default() };
    let outcome: SnapshotOutcome = job.stage(Task::Snapshot(Box::new(spec)), leave)?;
    keep_snapshot(warden, number, &outcome, newest.map(|newest| newest.id))?;
    Ok(outcome.snapshot)
}

fn members(manifest: &Snapshot) -> HashSet<Id> {
    let entries = manifest.entries.iter().map(|entry| entry.document);
    let duplicates = manifest.duplicates.iter().map(|duplicate| duplicate.document);
    entries.chain(duplicates).chain(manifest.empty.iter().copied()).map(|document| document.object).collect()
}

fn keep_snapshot(
    warden: &Warden,
    collection: i64,
    outcome: &SnapshotOutcome,
    older: Option<Id>,
) -> Result<()> {
    // The manifest is what was sealed; what the worker says of it is only its summary.
    let manifest = Snapshot::load(&warden.vault, outcome.snapshot)?;
    let members: Vec<Id> = manifest.entries.iter().map(|entry| entry.document.object).collect();
    let now = warden.now_ms();
    let row = store::Snapshot {
        id: outcome.snapshot,
        collection,
        merkle_root: manifest.root(),
        documents: members.len() as u64,
        duplicates: outcome.duplicates,
        train_bytes: outcome.train.bytes,
        held_out_bytes: outcome.held_out.bytes,
        created_at_ms: now,
        spec: serde_json::json!({ "clean": manifest.clean, "split": manifest.split, "unit": manifest.unit }),
    };
    warden.store.write(|rows| {
        rows.keep_object(row.id)?;
        rows.add_snapshot(&row, &members)?;
        match older {
            Some(parent) => rows.add_edge(Edge { parent, child: row.id, relation: Relation::Follows }, now),
            None => Ok(()),
        }
    })
}

/// The documents whose text or tokens belong to a snapshot.
fn documents_of(warden: &Warden, snapshot: Id) -> Result<HashSet<Id>> {
    Ok(warden.store.read(|rows| rows.snapshot_members(snapshot))?.into_iter().collect())
}

fn known_tokenizer(warden: &Warden, id: Id) -> Result<Id> {
    let found = warden.store.read(|rows| rows.tokenizer(id))?;
    found.map(|row| row.id).ok_or_else(|| no_tokenizer(id))
}

/// The newest tokenizer that was trained on this collection, and on nothing that was erased since.
fn newest_tokenizer(warden: &Warden, snapshot: Id) -> Result<Option<Id>> {
    warden.store.read(|rows| {
        let snapshots = rows.snapshots()?;
        let collection = snapshots.iter().find(|row| row.id == snapshot).map(|row| row.collection);
        let of_collection: HashSet<Id> =
            snapshots.iter().filter(|row| Some(row.collection) == collection).map(|row| row.id).collect();
        for row in rows.tokenizers()?.into_iter().rev() {
            let Some(trained_on) = row.snapshot.filter(|id| of_collection.contains(id)) else { continue };
            if rows.erased_members(trained_on)?.is_empty() {
                return Ok(Some(row.id));
            }
        }
        Ok(None)
    })
}

pub(super) fn train_tokenizer(job: &Job<'_>, snapshot: Id, vocab_size: Option<u32>) -> Result<Id> {
    let warden = job.warden;
    let documents = documents_of(warden, snapshot)?;
    let spec = TokenizerSpec {
        snapshot,
        vocab_size: vocab_size.map(|size| size as usize),
        threads: warden.threads.unwrap_or(0),
    };
    let leave = Leave {
        read: documents.into_iter().chain([snapshot]).collect(),
        create: &[IdKind::Tokenizer],
        ..Leave::default()
    };
    let outcome: TokenizerOutcome = job.stage(Task::Tokenizer(spec), leave)?;
    let now = warden.now_ms();
    let row = store::TokenizerRow {
        id: outcome.tokenizer,
        snapshot: Some(snapshot),
        vocab_size: outcome.vocab_size as u64,
        bytes_per_token: Some(outcome.held_out.bytes_per_token()),
        created_at_ms: now,
        made_by: Some(job.actor.person()),
    };
    warden.store.write(|rows| {
        rows.keep_object(row.id)?;
        rows.add_tokenizer(&row)?;
        rows.add_edge(Edge { parent: snapshot, child: row.id, relation: Relation::TrainedTokenizer }, now)
    })?;
    Ok(outcome.tokenizer)
}

fn shards(job: &Job<'_>, snapshot: Id, tokenizer: Id, documents: &HashSet<Id>) -> Result<Vec<Id>> {
    let warden = job.warden;
    let made = warden.store.read(|rows| rows.shards(snapshot, tokenizer))?;
    if !made.is_empty() {
        return Ok(made.into_iter().map(|shard| shard.id).collect());
    }
    let spec = ExtentsSpec { snapshot, tokenizer, threads: warden.threads.unwrap_or(0) };
    let leave = Leave {
        read: documents.iter().copied().chain([snapshot, tokenizer]).collect(),
        extents: documents.clone(),
        create: &[IdKind::Shard],
        ..Leave::default()
    };
    let outcome: ExtentsOutcome = job.stage(Task::Extents(spec), leave)?;
    let now = warden.now_ms();
    warden.store.write(|rows| {
        for &id in &outcome.shards {
            rows.keep_object(id)?;
            rows.add_shard(&store::Shard { id, snapshot, tokenizer, created_at_ms: now })?;
            for parent in [snapshot, tokenizer] {
                rows.add_edge(Edge { parent, child: id, relation: Relation::Tokenized }, now)?;
            }
        }
        Ok(())
    })?;
    Ok(outcome.shards)
}

pub(super) fn no_tokenizer(id: Id) -> Error {
    Error::not_found(format!("there is no tokenizer {id}")).remedy("`cloister tokenizer show` lists them")
}
