//! Layer norm with scale and bias (Ba, Kiros and Hinton 2016), fused with the residual addition before it:
//! x = sum + branch, y = (x - mean(x)) / sqrt(variance(x) + eps) * w + b.

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

/// What backward needs of each row beside x. Shapes: `[N]` in the accumulator's type.
#[derive(Clone, Copy, Debug)]
pub struct Moments<'a> {
    pub mean: Tensor<'a>,
    pub rstd: Tensor<'a>,
}

/// `branch`, when there is one, is added to `sum` and overwritten with the result, which `backward` needs as `x`.
///
/// Shapes: sum, branch, y `[N,C]`; w, b `[C]`; mean, rstd `[N]` in the accumulator's type.
pub fn forward(
    exec: &Exec,
    sum: Tensor,
    branch: Option<TensorMut>,
    (w, b): (Tensor, Tensor),
    eps: f64,
    y: TensorMut,
    (mean, rstd): (TensorMut, TensorMut),
) {
    assert_eq!((y.shape(), w.count(), b.count()), (sum.shape(), sum.row_count(), sum.row_count()));
    assert_eq!((mean.rows(), rstd.rows()), (sum.rows(), sum.rows()));
    assert!(branch.as_ref().is_none_or(|branch| branch.shape() == sum.shape()));
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => {
            with_float!(sum.dtype(), T => forward_cpu::<T>(exec, sum, branch, (w, b), eps, y, (mean, rstd)));
        }
        Device::Cuda(cuda) => {
            let (c, dtype) = (sum.row_count(), sum.dtype());
            let args = [
                sum.into(),
                branch.as_ref().map_or(Arg::NULL, Arg::from),
                w.into(),
                b.into(),
                (&y).into(),
                (&mean).into(),
                (&rstd).into(),
                c.into(),
                (eps as f32).into(),
            ];
            let grid = card::rows(sum.rows(), c, dtype).with_shared_bytes(c * dtype.size_bytes());
            card::launch(cuda, "layernorm_forward", dtype, grid, &args);
        }
    }
}

/// Adds to (or replaces) `dx`, the gradient of x from downstream, the gradient through the norm, and `dw` and `db`.
///
/// Shapes: dy, x, dx `[N,C]`; w, dw, db `[C]`.
pub fn backward(
    exec: &Exec,
    dy: Tensor,
    x: Tensor,
    moments: Moments,
    w: Tensor,
    (dx, dx_write): (TensorMut, Write),
    (dw, db, write): (TensorMut, TensorMut, Write),
) -> Result<()> {
    let c = x.row_count();
    assert_eq!((dy.shape(), dx.shape()), (x.shape(), x.shape()));
    assert_eq!([w.count(), dw.shape().count(), db.shape().count()], [c; 3]);
    assert_eq!((moments.mean.rows(), moments.rstd.rows()), (x.rows(), x.rows()));
    let rows_each = match &exec.device {
        Device::Cpu(_) => rows_per_task(c),
        Device::Cuda(_) => card::rows_per_partial(x.rows()),
    };
    // Of dw, then of db.
    let tasks = x.rows().div_ceil(rows_each);
    let mut partials = exec.take([2 * tasks, c], x.dtype().accumulator())?;
    if exec.is_dry() {
        return Ok(());
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(x.dtype(), T => {
            backward_cpu::<T>(exec, dy, x, moments, w, (dx, dx_write), partials.view_mut());
        }),
        Device::Cuda(cuda) => {
            backward_cuda(cuda, dy, x, moments, w, (dx, dx_write), (partials.view_mut(), rows_each));
        }
    }
    reduce::columns(exec, partials.view().slice_rows(0..tasks), dw, write);
    reduce::columns(exec, partials.view().slice_rows(tasks..2 * tasks), db, write);
    Ok(())
}

fn backward_cuda(
    cuda: &Cuda,
    dy: Tensor,
    x: Tensor,
    moments: Moments,
    w: Tensor,
    (dx, dx_write): (TensorMut, Write),
    (partials, rows_each): (TensorMut, usize),
) {
    let (c, dtype, tasks) = (x.row_count(), x.dtype(), partials.rows() / 2);
    let args = [
        dy.into(),
        x.into(),
        moments.mean.into(),
        moments.rstd.into(),
        w.into(),
        (&dx).into(),
        (&partials).into(),
        x.rows().into(),
        c.into(),
        rows_each.into(),
        card::adds(dx_write),
    ];
    // Rows of dw and db in f32, and one of dy and of x.
    let grid = card::rows(tasks, c, dtype).with_shared_bytes(c * (8 + 2 * dtype.size_bytes()));
    card::launch(cuda, "layernorm_backward", dtype, grid, &args);
}

