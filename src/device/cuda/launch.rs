//! Launches: what a kernel is launched with, and the launch.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::{Cuda, driver::check};
use crate::{
    base::{Error, Result},
    tensor::{DType, Tensor, TensorMut},
};

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

    fn len_bytes(self) -> usize {
        match self {
            Self::Address(_) => size_of::<u64>(),
            Self::U32(_) => size_of::<u32>(),
            Self::F32(_) => size_of::<f32>(),
        }
    }

    /// Where its value lies, as the driver wants it. It reads no more than the value.
    fn pointer(&self) -> *mut c_void {
        match self {
            Self::Address(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Self::U32(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Self::F32(value) => std::ptr::from_ref(value).cast_mut().cast(),
        }
    }
}

impl Cuda {
    /// Enqueues `kernel` in its variant for `dtype` on the card's stream. Errors are kept, see the module's head.
    pub fn launch(&self, kernel: &'static str, dtype: DType, grid: Grid, args: &[Arg]) {
        if self.standing().is_err() {
            return;
        }
        let outcome = self.try_launch(kernel, dtype, grid, args);
        let launched = outcome.is_ok();
        self.keep(outcome.map_err(|error| error.context(format!("launching {kernel}_{dtype}"))));
        if launched {
            self.note(kernel);
        }
    }

    fn try_launch(&self, kernel: &'static str, dtype: DType, grid: Grid, args: &[Arg]) -> Result<()> {
        self.context.bind()?;
        let found = self.kernels.find(kernel, dtype, grid.shared_bytes)?;
        let sizes = args.iter().map(|arg| arg.len_bytes());
        if !sizes.clone().eq(found.parameter_bytes.iter().copied()) {
            let given: Vec<usize> = sizes.collect();
            return Err(Error::failed(format!(
                "its parameters are of {:?} bytes, and it was given {given:?}",
                found.parameter_bytes
            )));
        }
        let mut pointers: Vec<*mut c_void> = args.iter().map(Arg::pointer).collect();
        let [x, y, z] = grid.blocks;
        // SAFETY: the function is loaded, and there is an argument of the right size for each of its parameters; the
        // driver copies them before it returns. What the kernel does with its pointers is the operation's promise.
        let outcome = unsafe {
            sys::cuLaunchKernel(
                found.function,
                x,
                y,
                z,
                grid.threads,
                1,
                1,
                grid.shared_bytes,
                self.stream.0,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        check(outcome, "the launch")
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
