//! The gated unit of llama's feed-forward (Shazeer 2020): silu(gate) * up, both halves of one matrix product.

use super::{
    Exec, Float, Real, card,
    lanes::{each, rows_per_task},
    with_float,
};
use crate::{
    device::{Device, host, simd::multiversion},
    tensor::{Tensor, TensorMut},
};

/// Shapes: gate_up `[N,2F]`, gate before up; y `[N,F]`.
pub fn forward(exec: &Exec, gate_up: Tensor, y: TensorMut) {
    assert_eq!((gate_up.rows(), gate_up.row_count()), (y.rows(), 2 * y.row_count()));
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(gate_up.dtype(), T => forward_cpu::<T>(exec, gate_up, y)),
        Device::Cuda(cuda) => {
            let args = [gate_up.into(), (&y).into(), y.rows().into(), y.row_count().into()];
            let grid = card::elements(y.shape().count(), y.dtype());
            card::launch(cuda, "swiglu_forward", y.dtype(), grid, &args);
        }
    }
}

/// Replaces gate_up with its gradient, and writes what `forward` gave into `y` again on the way: the next
/// product's weight gradient needs it, and computing it costs less than keeping it.
///
/// Shapes: gate_up `[N,2F]`; dy, y `[N,F]`.
pub fn backward(exec: &Exec, dy: Tensor, gate_up: TensorMut, y: TensorMut) {
    assert_eq!((gate_up.rows(), gate_up.row_count()), (dy.rows(), 2 * dy.row_count()));
    assert_eq!(y.shape(), dy.shape());
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(dy.dtype(), T => backward_cpu::<T>(exec, dy, gate_up, y)),
        Device::Cuda(cuda) => {
            let args = [dy.into(), (&gate_up).into(), (&y).into(), dy.rows().into(), dy.row_count().into()];
            card::launch(cuda, "swiglu_backward", dy.dtype(), card::elements(dy.count(), dy.dtype()), &args);
        }
    }
}

#[inline(always)]
fn sigmoid<R: Real, const FMA: bool>(x: R) -> R {
    R::ONE / (R::ONE + (-x).fast_exp::<FMA>())
}

multiversion! {
    fn forward_row<T: Float>(gate: &[T], up: &[T], y: &mut [T]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = T::down(gate.up() * sigmoid::<T::Acc, FMA>(gate.up()) * up.up());
        }
    }

    fn backward_row<T: Float>(dy: &[T], gate: &mut [T], up: &mut [T], y: &mut [T]) {
        for (((dy, gate), up), y) in dy.iter().zip(gate).zip(up).zip(y) {
            let (dy, g, u) = (dy.up(), gate.up(), up.up());
            let s = sigmoid::<T::Acc, FMA>(g);
            let silu = g * s;
            *y = T::down(silu * u);
            *gate = T::down(dy * u * (s + silu * (T::Acc::ONE - s)));
            *up = T::down(dy * silu);
        }
    }
}

fn forward_cpu<T: Float>(exec: &Exec, gate_up: Tensor, y: TensorMut) {
    let f = y.row_count();
    let rows = rows_per_task(2 * f);
    let inputs = host::slice::<T>(gate_up).chunks(rows * 2 * f);
    each(exec.pool(), inputs.zip(host::slice_mut::<T>(y).chunks_mut(rows * f)), |(gate_up, y)| {
        for (gate_up, y) in gate_up.chunks_exact(2 * f).zip(y.chunks_exact_mut(f)) {
            let (gate, up) = gate_up.split_at(f);
            forward_row(gate, up, y);
        }
    });
}

fn backward_cpu<T: Float>(exec: &Exec, dy: Tensor, gate_up: TensorMut, y: TensorMut) {
    let f = dy.row_count();
    let rows = rows_per_task(2 * f);
    let inputs = host::slice::<T>(dy).chunks(rows * f);
    let outputs = host::slice_mut::<T>(gate_up).chunks_mut(rows * 2 * f);
    let outputs = outputs.zip(host::slice_mut::<T>(y).chunks_mut(rows * f));
    each(exec.pool(), inputs.zip(outputs), |(dy, (gate_up, y))| {
        let rows = dy.chunks_exact(f).zip(gate_up.chunks_exact_mut(2 * f)).zip(y.chunks_exact_mut(f));
        for ((dy, gate_up), y) in rows {
            let (gate, up) = gate_up.split_at_mut(f);
            backward_row(dy, gate, up, y);
        }
    });
}
