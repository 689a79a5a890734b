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

use std::{fmt, sync::Arc};

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

/// As a report names it.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(pool) => write!(f, "the CPU, {} threads", pool.threads()),
            Self::Cuda(cuda) => {
                let info = cuda.info();
                write!(f, "cuda:{}, {}", info.ordinal, info.name)
            }
        }
    }
}
