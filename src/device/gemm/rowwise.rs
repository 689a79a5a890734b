//! Products with few rows where the processor lacks AVX-512: one scalar product for each element of C. Reading the
//! weights is what counts there, and a row's bits do not depend on how many rows stand beside it.

use half::bf16;

use super::{FEW_ROWS, MatMut, MatRef, widened::Rounded};
use crate::device::{simd, threads::Pool};

/// Bytes of B that a task reads.
const TASK_BYTES: usize = 64 << 10;

/// What has a scalar product in f32.
pub(super) trait Dot: Copy + Send + Sync {
    fn dot(a: &[Self], b: &[Self]) -> f32;
}

impl Dot for f32 {
    fn dot(a: &[Self], b: &[Self]) -> f32 {
        simd::dot(a, b)
    }
}

impl Dot for bf16 {
    fn dot(a: &[Self], b: &[Self]) -> f32 {
        simd::dot_bf16(a, b)
    }
}

/// `C = alpha A B + beta C` where A or C's transpose has few rows and both operands run along the inner dimension;
/// false, with nothing done, otherwise.
pub(super) fn gemm<E: Dot, O: Rounded>(
    pool: &Pool,
    alpha: f32,
    a: MatRef<'_, E>,
    b: MatRef<'_, E>,
    beta: f32,
    c: &MatMut<'_, O>,
) -> bool {
    if a.col_stride != 1 || b.row_stride != 1 || a.cols == 0 {
        return false;
    }
    let c_start = Start(c.start);
    if a.rows <= FEW_ROWS {
        run(pool, alpha, a, b.t(), beta, (&c_start, c.row_stride, c.col_stride));
    } else if b.cols <= FEW_ROWS {
        run(pool, alpha, b.t(), a, beta, (&c_start, c.col_stride, c.row_stride));
    } else {
        return false;
    }
    true
}

/// Element (i, j) of C is row i of `few` times row j of `many`.
fn run<E: Dot, O: Rounded>(
    pool: &Pool,
    alpha: f32,
    few: MatRef<'_, E>,
    many: MatRef<'_, E>,
    beta: f32,
    (c, few_stride, many_stride): (&Start<O>, usize, usize),
) {
    let k = few.cols;
    let grain = (TASK_BYTES / (k * size_of::<E>())).max(1);
    pool.ranges(many.rows, grain, |range| {
        for j in range {
            let row = &many.data[j * many.row_stride..][..k];
            for i in 0..few.rows {
                let sum = alpha * E::dot(&few.data[i * few.row_stride..][..k], row);
                // SAFETY: an element of C, which this task alone writes.
                let c = unsafe { &mut *c.at(i * few_stride + j * many_stride) };
                *c = O::of(sum + if beta == 0.0 { 0.0 } else { beta * c.wide() });
            }
        }
    });
}

/// The first element of C, which tasks share.
struct Start<O>(*mut O);
// SAFETY: tasks write different elements of C.
unsafe impl<O> Send for Start<O> {}
// SAFETY: as above.
unsafe impl<O> Sync for Start<O> {}

impl<O> Start<O> {
    fn at(&self, elements: usize) -> *mut O {
        self.0.wrapping_add(elements)
    }
}
