//! Evaluation: how well a model foretells held-out text, beside baselines on the same text.

pub mod baselines;

pub use baselines::Baselines;
