//! f32 and f64. f32 goes to our own kernel where the processor has AVX-512; everything else goes through the
//! `gemm` crate, one call a block of C.

use super::{MatMut, MatRef, Product};
use crate::device::threads::Pool;

/// Blocks of C that one task computes: enough tasks to keep many cores busy, each large enough that packing its
/// operands is small beside multiplying them.
const BLOCK_ROWS: usize = 128;
const BLOCK_COLS: usize = 768;

/// A pointer into an operand that tasks share.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: tasks read A and B, and write blocks of C that do not overlap.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The address `elements` further on, which may lie in an empty matrix.
    fn at(&self, elements: usize) -> *mut T {
        self.0.wrapping_add(elements)
    }
}

impl Product<f32> for f32 {
    type Scale = f32;

    fn gemm(pool: &Pool, alpha: f32, a: MatRef<'_, f32>, b: MatRef<'_, f32>, beta: f32, c: MatMut<'_, f32>) {
        #[cfg(target_arch = "x86_64")]
        if super::packed::gemm(pool, alpha, a, b, beta, &c) {
            return;
        }
        if super::rowwise::gemm(pool, alpha, a, b, beta, &c) {
            return;
        }
        f32::through_the_crate(pool, alpha, a, b, beta, c);
    }
}

impl Product<f64> for f64 {
    type Scale = f64;

    fn gemm(pool: &Pool, alpha: f64, a: MatRef<'_, f64>, b: MatRef<'_, f64>, beta: f64, c: MatMut<'_, f64>) {
        f64::through_the_crate(pool, alpha, a, b, beta, c);
    }
}

/// The floats that the `gemm` crate multiplies.
pub(super) trait ThroughTheCrate: Sized {
    fn through_the_crate(
        pool: &Pool,
        alpha: Self,
        a: MatRef<'_, Self>,
        b: MatRef<'_, Self>,
        beta: Self,
        c: MatMut<'_, Self>,
    );
}

macro_rules! through_the_crate {
    ($($float:ty),*) => {$(
        impl ThroughTheCrate for $float {
            fn through_the_crate(
                pool: &Pool,
                alpha: $float,
                a: MatRef<'_, $float>,
                b: MatRef<'_, $float>,
                beta: $float,
                c: MatMut<'_, $float>,
            ) {
                let ((m, k), n) = (a.shape(), b.cols);
                let (row_blocks, col_blocks) = (m.div_ceil(BLOCK_ROWS), n.div_ceil(BLOCK_COLS));
                let a_start = Shared(a.data.as_ptr().cast_mut());
                let b_start = Shared(b.data.as_ptr().cast_mut());
                let c_start = Shared(c.start);
                pool.run(row_blocks * col_blocks, |block| {
                    let (row, col) = (block / col_blocks * BLOCK_ROWS, block % col_blocks * BLOCK_COLS);
                    // SAFETY: the views were checked against their slices when they were made; this block
                    // lies within them, and the blocks of C do not overlap. The crate's `alpha` scales what
                    // is in C, its `beta` the product.
                    unsafe {
                        gemm::gemm(
                            BLOCK_ROWS.min(m - row),
                            BLOCK_COLS.min(n - col),
                            k,
                            c_start.at(row * c.row_stride + col * c.col_stride),
                            c.col_stride as isize,
                            c.row_stride as isize,
                            beta != 0.0,
                            a_start.at(row * a.row_stride),
                            a.col_stride as isize,
                            a.row_stride as isize,
                            b_start.at(col * b.col_stride),
                            b.col_stride as isize,
                            b.row_stride as isize,
                            beta,
                            alpha,
                            false,
                            false,
                            false,
                            gemm::Parallelism::None,
                        );
                    }
                });
            }
        }
    )*};
}

through_the_crate!(f32, f64);
