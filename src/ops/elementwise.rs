//! What is done to every element alike: adding, casting, filling, choosing rows.

use super::{
    Exec, Float, Real,
    lanes::{each, rows_per_task},
    with_float,
};
use crate::{
    device::{Device, host, simd::multiversion},
    tensor::{Tensor, TensorMut},
};

/// y += x.
pub fn add(exec: &Exec, x: Tensor, y: TensorMut) {
    assert_eq!(x.shape(), y.shape());
    if exec.is_dry() {
        return;
    }
    with_float!(x.dtype(), T => match &exec.device {
        Device::Cuda(_) => unreachable!("no CUDA half yet"),
        Device::Cpu(_) => zip_cpu::<T, T>(exec, x, y, |x, y| *y = T::down(x.up() + y.up())),
    });
}

/// y = x, in another floating-point type or the same.
pub fn cast(exec: &Exec, x: Tensor, y: TensorMut) {
    assert_eq!(x.shape().count(), y.shape().count());
    if exec.is_dry() {
        return;
    }
    with_float!(x.dtype(), T => with_float!(y.dtype(), U => match &exec.device {
        Device::Cuda(_) => unreachable!("no CUDA half yet"),
        Device::Cpu(_) => zip_cpu::<T, U>(exec, x, y, |x, y| {
            *y = U::down(<U as Float>::Acc::from_f64(x.up().to_f64()));
        }),
    }));
}

/// y = 0.
pub fn zero(exec: &Exec, y: TensorMut) {
    if exec.is_dry() {
        return;
    }
    with_float!(y.dtype(), T => match &exec.device {
        Device::Cuda(_) => unreachable!("no CUDA half yet"),
        Device::Cpu(_) => exec.pool().chunks_mut(host::slice_mut::<T>(y), rows_per_task(1), |_, y| y.fill(T::default())),
    });
}

/// y\[i\] = x\[rows\[i\]\].
///
/// Shapes: x `[N,C]`; rows `[R]`; y `[R,C]`.
pub fn take_rows(exec: &Exec, x: Tensor, rows: Tensor, y: TensorMut) {
    super::embedding::forward(exec, rows, x, y);
}

fn zip_cpu<T: Float, U: Float>(exec: &Exec, x: Tensor, y: TensorMut, run: impl Fn(&T, &mut U) + Sync) {
    let chunk = rows_per_task(1);
    let chunks = host::slice::<T>(x).chunks(chunk).zip(host::slice_mut::<U>(y).chunks_mut(chunk));
    each(exec.pool(), chunks, |(x, y)| zip(x, y, &run));
}

multiversion! {
    fn zip<T: Float, U: Float, F: Fn(&T, &mut U)>(x: &[T], y: &mut [U], run: &F) {
        x.iter().zip(y).for_each(|(x, y)| run(x, y));
    }
}
