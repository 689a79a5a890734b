//! What the API asks of the appliance's memory: who a token belongs to, and the records without which nothing is
//! served. [`WardenRecords`] is the warden's; the router's tests bring one that fails when told to.

use std::sync::Arc;

use crate::{
    base::{Id, Result},
    improve::Opinion,
    infer::{FinishReason, Usage},
    store::{Answer, AnswerKind, AnswerState},
    work::policy::{Action, Caller},
};

/// A request for text that is about to be answered.
#[derive(Clone, Debug)]
pub struct Asked {
    pub id: Id,
    pub caller: Caller,
    pub kind: AnswerKind,
    pub model: Arc<ModelFacts>,
    pub at_ms: u64,
    pub prompt_tokens: u64,
    /// The prompt as it is kept: text, or the messages as JSON.
    pub prompt: String,
}

/// Where a served model comes from: what a receipt says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    pub id: Id,
    pub name: String,
    pub created_at_ms: u64,
    pub tokenizer: Option<Id>,
    pub run: Option<Id>,
    pub snapshot: Option<Id>,
    pub dataset_root: Option<String>,
}

/// How an answer ended.
#[derive(Clone, Debug)]
pub struct Ended {
    pub state: AnswerState,
    pub reason: Option<FinishReason>,
    pub usage: Usage,
    pub text: String,
}

/// All of these block, on the disk at times: they are called away from the asynchronous threads.
pub trait Records: Send + Sync + 'static {
    /// # Errors
    /// `Denied` for whatever is not a living token; anything else means that it could not be found out.
    fn authenticate(&self, bearer: &str) -> Result<Caller>;

    /// Durable when it returns: the intent in the audit log, the prompt sealed.
    fn begin_answer(&self, asked: &Asked) -> Result<()>;

    /// Durable when it returns: the outcome, the answer and its receipt.
    fn end_answer(&self, asked: &Asked, ended: &Ended) -> Result<()>;

    fn answer(&self, id: Id) -> Result<Option<Answer>>;

    fn add_feedback(&self, caller: &Caller, opinion: &Opinion) -> Result<Id>;

    /// A caller with a valid token asked for what its role may not have.
    fn note_denied(&self, caller: &Caller, action: Action) -> Result<()>;

    /// So many requests without a valid token since the last time: one entry for all, so that a stranger
    /// cannot fill the disk.
    fn note_unauthenticated(&self, requests: u64) -> Result<()>;
}
