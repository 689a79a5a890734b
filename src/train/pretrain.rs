//! Pretraining from the first step to the last: what a job is told, and what it hands back.

use serde::{Deserialize, Serialize};

use super::{config::RunConfig, recipe::Recipe};
use crate::base::Id;

/// What a pretraining job is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainSpec {
    pub run: Id,
    pub config: RunConfig,
    pub tokenizer: Id,
    /// Token shards of the snapshot, training and held-out documents alike.
    pub shards: Vec<Id>,
    /// Threads of all ranks together; None takes every core.
    pub threads: Option<usize>,
    /// The last fact of kind [`Checkpoints::FACT`] that this run recorded.
    pub resume: Option<Checkpoints>,
}

/// The checkpoints of a run that stand in the vault: what a later start needs to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoints {
    /// With optimizer state, newest last; never more than two.
    pub latest: Vec<Id>,
    /// Weights alone, where the held-out loss was lowest.
    pub best: Option<Id>,
}

impl Checkpoints {
    /// The name under which a run records them with `Monitor::record`.
    pub const FACT: &str = "checkpoints";
}

/// One measurement on the way.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Optimizer steps done.
    pub step: u64,
    /// Nats per token over the steps since the point before.
    pub loss: f64,
    /// Nats per token on held-out documents.
    pub heldout_loss: f64,
    pub heldout_bits_per_byte: f64,
    pub learning_rate: f64,
}

/// What a pretraining job hands back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainOutcome {
    pub run: Id,
    /// The weights where the held-out loss was lowest; None where the run was stopped before its end.
    pub model: Option<Id>,
    pub checkpoints: Checkpoints,
    /// What the run followed, the purpose included.
    pub recipe: Recipe,
    pub parameters: u64,
    pub steps_done: u64,
    pub tokens_seen: u64,
    /// Over every held-out document, for the weights in `model`.
    pub heldout_bits_per_byte: Option<f64>,
    pub heldout_loss: Option<f64>,
    pub curve: Vec<CurvePoint>,
    pub peak_memory_bytes: u64,
    pub tokens_per_s: f64,
    /// Time spent training in this process and those before it.
    pub elapsed_s: f64,
}
