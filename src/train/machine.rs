//! What this machine offers, measured: the rates of matrix products and of memory, against which every run and every
//! benchmark reports its utilisation, and the memory a run may take.

use std::time::{Duration, Instant};

use half::bf16;

use crate::{
    base::{Philox, Result},
    device::{Cuda, Device, MatMut, MatRef, Pool, gemm, gemm::Product, measure},
    ops::{Exec, elementwise, matmul},
    tensor::{DType, TensorMut},
};

/// The sides of the square products that are timed: a larger one works better on a quiet machine, a smaller one
/// is done between two interruptions on a busy one.
const SIDES: [usize; 3] = [384, 640, 1024];
const MEASURE_FOR: Duration = Duration::from_millis(300);

/// Sides and time of the largest product that a card is measured by.
const CARD_SIDE_MIN: usize = 256;
const CARD_SIDE_MAX: usize = 8192;
const CARD_LONG_ENOUGH: Duration = Duration::from_millis(10);
/// Distinct numbers that tensors are filled with.
const NORMAL_NUMBERS: usize = 1 << 16;
/// Numbers that a card copies to show how fast its memory is, and how often: at last far more than its caches hold.
const CARD_COPIED_MIN: usize = 1 << 20;
const CARD_COPIED_MAX: usize = 256 << 20;
const CARD_COPIES: u32 = 10;
const CARD_COPY_LONG_ENOUGH: Duration = Duration::from_micros(600);

/// FLOPs per second of matrix products of f32 or bf16 on this device: the fastest of those that fit in a third of a
/// second, since a neighbour can only slow one down.
pub fn matrix_flops_per_s(device: &Device, dtype: DType) -> Result<f64> {
    match (device, dtype) {
        (Device::Cpu(pool), DType::Bf16) => Ok(fastest::<bf16>(pool, bf16::from_f32(0.5))),
        (Device::Cpu(pool), _) => Ok(fastest::<f32>(pool, 0.5)),
        (Device::Cuda(cuda), _) => fastest_on_card(device, cuda, dtype),
    }
}

/// Bytes per second that a copy within the device's memory moves: those read and those written.
pub fn copy_bytes_per_s(device: &Device) -> Result<f64> {
    let cuda = match device {
        Device::Cpu(pool) => return Ok(measure::copy_bytes_per_s(pool)),
        Device::Cuda(cuda) => cuda,
    };
    let mut fastest = 0f64;
    let counts = std::iter::successors(Some(CARD_COPIED_MIN), |count| Some(2 * count));
    for count in counts.take_while(|&count| count <= CARD_COPIED_MAX) {
        let bytes = 2 * count * size_of::<f32>();
        if bytes as u64 > cuda.free_bytes()?.0 {
            break;
        }
        let exec = Exec::new(device.clone(), bytes, 0)?;
        let (mut from, mut to) = (exec.take([count], DType::F32)?, exec.take([count], DType::F32)?);
        elementwise::zero(&exec, from.view_mut());
        let mut copy = |times| {
            let began = Instant::now();
            (0..times).for_each(|_| elementwise::cast(&exec, from.view(), to.view_mut()));
            cuda.synchronize().map(|()| began.elapsed() / times)
        };
        copy(1)?;
        let taken = copy(CARD_COPIES)?;
        fastest = bytes as f64 / taken.as_secs_f64();
        if taken >= CARD_COPY_LONG_ENOUGH {
            break;
        }
    }
    Ok(fastest)
}

/// Bytes per second that are read from the device's memory; a card is taken to read as fast as it copies.
pub fn read_bytes_per_s(device: &Device) -> Result<f64> {
    match device {
        Device::Cpu(pool) => Ok(measure::read_bytes_per_s(pool)),
        Device::Cuda(_) => copy_bytes_per_s(device),
    }
}

/// Ever larger products, until one takes long enough that its launch does not count.
fn fastest_on_card(device: &Device, cuda: &Cuda, dtype: DType) -> Result<f64> {
    let mut fastest = 0f64;
    let sides = std::iter::successors(Some(CARD_SIDE_MIN), |side| Some(2 * side));
    for side in sides.take_while(|&side| side <= CARD_SIDE_MAX) {
        let bytes = 3 * side * side * dtype.size_bytes() + NORMAL_NUMBERS * size_of::<f32>();
        let exec = Exec::new(device.clone(), bytes, 0)?;
        let mut matrices = [exec.take([side, side], dtype)?, exec.take([side, side], dtype)?];
        // A card multiplies zeros faster than what a run multiplies.
        matrices.iter_mut().try_for_each(|matrix| fill_normal(&exec, matrix.view_mut()))?;
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

/// Fills a tensor with normal numbers, which repeat.
pub fn fill_normal(exec: &Exec, mut tensor: TensorMut) -> Result<()> {
    let mut rng = Philox::new(0, 0);
    let numbers: Vec<f32> = (0..NORMAL_NUMBERS).map(|_| rng.normal()).collect();
    let numbers = exec.upload([numbers.len()], &numbers)?;
    let count = tensor.shape().count();
    for start in (0..count).step_by(NORMAL_NUMBERS) {
        let len = NORMAL_NUMBERS.min(count - start);
        let part = tensor.reborrow().window(start, [len]);
        elementwise::cast(exec, numbers.view().window(0, [len]), part);
    }
    Ok(())
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
        for dtype in [DType::F32, DType::Bf16] {
            let rate = matrix_flops_per_s(&Device::cpu(Some(1)), dtype).expect("a processor");
            assert!((1e6..1e14).contains(&rate), "{dtype:?}: {rate}");
        }
    }
}
