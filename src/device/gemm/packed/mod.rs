//! Our own product for AVX-512: f32 by fused multiply-add, bf16 by `vdpbf16ps` with f32 sums. Both operands are
//! packed into panels, so that the inner loop ([`tile`]) reads two streams and nothing else; transposed
//! operands differ only in how they are packed ([`pack`]). The scheme is that of Goto and van de Geijn
//! (Anatomy of High-Performance Matrix Multiplication, 2008).

mod pack;
mod skinny;
mod tile;

use std::cell::RefCell;

use half::bf16;

use super::{MatMut, MatRef};
use crate::device::simd;
use crate::device::threads::Pool;
use tile::{COLS, ROWS};

pub(super) use tile::{Multiply, Output};

/// What the inner loop multiplies: words of 32 bits, each one f32 or a pair of bf16 that follow each other
/// along the inner dimension.
pub(super) trait Element: Copy + Send + Sync + 'static {
    /// Elements in a word.
    const PER_WORD: usize;
    /// Whether the processor has the instruction.
    fn supported() -> bool;
}

impl Element for f32 {
    const PER_WORD: usize = 1;
    fn supported() -> bool {
        simd::level() == simd::Level::Avx512
    }
}

impl Element for bf16 {
    const PER_WORD: usize = 2;
    fn supported() -> bool {
        simd::has_bf16_dot()
    }
}

/// Words of the inner dimension between two visits to C, at most: more, and what a block packs leaves the second-level
/// cache.
const DEPTH_WORDS_MAX: usize = 512;
/// Rows of A that one task packs and multiplies: at most this many, a multiple of `ROWS`.
const BLOCK_ROWS_MAX: usize = 8 * ROWS;
/// Fewer tasks than this leave many cores idle: blocks are made lower, then narrower.
const TASKS_WANTED: usize = 32;
/// Columns of B that are packed at a time: as many as fit, but never so few that packing A again for each
/// lot would cost more than it saves.
const LOT_BYTES: usize = 4 << 20;
const LOT_COLS_MIN: usize = 8 * COLS;

thread_local! {
    /// Packed B: of the thread that called.
    static PACKED_B: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    /// Packed A, and sums that wait to be rounded: of each thread.
    static PACKED_A: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A cache line of words: vectors that start on one are read in one go.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "only its address is used")] [u32; 16]);

/// Makes room for `words` words. What was there is not kept in any order that matters.
fn reserve(buffer: &mut Vec<Line>, words: usize) -> *mut u32 {
    let lines = words.div_ceil(16);
    if buffer.len() < lines {
        buffer.resize(lines, Line([0; 16]));
    }
    buffer.as_mut_ptr().cast()
}

/// How a product is cut, from its shape alone.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cut {
    /// Columns packed at a time.
    lot_cols: usize,
    block_rows: usize,
    block_cols: usize,
    /// Words of the inner dimension between two visits to C: equal stretches, but for the last.
    depth_words: usize,
}

impl Cut {
    fn of(m: usize, n: usize, k_words: usize) -> Self {
        let depth_words = k_words.div_ceil(k_words.div_ceil(DEPTH_WORDS_MAX).max(1)).max(1);
        let lot_cols = (LOT_BYTES / (4 * k_words.max(1))).max(LOT_COLS_MIN) / COLS * COLS;
        let lot_cols = lot_cols.min(n.next_multiple_of(COLS));
        let mut cut = Self { lot_cols, block_rows: BLOCK_ROWS_MAX, block_cols: lot_cols, depth_words };
        let tasks = |cut: &Self| m.div_ceil(cut.block_rows) * lot_cols.div_ceil(cut.block_cols);
        while tasks(&cut) < TASKS_WANTED && cut.block_rows > 2 * ROWS {
            cut.block_rows /= 2;
        }
        while tasks(&cut) < TASKS_WANTED && cut.block_cols > 4 * COLS {
            cut.block_cols = (cut.block_cols / 2).next_multiple_of(COLS);
        }
        cut
    }
}

