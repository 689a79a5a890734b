//! Matrix products on the CPU: `C = alpha A B + beta C` over strided views, so that `A Bᵀ` and `Aᵀ B` are the
//! same call with a transposed view. The work is cut by shape, and the sum over the inner dimension runs in
//! one order, so the result has the same bits for any number of threads.

#![allow(unsafe_code)] // Micro-kernels and the `gemm` crate take raw pointers and strides.

mod float;
#[cfg(target_arch = "x86_64")]
mod packed;
mod rowwise;
mod view;
mod widened;

pub use view::{MatMut, MatRef};

use super::threads::Pool;

/// Up to so many rows of A, each with its elements side by side as those of B's columns are, a row of C has the same
/// bits however many rows stand beside it: what decoding gives a sequence does not depend on its company.
pub const FEW_ROWS: usize = 32;

/// What can be multiplied into what: `f32` into `f32`, `f64` into `f64`, `bf16` into `f32` or `bf16` (both
/// summed in f32).
pub trait Product<Out>: Copy + Send + Sync + 'static {
    /// The type of alpha and beta.
    type Scale: Copy + Send + Sync;

    fn gemm(
        pool: &Pool,
        alpha: Self::Scale,
        a: MatRef<'_, Self>,
        b: MatRef<'_, Self>,
        beta: Self::Scale,
        c: MatMut<'_, Out>,
    );
}

/// `C = alpha A B + beta C`, with A (M,K), B (K,N), C (M,N). With `beta` zero, C is written without being read,
/// so it may hold anything. Panics where the shapes do not fit.
pub fn gemm<In: Product<Out>, Out>(
    pool: &Pool,
    alpha: In::Scale,
    a: MatRef<'_, In>,
    b: MatRef<'_, In>,
    beta: In::Scale,
    c: MatMut<'_, Out>,
) {
    let ((m, k), (kb, n)) = (a.shape(), b.shape());
    assert_eq!(k, kb, "inner dimensions of a product ({m},{k}) x ({kb},{n})");
    assert_eq!(c.shape(), (m, n), "shape of the product ({m},{k}) x ({kb},{n})");
    if m == 0 || n == 0 {
        return;
    }
    In::gemm(pool, alpha, a, b, beta, c);
}

#[cfg(test)]
mod tests;
