//! AdamW (Loshchilov and Hutter 2019) over all parameters at once: decoupled weight decay, moments and master weights
//! in the accumulator's type. Numbers that change from step to step are read from memory, and the norm that
//! gradients are clipped by never leaves the device, so that a captured graph can replay a step.

use std::ops::Range;

use super::{Exec, Float, Real, card, lanes::each, with_float};
use crate::{
    device::{
        Cuda, Device,
        cuda::{Arg, Grid},
        host,
        simd::multiversion,
    },
    tensor::{DType, Tensor, TensorMut},
};

/// How many numbers a step reads.
pub const NUMBERS: usize = 10;
/// Which of them gradients are multiplied with, what their norm is clipped to, and their norm as [`clip`] found it.
const SCALE: usize = 7;
const CLIP: usize = 8;
pub const NORM: usize = 9;

/// Elements that decay together: a bit of the table.
pub const DECAY_BLOCK: usize = 32;
/// Elements that one word of the table is about.
const DECAY_WORD: usize = 32 * DECAY_BLOCK;

/// Elements of a task on the CPU.
const CHUNK: usize = 16 * DECAY_WORD;

/// What one step needs beside the buffers; lies in memory as f64 numbers in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Of the elements that decay.
    pub weight_decay: f64,
    /// The largest global norm that gradients keep; 0 is no limit.
    pub clip: f64,
    /// Counts from 1.
    pub step: u64,
}

impl Step {
    /// The numbers as [`clip`] and [`step`] read them. The bias corrections of both moments are folded into rate and
    /// eps; differences from 1 are taken here, in f64, where they lose nothing.
    pub fn to_array(self) -> [f64; NUMBERS] {
        let corrected = |beta: f64| 1.0 - beta.powf(self.step as f64);
        [
            self.learning_rate * corrected(self.beta2).sqrt() / corrected(self.beta1),
            self.beta1,
            1.0 - self.beta1,
            self.beta2,
            1.0 - self.beta2,
            self.eps * corrected(self.beta2).sqrt(),
            1.0 - self.learning_rate * self.weight_decay,
            1.0,
            self.clip,
            0.0,
        ]
    }
}

/// The table that says which elements decay: a bit for each [`DECAY_BLOCK`] elements, lowest first.
pub fn decay_table(count: usize, decaying: impl Iterator<Item = Range<usize>>) -> Vec<u32> {
    let mut table = vec![0u32; count.div_ceil(DECAY_WORD)];
    for range in decaying {
        for block in range.start / DECAY_BLOCK..range.end.div_ceil(DECAY_BLOCK) {
            table[block / 32] |= 1 << (block % 32);
        }
    }
    table
}

/// Puts the gradients' norm and what they are to be multiplied with into the numbers. Where the norm is not finite
/// that is not a number, and [`step`] changes nothing.
///
/// Shapes: squares `[1]` in f64, the sum of the squares of all gradients; numbers [`NUMBERS`] in f64.
pub fn clip(exec: &Exec, squares: Tensor, numbers: TensorMut) {
    assert_eq!((squares.count(), numbers.shape().count()), (1, NUMBERS));
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => {
            let norm = host::slice::<f64>(squares)[0].sqrt();
            let numbers = host::slice_mut::<f64>(numbers);
            numbers[NORM] = norm;
            numbers[SCALE] = match numbers[CLIP] {
                _ if !norm.is_finite() => f64::NAN,
                limit if limit > 0.0 && norm > limit => limit / norm,
                _ => 1.0,
            };
        }
        Device::Cuda(cuda) => {
            let args = [squares.into(), (&numbers).into()];
            card::launch(cuda, "adamw_clip", DType::F32, Grid::linear(1, 1), &args);
        }
    }
}

/// Updates moments and weights. Where `w` is of a shorter type, `master` is what is updated and `w` its copy.
///
/// Shapes: numbers [`NUMBERS`] in f64 (see [`Step::to_array`]); decays as [`decay_table`] makes it, or None where
/// nothing decays; all others of one count. m, v, master in the accumulator's type of w and dw.
pub fn step(
    exec: &Exec,
    numbers: Tensor,
    decays: Option<Tensor>,
    dw: Tensor,
    m: TensorMut,
    v: TensorMut,
    master: Option<TensorMut>,
    w: TensorMut,
) {
    let count = w.shape().count();
    assert_eq!([dw.count(), m.shape().count(), v.shape().count()], [count; 3]);
    assert!(decays.is_none_or(|decays| decays.count() == count.div_ceil(DECAY_WORD)));
    assert_eq!(master.is_some(), w.dtype() != w.dtype().accumulator(), "a short type needs a master copy");
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => {
            with_float!(w.dtype(), T => step_cpu::<T>(exec, numbers, decays, dw, (m, v), master, w));
        }
        Device::Cuda(cuda) => {
            // Without a copy the weights are what is updated.
            let w = w.freeze();
            let (master, copy) = match &master {
                Some(master) => (master.as_ref(), Some(w)),
                None => (w, None),
            };
            step_cuda(cuda, numbers, decays, [dw, m.as_ref(), v.as_ref(), master], copy);
        }
    }
}

