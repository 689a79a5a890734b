use half::bf16;

use super::*;

/// Uniform numbers in [-1, 1), the same in every run.
fn noise(seed: u64, len: usize) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1u32 << 23) - 1.0
        })
        .collect()
}

/// How a matrix of (rows, cols) lies in memory: strides and the length of the slice.
#[derive(Clone, Copy, Debug)]
enum Layout {
    RowMajor,
    ColMajor,
    /// Row-major inside wider rows.
    Padded,
    /// Every second element of every row.
    Sparse,
}

const LAYOUTS: [Layout; 4] = [Layout::RowMajor, Layout::ColMajor, Layout::Padded, Layout::Sparse];

impl Layout {
    fn strides(self, rows: usize, cols: usize) -> (usize, usize) {
        match self {
            Self::RowMajor => (cols.max(1), 1),
            Self::ColMajor => (1, rows.max(1)),
            Self::Padded => (cols + 5, 1),
            Self::Sparse => (2 * cols + 3, 2),
        }
    }

    fn len(self, rows: usize, cols: usize) -> usize {
        let (rs, cs) = self.strides(rows, cols);
        rows * rs + cols * cs + 7
    }
}

/// M, N, K: around the edges of register tiles and blocks, and empty in each dimension.
const SHAPES: [(usize, usize, usize); 16] = [
    (0, 3, 4),
    (3, 0, 4),
    (3, 4, 0),
    (1, 1, 1),
    (1, 33, 7),
    (7, 1, 33),
    (2, 65, 3),
    (13, 31, 1),
    (14, 32, 16),
    (15, 33, 17),
    (31, 64, 65),
    (129, 97, 40),
    (64, 129, 513),
    (200, 770, 33),
    (257, 130, 100),
    (5, 300, 1030),
];

/// The naive product in f64, in the order of the definition.
fn naive(
    shape: (usize, usize, usize),
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
) -> Vec<f64> {
    let (m, n, k) = shape;
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k).map(|p| a(i, p) * b(p, j)).sum();
        }
    }
    c
}

/// An element of a test matrix.
trait Number: Copy {
    fn of(x: f64) -> Self;
    fn wide(self) -> f64;
}

impl Number for f64 {
    fn of(x: f64) -> Self {
        x
    }
    fn wide(self) -> f64 {
        self
    }
}

