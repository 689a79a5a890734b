//! Products by our own kernels, `kernels/gemm.cu`: for few rows, and for machines without cuBLASLt.

use super::{Arg, Cuda, Grid};
use crate::tensor::{DType, Tensor, TensorMut};

/// A side of C that one block makes.
const TILE: usize = 128;
/// Rows of a weight that one block multiplies few rows by.
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
    few_rows(layout, a, b).is_some()
}

/// y = activation(x gᵀ) * (x uᵀ), g above u in w, for rows so few as [`has_few_rows`] says of x and w. The activation is as
/// `kernels/activation.cuh` numbers it. Gate and up are rounded to their type as they are where they are stored.
///
/// Shapes: x `[N,I]`; w `[2F,I]`; y `[N,F]`.
///
/// # Panics
/// If rows are not so few.
pub fn multiply_gated(cuda: &Cuda, x: Tensor, w: Tensor, activation: Arg, y: &TensorMut) {
    let (n, f, i) = (y.rows(), y.row_count(), x.row_count());
    assert_eq!((x.rows(), w.rows(), w.row_count(), y.dtype()), (n, 2 * f, i, x.dtype()));
    let name = few_rows(Layout::Nt, x, w).expect("rows are few").pick([
        "gemm_rows8_gated",
        "gemm_rows16_gated",
        "gemm_rows32_gated",
    ]);
    if n > 0 && f > 0 {
        let args = [x.into(), w.into(), y.into(), n.into(), f.into(), i.into(), activation];
        cuda.launch(name, x.dtype(), Grid::linear((2 * f).div_ceil(ROWS_COLUMNS), 256), &args);
    }
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
    if let Some(few) = few_rows(layout, a, b) {
        let name = few.pick(["gemm_rows8", "gemm_rows16", "gemm_rows32"]);
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

/// Which of the kernels that read each weight once: those for up to 8, 16 and 32 rows.
#[derive(Clone, Copy)]
struct FewRows(usize);

impl FewRows {
    fn pick(self, kernels: [&'static str; 3]) -> &'static str {
        kernels[self.0]
    }
}

/// Where rows are few and begin on 16 bytes.
fn few_rows(layout: Layout, a: Tensor, b: Tensor) -> Option<FewRows> {
    let aligned = [a, b].iter().all(|x| x.address().is_multiple_of(16)) && a.row_count().is_multiple_of(8);
    if layout != Layout::Nt || a.dtype() != DType::Bf16 || !aligned {
        return None;
    }
    match a.rows() {
        ..=8 => Some(FewRows(0)),
        9..=16 => Some(FewRows(1)),
        17..=32 => Some(FewRows(2)),
        _ => None,
    }
}