/// C as tasks see it.
#[derive(Clone, Copy)]
struct Target<O> {
    start: *mut O,
    row_stride: usize,
}
// SAFETY: tasks write blocks of C that do not overlap.
unsafe impl<O> Send for Target<O> {}
// SAFETY: as above.
unsafe impl<O> Sync for Target<O> {}

impl<O> Target<O> {
    /// # Safety
    /// The element must lie inside what the target points into.
    unsafe fn at(&self, offset: usize) -> *mut O {
        // SAFETY: the caller's promise.
        unsafe { self.start.add(offset) }
    }
}

/// `C = alpha A B + beta C` where the columns of C, or its rows, are contiguous and the processor has the
/// instructions; false, with nothing done, otherwise.
pub(super) fn gemm<E: Multiply, O: Output>(
    pool: &Pool,
    alpha: f32,
    a: MatRef<'_, E>,
    b: MatRef<'_, E>,
    beta: f32,
    c: &MatMut<'_, O>,
) -> bool {
    if !E::supported() {
        return false;
    }
    let target = |row_stride| Target { start: c.start, row_stride };
    if skinny::fits(a, b) {
        skinny::run(pool, alpha, a, b, beta, target(c.row_stride), c.col_stride);
    } else if skinny::fits(b.t(), a.t()) {
        skinny::run(pool, alpha, b.t(), a.t(), beta, target(c.col_stride), c.row_stride);
    } else if c.col_stride == 1 {
        run(pool, alpha, a, b, beta, target(c.row_stride));
    } else if c.row_stride == 1 {
        run(pool, alpha, b.t(), a.t(), beta, target(c.col_stride));
    } else {
        return false;
    }
    true
}

fn run<E: Multiply, O: Output>(
    pool: &Pool,
    alpha: f32,
    a: MatRef<'_, E>,
    b: MatRef<'_, E>,
    beta: f32,
    c: Target<O>,
) {
    let ((m, k), n) = (a.shape(), b.cols);
    let k_words = k.div_ceil(E::PER_WORD);
    let cut = Cut::of(m, n, k_words);
    PACKED_B.with_borrow_mut(|packed| {
        for lot_start in (0..n).step_by(cut.lot_cols) {
            let cols = cut.lot_cols.min(n - lot_start);
            let lot = Lot { start: lot_start, cols, k_words, depth_words: cut.depth_words };
            lot.pack(pool, b, packed);
            let row_blocks = m.div_ceil(cut.block_rows);
            pool.run(row_blocks * lot.cols.div_ceil(cut.block_cols), |task| {
                let (row, col) = (task % row_blocks * cut.block_rows, task / row_blocks * cut.block_cols);
                let block = Block {
                    row,
                    rows: cut.block_rows.min(m - row),
                    col: lot_start + col,
                    cols: cut.block_cols.min(lot.cols - col),
                    first_panel: col / COLS,
                };
                block.multiply(alpha, a, &lot, packed, beta, c);
            });
        }
    });
}

/// Columns of B that are packed together: for each stretch of `depth_words` all panels, one after the other.
struct Lot {
    start: usize,
    cols: usize,
    k_words: usize,
    depth_words: usize,
}

impl Lot {
    fn panels(&self) -> usize {
        self.cols.div_ceil(COLS)
    }

    /// Where the panel of a stretch that starts at word `depth` and has `words` begins.
    fn panel_at(&self, depth: usize, words: usize, panel: usize) -> usize {
        (depth * self.panels() + panel * words) * COLS
    }

