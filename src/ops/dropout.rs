//! Dropout (Srivastava et al. 2014): each element becomes 0 with probability `rate`, the others are divided by 1 - rate.
//! Which ones is a function of a random stream and of the element's place, the same on every device, so nothing is kept
//! for backward: it is the same operation on the gradient.

use super::{
    Exec, Float, Real, card,
    lanes::{each_numbered, rows_per_task},
    with_float,
};
use crate::{
    base::{Philox, rng::unit},
    device::{Device, host},
    tensor::{Tensor, TensorMut},
};

/// Words of a block of the generator: elements that share one.
const BLOCK: usize = 4;

/// What [`apply`] reads: the halves of seed and stream, lower ones first.
pub fn stream(seed: u64, stream: u64) -> [u32; 4] {
    [seed as u32, (seed >> 32) as u32, stream as u32, (stream >> 32) as u32]
}

/// Shapes: x of any, in place; rng `[4]`, see [`stream`].
///
/// # Panics
/// If the rate is not from 0 to below 1.
pub fn apply(exec: &Exec, x: TensorMut, rate: f32, rng: Tensor) {
    assert!((0.0..1.0).contains(&rate) && rng.count() == 4, "a rate of {rate}");
    if exec.is_dry() {
        return;
    }
    let factor = 1.0 / (1.0 - f64::from(rate));
    match &exec.device {
        Device::Cpu(_) => with_float!(x.dtype(), T => apply_cpu::<T>(exec, x, rate, factor, rng)),
        Device::Cuda(cuda) => {
            let count = x.shape().count();
            let args = [(&x).into(), rng.into(), count.into(), rate.into(), (factor as f32).into()];
            card::launch(cuda, "dropout_apply", x.dtype(), card::threads(count.div_ceil(BLOCK)), &args);
        }
    }
}

fn apply_cpu<T: Float>(exec: &Exec, x: TensorMut, rate: f32, factor: f64, rng: Tensor) {
    let words = host::slice::<u32>(rng);
    let whole = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let rng = Philox::new(whole(words[0], words[1]), whole(words[2], words[3]));
    let factor = T::Acc::from_f64(factor);
    let chunk = rows_per_task(1);
    each_numbered(exec.pool(), host::slice_mut::<T>(x).chunks_mut(chunk), |index, x| {
        for (block, x) in x.chunks_mut(BLOCK).enumerate() {
            let words = rng.at((index * chunk / BLOCK + block) as u64);
            for (x, word) in x.iter_mut().zip(words) {
                *x = T::down(if unit(word) < rate { T::Acc::ZERO } else { x.up() * factor });
            }
        }
    });
}
