//! Root-mean-square norm, fused with the residual addition before it (Zhang and Sennrich 2019):
//! x = sum + branch, y = x / sqrt(mean(x^2) + eps) * w. One pass over the row forward, one backward.

use super::{
    Exec, Float, Real, Write, card,
    lanes::{each, rows_per_task, sum2, sum3},
    reduce, with_float,
};
use crate::{
    base::Result,
    device::{Cuda, Device, cuda::Arg, host, simd::multiversion},
    tensor::{Tensor, TensorMut},
};

/// `branch`, when there is one, is added to `sum` and overwritten with the result, which `backward` needs as `x`.
///
/// Shapes: sum, branch, y `[N,C]`; w `[C]`; rstd `[N]` in the accumulator's type.
pub fn forward(
    exec: &Exec,
    sum: Tensor,
    branch: Option<TensorMut>,
    w: Tensor,
    eps: f64,
    y: TensorMut,
    rstd: TensorMut,
) {
    assert_eq!((y.shape(), w.count(), rstd.rows()), (sum.shape(), sum.row_count(), sum.rows()));
    assert!(branch.as_ref().is_none_or(|branch| branch.shape() == sum.shape()));
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => {
            with_float!(sum.dtype(), T => forward_cpu::<T>(exec, sum, branch, w, eps, y, rstd));
        }
        Device::Cuda(cuda) => {
            let c = sum.row_count();
            let branch = branch.as_ref().map_or(Arg::NULL, Arg::from);
            let args =
                [sum.into(), branch, w.into(), (&y).into(), (&rstd).into(), c.into(), (eps as f32).into()];
            let grid = card::rows(sum.rows(), c, sum.dtype()).with_shared_bytes(c * sum.dtype().size_bytes());
            card::launch(cuda, "rmsnorm_forward", sum.dtype(), grid, &args);
        }
    }
}

/// Adds to (or replaces) `dx`, the gradient of x from downstream, the gradient through the norm, and `dw`.
///
/// Shapes: dy, x, dx `[N,C]`; w, dw `[C]`; rstd `[N]`.
pub fn backward(
    exec: &Exec,
    dy: Tensor,
    x: Tensor,
    rstd: Tensor,
    w: Tensor,
    (dx, dx_write): (TensorMut, Write),
    (dw, dw_write): (TensorMut, Write),
) -> Result<()> {
    assert_eq!((dy.shape(), dx.shape()), (x.shape(), x.shape()));
    assert_eq!((w.count(), dw.shape().count(), rstd.rows()), (x.row_count(), x.row_count(), x.rows()));
    let rows_each = match &exec.device {
        Device::Cpu(_) => rows_per_task(x.row_count()),
        Device::Cuda(_) => card::rows_per_partial(x.rows()),
    };
    let tasks = x.rows().div_ceil(rows_each);
    let mut partials = exec.take([tasks, x.row_count()], x.dtype().accumulator())?;
    if exec.is_dry() {
        return Ok(());
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(x.dtype(), T => {
            backward_cpu::<T>(exec, dy, x, rstd, w, (dx, dx_write), partials.view_mut());
        }),
        Device::Cuda(cuda) => {
            backward_cuda(cuda, dy, x, rstd, w, (dx, dx_write), (partials.view_mut(), rows_each));
        }
    }
    reduce::columns(exec, partials.view(), dw, dw_write);
    Ok(())
}

/// Blocks of rows leave partial sums of dw.
fn backward_cuda(
    cuda: &Cuda,
    dy: Tensor,
    x: Tensor,
    rstd: Tensor,
    w: Tensor,
    (dx, dx_write): (TensorMut, Write),
    (partials, rows_each): (TensorMut, usize),
) {
    let (c, dtype) = (x.row_count(), x.dtype());
    let args = [
        dy.into(),
        x.into(),
        rstd.into(),
        w.into(),
        (&dx).into(),
        (&partials).into(),
        x.rows().into(),
        c.into(),
        rows_each.into(),
        card::adds(dx_write),
    ];
    // A row of dw in f32, and one of dy and of x.
    let shared_bytes = c * (4 + 2 * dtype.size_bytes());
    let grid = card::rows(partials.rows(), c, dtype).with_shared_bytes(shared_bytes);
    card::launch(cuda, "rmsnorm_backward", dtype, grid, &args);
}