    fn pack<E: Element>(&self, pool: &Pool, b: MatRef<'_, E>, packed: &mut Vec<Line>) {
        let panels = self.panels();
        let stretches = self.k_words.div_ceil(self.depth_words);
        let target = Target { start: reserve(packed, self.k_words * panels * COLS), row_stride: 0 };
        pool.run(panels * stretches, |task| {
            let (depth, panel) = (task / panels * self.depth_words, task % panels);
            let words = self.depth_words.min(self.k_words - depth);
            let col = panel * COLS;
            let cols = COLS.min(self.cols - col);
            // SAFETY: each task writes its own panel, inside the buffer sized above; `gemm` asked for the
            // instructions.
            unsafe {
                let to = target.at(self.panel_at(depth, words, panel));
                pack::panel::<E, COLS>(b.t(), self.start + col, cols, depth, words, to);
            }
        });
    }
}

/// A block of C, which one task computes.
struct Block {
    row: usize,
    rows: usize,
    col: usize,
    cols: usize,
    /// The panel of the lot in which `col` lies.
    first_panel: usize,
}

impl Block {
    fn multiply<E: Multiply, O: Output>(
        &self,
        alpha: f32,
        a: MatRef<'_, E>,
        lot: &Lot,
        packed_b: &[Line],
        beta: f32,
        c: Target<O>,
    ) {
        // SAFETY: the block lies inside C.
        let c = Target { start: unsafe { c.at(self.row * c.row_stride + self.col) }, ..c };
        if lot.k_words > lot.depth_words && !O::HOLDS_SUMS {
            return SUMS.with_borrow_mut(|sums| {
                sums.resize(self.rows * self.cols, 0.0);
                let target = Target { start: sums.as_mut_ptr(), row_stride: self.cols };
                self.accumulate(1.0, a, lot, packed_b, 0.0, target);
                for (row, sums) in sums.chunks(self.cols).enumerate() {
                    // SAFETY: a row of this block of C.
                    unsafe { O::round_row(alpha, sums, beta, c.at(row * c.row_stride)) };
                }
            });
        }
        self.accumulate(alpha, a, lot, packed_b, beta, c);
    }

    /// Stretch by stretch of the inner dimension; `c` points at the block.
    fn accumulate<E: Multiply, O: Output>(
        &self,
        alpha: f32,
        a: MatRef<'_, E>,
        lot: &Lot,
        packed_b: &[Line],
        beta: f32,
        c: Target<O>,
    ) {
        let row_panels = self.rows.div_ceil(ROWS);
        PACKED_A.with_borrow_mut(|packed_a| {
            let packed_a = reserve(packed_a, row_panels * ROWS * lot.depth_words + pack::SLACK_WORDS);
            // With nothing along the inner dimension C is still to be scaled: one empty stretch does it.
            for depth in (0..lot.k_words.max(1)).step_by(lot.depth_words) {
                let words = lot.depth_words.min(lot.k_words - depth);
                let beta = if depth == 0 { beta } else { 1.0 };
                for panel in 0..row_panels {
                    let row = panel * ROWS;
                    // SAFETY: the buffer holds `row_panels` panels and the slack; `gemm` asked for the instructions.
                    unsafe {
                        let to = packed_a.add(row * words);
                        pack::panel::<E, ROWS>(
                            a,
                            self.row + row,
                            ROWS.min(self.rows - row),
                            depth,
                            words,
                            to,
                        );
                    }
                }
                for col in (0..self.cols).step_by(COLS) {
                    let panel_b = lot.panel_at(depth, words, self.first_panel + col / COLS);
                    for row in (0..self.rows).step_by(ROWS) {
                        // SAFETY: both panels have `words` words of full width; the tile lies inside the block.
                        unsafe {
                            E::tile::<O>(
                                words,
                                packed_a.add(row * words),
                                packed_b.as_ptr().cast::<u32>().add(panel_b),
                                (alpha, beta),
                                c.at(row * c.row_stride + col),
                                c.row_stride,
                                (ROWS.min(self.rows - row), COLS.min(self.cols - col)),
                            );
                        }
                    }
                }
            }
        });
    }
}
