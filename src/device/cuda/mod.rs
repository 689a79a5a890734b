//! One NVIDIA card: its driver, its memory, its kernels. `cudarc` loads the driver when the program runs; nothing of it is
//! called before it is known to be there. Launches return nothing: a card reports errors late anyway, so the first
//! one is kept with the kernel's name, nothing is launched after it, and whoever reads a result hears of it.

mod driver;
pub mod gemm_own;
mod launch;

use std::sync::Arc;

pub use driver::Driver;
pub use launch::{Arg, Grid};

use super::Pool;
use crate::tensor::DType;

/// An open card.
pub struct Cuda {
    pool: Arc<Pool>,
}

impl Cuda {
    /// The host's threads that serve this card.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Enqueues `kernel` in its variant for `dtype` on the card's stream. Errors are kept, see the module's head.
    pub fn launch(&self, kernel: &'static str, dtype: DType, grid: Grid, args: &[Arg]) {
        let _ = (kernel, dtype, grid, args);
        unimplemented!("the device engineer writes this")
    }
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cuda")
    }
}
