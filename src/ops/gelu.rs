//! The Gaussian error linear unit (Hendrycks and Gimpel 2016): x times the share of a standard normal distribution
//! below x.

use super::{
    Exec, Float, Real, card,
    lanes::{each, rows_per_task},
    with_float,
};
use crate::{
    device::{Cuda, Device, cuda::Arg, host, simd::multiversion},
    tensor::{Tensor, TensorMut},
};

/// How the share is computed. Models are trained with one and must be run with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formula {
    /// 0.5 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): GPT-2, `gelu_new`.
    Tanh,
    /// With the error function: BERT, `gelu`.
    Exact,
}

impl Formula {
    /// As kernels take it.
    pub(super) fn arg(self) -> Arg {
        Arg::U32(u32::from(self == Self::Exact))
    }
}

/// Shapes: x, y of one count.
pub fn forward(exec: &Exec, x: Tensor, formula: Formula, y: TensorMut) {
    assert_eq!(x.count(), y.shape().count());
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(x.dtype(), T => forward_cpu::<T>(exec, x, formula, y)),
        Device::Cuda(cuda) => run_cuda(cuda, "gelu_forward", &[x, y.freeze()], formula),
    }
}

/// Replaces dy with the gradient of x. Shapes: x, dy of one count.
pub fn backward(exec: &Exec, x: Tensor, formula: Formula, dy: TensorMut) {
    assert_eq!(x.count(), dy.shape().count());
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(x.dtype(), T => backward_cpu::<T>(exec, x, formula, dy)),
        Device::Cuda(cuda) => {
            let dy = dy.freeze();
            run_cuda(cuda, "gelu_backward", &[dy, x, dy], formula);
        }
    }
}

fn run_cuda(cuda: &Cuda, kernel: &'static str, tensors: &[Tensor], formula: Formula) {
    let dtype = tensors[0].dtype();
    for piece in card::pieces(tensors[0].count()) {
        let parts = tensors.iter().map(|tensor| tensor.window(piece.start, [piece.len()]).into());
        let args: Vec<Arg> = parts.chain([piece.len().into(), formula.arg()]).collect();
        card::launch(cuda, kernel, dtype, card::elements(piece.len(), dtype), &args);
    }
}

fn forward_cpu<T: Float>(exec: &Exec, x: Tensor, formula: Formula, y: TensorMut) {
    let chunk = rows_per_task(1);
    let chunks = host::slice::<T>(x).chunks(chunk).zip(host::slice_mut::<T>(y).chunks_mut(chunk));
    each(exec.pool(), chunks, |(x, y)| forward_chunk(x, formula, y));
}

fn backward_cpu<T: Float>(exec: &Exec, x: Tensor, formula: Formula, dy: TensorMut) {
    let chunk = rows_per_task(1);
    let chunks = host::slice::<T>(x).chunks(chunk).zip(host::slice_mut::<T>(dy).chunks_mut(chunk));
    each(exec.pool(), chunks, |(x, dy)| backward_chunk(x, formula, dy));
}

multiversion! {
    fn forward_chunk<T: Float>(x: &[T], formula: Formula, y: &mut [T]) {
        for (x, y) in x.iter().zip(y) {
            *y = T::down(curve::<T::Acc, FMA>(x.up(), formula).0);
        }
    }

    fn backward_chunk<T: Float>(x: &[T], formula: Formula, dy: &mut [T]) {
        for (x, dy) in x.iter().zip(dy) {
            *dy = T::down(dy.up() * curve::<T::Acc, FMA>(x.up(), formula).1);
        }
    }
}

/// The unit's value and its slope.
#[inline(always)]
pub(super) fn curve<R: Real, const FMA: bool>(x: R, formula: Formula) -> (R, R) {
    let number = R::from_f64;
    let square = x * x;
    let (share, density) = match formula {
        Formula::Exact => {
            let density = (number(-0.5) * square).fast_exp::<FMA>() / number(std::f64::consts::TAU.sqrt());
            (x.normal_share(), density)
        }
        Formula::Tanh => {
            // 0.5 (1 + tanh(u)) is 1 / (1 + exp(-2u)).
            let twice = number(2.0 * std::f64::consts::FRAC_2_PI.sqrt());
            let inner = twice * x * (R::ONE + number(0.044715) * square);
            let share = R::ONE / (R::ONE + (-inner).fast_exp::<FMA>());
            let slope = twice * (R::ONE + number(3.0 * 0.044715) * square);
            (share, share * (R::ONE - share) * slope)
        }
    };
    (x * share, share + x * density)
}
