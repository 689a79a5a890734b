//! Evaluation: how well a model foretells held-out text, beside baselines on the same text.

pub mod baselines;
pub mod heldout;

pub use baselines::Baselines;
pub use heldout::{EvaluateOutcome, EvaluateSpec, run};