fn step_cuda(
    cuda: &Cuda,
    numbers: Tensor,
    decays: Option<Tensor>,
    [dw, m, v, master]: [Tensor; 4],
    copy: Option<Tensor>,
) {
    for piece in card::pieces(dw.count()) {
        let part = |tensor: Tensor| Arg::from(tensor.window(piece.start, [piece.len()]));
        let words = piece.start / DECAY_WORD..piece.end.div_ceil(DECAY_WORD);
        let args = [
            numbers.into(),
            decays.map_or(Arg::NULL, |decays| decays.slice_rows(words).into()),
            part(dw),
            part(m),
            part(v),
            part(master),
            copy.map_or(Arg::NULL, part),
            piece.len().into(),
        ];
        card::launch(cuda, "adamw_step", dw.dtype(), card::elements(piece.len(), dw.dtype()), &args);
    }
}

fn step_cpu<T: Float>(
    exec: &Exec,
    numbers: Tensor,
    decays: Option<Tensor>,
    dw: Tensor,
    (m, v): (TensorMut, TensorMut),
    master: Option<TensorMut>,
    w: TensorMut,
) {
    let numbers = host::slice::<f64>(numbers);
    if !numbers[SCALE].is_finite() {
        return;
    }
    let update = Update::<T::Acc>::new(numbers);
    let words = decays.map(host::slice::<u32>);
    let jobs = host::slice::<T>(dw).chunks(CHUNK).zip(host::slice_mut::<T>(w).chunks_mut(CHUNK));
    let moments =
        host::slice_mut::<T::Acc>(m).chunks_mut(CHUNK).zip(host::slice_mut::<T::Acc>(v).chunks_mut(CHUNK));
    let jobs = jobs.zip(moments).enumerate();
    let runs = |chunk: usize, len: usize| decay_runs(words, chunk * CHUNK, len);
    match master {
        Some(master) => {
            let masters = host::slice_mut::<T::Acc>(master).chunks_mut(CHUNK);
            each(exec.pool(), jobs.zip(masters), |((chunk, ((dw, w), (m, v))), master)| {
                for (run, decays) in runs(chunk, dw.len()) {
                    let update = update.decaying(decays);
                    let (m, v, master) = (&mut m[run.clone()], &mut v[run.clone()], &mut master[run.clone()]);
                    update_copied(&update, &dw[run.clone()], m, v, master, &mut w[run]);
                }
            });
        }
        None => each(exec.pool(), jobs, |(chunk, ((dw, w), (m, v)))| {
            for (run, decays) in runs(chunk, dw.len()) {
                let update = update.decaying(decays);
                let (m, v) = (&mut m[run.clone()], &mut v[run.clone()]);
                update_in_place(&update, &dw[run.clone()], m, v, &mut w[run]);
            }
        }),
    }
}

/// The `len` elements from `start` on as runs that decay or do not.
fn decay_runs(words: Option<&[u32]>, start: usize, len: usize) -> Vec<(Range<usize>, bool)> {
    let decays = |place: usize| {
        words.is_some_and(|words| {
            let block = (start + place) / DECAY_BLOCK;
            words[block / 32] >> (block % 32) & 1 == 1
        })
    };
    let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
    for place in (0..len).step_by(DECAY_BLOCK) {
        let end = len.min(place + DECAY_BLOCK);
        match runs.last_mut() {
            Some((run, decaying)) if *decaying == decays(place) => run.end = end,
            _ => runs.push((place..end, decays(place))),
        }
    }
    runs
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

    fn decaying(self, decays: bool) -> Self {
        if decays { self } else { Self { kept: R::ONE, ..self } }
    }

    #[inline(always)]
    fn apply(&self, gradient: R, m: &mut R, v: &mut R, w: R) -> R {
        let gradient = gradient * self.scale;
        *m = self.beta1 * *m + self.fresh1 * gradient;
        *v = self.beta2 * *v + self.fresh2 * gradient * gradient;
        w * self.kept - self.rate * *m / (v.sqrt() + self.eps)
    }
}
