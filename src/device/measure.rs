//! What this machine can do at most, measured: the yardsticks that benchmarks report their share of. The fastest
//! of several tries counts, because a neighbour on the machine can only slow one down.

use std::time::Instant;

use super::gemm::{MatMut, MatRef, Product, gemm};
use super::simd;
use super::threads::Pool;

/// Larger than any cache.
const STREAM_BYTES: usize = 512 << 20;
/// What a thread reads or copies in one task.
const GRAIN: usize = 64 << 10;
/// Side of the multiplied matrices: large enough to leave packing behind.
const SIDE: usize = 1536;
const TRIES: usize = 5;

/// Bytes per second that all threads read from memory together.
pub fn read_bytes_per_s(pool: &Pool) -> f64 {
    let numbers = vec![1f32; STREAM_BYTES / size_of::<f32>()];
    let mut total = 0.0;
    let seconds =
        fastest(|| total += pool.sum(numbers.len(), GRAIN, |range| f64::from(simd::sum(&numbers[range]))));
    assert!(total > 0.0, "the sums are used, so they are computed");
    STREAM_BYTES as f64 / seconds
}

/// Bytes per second that a copy moves: those read and those written.
pub fn copy_bytes_per_s(pool: &Pool) -> f64 {
    let from = vec![1f32; STREAM_BYTES / 2 / size_of::<f32>()];
    let mut to = vec![0f32; from.len()];
    let seconds = fastest(|| {
        pool.chunks_mut(&mut to, GRAIN, |index, to| to.copy_from_slice(&from[index * GRAIN..][..to.len()]));
    });
    STREAM_BYTES as f64 / seconds
}

/// FLOPs per second of large matrix products of `In`, summed in f32.
pub fn matrix_flops_per_s<In: Product<f32, Scale = f32> + From<u8>>(pool: &Pool) -> f64 {
    let (a, b) = (vec![In::from(1); SIDE * SIDE], vec![In::from(1); SIDE * SIDE]);
    let mut c = vec![0f32; SIDE * SIDE];
    let seconds = fastest(|| {
        let (a, b) = (MatRef::row_major(&a, SIDE, SIDE), MatRef::row_major(&b, SIDE, SIDE));
        gemm(pool, 1.0, a, b, 0.0, MatMut::row_major(&mut c, SIDE, SIDE));
    });
    2.0 * (SIDE as f64).powi(3) / seconds
}

fn fastest(mut run: impl FnMut()) -> f64 {
    let mut seconds = || {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..TRIES).map(|_| seconds()).fold(f64::INFINITY, f64::min)
}