fn forward_cpu<T: Float>(
    exec: &Exec,
    sum: Tensor,
    branch: Option<TensorMut>,
    w: Tensor,
    eps: f64,
    y: TensorMut,
    rstd: TensorMut,
) {
    let c = sum.row_count();
    let rows = rows_per_task(c);
    let eps = T::Acc::from_f64(eps);
    let w = host::slice::<T>(w);
    let sums = host::slice::<T>(sum).chunks(rows * c);
    let outputs =
        host::slice_mut::<T>(y).chunks_mut(rows * c).zip(host::slice_mut::<T::Acc>(rstd).chunks_mut(rows));
    match branch {
        Some(branch) => {
            let branches = host::slice_mut::<T>(branch).chunks_mut(rows * c);
            each(exec.pool(), sums.zip(branches).zip(outputs), |((sum, branch), (y, rstd))| {
                add_and_normalise(sum, branch, w, eps, y, rstd);
            });
        }
        None => each(exec.pool(), sums.zip(outputs), |(x, (y, rstd))| normalise(x, w, eps, y, rstd)),
    }
}

multiversion! {
    fn add_and_normalise<T: Float>(
        sum: &[T], x: &mut [T], w: &[T], eps: T::Acc, y: &mut [T], rstd: &mut [T::Acc],
    ) {
        let c = w.len();
        let rows = x.chunks_exact_mut(c).zip(sum.chunks_exact(c)).zip(y.chunks_exact_mut(c)).zip(rstd);
        for (((x, sum), y), rstd) in rows {
            for (x, sum) in x.iter_mut().zip(sum) {
                *x = T::down(sum.up() + x.up());
            }
            *rstd = normalise_row(x, w, eps, y);
        }
    }

    fn normalise<T: Float>(x: &[T], w: &[T], eps: T::Acc, y: &mut [T], rstd: &mut [T::Acc]) {
        let c = w.len();
        for ((x, y), rstd) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)).zip(rstd) {
            *rstd = normalise_row(x, w, eps, y);
        }
    }

    fn backward_rows<T: Float>(
        dy: &[T], x: &[T], rstd: &[T::Acc], w: &[T], dx: &mut [T], dx_write: Write, dw: &mut [T::Acc],
    ) {
        let c = w.len();
        let rows = dy.chunks_exact(c).zip(x.chunks_exact(c)).zip(rstd).zip(dx.chunks_exact_mut(c));
        for (((dy, x), rstd), dx) in rows {
            backward_row::<T>(dy, x, *rstd, w, (dx, dx_write), dw);
        }
    }
}

/// Returns 1 / root mean square of the row.
#[inline(always)]
fn normalise_row<T: Float>(x: &[T], w: &[T], eps: T::Acc, y: &mut [T]) -> T::Acc {
    let mean_square = sum2(x, x, |a, b| a * b) / T::Acc::from_f64(w.len() as f64);
    let rstd = T::Acc::ONE / (mean_square + eps).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
        *y = T::down(x.up() * rstd * w.up());
    }
    rstd
}

fn backward_cpu<T: Float>(
    exec: &Exec,
    dy: Tensor,
    x: Tensor,
    rstd: Tensor,
    w: Tensor,
    (dx, dx_write): (TensorMut, Write),
    partials: TensorMut,
) {
    let c = x.row_count();
    let rows = rows_per_task(c);
    let w = host::slice::<T>(w);
    let partials = host::slice_mut::<T::Acc>(partials);
    let inputs = host::slice::<T>(dy).chunks(rows * c).zip(host::slice::<T>(x).chunks(rows * c));
    let inputs = inputs.zip(host::slice::<T::Acc>(rstd).chunks(rows));
    let outputs = host::slice_mut::<T>(dx).chunks_mut(rows * c).zip(partials.chunks_exact_mut(c));
    each(exec.pool(), inputs.zip(outputs), |(((dy, x), rstd), (dx, dw))| {
        dw.fill(T::Acc::ZERO);
        backward_rows::<T>(dy, x, rstd, w, dx, dx_write, dw);
    });
}

/// With g = dy*w and n = x*rstd: dx = rstd*(g - n*mean(g*n)), dw = sum over rows of dy*n.
#[inline(always)]
fn backward_row<T: Float>(
    dy: &[T],
    x: &[T],
    rstd: T::Acc,
    w: &[T],
    (dx, dx_write): (&mut [T], Write),
    dw: &mut [T::Acc],
) {
    let product = sum3(dy, w, x, |dy, w, x| dy * w * (x * rstd));
    // The row is in the first-level cache for the other loops.
    for ((dy, x), dw) in dy.iter().zip(x).zip(dw.iter_mut()) {
        *dw += dy.up() * (x.up() * rstd);
    }
    let mean = product / T::Acc::from_f64(w.len() as f64);
    for (((dy, x), w), dx) in dy.iter().zip(x).zip(w).zip(dx) {
        let through = rstd * (dy.up() * w.up() - x.up() * rstd * mean);
        *dx = T::down(if dx_write == Write::Add { dx.up() + through } else { through });
    }
}
