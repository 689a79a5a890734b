//! bf16. Our own kernel multiplies it where the processor has the instruction; elsewhere blocks are widened to
//! f32, multiplied and summed in f32, and rounded once at the end: the same meaning, another order of sums.

use std::cell::RefCell;

use half::bf16;

use super::float::ThroughTheCrate;
use super::{MatMut, MatRef, Product};
use crate::device::simd::{round_bf16, widen_bf16};
use crate::device::threads::Pool;

/// Blocks of C that one task widens the operands of.
const BLOCK_ROWS: usize = 96;
const BLOCK_COLS: usize = 256;

thread_local! {
    /// Widened A, widened B, sums.
    static BUFFERS: RefCell<[Vec<f32>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

/// What f32 sums are written to.
pub(super) trait Rounded: Copy + Send + Sync {
    fn of(sum: f32) -> Self;
    fn wide(self) -> f32;
}

impl Rounded for f32 {
    fn of(sum: f32) -> Self {
        sum
    }
    fn wide(self) -> f32 {
        self
    }
}

impl Rounded for bf16 {
    fn of(sum: f32) -> Self {
        round_bf16(sum)
    }
    fn wide(self) -> f32 {
        widen_bf16(self)
    }
}

macro_rules! bf16_into {
    ($($out:ty),*) => {$(
        impl Product<$out> for bf16 {
            type Scale = f32;

            fn gemm(
                pool: &Pool,
                alpha: f32,
                a: MatRef<'_, bf16>,
                b: MatRef<'_, bf16>,
                beta: f32,
                c: MatMut<'_, $out>,
            ) {
                #[cfg(target_arch = "x86_64")]
                if super::packed::gemm(pool, alpha, a, b, beta, &c) {
                    return;
                }
                if super::rowwise::gemm(pool, alpha, a, b, beta, &c) {
                    return;
                }
                widened(pool, alpha, a, b, beta, &c);
            }
        }
    )*};
}

bf16_into!(f32, bf16);

/// The product block by block, widened.
fn widened<O: Rounded>(
    pool: &Pool,
    alpha: f32,
    a: MatRef<'_, bf16>,
    b: MatRef<'_, bf16>,
    beta: f32,
    c: &MatMut<'_, O>,
) {
    let ((m, k), n) = (a.shape(), b.cols);
    let (row_blocks, col_blocks) = (m.div_ceil(BLOCK_ROWS), n.div_ceil(BLOCK_COLS));
    let (start, row_stride, col_stride) = (Shared(c.start), c.row_stride, c.col_stride);
    pool.run(row_blocks * col_blocks, |task| {
        let (row, col) = (task / col_blocks * BLOCK_ROWS, task % col_blocks * BLOCK_COLS);
        let (rows, cols) = (BLOCK_ROWS.min(m - row), BLOCK_COLS.min(n - col));
        BUFFERS.with_borrow_mut(|[wide_a, wide_b, sums]| {
            widen(a, (row, rows), (0, k), wide_a);
            widen(b, (0, k), (col, cols), wide_b);
            sums.resize(rows * cols, 0.0);
            f32::through_the_crate(
                pool, // Within a task: on this thread.
                alpha,
                MatRef::row_major(wide_a, rows, k),
                MatRef::row_major(wide_b, k, cols),
                0.0,
                MatMut::row_major(sums, rows, cols),
            );
            for (i, sums) in sums.chunks(cols).enumerate() {
                for (j, sum) in sums.iter().enumerate() {
                    // SAFETY: an element of this task's block of C.
                    let c = unsafe { &mut *start.at((row + i) * row_stride + (col + j) * col_stride) };
                    *c = O::of(sum + if beta == 0.0 { 0.0 } else { beta * c.wide() });
                }
            }
        });
    });
}

/// Copies a part of a matrix as f32, row by row.
fn widen(
    from: MatRef<'_, bf16>,
    (row, rows): (usize, usize),
    (col, cols): (usize, usize),
    to: &mut Vec<f32>,
) {
    to.clear();
    for i in row..row + rows {
        let at = |j| widen_bf16(from.data[i * from.row_stride + j * from.col_stride]);
        to.extend((col..col + cols).map(at));
    }
}

/// The first element of C, which tasks share.
struct Shared<O>(*mut O);
// SAFETY: tasks write blocks of C that do not overlap.
unsafe impl<O> Send for Shared<O> {}
// SAFETY: as above.
unsafe impl<O> Sync for Shared<O> {}

impl<O> Shared<O> {
    fn at(&self, elements: usize) -> *mut O {
        self.0.wrapping_add(elements)
    }
}
