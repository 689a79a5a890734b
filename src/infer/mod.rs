//! Text out of a model: the paged KV cache, continuous batching, sampling, and the engine that runs them on a
//! thread of its own. It promises that a greedy answer does not depend on what else is in the batch, and that a
//! sampled one depends on its seed alone besides. Who may ask, and what is kept of it, is left to `serve`.

mod answer;
pub mod blocks;
pub mod decoder_runner;
pub mod engine;
pub mod generate;
pub mod load;
pub mod prompt;
pub mod runner;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
pub mod stop;

pub use engine::{Engine, EngineOptions, Event, Events, FinishReason, Generation, Piece, Refusal, Usage};
pub use prompt::Prompt;
pub use sampler::Sampling;

#[cfg(test)]
pub(crate) mod testkit;
