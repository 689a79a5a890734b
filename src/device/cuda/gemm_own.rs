//! Products by our own kernels, `kernels/gemm.cu`: for few rows, and for machines without cuBLASLt.

use super::{Arg, Cuda, Grid};
use crate::tensor::{DType, Tensor, TensorMut};

/// A side of C that one block makes.
const TILE: usize = 128;
/// Columns that one block makes of few rows.
const ROWS_COLUMNS: usize = 16;
/// Three slices of both operands, 128 x 32 each.
const SLICES_BYTES: usize = 3 * 2 * TILE * 32 * 2;

/// How the operands of C `[M,N]` = A B are stored. All are row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// A `[M,K]`, B `[N,K]`: y = x wᵀ.
    Nt,
    /// A `[M,K]`, B `[K,N]`: dx = dy w.
    Nn,
    /// A `[K,M]`, B `[K,N]`: dw = dyᵀ x.
    Tn,
}

/// Whether rows are so few that the kernel that reads each weight once is the fastest there is. Its sums of one row do
/// not depend on the others.
pub fn has_few_rows(layout: Layout, a: Tensor, b: Tensor) -> bool {
    rows_kernel(layout, a, b).is_some()
}

/// C = A B, or C += A B. A and B are f32 or both bf16; C is as they are, or f32. Sums are kept in f32, in an order
/// that the shape decides.
pub fn multiply(cuda: &Cuda, layout: Layout, a: Tensor, b: Tensor, c: &TensorMut, add: bool) {
    let (m, n) = (c.rows(), c.row_count());
    let k = if layout == Layout::Tn { a.rows() } else { a.row_count() };
    assert!(a.dtype() == b.dtype() && (c.dtype() == a.dtype() || c.dtype() == DType::F32));
    assert_eq!(a.count(), m * k, "A");
    assert_eq!(b.count(), n * k, "B");
    if m == 0 || n == 0 {
        return;
    }
    let is_f32 = u32::from(c.dtype() == DType::F32);
    let ending = [is_f32.into(), u32::from(add).into()];
    if let Some(name) = rows_kernel(layout, a, b) {
        let args = [a.into(), b.into(), c.into(), m.into(), n.into(), k.into(), ending[0], ending[1]];
        cuda.launch(name, a.dtype(), Grid::linear(n.div_ceil(ROWS_COLUMNS), 256), &args);
        return;
    }
    let name = match layout {
        Layout::Nt => "gemm_nt",
        Layout::Nn => "gemm_nn",
        Layout::Tn => "gemm_tn",
    };
    let grid = Grid::linear(m.div_ceil(TILE) * n.div_ceil(TILE), 0);
    let grid = match a.dtype() {
        DType::Bf16 => Grid { threads: 128, ..grid }.with_shared_bytes(SLICES_BYTES),
        _ => Grid { threads: 256, ..grid },
    };
    let strides = [a.row_count(), b.row_count(), n].map(Arg::from);
    let mut args = vec![a.into(), b.into(), c.into(), m.into(), n.into(), k.into()];
    args.extend(strides);
    args.extend(ending);
    cuda.launch(name, a.dtype(), grid, &args);
}

/// The kernel that reads each weight once, where rows are few and begin on 16 bytes.
fn rows_kernel(layout: Layout, a: Tensor, b: Tensor) -> Option<&'static str> {
    let aligned = [a, b].iter().all(|x| x.address().is_multiple_of(16)) && a.row_count().is_multiple_of(8);
    if layout != Layout::Nt || a.dtype() != DType::Bf16 || !aligned {
        return None;
    }
    match a.rows() {
        ..=8 => Some("gemm_rows8"),
        9..=16 => Some("gemm_rows16"),
        17..=32 => Some("gemm_rows32"),
        _ => None,
    }
}
