//! Products with few rows, as decoding makes them: each weight is used a few times only, so reading the weights is
//! all that counts and packing them would cost more than it saves. Both operands run along the inner dimension;
//! they are multiplied vector by vector into one sum for each element of C, whose lanes are added up at the end:
//! an element's bits depend on its row and column alone, whatever the tile.

use std::arch::x86_64::*;

use super::{MatRef, Multiply, Output, Target};
use crate::device::{gemm::FEW_ROWS, threads::Pool};

/// Rows of A, and columns of B, that a tile multiplies.
const TILE_ROWS: usize = 6;
const TILE_COLS: usize = 4;
/// Up to so many rows B is read one column after the other: what the processor's prefetching is best at, and with
/// so few rows all that counts. More rows are worth holding several columns at a time for.
const STREAMED_ROWS_MAX: usize = 4;
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
    let width = if m <= STREAMED_ROWS_MAX { 1 } else { TILE_COLS };
    pool.ranges(n, grain, |cols| {
        for col in cols.clone().step_by(width) {
            for row in (0..m).step_by(TILE_ROWS) {
                let (tile_rows, tile_cols) = (TILE_ROWS.min(m - row), width.min(cols.end - col));
                let mut sums = [[0.0; TILE_COLS]; TILE_ROWS];
                // Rows past the end are taken from the last one, and their sums dropped.
                let rows =
                    std::array::from_fn(|i| a.data[(row + i.min(tile_rows - 1)) * a.row_stride..].as_ptr());
                let columns =
                    std::array::from_fn(|j| b.data[(col + j.min(tile_cols - 1)) * b.col_stride..].as_ptr());
                // SAFETY: every pointer has `k` elements before it leaves its matrix.
                unsafe {
                    match (width, tile_rows) {
                        (1, 1) => E::dots::<1, 1>(k, &rows, &columns, &mut sums),
                        (1, 2) => E::dots::<2, 1>(k, &rows, &columns, &mut sums),
                        (1, _) => E::dots::<STREAMED_ROWS_MAX, 1>(k, &rows, &columns, &mut sums),
                        (_, 1 | 2) => E::dots::<2, TILE_COLS>(k, &rows, &columns, &mut sums),
                        (_, 3 | 4) => E::dots::<4, TILE_COLS>(k, &rows, &columns, &mut sums),
                        _ => E::dots::<TILE_ROWS, TILE_COLS>(k, &rows, &columns, &mut sums),
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

/// The scalar products of the first `ROWS` rows with the first `COLS` columns.
///
/// # Safety
/// [`Element::supported`](super::Element::supported); every pointer is good for `k` elements.
#[inline(always)]
pub(super) unsafe fn dots<E: Multiply, const ROWS: usize, const COLS: usize>(
    k: usize,
    rows: &Rows<E>,
    columns: &Columns<E>,
    out: &mut Tile,
) {
    let lanes = 16 * E::PER_WORD;
    // SAFETY: the caller's promise; the last load is masked.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); COLS]; ROWS];
        for at in (0..k).step_by(lanes) {
            let count = lanes.min(k - at);
            let columns: [__m512i; COLS] = std::array::from_fn(|j| E::load(columns[j].add(at), count));
            for (sums, row) in sums.iter_mut().zip(rows) {
                let row = E::load(row.add(at), count);
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = E::multiply_add(row, column, *sum);
                }
            }
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = _mm512_reduce_add_ps(sum);
            }
        }
    }
}

/// Sums of a tile.
pub(super) type Tile = [[f32; TILE_COLS]; TILE_ROWS];
/// Where a tile's rows and columns begin.
pub(super) type Rows<E> = [*const E; TILE_ROWS];
pub(super) type Columns<E> = [*const E; TILE_COLS];
