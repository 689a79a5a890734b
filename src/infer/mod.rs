//! Text out of a model: the paged KV cache, continuous batching, sampling, and the engine that runs them on a
//! thread of its own. It promises that a greedy answer does not depend on what else is in the batch, and that a
//! sampled one depends on its seed alone besides. Who may ask, and what is kept of it, is left to `serve`.

pub mod blocks;
pub mod sampler;
pub mod scheduler;
pub mod sequence;
pub mod stop;

pub use sampler::Sampling;
