//! What this machine offers, measured: the rate of matrix products, against which every run reports its
//! utilisation, and the memory a run may take.

use std::time::{Duration, Instant};

use half::bf16;

use super::config::Precision;
use crate::{
    base::{Philox, Result},
    device::{Cuda, Device, MatMut, MatRef, Pool, gemm, gemm::Product},
    ops::{Exec, elementwise, matmul},
    tensor::{DType, Tensor, TensorMut},
};

/// The sides of the square products that are timed: a larger one works better on a quiet machine, a smaller one
/// is done between two interruptions on a busy one.
const SIDES: [usize; 3] = [384, 640, 1024];
const MEASURE_FOR: Duration = Duration::from_millis(300);

/// Sides and time of the largest product that a card is measured by.
const CARD_SIDE_MIN: usize = 256;
const CARD_SIDE_MAX: usize = 8192;
const CARD_LONG_ENOUGH: Duration = Duration::from_millis(10);

/// FLOPs per second of matrix products in the weights' type on this device: the fastest of those that fit in a third
/// of a second, since a neighbour can only slow one down.
pub fn matrix_flops_per_s(device: &Device, precision: Precision) -> Result<f64> {
    match (device, precision) {
        (Device::Cpu(pool), Precision::F32) => Ok(fastest::<f32>(pool, 0.5)),
        (Device::Cpu(pool), Precision::Bf16) => Ok(fastest::<bf16>(pool, bf16::from_f32(0.5))),
        (Device::Cuda(cuda), _) => fastest_on_card(device, cuda, precision.formats().weights),
    }
}

/// Ever larger products, until one takes long enough that its launch does not count.
fn fastest_on_card(device: &Device, cuda: &Cuda, dtype: DType) -> Result<f64> {
    let mut fastest = 0f64;
    // A card multiplies zeros faster than what a run multiplies.
    let mut rng = Philox::new(0, 0);
    let normal: Vec<f32> = (0..CARD_SIDE_MIN * CARD_SIDE_MIN).map(|_| rng.normal()).collect();
    let sides = std::iter::successors(Some(CARD_SIDE_MIN), |side| Some(2 * side));
    for side in sides.take_while(|&side| side <= CARD_SIDE_MAX) {
        let bytes = 3 * side * side * dtype.size_bytes() + normal.len() * size_of::<f32>();
        let exec = Exec::new(device.clone(), bytes, 0)?;
        let normal = exec.upload([normal.len()], &normal)?;
        let mut matrices = [exec.take([side, side], dtype)?, exec.take([side, side], dtype)?];
        matrices.iter_mut().for_each(|matrix| fill(&exec, normal.view(), matrix.view_mut()));
        let mut product = exec.take([side, side], dtype)?;
        let mut multiply = || {
            let began = Instant::now();
            matmul::forward(&exec, matrices[0].view(), matrices[1].view(), product.view_mut());
            cuda.synchronize().map(|()| began.elapsed())
        };
        // The first one is planned, too.
        let taken = [multiply()?, multiply()?, multiply()?].into_iter().min().unwrap_or_default();
        fastest = fastest.max(2.0 * (side as f64).powi(3) / taken.as_secs_f64());
        if taken >= CARD_LONG_ENOUGH {
            break;
        }
    }
    Ok(fastest)
}

/// Writes `numbers` into a matrix again and again.
fn fill(exec: &Exec, numbers: Tensor, mut matrix: TensorMut) {
    for start in (0..matrix.shape().count()).step_by(numbers.count()) {
        elementwise::cast(exec, numbers, matrix.reborrow().window(start, [numbers.count()]));
    }
}

fn fastest<T: Product<f32, Scale = f32>>(pool: &Pool, number: T) -> f64 {
    let most = SIDES[SIDES.len() - 1].pow(2);
    let (a, b, mut c) = (vec![number; most], vec![number; most], vec![0f32; most]);
    let mut fastest = 0f64;
    let began = Instant::now();
    while began.elapsed() < MEASURE_FOR {
        for side in SIDES {
            let of = |x| MatRef::row_major(x, side, side);
            let (a, b, c) = (&a[..side * side], &b[..side * side], &mut c[..side * side]);
            let start = Instant::now();
            gemm(pool, 1.0, of(a), of(b), 0.0, MatMut::row_major(c, side, side));
            fastest = fastest.max(2.0 * (side as f64).powi(3) / start.elapsed().as_secs_f64());
        }
    }
    fastest
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
        for precision in [Precision::F32, Precision::Bf16] {
            let rate = matrix_flops_per_s(&Device::cpu(Some(1)), precision).expect("a processor");
            assert!((1e6..1e14).contains(&rate), "{precision:?}: {rate}");
        }
    }
}
