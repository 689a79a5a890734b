//! How operations lay out their work on a card: grids, and the parts of what is too long for one launch.

use std::ops::Range;

use super::Write;
use crate::{
    device::{
        Cuda,
        cuda::{Arg, Grid},
    },
    tensor::DType,
};

/// Threads of a block in which each works for itself.
const THREADS: u32 = 256;
const WARP: usize = 32;
/// What a thread loads or stores at once.
const ACCESS_BYTES: usize = 16;
/// Threads of a block that works on whole rows, at most.
const ROW_THREADS_MAX: usize = 512;
/// Elements of one launch, at most: counts in kernels are of 32 bits.
const PIECE: usize = 1 << 31;
/// Blocks into which rows are cut where each leaves a partial sum: enough to fill the largest card, by shape alone.
const PARTIALS: usize = 1024;
const PARTIAL_ROWS_MIN: usize = 8;

/// Launches a kernel unless it would have nothing to do.
pub fn launch(cuda: &Cuda, kernel: &'static str, dtype: DType, grid: Grid, args: &[Arg]) {
    if !grid.blocks.contains(&0) {
        cuda.launch(kernel, dtype, grid, args);
    }
}

/// A 16-byte access for each thread.
pub fn elements(count: usize, dtype: DType) -> Grid {
    threads(count.div_ceil(ACCESS_BYTES / dtype.size_bytes()))
}

/// So many threads, each for itself.
pub fn threads(count: usize) -> Grid {
    Grid::linear(count.div_ceil(THREADS as usize), THREADS)
}

/// Blocks that work on rows of `row_count` elements, a 16-byte access a thread at a time.
pub fn rows(blocks: usize, row_count: usize, dtype: DType) -> Grid {
    let accesses = (row_count * dtype.size_bytes()).div_ceil(ACCESS_BYTES);
    Grid::linear(blocks, accesses.next_multiple_of(WARP).clamp(WARP, ROW_THREADS_MAX) as u32)
}

/// Parts of a flat tensor, each short enough for one launch.
pub fn pieces(count: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(PIECE).map(move |start| start..count.min(start + PIECE))
}

/// Rows of which a block leaves one partial sum.
pub fn rows_per_partial(rows: usize) -> usize {
    rows.div_ceil(PARTIALS).max(PARTIAL_ROWS_MIN)
}

/// `Write` as kernels take it.
pub fn adds(write: Write) -> Arg {
    Arg::U32(u32::from(write == Write::Add))
}
