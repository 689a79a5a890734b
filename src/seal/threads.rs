//! How work on large objects is shared out. The room stands below `device` and has no pool: the runs are so
//! long that starting a thread for each costs next to nothing.

use std::{
    sync::OnceLock,
    thread::{ScopedJoinHandle, available_parallelism},
};

use crate::base::Result;

/// A thread is worth starting for this much.
pub(super) const BYTES_PER_THREAD_MIN: usize = 1 << 20;
const THREADS_MAX: usize = 16;

/// Asked once: the answer is gathered from a dozen files of the control group, which costs as much as opening
/// 300 KB of chunks.
pub(super) fn threads_max() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| available_parallelism().map_or(1, usize::from).min(THREADS_MAX))
}

/// The thread's result; its panic goes on here.
pub(super) fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
