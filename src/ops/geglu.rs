//! A gated unit with GELU in place of SiLU (Shazeer 2020): gelu(gate) * up, both halves of one matrix product.

use super::{
    Exec, Float, card,
    gelu::{Formula, curve},
    lanes::{each, rows_per_task},
    with_float,
};
use crate::{
    device::{Device, host, simd::multiversion},
    tensor::{Tensor, TensorMut},
};

/// Shapes: gate_up `[N,2F]`, gate before up; y `[N,F]`.
pub fn forward(exec: &Exec, gate_up: Tensor, formula: Formula, y: TensorMut) {
    assert_eq!((gate_up.rows(), gate_up.row_count()), (y.rows(), 2 * y.row_count()));
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(gate_up.dtype(), T => forward_cpu::<T>(exec, gate_up, formula, y)),
        Device::Cuda(cuda) => {
            let (rows, f) = (y.rows().into(), y.row_count().into());
            let args = [gate_up.into(), (&y).into(), rows, f, formula.arg()];
            let grid = card::elements(y.shape().count(), y.dtype());
            card::launch(cuda, "geglu_forward", y.dtype(), grid, &args);
        }
    }
}

/// Replaces gate_up with its gradient, and writes what `forward` gave into `y` again on the way.
///
/// Shapes: gate_up `[N,2F]`; dy, y `[N,F]`.
pub fn backward(exec: &Exec, dy: Tensor, gate_up: TensorMut, formula: Formula, y: TensorMut) {
    assert_eq!((gate_up.rows(), gate_up.row_count()), (dy.rows(), 2 * dy.row_count()));
    assert_eq!(y.shape(), dy.shape());
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(dy.dtype(), T => backward_cpu::<T>(exec, dy, gate_up, formula, y)),
        Device::Cuda(cuda) => {
            let (rows, f) = (dy.rows().into(), dy.row_count().into());
            let args = [dy.into(), (&gate_up).into(), (&y).into(), rows, f, formula.arg()];
            card::launch(cuda, "geglu_backward", dy.dtype(), card::elements(dy.count(), dy.dtype()), &args);
        }
    }
}

multiversion! {
    fn forward_row<T: Float>(gate: &[T], up: &[T], formula: Formula, y: &mut [T]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = T::down(curve::<T::Acc, FMA>(gate.up(), formula).0 * up.up());
        }
    }

    fn backward_row<T: Float>(dy: &[T], gate: &mut [T], up: &mut [T], formula: Formula, y: &mut [T]) {
        for (((dy, gate), up), y) in dy.iter().zip(gate).zip(up).zip(y) {
            let (dy, u) = (dy.up(), up.up());
            let (value, slope) = curve::<T::Acc, FMA>(gate.up(), formula);
            *y = T::down(value * u);
            *gate = T::down(dy * u * slope);
            *up = T::down(dy * value);
        }
    }
}

fn forward_cpu<T: Float>(exec: &Exec, gate_up: Tensor, formula: Formula, y: TensorMut) {
    let f = y.row_count();
    let rows = rows_per_task(2 * f);
    let inputs = host::slice::<T>(gate_up).chunks(rows * 2 * f);
    each(exec.pool(), inputs.zip(host::slice_mut::<T>(y).chunks_mut(rows * f)), |(gate_up, y)| {
        for (gate_up, y) in gate_up.chunks_exact(2 * f).zip(y.chunks_exact_mut(f)) {
            let (gate, up) = gate_up.split_at(f);
            forward_row(gate, up, formula, y);
        }
    });
}

fn backward_cpu<T: Float>(exec: &Exec, dy: Tensor, gate_up: TensorMut, formula: Formula, y: TensorMut) {
    let f = dy.row_count();
    let rows = rows_per_task(2 * f);
    let inputs = host::slice::<T>(dy).chunks(rows * f);
    let outputs = host::slice_mut::<T>(gate_up).chunks_mut(rows * 2 * f);
    let outputs = outputs.zip(host::slice_mut::<T>(y).chunks_mut(rows * f));
    each(exec.pool(), inputs.zip(outputs), |(dy, (gate_up, y))| {
        let rows = dy.chunks_exact(f).zip(gate_up.chunks_exact_mut(2 * f)).zip(y.chunks_exact_mut(f));
        for ((dy, gate_up), y) in rows {
            let (gate, up) = gate_up.split_at_mut(f);
            backward_row(dy, gate, up, formula, y);
        }
    });
}
