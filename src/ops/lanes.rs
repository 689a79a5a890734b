//! Sums along a row and the cutting of rows into tasks, the same on every machine and for any number of threads.

use super::{Float, Real};
use crate::device::{Pool, simd::multiversion};

/// Partial sums kept side by side: four of the widest vectors, so that the compiler may use any width without
/// changing the order in which numbers are added, and an addition need not wait for the one before.
const LANES: usize = 64;
/// Elements in a task: some microseconds of work, so that taking a task costs little beside it.
const TASK_ELEMENTS: usize = 16 * 1024;

/// Adds up the lanes in pairs: 64 to 32 to 16 and so on, in vectors for as long as it can.
#[inline(always)]
fn fold<R: Real>(mut lanes: [R; LANES]) -> R {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            let other = lanes[lane + width];
            lanes[lane] += other;
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of `term(a, b)` over two rows of one length.
#[inline(always)]
pub fn sum2<T: Float, U: Float<Acc = T::Acc>>(
    a: &[T],
    b: &[U],
    term: impl Fn(T::Acc, T::Acc) -> T::Acc,
) -> T::Acc {
    let mut lanes = [T::Acc::ZERO; LANES];
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_whole.iter().zip(b_whole) {
        for lane in 0..LANES {
            lanes[lane] += term(a[lane].up(), b[lane].up());
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane] += term(a.up(), b.up());
    }
    fold(lanes)
}

/// The sum of `term(a, b, c)` over three rows of one length.
#[inline(always)]
pub fn sum3<T: Float>(a: &[T], b: &[T], c: &[T], term: impl Fn(T::Acc, T::Acc, T::Acc) -> T::Acc) -> T::Acc {
    let mut lanes = [T::Acc::ZERO; LANES];
    let (a_whole, a_rest) = a.as_chunks::<LANES>();
    let (b_whole, b_rest) = b.as_chunks::<LANES>();
    let (c_whole, c_rest) = c.as_chunks::<LANES>();
    for ((a, b), c) in a_whole.iter().zip(b_whole).zip(c_whole) {
        for lane in 0..LANES {
            lanes[lane] += term(a[lane].up(), b[lane].up(), c[lane].up());
        }
    }
    for (lane, ((a, b), c)) in a_rest.iter().zip(b_rest).zip(c_rest).enumerate() {
        lanes[lane] += term(a.up(), b.up(), c.up());
    }
    fold(lanes)
}

multiversion! {
    pub fn dot<T: Float>(a: &[T], b: &[T]) -> T::Acc {
        sum2(a, b, |a, b| a * b)
    }
}

/// The largest of the elements and `least`. NaN is passed over.
#[inline(always)]
pub fn max<R: Real>(row: &[R], least: R) -> R {
    let larger = |a: R, b: R| if b > a { b } else { a };
    let mut lanes = [least; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for row in whole {
        for lane in 0..LANES {
            lanes[lane] = larger(lanes[lane], row[lane]);
        }
    }
    lanes.iter().chain(rest).fold(least, |a, &b| larger(a, b))
}

/// Replaces x by `make(x)` and returns the sum of the new row.
#[inline(always)]
pub fn replace_and_sum<R: Real>(row: &mut [R], make: impl Fn(R) -> R) -> R {
    let mut lanes = [R::ZERO; LANES];
    let (whole, rest) = row.as_chunks_mut::<LANES>();
    for row in whole {
        for lane in 0..LANES {
            row[lane] = make(row[lane]);
            lanes[lane] += row[lane];
        }
    }
    for (lane, x) in rest.iter_mut().enumerate() {
        *x = make(*x);
        lanes[lane] += *x;
    }
    fold(lanes)
}

/// Rows in a task, from the length of a row alone.
pub fn rows_per_task(row_count: usize) -> usize {
    (TASK_ELEMENTS / row_count.max(1)).max(1)
}

/// Runs `run` once for each job, in parallel. Jobs bring the parts of the output that are theirs.
pub fn each<J: Send>(pool: &Pool, jobs: impl Iterator<Item = J>, run: impl Fn(J) + Sync) {
    let mut jobs: Vec<Option<J>> = jobs.map(Some).collect();
    pool.chunks_mut(&mut jobs, 1, |_, slot| {
        if let Some(job) = slot[0].take() {
            run(job);
        }
    });
}

/// As [`each`], with the job's place in the order.
pub fn each_numbered<J: Send>(pool: &Pool, jobs: impl Iterator<Item = J>, run: impl Fn(usize, J) + Sync) {
    each(pool, jobs.enumerate(), |(index, job)| run(index, job));
}
