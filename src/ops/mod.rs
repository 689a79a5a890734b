//! The operations: each file holds one, forward and backward together, and chooses the device's way of doing it.
//! They check shapes, take their workspace from the arena and write into buffers that are given to them; which
//! buffers those are, and when they go back, is `nn`'s affair. A wrong shape is a fault of the caller and panics.
//!
//! Letters in shapes: N rows (tokens of a packed batch), S sequences, C channels, H query heads, K key-value
//! heads, D head width, F feed-forward width, V vocabulary.
//!
//! Work is cut into tasks by shape alone and partial sums are added in a fixed order: the number of threads
//! changes no bit of a result.

mod float;

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod gelu;
pub mod glu;
pub mod layernorm;
pub mod matmul;
pub mod paged_kv;
pub mod reduce;
pub mod rmsnorm;
pub mod rope;
pub mod sample;

mod card;
mod exec;
mod lanes;

pub use exec::Exec;
pub(crate) use float::with_float;
pub use float::{Float, Real};

/// Whether a result replaces what is in its buffer or is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    Replace,
    Add,
}

#[cfg(test)]
mod tests;
