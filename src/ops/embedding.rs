//! Rows of a table chosen by token id; backward adds each row's gradient to the id's row of the table.

use super::{
    Exec, Float, Real, Write, card, elementwise,
    lanes::{each, each_numbered, rows_per_task},
    with_float,
};
use crate::{
    base::Result,
    device::{Cuda, Device, cuda::Grid, host},
    tensor::{Buf, DType, Tensor, TensorMut},
};

/// The vocabulary is cut into this many ranges, one a task: each looks at all ids and keeps its own.
const VOCABULARY_RANGES: usize = 64;

/// Shapes: ids `[N]`; w `[V,C]`; y `[N,C]`.
///
/// # Panics
/// If an id is not below V.
pub fn forward(exec: &Exec, ids: Tensor, w: Tensor, y: TensorMut) {
    assert_eq!((ids.count(), w.row_count()), (y.rows(), y.row_count()));
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => with_float!(w.dtype(), T => gather_cpu::<T>(exec, ids, w, y)),
        Device::Cuda(cuda) => {
            let args = [ids.into(), w.into(), (&y).into(), y.rows().into(), y.row_count().into()];
            let grid = card::elements(y.shape().count(), y.dtype());
            card::launch(cuda, "embedding_forward", y.dtype(), grid, &args);
        }
    }
}

/// Shapes: dy `[N,C]`; ids `[N]`; dw `[V,C]`. Rows of one id are added in the order of the batch.
///
/// # Errors
/// Where a device wants workspace that is not there.
pub fn backward(exec: &Exec, dy: Tensor, ids: Tensor, dw: TensorMut, write: Write) -> Result<()> {
    assert_eq!((ids.count(), dw.row_count()), (dy.rows(), dy.row_count()));
    match &exec.device {
        Device::Cpu(_) if exec.is_dry() => {}
        Device::Cpu(_) => with_float!(dy.dtype(), T => scatter_cpu::<T>(exec, dy, ids, dw, write)),
        Device::Cuda(cuda) => {
            let mut lists = Lists::take(exec, ids.count(), &dw)?;
            if !exec.is_dry() {
                lists.fill(cuda, ids);
                lists.sum(cuda, dy, ids, dw, write);
            }
        }
    }
    Ok(())
}

/// The batch's rows by id, see `kernels/embedding.cu`, and what its kernels need on the way.
struct Lists {
    /// `[V]`
    counts: Buf,
    /// `[V+1]`: where each id's rows begin in the list.
    starts: Buf,
    /// `[N]`
    unordered: Buf,
    /// `[N]`
    ordered: Buf,
    /// `[2*chunks,C]` in f32
    partials: Buf,
}

/// Rows of the list that a block sums on a card.
const CHUNK: usize = 32;

impl Lists {
    fn take(exec: &Exec, rows: usize, dw: &TensorMut) -> Result<Self> {
        let (v, c) = (dw.rows(), dw.row_count());
        Ok(Self {
            counts: exec.take([v], DType::U32)?,
            starts: exec.take([v + 1], DType::U32)?,
            unordered: exec.take([rows], DType::U32)?,
            ordered: exec.take([rows], DType::U32)?,
            partials: exec.take([2 * rows.div_ceil(CHUNK), c], DType::F32)?,
        })
    }

    /// Lists the rows of each id, in ascending order.
    fn fill(&mut self, cuda: &Cuda, ids: Tensor) {
        let (n, each_row) = (ids.count(), card::threads(ids.count()));
        let run = |kernel, grid, args: &[_]| card::launch(cuda, kernel, DType::F32, grid, args);
        elementwise::zero_cuda(cuda, self.counts.view_mut());
        let v = self.counts.shape().count();
        let (counts, starts) = (&self.counts.view_mut(), &self.starts.view_mut());
        let (unordered, ordered) = (&self.unordered.view_mut(), &self.ordered.view_mut());
        run("embedding_count", each_row, &[ids.into(), counts.into(), n.into()]);
        run("embedding_starts", Grid::linear(1, 1024), &[counts.into(), starts.into(), v.into()]);
        let args = [ids.into(), starts.into(), counts.into(), unordered.into(), n.into()];
        run("embedding_place", each_row, &args);
        let args = [ids.into(), starts.into(), unordered.into(), ordered.into(), n.into()];
        run("embedding_order", each_row, &args);
    }

    /// Adds up the gradients of each id's rows.
    fn sum(&mut self, cuda: &Cuda, dy: Tensor, ids: Tensor, mut dw: TensorMut, write: Write) {
        if write == Write::Replace {
            elementwise::zero_cuda(cuda, dw.reborrow());
        }
        let (c, dtype) = (dy.row_count(), dy.dtype());
        let (starts, ordered) = (self.starts.view(), self.ordered.view());
        let partials = &self.partials.view_mut();
        let grid = card::rows(ids.count().div_ceil(CHUNK), c, dtype);
        let last = [(&dw).into(), partials.into(), ids.count().into(), c.into(), card::adds(write)];
        let mut args = vec![dy.into(), ids.into(), starts.into(), ordered.into()];
        args.extend(last);
        card::launch(cuda, "embedding_sum", dtype, grid, &args);
        // The same but for dy.
        card::launch(cuda, "embedding_join", dtype, grid, &args[1..]);
    }
}

fn gather_cpu<T: Float>(exec: &Exec, ids: Tensor, w: Tensor, y: TensorMut) {
    let c = w.row_count();
    let rows = rows_per_task(c);
    let w = host::slice::<T>(w);
    let ids = host::slice::<u32>(ids).chunks(rows);
    each(exec.pool(), ids.zip(host::slice_mut::<T>(y).chunks_mut(rows * c)), |(ids, y)| {
        for (&id, y) in ids.iter().zip(y.chunks_exact_mut(c)) {
            y.copy_from_slice(&w[id as usize * c..][..c]);
        }
    });
}

fn scatter_cpu<T: Float>(exec: &Exec, dy: Tensor, ids: Tensor, dw: TensorMut, write: Write) {
    let c = dy.row_count();
    let (dy, ids) = (host::slice::<T>(dy), host::slice::<u32>(ids));
    let range = dw.rows().div_ceil(VOCABULARY_RANGES);
    each_numbered(exec.pool(), host::slice_mut::<T>(dw).chunks_mut(range * c), |index, dw| {
        if write == Write::Replace {
            dw.fill(T::down(T::Acc::ZERO));
        }
        let first = index * range;
        let ours = first..first + dw.len() / c;
        let mut places: Vec<(usize, usize)> =
            ids.iter().map(|&id| id as usize).zip(0..).filter(|(id, _)| ours.contains(id)).collect();
        places.sort_unstable();
        // A frequent token's rows are summed in the accumulator's type: in bf16 the sum would soon stand still.
        let mut sum = vec![T::Acc::ZERO; c];
        for same_id in places.chunk_by(|a, b| a.0 == b.0) {
            sum.fill(T::Acc::ZERO);
            for &(_, row) in same_id {
                for (sum, dy) in sum.iter_mut().zip(&dy[row * c..][..c]) {
                    *sum += dy.up();
                }
            }
            for (dw, sum) in dw[(same_id[0].0 - first) * c..][..c].iter_mut().zip(&sum) {
                *dw = T::down(dw.up() + *sum);
            }
        }
    });
}
