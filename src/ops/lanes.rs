//! Sums along a row and the cutting of rows into tasks, the same on every machine and for any number of threads.

use super::{Float, Real};
use crate::device::Pool;

/// Partial sums kept side by side: two of the widest vectors, so that the compiler may use any width without
/// changing the order in which numbers are added.
const LANES: usize = 16;
/// Elements in a task: some microseconds of work, so that taking a task costs little beside it.
const TASK_ELEMENTS: usize = 16 * 1024;

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
    lanes.into_iter().sum()
}

pub fn dot<T: Float, U: Float<Acc = T::Acc>>(a: &[T], b: &[U]) -> T::Acc {
    sum2(a, b, |a, b| a * b)
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
