//! The output head and the loss in one: logits exist a chunk of rows at a time, are turned into their own
//! gradient at once, and that is multiplied back before the next chunk. No buffer of `[N,V]` is ever made.

use super::{
    Exec, Float, Real, Write, card, elementwise,
    lanes::{each, max, replace_and_sum, rows_per_task},
    matmul, with_float,
};
use crate::{
    base::Result,
    device::{
        Device,
        cuda::{Arg, Grid},
        host,
        simd::multiversion,
    },
    tensor::{Tensor, TensorMut},
};

/// A target that counts for nothing: padding, a prompt that is not to be learnt.
pub const IGNORE: u32 = u32::MAX;

/// Logits in a chunk: enough rows for an efficient product, few enough to stay small beside the activations.
const CHUNK_LOGITS: usize = 8 << 20;
/// On a card a chunk must keep every multiprocessor busy.
const CHUNK_LOGITS_CARD: usize = 64 << 20;
/// Also what chunks are a multiple of, so that no tile of a product is mostly empty.
const CHUNK_ROWS_MIN: usize = 128;
/// Threads of the block that a row is given on a card.
const ROW_THREADS: u32 = 1024;

/// Rows of which the logits exist at once.
pub fn chunk_rows(device: &Device, rows: usize, vocabulary: usize) -> usize {
    let chunk = match device {
        Device::Cpu(_) => CHUNK_LOGITS / vocabulary,
        Device::Cuda(_) => CHUNK_LOGITS_CARD / vocabulary / CHUNK_ROWS_MIN * CHUNK_ROWS_MIN,
    };
    chunk.max(CHUNK_ROWS_MIN).min(rows).max(1)
}

/// Where the gradient of the logits goes.
enum Gradient<'a> {
    Nowhere,
    InPlace,
    To(TensorMut<'a>),
}

/// losses\[i\] = -ln softmax(x\[i\] wᵀ)\[targets\[i\]\], zero where the target is [`IGNORE`].
///
/// With `dw`, also the gradients of scale * sum(losses): x is overwritten with its own, w's goes to `dw`.
///
/// Shapes: x `[N,C]`; w, dw `[V,C]`; targets `[N]`; scale `[1]` in f32; losses `[N]` in the accumulator's type.
pub fn head(
    exec: &Exec,
    mut x: TensorMut,
    w: Tensor,
    targets: Tensor,
    scale: Tensor,
    mut losses: TensorMut,
    mut dw: Option<(TensorMut, Write)>,
) -> Result<()> {
    let (n, v, dtype) = (x.rows(), w.rows(), x.dtype());
    assert_eq!((w.row_count(), targets.count(), losses.rows()), (x.row_count(), n, n));
    let rows = chunk_rows(&exec.device, n, v);
    let mut logits = exec.take([rows, v], dtype.accumulator())?;
    // In a short type the gradient needs a place of its own; otherwise it stays where the logits were.
    let mut short = match &dw {
        Some(_) if dtype != dtype.accumulator() => Some(exec.take([rows, v], dtype)?),
        _ => None,
    };
    for first in (0..n).step_by(rows) {
        let range = first..n.min(first + rows);
        let mut logits = logits.view_mut().slice_rows(0..range.len());
        let mut x = x.reborrow().slice_rows(range.clone());
        matmul::forward(exec, x.as_ref(), w, logits.reborrow());
        let losses = losses.reborrow().slice_rows(range.clone());
        let gradient = match (&dw, &mut short) {
            (None, _) => Gradient::Nowhere,
            (Some(_), None) => Gradient::InPlace,
            (Some(_), Some(short)) => Gradient::To(short.view_mut().slice_rows(0..range.len())),
        };
        softmax(exec, logits.reborrow(), targets.slice_rows(range.clone()), scale, losses, gradient);
        let Some((dw, write)) = &mut dw else { continue };
        let dlogits = match &short {
            Some(short) => short.view().slice_rows(0..range.len()),
            None => logits.freeze(),
        };
        matmul::backward_weight(exec, dlogits, x.as_ref(), dw.reborrow(), *write);
        matmul::backward_input(exec, dlogits, w, x.reborrow(), Write::Replace);
        *write = Write::Add;
    }
    Ok(())
}

/// Writes the rows' losses and the gradient of the logits. The logits are then no more.
fn softmax(
    exec: &Exec,
    mut logits: TensorMut,
    targets: Tensor,
    scale: Tensor,
    losses: TensorMut,
    gradient: Gradient,
) {
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => {
            let wanted = !matches!(gradient, Gradient::Nowhere);
            with_float!(logits.dtype(), T => {
                softmax_cpu::<T>(exec, logits.reborrow(), targets, scale, losses, wanted);
            });
            if let Gradient::To(short) = gradient {
                elementwise::cast(exec, logits.as_ref(), short);
            }
        }
        Device::Cuda(cuda) => {
            let (to, dtype) = match &gradient {
                Gradient::Nowhere => (Arg::NULL, logits.dtype()),
                Gradient::InPlace => ((&logits).into(), logits.dtype()),
                Gradient::To(short) => (short.into(), short.dtype()),
            };
            let v = logits.row_count().into();
            let args = [(&logits).into(), to, targets.into(), scale.into(), (&losses).into(), v];
            let grid = Grid::linear(logits.rows(), ROW_THREADS);
            card::launch(cuda, "cross_entropy_softmax", dtype, grid, &args);
        }
    }
}

fn softmax_cpu<T: Float>(
    exec: &Exec,
    logits: TensorMut,
    targets: Tensor,
    scale: Tensor,
    losses: TensorMut,
    gradient: bool,
) {
    let v = logits.row_count();
    let rows = rows_per_task(v);
    let scale = T::Acc::from_f64(f64::from(host::slice::<f32>(scale)[0]));
    let inputs =
        host::slice::<u32>(targets).chunks(rows).zip(host::slice_mut::<T::Acc>(losses).chunks_mut(rows));
    each(
        exec.pool(),
        host::slice_mut::<T::Acc>(logits).chunks_mut(rows * v).zip(inputs),
        |(logits, (targets, losses))| {
            for ((logits, &target), loss) in logits.chunks_exact_mut(v).zip(targets).zip(losses) {
                *loss = softmax_row(logits, target, scale, gradient);
            }
        },
    );
}

multiversion! {
    /// One row's loss; the row becomes scale * (softmax - one at the target).
    fn softmax_row<R: Real>(logits: &mut [R], target: u32, scale: R, gradient: bool) -> R {
        if target == IGNORE {
            if gradient {
                logits.fill(R::ZERO);
            }
            return R::ZERO;
        }
        let target = target as usize;
        let highest = max(logits, R::NEG_INFINITY);
        let at_target = logits[target] - highest;
        let sum = replace_and_sum(logits, |logit| (logit - highest).fast_exp::<FMA>());
        if gradient {
            let factor = scale / sum;
            logits.iter_mut().for_each(|logit| *logit *= factor);
            logits[target] += -scale;
        }
        sum.ln() - at_target
    }
}
