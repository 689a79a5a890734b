//! Work on one row of f32: sums in a fixed order over [`LANES`] lanes, and elementwise loops. Each is
//! compiled for every SIMD level, and gives the same bits for the same row at each level that has FMA.

use half::bf16;

use super::{fma, multiversion, round_bf16, widen_bf16};

/// Sums run in this many lanes, folded pairwise at the end.
pub const LANES: usize = 16;

/// Four accumulators of `LANES` hide the latency of addition; they are folded in a fixed order.
const STEP: usize = 4 * LANES;

/// Adds up the lanes pairwise: 16 -> 8 -> 4 -> 2 -> 1.
#[inline(always)]
fn fold(mut lanes: [f32; STEP]) -> f32 {
    let mut width = STEP / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn sum_over<const FMA: bool>(row: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; STEP];
    let (blocks, rest) = row.as_chunks::<STEP>();
    for block in blocks {
        for lane in 0..STEP {
            lanes[lane] = term(block[lane], lanes[lane]);
        }
    }
    for (lane, x) in rest.iter().enumerate() {
        lanes[lane] = term(*x, lanes[lane]);
    }
    fold(lanes)
}

multiversion! {
    /// The sum of a row.
    pub fn sum(row: &[f32]) -> f32 {
        sum_over::<FMA>(row, |x, sum| sum + x)
    }

    /// The sum of the squares of a row.
    pub fn sum_of_squares(row: &[f32]) -> f32 {
        sum_over::<FMA>(row, |x, sum| fma::<FMA>(x, x, sum))
    }

    /// The scalar product of two rows of one length.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len(), "dot of rows of different lengths");
        let mut lanes = [0.0f32; STEP];
        let (a_blocks, a_rest) = a.as_chunks::<STEP>();
        let (b_blocks, b_rest) = b.as_chunks::<STEP>();
        for (x, y) in a_blocks.iter().zip(b_blocks) {
            for lane in 0..STEP {
                lanes[lane] = fma::<FMA>(x[lane], y[lane], lanes[lane]);
            }
        }
        for (lane, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
            lanes[lane] = fma::<FMA>(*x, *y, lanes[lane]);
        }
        fold(lanes)
    }

    /// The scalar product of two rows of bf16, summed in f32.
    pub fn dot_bf16(a: &[bf16], b: &[bf16]) -> f32 {
        assert_eq!(a.len(), b.len(), "dot of rows of different lengths");
        let mut lanes = [0.0f32; STEP];
        let (a_blocks, a_rest) = a.as_chunks::<STEP>();
        let (b_blocks, b_rest) = b.as_chunks::<STEP>();
        for (x, y) in a_blocks.iter().zip(b_blocks) {
            for lane in 0..STEP {
                lanes[lane] = fma::<FMA>(widen_bf16(x[lane]), widen_bf16(y[lane]), lanes[lane]);
            }
        }
        for (lane, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
            lanes[lane] = fma::<FMA>(widen_bf16(*x), widen_bf16(*y), lanes[lane]);
        }
        fold(lanes)
    }

    /// The largest element of a row; negative infinity for an empty one. NaN is passed over.
    pub fn max(row: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; STEP];
        let (blocks, rest) = row.as_chunks::<STEP>();
        for block in blocks {
            for lane in 0..STEP {
                lanes[lane] = if block[lane] > lanes[lane] { block[lane] } else { lanes[lane] };
            }
        }
        let lanes = lanes.iter().chain(rest);
        lanes.fold(f32::NEG_INFINITY, |max, x| if *x > max { *x } else { max })
    }

    /// `y += a * x`.
    pub fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "axpy of rows of different lengths");
        for (y, x) in y.iter_mut().zip(x) {
            *y = fma::<FMA>(a, *x, *y);
        }
    }

    /// `y += x`.
    pub fn add(x: &[f32], y: &mut [f32]) {
        assert_eq!(x.len(), y.len(), "add of rows of different lengths");
        for (y, x) in y.iter_mut().zip(x) {
            *y += *x;
        }
    }

    /// `y *= a`.
    pub fn scale(a: f32, y: &mut [f32]) {
        for y in y {
            *y *= a;
        }
    }

    /// Widens a row; exact.
    pub fn to_f32(from: &[bf16], to: &mut [f32]) {
        assert_eq!(from.len(), to.len(), "conversion between rows of different lengths");
        for (to, from) in to.iter_mut().zip(from) {
            *to = widen_bf16(*from);
        }
    }

    /// Rounds a row to nearest, ties to even; NaN stays NaN.
    pub fn to_bf16(from: &[f32], to: &mut [bf16]) {
        assert_eq!(from.len(), to.len(), "conversion between rows of different lengths");
        for (to, from) in to.iter_mut().zip(from) {
            *to = round_bf16(*from);
        }
    }
}
