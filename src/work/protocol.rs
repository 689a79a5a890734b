//! What a worker and the warden say to each other. The worker asks, the warden answers in order; keys travel as
//! the secret part of a frame, never inside a message.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::import::ImportSpec;
use crate::{
    base::{Error, Id, IdKind, Progress},
    corpus::{
        Admitted, Format, IngestSpec, Refusal, SnapshotSpec, extents::ExtentsSpec, tokenizer::TokenizerSpec,
    },
    evaluate::EvaluateSpec,
    infer::generate::GenerateSpec,
    seal::Digest,
    train::{plan::PlanSpec, pretrain::PretrainSpec},
};

/// The work of one worker process.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    Ingest(IngestSpec),
    Snapshot(Box<SnapshotSpec>),
    Tokenizer(TokenizerSpec),
    Extents(ExtentsSpec),
    Plan(Box<PlanSpec>),
    Pretrain(Box<PretrainSpec>),
    Evaluate(EvaluateSpec),
    Import(ImportSpec),
    Generate(Box<GenerateSpec>),
}

/// From the warden.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ToWorker {
    /// First, once.
    Begin(Box<Task>),
    /// To the oldest unanswered call; a grant or key is the frame's secret.
    Reply(Result<Reply, Error>),
    /// Stop at the next safe place.
    Stop,
}

/// From a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FromWorker {
    Call(Call),
    Progress(Progress),
    Note(String),
    /// A process that reads documents was started.
    Reader(u32),
    /// As a model writes it.
    Text(String),
    /// Last, once.
    Finished(Result<Value, Error>),
}

/// A question that is answered by a [`Reply`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Call {
    Open(Id),
    ExtentKey(Id),
    Create {
        kind: IdKind,
        length_bytes: u64,
    },
    /// Objects that are whole and durable under their temporary names.
    Commit(Vec<Id>),
    Delete(Id),
    Record {
        kind: String,
        fact: Value,
    },
    /// Which of these are new: asked before anything is sealed.
    Offer(Vec<Offered>),
    /// Documents whose objects are written.
    Admit(Vec<Taken>),
    Quarantine(Vec<Refusal>),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Done,
    /// The grant, or the key, is the frame's secret.
    Granted,
    Offered(Vec<Admitted>),
}

/// A document without its text: what tells whether it is there already.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Offered {
    pub collection: String,
    pub name: String,
    pub subjects: Vec<String>,
    pub licence: Option<String>,
    pub text_sha256: Digest,
}

/// A document whose text is sealed in `object`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Taken {
    pub offered: Offered,
    pub format: Format,
    pub source_bytes: u64,
    pub text_bytes: u64,
    pub object: Id,
}
