//! Sums over whole buffers: the gradient's norm, the loss of a batch.

use super::{
    Exec, Float, Real,
    lanes::{dot, each},
    with_float,
};
use crate::{
    device::{Device, host},
    tensor::Tensor,
};

/// Elements per partial sum. Partial sums are added in order, in f64.
const CHUNK: usize = 64 * 1024;

/// The sum of the squares of all elements. Zero in a dry run.
pub fn sum_of_squares(exec: &Exec, x: Tensor) -> f64 {
    if exec.is_dry() {
        return 0.0;
    }
    with_float!(x.dtype(), T => match &exec.device {
        Device::Cuda(_) => unreachable!("no CUDA half yet"),
        Device::Cpu(_) => sum_cpu(exec, host::slice::<T>(x), |chunk| dot(chunk, chunk).to_f64()),
    })
}

/// The sum of all elements. Zero in a dry run.
pub fn sum(exec: &Exec, x: Tensor) -> f64 {
    if exec.is_dry() {
        return 0.0;
    }
    with_float!(x.dtype(), T => match &exec.device {
        Device::Cuda(_) => unreachable!("no CUDA half yet"),
        Device::Cpu(_) => sum_cpu(exec, host::slice::<T>(x), |chunk| {
            chunk.iter().map(|element| element.up().to_f64()).sum()
        }),
    })
}

fn sum_cpu<T: Float>(exec: &Exec, x: &[T], partial: impl Fn(&[T]) -> f64 + Sync) -> f64 {
    let mut partials = vec![0.0; x.len().div_ceil(CHUNK)];
    each(exec.pool(), x.chunks(CHUNK).zip(&mut partials), |(chunk, sum)| *sum = partial(chunk));
    partials.iter().sum()
}
