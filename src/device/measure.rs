//! How fast the processor reads and copies memory, measured. The fastest of several tries counts, because a neighbour
//! on the machine can only slow one down.

use std::time::Instant;

use super::simd;
use super::threads::Pool;

/// Larger than any cache.
const STREAM_BYTES: usize = 512 << 20;
/// What a thread reads or copies in one task.
const GRAIN: usize = 64 << 10;
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

fn fastest(mut run: impl FnMut()) -> f64 {
    let mut seconds = || {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..TRIES).map(|_| seconds()).fold(f64::INFINITY, f64::min)
}
