//! What the machine offers to computation: a pool of threads, SIMD chosen when the program starts, matrix
//! products, aligned memory. Everything gives the same bits for any number of threads, because work is
//! divided by its shape alone. What the numbers mean belongs to `ops` and the rooms above.

mod choice;
pub mod comm;
pub mod cuda;
pub mod gemm;
pub mod host;
pub mod measure;
pub mod memory;
pub mod simd;
pub mod threads;

use std::sync::Arc;

pub use choice::Choice;
pub use comm::Comm;
pub use cuda::Cuda;
pub use gemm::{MatMut, MatRef, gemm};
pub use threads::Pool;

/// Where tensors live and operations run. Cloning shares the device.
#[derive(Clone, Debug)]
pub enum Device {
    Cpu(Arc<Pool>),
    Cuda(Arc<Cuda>),
}

impl Device {
    /// The processor with `threads` threads, or one for each core this process may use.
    pub fn cpu(threads: Option<usize>) -> Self {
        Self::Cpu(Arc::new(Pool::new(threads.unwrap_or_else(threads::available))))
    }

    /// The pool of host threads that serves this device.
    pub fn pool(&self) -> &Pool {
        match self {
            Self::Cpu(pool) => pool,
            Self::Cuda(cuda) => cuda.pool(),
        }
    }
}
