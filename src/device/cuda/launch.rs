//! Launches: what a kernel is launched with, and the launch.

use super::{Cuda, kernels::Kernel};
use crate::{
    base::{Error, Result},
    tensor::{DType, Tensor, TensorMut},
};

/// How many threads run a kernel, and how much shared memory each block gets beyond what the kernel declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

    fn len_bytes(self) -> usize {
        match self {
            Self::Address(_) => size_of::<u64>(),
            Self::U32(_) => size_of::<u32>(),
            Self::F32(_) => size_of::<f32>(),
        }
    }

    /// Its value, the shorter ones in the lower bytes.
    pub(super) fn bits(self) -> u64 {
        match self {
            Self::Address(value) => value,
            Self::U32(value) => value.into(),
            Self::F32(value) => value.to_bits().into(),
        }
    }
}

impl Cuda {
    /// Puts `kernel` in its variant for `dtype` into the queue. Errors are kept, see the module's head.
    pub fn launch(&self, kernel: &'static str, dtype: DType, grid: Grid, args: &[Arg]) {
        if !self.has_failed() {
            self.keep(self.try_launch(kernel, dtype, grid, args));
        }
    }

    fn try_launch(&self, name: &'static str, dtype: DType, grid: Grid, args: &[Arg]) -> Result<()> {
        let kernel = self.kernel_for(name, dtype, grid, args)?;
        self.queue().kernel(self, (name, dtype), &kernel, grid, args)
    }

    /// The kernel's variant for `dtype`, if these are arguments for it.
    pub(super) fn kernel_for(
        &self,
        name: &'static str,
        dtype: DType,
        grid: Grid,
        args: &[Arg],
    ) -> Result<Kernel> {
        let doing = || format!("launching {name}_{dtype}");
        let kernel = self
            .kernels
            .find(&self.context, name, dtype, grid.shared_bytes)
            .map_err(|error| error.context(doing()))?;
        let sizes = args.iter().map(|arg| arg.len_bytes());
        if !sizes.clone().eq(kernel.parameter_bytes.iter().copied()) {
            let given: Vec<usize> = sizes.collect();
            return Err(Error::failed(format!(
                "its parameters are of {:?} bytes, and it was given {given:?}",
                kernel.parameter_bytes
            ))
            .context(doing()));
        }
        Ok(kernel)
    }
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