fn forward_cpu<T: Float>(
    exec: &Exec,
    sum: Tensor,
    branch: Option<TensorMut>,
    (w, b): (Tensor, Tensor),
    eps: f64,
    y: TensorMut,
    (mean, rstd): (TensorMut, TensorMut),
) {
    let c = sum.row_count();
    let rows = rows_per_task(c);
    let eps = T::Acc::from_f64(eps);
    let (w, b) = (host::slice::<T>(w), host::slice::<T>(b));
    let moments = host::slice_mut::<T::Acc>(mean)
        .chunks_mut(rows)
        .zip(host::slice_mut::<T::Acc>(rstd).chunks_mut(rows));
    let outputs = host::slice_mut::<T>(y).chunks_mut(rows * c).zip(moments);
    let sums = host::slice::<T>(sum).chunks(rows * c);
    match branch {
        Some(branch) => {
            let branches = host::slice_mut::<T>(branch).chunks_mut(rows * c);
            each(exec.pool(), sums.zip(branches).zip(outputs), |((sum, x), (y, (mean, rstd)))| {
                for (x, sum) in x.iter_mut().zip(sum) {
                    *x = T::down(sum.up() + x.up());
                }
                normalise(x, w, b, eps, y, mean, rstd);
            });
        }
        None => each(exec.pool(), sums.zip(outputs), |(x, (y, (mean, rstd)))| {
            normalise(x, w, b, eps, y, mean, rstd);
        }),
    }
}

multiversion! {
    fn normalise<T: Float>(
        x: &[T], w: &[T], b: &[T], eps: T::Acc, y: &mut [T], mean: &mut [T::Acc], rstd: &mut [T::Acc],
    ) {
        let c = w.len();
        let count = T::Acc::from_f64(c as f64);
        for (((x, y), mean), rstd) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)).zip(mean).zip(rstd) {
            let mu = sum2(x, x, |x, _| x) / count;
            // Of the differences from the mean, so that a large mean costs no digits.
            let variance = sum2(x, x, |x, _| (x - mu) * (x - mu)) / count;
            (*mean, *rstd) = (mu, T::Acc::ONE / (variance + eps).sqrt());
            for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
                *y = T::down((x.up() - mu) * *rstd * w.up() + b.up());
            }
        }
    }

    fn backward_rows<T: Float>(
        dy: &[T], x: &[T], mean: &[T::Acc], rstd: &[T::Acc], w: &[T], dx: &mut [T], dx_write: Write,
        dw: &mut [T::Acc], db: &mut [T::Acc],
    ) {
        let c = w.len();
        let rows = dy.chunks_exact(c).zip(x.chunks_exact(c)).zip(mean.iter().zip(rstd));
        for (((dy, x), (&mean, &rstd)), dx) in rows.zip(dx.chunks_exact_mut(c)) {
            backward_row::<T>(dy, x, (mean, rstd), w, (dx, dx_write), dw, db);
        }
    }
}

/// With g = dy*w and n = (x-mean)*rstd: dx = rstd*(g - mean(g) - n*mean(g*n)), dw = sum of dy*n, db = sum of dy.
#[inline(always)]
fn backward_row<T: Float>(
    dy: &[T],
    x: &[T],
    (mean, rstd): (T::Acc, T::Acc),
    w: &[T],
    (dx, dx_write): (&mut [T], Write),
    dw: &mut [T::Acc],
    db: &mut [T::Acc],
) {
    let count = T::Acc::from_f64(w.len() as f64);
    let mean_g = sum2(dy, w, |dy, w| dy * w) / count;
    let mean_gn = sum3(dy, w, x, |dy, w, x| dy * w * ((x - mean) * rstd)) / count;
    for (((dy, x), dw), db) in dy.iter().zip(x).zip(dw).zip(db) {
        *dw += dy.up() * ((x.up() - mean) * rstd);
        *db += dy.up();
    }
    for (((dy, x), w), dx) in dy.iter().zip(x).zip(w).zip(dx) {
        let through = rstd * (dy.up() * w.up() - mean_g - (x.up() - mean) * rstd * mean_gn);
        *dx = T::down(if dx_write == Write::Add { dx.up() + through } else { through });
    }
}

fn backward_cpu<T: Float>(
    exec: &Exec,
    dy: Tensor,
    x: Tensor,
    moments: Moments,
    w: Tensor,
    (dx, dx_write): (TensorMut, Write),
    partials: TensorMut,
) {
    let c = x.row_count();
    let rows = rows_per_task(c);
    let w = host::slice::<T>(w);
    let partials = host::slice_mut::<T::Acc>(partials);
    let (for_dw, for_db) = partials.split_at_mut(partials.len() / 2);
    let means = host::slice::<T::Acc>(moments.mean).chunks(rows);
    let rstds = host::slice::<T::Acc>(moments.rstd).chunks(rows);
    let inputs = host::slice::<T>(dy).chunks(rows * c).zip(host::slice::<T>(x).chunks(rows * c));
    let sums = for_dw.chunks_exact_mut(c).zip(for_db.chunks_exact_mut(c));
    let outputs = host::slice_mut::<T>(dx).chunks_mut(rows * c).zip(sums);
    each(
        exec.pool(),
        inputs.zip(means.zip(rstds)).zip(outputs),
        |(((dy, x), (mean, rstd)), (dx, (dw, db)))| {
            dw.fill(T::Acc::ZERO);
            db.fill(T::Acc::ZERO);
            backward_rows::<T>(dy, x, mean, rstd, w, dx, dx_write, dw, db);
        },
    );
}
