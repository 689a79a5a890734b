//! What a kernel is launched with.

use crate::tensor::{Tensor, TensorMut};

/// How many threads run a kernel, and how much shared memory each block gets beyond what the kernel declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    pub blocks: [u32; 3],
    /// Of a block, in one dimension.
    pub threads: u32,
    pub shared_bytes: u32,
}

impl Grid {
    /// Blocks in one dimension.
    pub fn linear(blocks: usize, threads: u32) -> Self {
        Self { blocks: [count(blocks), 1, 1], threads, shared_bytes: 0 }
    }

    pub fn with_shared_bytes(self, shared_bytes: usize) -> Self {
        Self { shared_bytes: count(shared_bytes), ..self }
    }
}

/// A number as kernels take it.
///
/// # Panics
/// If it does not fit in 32 bits: no tensor that fits on a card has so many rows.
pub fn count(number: usize) -> u32 {
    u32::try_from(number).expect("counts on a card fit in 32 bits")
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// Where a tensor begins in the card's memory.
    Address(u64),
    U32(u32),
    F32(f32),
}

impl Arg {
    /// A tensor that is not there.
    pub const NULL: Self = Self::Address(0);
}

impl From<Tensor<'_>> for Arg {
    fn from(tensor: Tensor<'_>) -> Self {
        Self::Address(tensor.address() as u64)
    }
}

impl From<&TensorMut<'_>> for Arg {
    fn from(tensor: &TensorMut<'_>) -> Self {
        tensor.as_ref().into()
    }
}

impl From<u32> for Arg {
    fn from(number: u32) -> Self {
        Self::U32(number)
    }
}

/// A count, see [`count`].
impl From<usize> for Arg {
    fn from(number: usize) -> Self {
        Self::U32(count(number))
    }
}

impl From<f32> for Arg {
    fn from(number: f32) -> Self {
        Self::F32(number)
    }
}
