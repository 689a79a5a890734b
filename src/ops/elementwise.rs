//! What is done to every element alike: adding, casting, filling, choosing rows.

use super::{
    Exec, Float, Real, card,
    lanes::{each, rows_per_task},
    with_float,
};
use crate::{
    device::{Cuda, Device, host, simd::multiversion},
    tensor::{DType, Tensor, TensorMut},
};

/// y += x.
pub fn add(exec: &Exec, x: Tensor, y: TensorMut) {
    assert_eq!(x.shape(), y.shape());
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(x.dtype(), T => {
            zip_cpu::<T, T>(exec, x, y, |x, y| *y = T::down(x.up() + y.up()));
        }),
        Device::Cuda(cuda) => zip_cuda(cuda, "elementwise_add", x, y),
    }
}

/// y = x, in another floating-point type or the same.
pub fn cast(exec: &Exec, x: Tensor, y: TensorMut) {
    assert_eq!(x.shape().count(), y.shape().count());
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(x.dtype(), T => with_float!(y.dtype(), U => {
            zip_cpu::<T, U>(exec, x, y, |x, y| {
                *y = U::down(<U as Float>::Acc::from_f64(x.up().to_f64()));
            });
        })),
        Device::Cuda(cuda) => {
            let kernel = if y.dtype() == DType::F32 { "elementwise_to_f32" } else { "elementwise_to_bf16" };
            zip_cuda(cuda, kernel, x, y);
        }
    }
}

/// y = 0.
pub fn zero(exec: &Exec, y: TensorMut) {
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(y.dtype(), T => {
            exec.pool().chunks_mut(host::slice_mut::<T>(y), rows_per_task(1), |_, y| y.fill(T::default()));
        }),
        Device::Cuda(cuda) => zero_cuda(cuda, y),
    }
}

/// Every row of y is x.
///
/// Shapes: x `[C]`; y `[N,C]`.
pub fn repeat(exec: &Exec, x: Tensor, y: TensorMut) {
    assert_eq!((x.count(), x.dtype()), (y.row_count(), y.dtype()));
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(x.dtype(), T => {
            let rows = rows_per_task(x.count());
            let chunks = host::slice_mut::<T>(y).chunks_mut(rows * x.count());
            each(exec.pool(), chunks, |y| {
                y.chunks_exact_mut(x.count()).for_each(|y| y.copy_from_slice(host::slice(x)));
            });
        }),
        Device::Cuda(cuda) => {
            let grid = card::elements(y.shape().count(), y.dtype());
            let args = [x.into(), (&y).into(), y.rows().into(), y.row_count().into()];
            card::launch(cuda, "elementwise_repeat", x.dtype(), grid, &args);
        }
    }
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

fn zip_cuda(cuda: &Cuda, kernel: &'static str, x: Tensor, mut y: TensorMut) {
    for piece in card::pieces(x.count()) {
        let x = x.window(piece.start, [piece.len()]);
        let y = y.reborrow().window(piece.start, [piece.len()]);
        let args = [x.into(), (&y).into(), piece.len().into()];
        card::launch(cuda, kernel, x.dtype(), card::elements(piece.len(), x.dtype()), &args);
    }
}

/// Zeros in any type: all bits are zero in each of them.
pub(super) fn zero_cuda(cuda: &Cuda, mut y: TensorMut) {
    let (dtype, numbers) = match y.dtype() {
        DType::Bf16 => (DType::Bf16, 1),
        other => (DType::F32, other.size_bytes() / DType::F32.size_bytes()),
    };
    for piece in card::pieces(y.shape().count() * numbers) {
        let part = y.reborrow().window(piece.start / numbers, [piece.len() / numbers]);
        let args = [(&part).into(), piece.len().into()];
        card::launch(cuda, "elementwise_zero", dtype, card::elements(piece.len(), dtype), &args);
    }
}

multiversion! {
    fn zip<T: Float, U: Float, F: Fn(&T, &mut U)>(x: &[T], y: &mut [U], run: &F) {
        x.iter().zip(y).for_each(|(x, y)| run(x, y));
    }
}
