//! How long work reports itself and hears that it should stop. Work is given a [`Monitor`] and never prints:
//! a terminal, a socket to the warden and a test each bring their own.

use serde::{Deserialize, Serialize};

use super::Result;

/// One honest progress line: where the work is, and what it measures on the way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done: "ingest", "pretrain".
    pub stage: String,
    pub done: u64,
    /// Zero where the total is not known.
    pub total: u64,
    /// What `done` and `total` count: "step", "document", "byte".
    pub unit: String,
    pub elapsed_s: f64,
    /// None where nothing honest can be said yet.
    pub remaining_s: Option<f64>,
    /// Named measurements in the order to show them, already in their units: ("loss", "3.214").
    pub gauges: Vec<(String, String)>,
}

/// The listener of long work.
pub trait Monitor: Sync {
    /// Replaces the progress line. Called often: it must be cheap.
    fn progress(&self, progress: &Progress);
    /// Says one thing that stays: a file that was refused, a checkpoint that was written.
    fn note(&self, message: &str);
    /// States a fact that must outlive this process, such as which checkpoints stand: on return it is durable,
    /// and it replaces the fact of the same kind that this work stated before.
    fn record(&self, _kind: &str, _fact: &serde_json::Value) -> Result<()> {
        Ok(())
    }
    /// A piece of text as a model writes it.
    fn text(&self, _piece: &str) {}
    /// Whether the work should stop at the next safe place and keep what it has.
    fn stop_requested(&self) -> bool;
}

/// A monitor that hears nothing and never stops: for tests and short work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn progress(&self, _: &Progress) {}
    fn note(&self, _: &str) {}
    fn stop_requested(&self) -> bool {
        false
    }
}
