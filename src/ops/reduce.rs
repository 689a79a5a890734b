//! Sums over whole buffers: the gradient's norm, the loss of a batch. Sums of rows: the gradient of a bias.

use super::{
    Exec, Float, Real, Write, card,
    lanes::{dot, each, each_numbered, rows_per_task},
    with_float,
};
use crate::{
    base::Result,
    device::{Cuda, Device, cuda::Grid, host, simd::multiversion},
    tensor::{DType, Tensor, TensorMut},
};

/// Elements per partial sum. Partial sums are added in order, in f64.
const CHUNK: usize = 64 * 1024;
/// Threads of the block that adds up the partial sums on a card, and of the blocks that make them.
const THREADS: u32 = 256;
/// Columns that a block sums at once on a card, by as many warps.
const COLUMNS: usize = 32;

/// What is summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Term {
    Element,
    Square,
}

/// The sum of the squares of all elements. Zero in a dry run.
pub fn sum_of_squares(exec: &Exec, x: Tensor) -> Result<f64> {
    read(exec, x, Term::Square)
}

/// The sum of all elements. Zero in a dry run.
pub fn sum(exec: &Exec, x: Tensor) -> Result<f64> {
    read(exec, x, Term::Element)
}

/// [`sum_of_squares`] left where the device computes: nothing waits for it. Shapes: out `[1]` in f64.
pub fn sum_of_squares_into(exec: &Exec, x: Tensor, out: TensorMut) -> Result<()> {
    total_into(exec, x, Term::Square, out)
}

/// [`sum`] left where the device computes: nothing waits for it. Shapes: out `[1]` in f64.
pub fn sum_into(exec: &Exec, x: Tensor, out: TensorMut) -> Result<()> {
    total_into(exec, x, Term::Element, out)
}

fn read(exec: &Exec, x: Tensor, term: Term) -> Result<f64> {
    let mut out = exec.take([1], DType::F64)?;
    total_into(exec, x, term, out.view_mut())?;
    Ok(exec.read::<f64>(&out)?[0])
}

fn total_into(exec: &Exec, x: Tensor, term: Term, out: TensorMut) -> Result<()> {
    let mut partials = exec.take([x.count().div_ceil(CHUNK)], DType::F64)?;
    if exec.is_dry() {
        return Ok(());
    }
    match &exec.device {
        Device::Cpu(_) => {
            let partials = host::slice_mut::<f64>(partials.view_mut());
            with_float!(x.dtype(), T => match term {
                Term::Element => sum_cpu(exec, host::slice::<T>(x), partials, |chunk| {
                    chunk.iter().map(|element| element.up().to_f64()).sum()
                }),
                Term::Square => {
                    sum_cpu(exec, host::slice::<T>(x), partials, |chunk| dot(chunk, chunk).to_f64());
                }
            });
            host::slice_mut::<f64>(out)[0] = partials.iter().sum();
        }
        Device::Cuda(cuda) => sum_cuda(cuda, x, term, partials.view_mut(), out),
    }
    Ok(())
}

fn sum_cpu<T: Float>(exec: &Exec, x: &[T], partials: &mut [f64], partial: impl Fn(&[T]) -> f64 + Sync) {
    each(exec.pool(), x.chunks(CHUNK).zip(partials), |(chunk, sum)| *sum = partial(chunk));
}

fn sum_cuda(cuda: &Cuda, x: Tensor, term: Term, mut partials: TensorMut, out: TensorMut) {
    let kernel = if term == Term::Element { "reduce_sum" } else { "reduce_squares" };
    for piece in card::pieces(x.count()) {
        let chunks = piece.len().div_ceil(CHUNK);
        let sums = partials.reborrow().slice_rows(piece.start / CHUNK..piece.start / CHUNK + chunks);
        let args = [x.window(piece.start, [piece.len()]).into(), (&sums).into(), piece.len().into()];
        card::launch(cuda, kernel, x.dtype(), Grid::linear(chunks, THREADS), &args);
    }
    let args = [(&partials).into(), (&out).into(), partials.rows().into()];
    card::launch(cuda, "reduce_finish", DType::F32, Grid::linear(1, THREADS), &args);
}

/// out = the sum of x's rows, or out += it, added up in an order that the shape alone decides.
///
/// Shapes: x `[N,C]`; out `[C]`.
pub fn rows(exec: &Exec, x: Tensor, out: TensorMut, write: Write) -> Result<()> {
    let c = x.row_count();
    assert_eq!((out.shape().count(), out.dtype()), (c, x.dtype()));
    let rows_each = match &exec.device {
        Device::Cpu(_) => rows_per_task(c),
        Device::Cuda(_) => card::rows_per_partial(x.rows()),
    };
    let mut partials = exec.take([x.rows().div_ceil(rows_each), c], x.dtype().accumulator())?;
    if exec.is_dry() {
        return Ok(());
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(x.dtype(), T => {
            let rows = host::slice::<T>(x).chunks(rows_each * c);
            let sums = host::slice_mut::<<T as Float>::Acc>(partials.view_mut()).chunks_exact_mut(c);
            each(exec.pool(), rows.zip(sums), |(rows, sums)| sum_rows(rows, sums));
        }),
        Device::Cuda(cuda) => {
            let grid = card::rows(partials.view().rows(), c, x.dtype());
            let sums = (&partials.view_mut()).into();
            let args = [x.into(), sums, x.rows().into(), c.into(), rows_each.into()];
            card::launch(cuda, "reduce_rows", x.dtype(), grid, &args);
        }
    }
    columns(exec, partials.view(), out, write);
    Ok(())
}

multiversion! {
    fn sum_rows<T: Float>(rows: &[T], sums: &mut [T::Acc]) {
        sums.fill(T::Acc::ZERO);
        for row in rows.chunks_exact(sums.len()) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += x.up();
            }
        }
    }
}

/// Adds up the partial sums that rows left, in an order that their number alone decides.
///
/// Shapes: partials `[P,C]` in the accumulator's type of out; out `[C]`.
pub(super) fn columns(exec: &Exec, partials: Tensor, out: TensorMut, write: Write) {
    match &exec.device {
        Device::Cpu(_) => with_float!(out.dtype(), T => columns_cpu::<T>(exec, partials, out, write)),
        Device::Cuda(cuda) => {
            let columns = partials.row_count();
            let grid = Grid::linear(columns.div_ceil(COLUMNS), (COLUMNS * COLUMNS) as u32);
            let rows = partials.rows().into();
            let args = [partials.into(), (&out).into(), rows, columns.into(), card::adds(write)];
            card::launch(cuda, "reduce_columns", out.dtype(), grid, &args);
        }
    }
}

fn columns_cpu<T: Float>(exec: &Exec, partials: Tensor, out: TensorMut, write: Write) {
    let (c, columns) = (partials.row_count(), rows_per_task(partials.rows()));
    let partials = host::slice::<T::Acc>(partials);
    each_numbered(exec.pool(), host::slice_mut::<T>(out).chunks_mut(columns), |index, out| {
        for (column, out) in out.iter_mut().enumerate() {
            let before = if write == Write::Add { out.up() } else { T::Acc::ZERO };
            let sum: T::Acc = partials[index * columns + column..].iter().step_by(c).copied().sum();
            *out = T::down(before + sum);
        }
    });
}
