//! Gated linear units (Shazeer 2020): activation(gate) * up, both halves of one matrix product. With SiLU it is
//! llama's SwiGLU, with GELU it is GEGLU.

use super::{
    Exec, Float, Real, card, gelu,
    lanes::{each, rows_per_task},
    matmul, with_float,
};
use crate::{
    base::Result,
    device::{
        Device,
        cuda::{
            Arg,
            gemm_own::{self, Layout},
        },
        host,
        simd::multiversion,
    },
    tensor::{Tensor, TensorMut},
};

/// What the gate goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x * sigmoid(x).
    Silu,
    Gelu(gelu::Formula),
}

impl Activation {
    /// As kernels take it.
    fn arg(self) -> Arg {
        Arg::U32(match self {
            Self::Silu => 0,
            Self::Gelu(gelu::Formula::Tanh) => 1,
            Self::Gelu(gelu::Formula::Exact) => 2,
        })
    }
}

/// The product that makes gate and up, and what [`forward`] makes of them, where nobody needs gate and up themselves.
///
/// Shapes: x `[N,I]`; w `[2F,I]`, gate above up; y `[N,F]`.
///
/// # Errors
/// Where there is no room for gate and up, which devices want for some shapes.
pub fn project(exec: &Exec, x: Tensor, w: Tensor, activation: Activation, y: TensorMut) -> Result<()> {
    assert_eq!((x.rows(), w.rows()), (y.rows(), 2 * y.row_count()));
    match &exec.device {
        Device::Cuda(cuda) if gemm_own::has_few_rows(Layout::Nt, x, w) => {
            if !exec.is_dry() {
                gemm_own::multiply_gated(cuda, x, w, activation.arg(), &y);
            }
        }
        _ => {
            let mut gate_up = exec.take([x.rows(), w.rows()], x.dtype())?;
            matmul::forward(exec, x, w, gate_up.view_mut());
            forward(exec, gate_up.view(), activation, y);
        }
    }
    Ok(())
}

/// Shapes: gate_up `[N,2F]`, gate before up; y `[N,F]`.
pub fn forward(exec: &Exec, gate_up: Tensor, activation: Activation, y: TensorMut) {
    assert_eq!((gate_up.rows(), gate_up.row_count()), (y.rows(), 2 * y.row_count()));
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(gate_up.dtype(), T => match activation {
            Activation::Silu => forward_cpu::<T, Silu>(exec, gate_up, y),
            Activation::Gelu(gelu::Formula::Tanh) => forward_cpu::<T, GeluTanh>(exec, gate_up, y),
            Activation::Gelu(gelu::Formula::Exact) => forward_cpu::<T, GeluExact>(exec, gate_up, y),
        }),
        Device::Cuda(cuda) => {
            let args = [gate_up.into(), (&y).into(), y.rows().into(), y.row_count().into(), activation.arg()];
            let grid = card::elements(y.shape().count(), y.dtype());
            card::launch(cuda, "glu_forward", y.dtype(), grid, &args);
        }
    }
}

/// Replaces gate_up with its gradient, and writes what `forward` gave into `y` again on the way: the next
/// product's weight gradient needs it, and computing it costs less than keeping it.
///
/// Shapes: gate_up `[N,2F]`; dy, y `[N,F]`.
pub fn backward(exec: &Exec, dy: Tensor, gate_up: TensorMut, activation: Activation, y: TensorMut) {
    assert_eq!((gate_up.rows(), gate_up.row_count()), (dy.rows(), 2 * dy.row_count()));
    assert_eq!(y.shape(), dy.shape());
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(dy.dtype(), T => match activation {
            Activation::Silu => backward_cpu::<T, Silu>(exec, dy, gate_up, y),
            Activation::Gelu(gelu::Formula::Tanh) => backward_cpu::<T, GeluTanh>(exec, dy, gate_up, y),
            Activation::Gelu(gelu::Formula::Exact) => backward_cpu::<T, GeluExact>(exec, dy, gate_up, y),
        }),
        Device::Cuda(cuda) => {
            let (rows, f) = (dy.rows().into(), dy.row_count().into());
            let args = [dy.into(), (&gate_up).into(), (&y).into(), rows, f, activation.arg()];
            card::launch(cuda, "glu_backward", dy.dtype(), card::elements(dy.count(), dy.dtype()), &args);
        }
    }
}

/// An activation known when its loop is compiled, so that the loop has no branch.
trait Curve {
    /// The activation's value and its slope.
    fn at<R: Real, const FMA: bool>(x: R) -> (R, R);
}

struct Silu;
struct GeluTanh;
struct GeluExact;

impl Curve for Silu {
    #[inline(always)]
    fn at<R: Real, const FMA: bool>(x: R) -> (R, R) {
        let s = R::ONE / (R::ONE + (-x).fast_exp::<FMA>());
        let silu = x * s;
        (silu, s + silu * (R::ONE - s))
    }
}

impl Curve for GeluTanh {
    #[inline(always)]
    fn at<R: Real, const FMA: bool>(x: R) -> (R, R) {
        gelu::curve::<R, FMA>(x, gelu::Formula::Tanh)
    }
}

impl Curve for GeluExact {
    #[inline(always)]
    fn at<R: Real, const FMA: bool>(x: R) -> (R, R) {
        gelu::curve::<R, FMA>(x, gelu::Formula::Exact)
    }
}

multiversion! {
    fn forward_row<T: Float, A: Curve>(gate: &[T], up: &[T], y: &mut [T]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = T::down(A::at::<T::Acc, FMA>(gate.up()).0 * up.up());
        }
    }

    fn backward_row<T: Float, A: Curve>(dy: &[T], gate: &mut [T], up: &mut [T], y: &mut [T]) {
        for (((dy, gate), up), y) in dy.iter().zip(gate).zip(up).zip(y) {
            let (dy, u) = (dy.up(), up.up());
            let (value, slope) = A::at::<T::Acc, FMA>(gate.up());
            *y = T::down(value * u);
            *gate = T::down(dy * u * slope);
            *up = T::down(dy * value);
        }
    }
}

fn forward_cpu<T: Float, A: Curve>(exec: &Exec, gate_up: Tensor, y: TensorMut) {
    let f = y.row_count();
    let rows = rows_per_task(2 * f);
    let inputs = host::slice::<T>(gate_up).chunks(rows * 2 * f);
    each(exec.pool(), inputs.zip(host::slice_mut::<T>(y).chunks_mut(rows * f)), |(gate_up, y)| {
        for (gate_up, y) in gate_up.chunks_exact(2 * f).zip(y.chunks_exact_mut(f)) {
            let (gate, up) = gate_up.split_at(f);
            forward_row::<T, A>(gate, up, y);
        }
    });
}

fn backward_cpu<T: Float, A: Curve>(exec: &Exec, dy: Tensor, gate_up: TensorMut, y: TensorMut) {
    let f = dy.row_count();
    let rows = rows_per_task(2 * f);
    let inputs = host::slice::<T>(dy).chunks(rows * f);
    let outputs = host::slice_mut::<T>(gate_up).chunks_mut(rows * 2 * f);
    let outputs = outputs.zip(host::slice_mut::<T>(y).chunks_mut(rows * f));
    each(exec.pool(), inputs.zip(outputs), |(dy, (gate_up, y))| {
        let rows = dy.chunks_exact(f).zip(gate_up.chunks_exact_mut(2 * f)).zip(y.chunks_exact_mut(f));
        for ((dy, gate_up), y) in rows {
            let (gate, up) = gate_up.split_at_mut(f);
            backward_row::<T, A>(dy, gate, up, y);
        }
    });
}
