//! Products with few rows, as decoding makes them: each weight is used a few times only, so reading the weights is
//! all that counts and packing them would cost more than it saves. Both operands run along the inner dimension;
//! a few rows of each are multiplied vector by vector, and the lanes are added up at the end.

use std::arch::x86_64::*;

use super::{MatRef, Multiply, Output, Target};
use crate::device::{gemm::FEW_ROWS, threads::Pool};

/// Rows of A, and columns of B, that a tile multiplies.
const TILE_ROWS: usize = 6;
const TILE_COLS: usize = 4;
/// Columns of B in a task: about this many bytes of weights.
const TASK_BYTES: usize = 64 << 10;

/// Whether this way fits: rows of A and columns of B are contiguous, and few rows.
pub(super) fn fits<E>(a: MatRef<'_, E>, b: MatRef<'_, E>) -> bool {
    a.rows <= FEW_ROWS && a.col_stride == 1 && b.row_stride == 1 && a.cols > 0
}

/// `C = alpha A B + beta C`, where element (i, j) of C lies at `i * row_stride + j * col_stride`.
pub(super) fn run<E: Multiply, O: Output>(
    pool: &Pool,
    alpha: f32,
    a: MatRef<'_, E>,
    b: MatRef<'_, E>,
    beta: f32,
    c: Target<O>,
    col_stride: usize,
) {
    let ((m, k), n) = (a.shape(), b.cols);
    let grain = (TASK_BYTES / (k * size_of::<E>())).next_multiple_of(TILE_COLS);
    pool.ranges(n, grain, |cols| {
        for col in cols.clone().step_by(TILE_COLS) {
            for row in (0..m).step_by(TILE_ROWS) {
                let (tile_rows, tile_cols) = (TILE_ROWS.min(m - row), TILE_COLS.min(cols.end - col));
                let mut sums = [[0.0; TILE_COLS]; TILE_ROWS];
                // Rows past the end are taken from the last one, and their sums dropped.
                let rows =
                    std::array::from_fn(|i| a.data[(row + i.min(tile_rows - 1)) * a.row_stride..].as_ptr());
                let columns =
                    std::array::from_fn(|j| b.data[(col + j.min(tile_cols - 1)) * b.col_stride..].as_ptr());
                // SAFETY: every pointer has `k` elements before it leaves its matrix.
                unsafe {
                    match tile_rows {
                        1 => E::dots::<1>(k, &rows, &columns, &mut sums),
                        2 => E::dots::<2>(k, &rows, &columns, &mut sums),
                        3 => E::dots::<3>(k, &rows, &columns, &mut sums),
                        4 => E::dots::<4>(k, &rows, &columns, &mut sums),
                        5 => E::dots::<5>(k, &rows, &columns, &mut sums),
                        _ => E::dots::<6>(k, &rows, &columns, &mut sums),
                    }
                }
                for (i, sums) in sums[..tile_rows].iter().enumerate() {
                    for (j, sum) in sums[..tile_cols].iter().enumerate() {
                        // SAFETY: an element of C in this task's columns.
                        unsafe {
                            let at = c.at((row + i) * c.row_stride + (col + j) * col_stride);
                            O::round_row(alpha, &[*sum], beta, at);
                        }
                    }
                }
            }
        }
    });
}

/// The scalar products of `ROWS` rows with `TILE_COLS` columns.
///
/// # Safety
/// [`Element::supported`](super::Element::supported); every pointer is good for `k` elements.
#[inline(always)]
pub(super) unsafe fn dots<E: Multiply, const ROWS: usize>(
    k: usize,
    rows: &Rows<E>,
    columns: &Columns<E>,
    out: &mut Tile,
) {
    let lanes = 16 * E::PER_WORD;
    // SAFETY: the caller's promise; the last load is masked.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); TILE_COLS]; ROWS];
        for at in (0..k).step_by(lanes) {
            let count = lanes.min(k - at);
            let columns = columns.map(|column| E::load(column.add(at), count));
            for (sums, row) in sums.iter_mut().zip(rows) {
                let row = E::load(row.add(at), count);
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = E::multiply_add(row, column, *sum);
                }
            }
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            *out = sums.map(|sum| _mm512_reduce_add_ps(sum));
        }
    }
}

/// Sums of a tile.
pub(super) type Tile = [[f32; TILE_COLS]; TILE_ROWS];
/// Where a tile's rows and columns begin.
pub(super) type Rows<E> = [*const E; TILE_ROWS];
pub(super) type Columns<E> = [*const E; TILE_COLS];
