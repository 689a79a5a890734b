//! One NVIDIA card: its driver, its memory, its kernels. `cudarc` loads the driver when the program runs; nothing of it is
//! called before it is known to be there. Launches return nothing: a card reports errors late anyway, so the first
//! one is kept with the kernel's name, nothing is launched after it, and whoever reads a result hears of it.

#![allow(unsafe_code)] // Calls the driver's C functions.

mod context;
mod cublaslt;
mod driver;
pub mod gemm_own;
mod info;
mod kernels;
mod launch;
mod memory;
mod multiply;
mod queue;
mod staging;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

pub use cublaslt::{Epilogue, FOLDER_VARIABLE as LIBRARIES_VARIABLE};
pub use driver::Driver;
pub use info::Info;
pub use kernels::{ARCHITECTURES, are_embedded};
pub use launch::{Arg, Grid};

use super::Pool;
use crate::base::{Error, Result};
use context::Context;
use cublaslt::{CublasLt, Library};
use kernels::Kernels;
use memory::Block;
use queue::Queue;

/// An open card.
pub struct Cuda {
    pool: Arc<Pool>,
    info: Info,
    /// Whether `state` has a failure: what every launch asks.
    failed: AtomicBool,
    state: Mutex<State>,
    // In the order in which they go: what needs the context before the context.
    queue: Mutex<Queue>,
    products: Option<Products>,
    kernels: Kernels,
    context: Context,
}

/// cuBLASLt and the memory that it works in.
struct Products {
    lt: Mutex<CublasLt>,
    workspace: Block,
    /// Where the parts of a split sum lie, see [`multiply`].
    slabs: Block,
}

/// How the card's work has gone.
#[derive(Default)]
struct State {
    /// The first error. All that was enqueued after it is worth nothing.
    failure: Option<Error>,
    /// Kernels enqueued since the host last knew that all was well, each once.
    launched: Vec<&'static str>,
}

impl Cuda {
    /// Opens a card, with host threads that serve it.
    ///
    /// # Errors
    /// As [`Info::of`]; a build without kernels for this card; a card that refuses.
    pub fn open(ordinal: u32, pool: Arc<Pool>) -> Result<Arc<Self>> {
        let info = Info::of(ordinal)?;
        let context = Context::of(ordinal)?;
        let kernels = Kernels::load(&info)?;
        let queue = Mutex::new(Queue::new()?);
        let products = match Library::open() {
            Ok(library) => {
                let lt = Mutex::new(CublasLt::new(library)?);
                let workspace = Block::new(cublaslt::WORKSPACE_BYTES)?;
                Some(Products { lt, workspace, slabs: Block::new(multiply::slabs_bytes(&info))? })
            }
            Err(error) => {
                tracing::warn!("matrices are multiplied by kernels of our own, which are slower: {error}");
                None
            }
        };
        let state = Mutex::default();
        Ok(Arc::new(Self {
            pool,
            info,
            failed: AtomicBool::new(false),
            state,
            queue,
            products,
            kernels,
            context,
        }))
    }

    /// Whether cuBLASLt multiplies matrices; else our own kernels do.
    pub fn has_cublaslt(&self) -> bool {
        self.products.is_some()
    }

    /// Whether the kernels that only Hopper runs are there for this card: another, and PTX, would find them empty.
    pub fn runs_hopper_kernels(&self) -> bool {
        self.info.compute_capability == (9, 0) && ARCHITECTURES.contains(&"90a")
    }

    /// The host's threads that serve this card.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Waits until the card has done all that was enqueued.
    ///
    /// # Errors
    /// The first thing that went wrong on the card since it was opened, with the kernel's name.
    pub fn synchronize(&self) -> Result<()> {
        self.standing()?;
        let outcome = self.context.bind().and_then(|()| self.queue().wait(self));
        self.keep(outcome);
        self.standing()?;
        self.state().launched.clear();
        Ok(())
    }

    /// The first thing that is known to have gone wrong.
    fn standing(&self) -> Result<()> {
        match self.has_failed() {
            false => Ok(()),
            true => self.state().failure.clone().map_or(Ok(()), Err),
        }
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Keeps an error unless there is an earlier one.
    fn keep(&self, outcome: Result<()>) {
        let Err(error) = outcome else { return };
        let mut state = self.state();
        if state.failure.is_none() {
            let error = match state.launched.as_slice() {
                [] => error,
                [.., last] => {
                    let all = state.launched.join(", ");
                    error.context(format!("the card failed in {last} or a kernel before it ({all})"))
                }
            };
            state.failure = Some(error.remedy(
                "CUDA_LAUNCH_BLOCKING=1 in the environment makes the very kernel known; `cloister doctor` says \
                 how the card stands",
            ));
            self.failed.store(true, Ordering::Release);
        }
    }

    /// Remembers what was enqueued.
    fn note(&self, launched: &'static str) {
        let mut state = self.state();
        state.launched.retain(|&earlier| earlier != launched);
        state.launched.push(launched);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // What goes next must not be in use, and is given back to the current context.
        if self.context.bind().is_ok() {
            self.queue().abandon();
        }
    }
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cuda({}: {})", self.info.ordinal, self.info.name)
    }
}