impl Number for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Number for bf16 {
    fn of(x: f64) -> Self {
        bf16::from_f64(x)
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

/// Checks one shape, layout and scale of `In x In -> Out`. `bound(k)` is the allowed error of an element whose
/// operands lie in [-1, 1).
fn check<In: Product<Out> + Number, Out: Number>(
    pool: &Pool,
    shape: (usize, usize, usize),
    layouts: [Layout; 3],
    (alpha, beta): (f64, f64),
    scale: fn(f64) -> In::Scale,
    bound: impl Fn(f64) -> f64,
) {
    let (m, n, k) = shape;
    let [la, lb, lc] = layouts;
    let a: Vec<In> = noise(1, la.len(m, k)).into_iter().map(In::of).collect();
    let b: Vec<In> = noise(2, lb.len(k, n)).into_iter().map(In::of).collect();
    // With beta zero C is not read: NaN there must not come through.
    let before: Vec<Out> =
        noise(3, lc.len(m, n)).into_iter().map(|x| Out::of(if beta == 0.0 { f64::NAN } else { x })).collect();
    let mut c = before.clone();
    let ((ars, acs), (brs, bcs), (crs, ccs)) = (la.strides(m, k), lb.strides(k, n), lc.strides(m, n));
    gemm(
        pool,
        scale(alpha),
        MatRef::new(&a, (m, k), ars, acs),
        MatRef::new(&b, (k, n), brs, bcs),
        scale(beta),
        MatMut::new(&mut c, (m, n), crs, ccs),
    );
    let want = naive(shape, |i, p| a[i * ars + p * acs].wide(), |p, j| b[p * brs + j * bcs].wide());
    let mut written = vec![false; c.len()];
    for i in 0..m {
        for j in 0..n {
            let at = i * crs + j * ccs;
            written[at] = true;
            let old = if beta == 0.0 { 0.0 } else { beta * before[at].wide() };
            let want = alpha * want[i * n + j] + old;
            let got = c[at].wide();
            assert!((got - want).abs() <= bound(want), "{shape:?} {layouts:?} ({i},{j}): {got} for {want}");
        }
    }
    for (at, written) in written.into_iter().enumerate() {
        let (old, new) = (before[at].wide(), c[at].wide());
        assert!(written || old == new || old.is_nan() && new.is_nan(), "{shape:?} wrote between elements");
    }
}

/// Every shape in row-major order with every scale, and every combination of layouts for some shapes.
fn check_all(mut one: impl FnMut((usize, usize, usize), [Layout; 3], (f64, f64))) {
    use Layout::RowMajor;
    for shape in SHAPES {
        for scales in [(1.0, 0.0), (1.0, 1.0), (-0.5, 2.0), (0.0, 1.0)] {
            one(shape, [RowMajor; 3], scales);
        }
    }
    for shape in [(15, 33, 17), (129, 97, 40), (5, 300, 70), (1, 80, 64)] {
        for a in LAYOUTS {
            for b in LAYOUTS {
                for c in LAYOUTS {
                    one(shape, [a, b, c], (1.0, 1.0));
                }
            }
        }
    }
}

#[test]
fn f32_and_f64_against_the_definition() {
    let pool = Pool::new(3);
    check_all(|shape, layouts, scales| {
        let bound = 1e-13 * (shape.2 + 1) as f64;
        check::<f64, f64>(&pool, shape, layouts, scales, |x| x, |_| bound);
        let bound = 1e-6 * (shape.2 + 4) as f64;
        check::<f32, f32>(&pool, shape, layouts, scales, |x| x as f32, |_| bound);
    });
}

/// A product of two bf16 is exact in f32: what remains are f32 sums, and one rounding (2^-9) into bf16.
#[test]
fn bf16_against_the_definition() {
    let pool = Pool::new(3);
    check_all(|shape, layouts, scales| {
        let sums = 1e-6 * (shape.2 + 4) as f64;
        check::<bf16, f32>(&pool, shape, layouts, scales, |x| x as f32, |_| sums);
        check::<bf16, bf16>(&pool, shape, layouts, scales, |x| x as f32, |want| sums + want.abs() / 256.0);
    });
}

#[test]
fn the_same_bits_on_any_number_of_threads() {
    let (m, n, k) = (300, 900, 500);
    let a: Vec<f32> = noise(1, m * k).into_iter().map(|x| x as f32).collect();
    let b: Vec<f32> = noise(2, k * n).into_iter().map(|x| x as f32).collect();
    let product_on = |threads| {
        let mut c = vec![0.0f32; m * n];
        gemm(
            &Pool::new(threads),
            1.0,
            MatRef::row_major(&a, m, k),
            MatRef::row_major(&b, k, n),
            0.0,
            MatMut::row_major(&mut c, m, n),
        );
        c.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let one = product_on(1);
    for threads in [2, 3, 5] {
        assert!(one == product_on(threads), "{threads} threads");
    }
}

#[test]
fn few_rows_have_the_same_bits_however_many_they_are() {
    fn check<In: Product<Out, Scale = f32> + Number, Out: Number>() {
        let (n, k) = (150, 333);
        let x: Vec<In> = noise(1, FEW_ROWS * k).into_iter().map(In::of).collect();
        let w: Vec<In> = noise(2, n * k).into_iter().map(In::of).collect();
        let product_of = |rows: std::ops::Range<usize>| {
            let mut y = vec![Out::of(0.0); rows.len() * n];
            let x = MatRef::row_major(&x[rows.start * k..], rows.len(), k);
            let w = MatRef::row_major(&w, n, k).t();
            gemm(&Pool::new(2), 1.0, x, w, 0.0, MatMut::row_major(&mut y, rows.len(), n));
            y.into_iter().map(|y| y.wide().to_bits()).collect::<Vec<_>>()
        };
        let all = product_of(0..FEW_ROWS);
        for rows in [0..1, 3..5, 5..11, 9..32, 31..32] {
            assert!(product_of(rows.clone()) == all[rows.start * n..rows.end * n], "rows {rows:?}");
        }
    }
    check::<f32, f32>();
    check::<bf16, f32>();
    check::<bf16, bf16>();
}

#[test]
#[should_panic(expected = "inner dimensions")]
fn shapes_that_do_not_fit_are_refused() {
    let mut c = [0.0f32; 4];
    gemm(
        &Pool::new(1),
        1.0,
        MatRef::row_major(&[1.0; 6], 2, 3),
        MatRef::row_major(&[1.0; 4], 2, 2),
        0.0,
        MatMut::row_major(&mut c, 2, 2),
    );
}

#[test]
#[should_panic(expected = "in a slice of 5")]
fn a_view_past_the_end_is_refused() {
    let _ = MatRef::row_major(&[1.0; 5], 2, 3);
}

#[test]
#[should_panic(expected = "overlap")]
fn a_written_matrix_whose_rows_overlap_is_refused() {
    let _ = MatMut::new(&mut [0.0; 9], (3, 3), 2, 1);
}
