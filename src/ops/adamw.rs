//! AdamW (Loshchilov and Hutter 2019): decoupled weight decay, moments and master weights in the accumulator's
//! type. Numbers that change from step to step are read from memory, so that a captured graph can replay it.

use super::{
    Exec, Float, Real,
    lanes::{each, rows_per_task},
    with_float,
};
use crate::{
    device::{Device, host, simd::multiversion},
    tensor::{Tensor, TensorMut},
};

/// What one step needs beside the buffers; lies in memory as f64 numbers in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Zero for norms and biases.
    pub weight_decay: f64,
    /// What gradients are multiplied with: 1, or less where their global norm is to be clipped.
    pub gradient_scale: f64,
    /// Counts from 1.
    pub step: u64,
}

impl Step {
    /// The numbers as `step` reads them. The bias corrections of both moments are folded into rate and eps;
    /// differences from 1 are taken here, in f64, where they lose nothing.
    pub fn to_array(self) -> [f64; 8] {
        let corrected = |beta: f64| 1.0 - beta.powf(self.step as f64);
        [
            self.learning_rate * corrected(self.beta2).sqrt() / corrected(self.beta1),
            self.beta1,
            1.0 - self.beta1,
            self.beta2,
            1.0 - self.beta2,
            self.eps * corrected(self.beta2).sqrt(),
            1.0 - self.learning_rate * self.weight_decay,
            self.gradient_scale,
        ]
    }
}

/// Updates moments and weights. Where `w` is of a shorter type, `master` is what is updated and `w` its copy.
///
/// Shapes: numbers `[8]` in f64 (see [`Step::to_array`]); all others of one count. m, v, master in the
/// accumulator's type of w and dw.
pub fn step(
    exec: &Exec,
    numbers: Tensor,
    dw: Tensor,
    m: TensorMut,
    v: TensorMut,
    master: Option<TensorMut>,
    w: TensorMut,
) {
    let count = w.shape().count();
    assert_eq!([dw.count(), m.shape().count(), v.shape().count()], [count; 3]);
    assert_eq!(master.is_some(), w.dtype() != w.dtype().accumulator(), "a short type needs a master copy");
    if exec.is_dry() {
        return;
    }
    with_float!(w.dtype(), T => match &exec.device {
        Device::Cuda(_) => unreachable!("no CUDA half yet"),
        Device::Cpu(_) => step_cpu::<T>(exec, numbers, dw, (m, v), master, w),
    });
}

fn step_cpu<T: Float>(
    exec: &Exec,
    numbers: Tensor,
    dw: Tensor,
    (m, v): (TensorMut, TensorMut),
    master: Option<TensorMut>,
    w: TensorMut,
) {
    let update = Update::<T::Acc>::new(host::slice(numbers));
    let chunk = rows_per_task(1);
    let jobs = host::slice::<T>(dw).chunks(chunk).zip(host::slice_mut::<T>(w).chunks_mut(chunk));
    let moments =
        host::slice_mut::<T::Acc>(m).chunks_mut(chunk).zip(host::slice_mut::<T::Acc>(v).chunks_mut(chunk));
    let jobs = jobs.zip(moments);
    match master {
        Some(master) => {
            let masters = host::slice_mut::<T::Acc>(master).chunks_mut(chunk);
            each(exec.pool(), jobs.zip(masters), |(((dw, w), (m, v)), master)| {
                update_copied(&update, dw, m, v, master, w);
            });
        }
        None => each(exec.pool(), jobs, |((dw, w), (m, v))| {
            update_in_place(&update, dw, m, v, w);
        }),
    }
}

multiversion! {
    fn update_copied<T: Float>(
        update: &Update<T::Acc>, dw: &[T], m: &mut [T::Acc], v: &mut [T::Acc], master: &mut [T::Acc], w: &mut [T],
    ) {
        for ((((dw, w), m), v), master) in dw.iter().zip(w).zip(m).zip(v).zip(master) {
            *master = update.apply(dw.up(), m, v, *master);
            *w = T::down(*master);
        }
    }

    fn update_in_place<T: Float>(
        update: &Update<T::Acc>, dw: &[T], m: &mut [T::Acc], v: &mut [T::Acc], w: &mut [T],
    ) {
        for (((dw, w), m), v) in dw.iter().zip(w).zip(m).zip(v) {
            *w = T::down(update.apply(dw.up(), m, v, w.up()));
        }
    }
}

/// The numbers of a step in the type that is computed in.
#[derive(Clone, Copy)]
struct Update<R> {
    rate: R,
    beta1: R,
    fresh1: R,
    beta2: R,
    fresh2: R,
    eps: R,
    kept: R,
    scale: R,
}

impl<R: Real> Update<R> {
    fn new(numbers: &[f64]) -> Self {
        let [rate, beta1, fresh1, beta2, fresh2, eps, kept, scale] =
            std::array::from_fn(|i| R::from_f64(numbers[i]));
        Self { rate, beta1, fresh1, beta2, fresh2, eps, kept, scale }
    }

    #[inline(always)]
    fn apply(&self, gradient: R, m: &mut R, v: &mut R, w: R) -> R {
        let gradient = gradient * self.scale;
        *m = self.beta1 * *m + self.fresh1 * gradient;
        *v = self.beta2 * *v + self.fresh2 * gradient * gradient;
        w * self.kept - self.rate * *m / (v.sqrt() + self.eps)
    }
}
