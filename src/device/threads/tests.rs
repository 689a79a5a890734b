use std::sync::atomic::{AtomicU32, AtomicUsize};

use super::*;

#[test]
fn runs_every_task_once() {
    for threads in [1, 2, 3, 8] {
        let pool = Pool::new(threads);
        for tasks in [0, 1, 2, 7, 1000] {
            let runs: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
            pool.run(tasks, |index| {
                runs[index].fetch_add(1, Ordering::Relaxed);
            });
            assert!(runs.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }
}

#[test]
fn many_short_jobs_in_a_row_never_mix() {
    let pool = Pool::new(4);
    let mut data = vec![0u64; 37];
    for round in 0..20_000u64 {
        let tasks = 1 + (round % 37) as usize;
        pool.chunks_mut(&mut data[..tasks], 1, |_, slot| slot[0] += round);
        if round % 5000 == 0 {
            // Long enough for the workers to park, so that waking them is tested too.
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
    for (index, sum) in data.iter().enumerate() {
        let expected: u64 = (0..20_000u64).filter(|round| (round % 37) as usize >= index).sum();
        assert_eq!(*sum, expected, "slot {index}");
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(4);
    for _ in 0..50 {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(100, |index| assert!(index != 63, "task {index} fails"));
        }));
        let payload = outcome.expect_err("the panic is resumed");
        assert_eq!(payload.downcast_ref::<String>().map(String::as_str), Some("task 63 fails"));
    }
    let count = AtomicUsize::new(0);
    pool.run(10, |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(count.into_inner(), 10);
}

#[test]
fn nested_work_runs_on_the_thread_that_asked() {
    let (outer, other) = (Pool::new(4), Pool::new(4));
    let count = AtomicUsize::new(0);
    outer.run(8, |_| {
        let me = std::thread::current().id();
        for pool in [&outer, &other] {
            pool.run(5, |_| {
                assert_eq!(std::thread::current().id(), me);
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(count.into_inner(), 80);
}

#[test]
fn callers_on_several_threads_take_turns() {
    let pool = Pool::new(3);
    let total = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    pool.run(9, |index| {
                        total.fetch_add(index, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    assert_eq!(total.into_inner(), 4 * 500 * 36);
}

#[test]
fn chunks_cover_the_slice_in_order() {
    let pool = Pool::new(4);
    let mut data = vec![0usize; 1003];
    pool.chunks_mut(&mut data, 100, |index, chunk| {
        for (offset, value) in chunk.iter_mut().enumerate() {
            *value = index * 100 + offset;
        }
    });
    assert!(data.iter().enumerate().all(|(index, value)| index == *value));
}

#[test]
fn sums_have_the_same_bits_on_any_number_of_threads() {
    let values: Vec<f64> = (1..100_000).map(|i| 1.0 / f64::from(i)).collect();
    let sum_on =
        |threads| Pool::new(threads).sum(values.len(), 64, |range| values[range].iter().sum()).to_bits();
    assert_eq!(sum_on(1), sum_on(3));
    assert_eq!(sum_on(1), sum_on(7));
    assert_eq!(Pool::new(2).sum(0, 64, |_| 1.0), 0.0);
    // The harmonic number H(99999) to ten digits.
    assert!((f64::from_bits(sum_on(4)) - 12.090_136_129_8).abs() < 1e-9);
}
