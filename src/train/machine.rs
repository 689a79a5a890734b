//! What this machine offers, measured: the rate of matrix products, against which every run reports its
//! utilisation, and the memory a run may take.

use std::time::{Duration, Instant};

use crate::device::{MatMut, MatRef, Pool, gemm};

/// Large enough to leave the caches' sizes behind, small enough to be repeated within the time.
const SIDE: usize = 1024;
const MEASURE_FOR: Duration = Duration::from_millis(300);

/// FLOPs per second of f32 matrix products with this pool: the fastest of the products that fit in a third of a
/// second, since a neighbour can only slow one down.
pub fn matrix_flops_per_s(pool: &Pool) -> f64 {
    let (a, b) = (vec![0.5f32; SIDE * SIDE], vec![0.25f32; SIDE * SIDE]);
    let mut c = vec![0f32; SIDE * SIDE];
    let mut fastest = f64::INFINITY;
    let began = Instant::now();
    while began.elapsed() < MEASURE_FOR || fastest.is_infinite() {
        let start = Instant::now();
        let (a, b) = (MatRef::row_major(&a, SIDE, SIDE), MatRef::row_major(&b, SIDE, SIDE));
        gemm(pool, 1.0, a, b, 0.0, MatMut::row_major(&mut c, SIDE, SIDE));
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    2.0 * (SIDE as f64).powi(3) / fastest
}

/// Bytes that a new process may still take: what the kernel calls available, bounded by the control group.
/// None where neither can be read.
pub fn available_memory_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_in(&text));
    let group = group_left("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current").or_else(|| {
        group_left(
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        )
    });
    meminfo.into_iter().chain(group).min()
}

fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn group_left(limit: &str, used: &str) -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    Some(number(limit)?.saturating_sub(number(used)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        let text = "MemTotal:       24590000 kB\nMemFree: 1 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(available_in(text), Some(20_480_000_000));
        for bad in ["", "MemAvailable:", "MemAvailable: lots kB"] {
            assert_eq!(available_in(bad), None);
        }
        assert_eq!(group_left("/nonexistent", "/nonexistent"), None);
        assert!(available_memory_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn a_matrix_product_takes_time() {
        let rate = matrix_flops_per_s(&Pool::new(1));
        assert!((1e7..1e14).contains(&rate), "{rate}");
    }
}
