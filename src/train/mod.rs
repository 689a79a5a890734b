//! Training: from a run file and sealed token extents to a model. It promises that the plan's numbers are
//! the run's numbers, that a run stopped anywhere goes on bit for bit, and that no document is ever joined to
//! another without a bound. Layers and their gradients are `nn`'s and `model`'s; sampling is `infer`'s.

pub mod calibrate;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod learner;
pub mod loader;
pub mod machine;
pub mod mesh;
pub mod meter;
pub mod plan;
pub mod pretrain;
pub mod recipe;
pub mod saver;
pub mod schedule;
pub mod shape;

pub use config::{Precision, Purpose, RunConfig, ScheduleKind};
pub use recipe::{DataFacts, Recipe};
pub use shape::Shape;

#[cfg(test)]
pub mod tests;
