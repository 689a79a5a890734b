//! Rows of a table chosen by token id; backward adds each row's gradient to the id's row of the table.

use super::{
    Exec, Float, Real, Write,
    lanes::{each, each_numbered, rows_per_task},
    with_float,
};
use crate::{
    base::Result,
    device::{Device, host},
    tensor::{Tensor, TensorMut},
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
    with_float!(w.dtype(), T => match &exec.device {
        Device::Cuda(_) => unreachable!("no CUDA half yet"),
        Device::Cpu(_) => gather_cpu::<T>(exec, ids, w, y),
    });
}

/// Shapes: dy `[N,C]`; ids `[N]`; dw `[V,C]`. Rows of one id are added in the order of the batch.
///
/// # Errors
/// Where a device wants workspace that is not there.
pub fn backward(exec: &Exec, dy: Tensor, ids: Tensor, dw: TensorMut, write: Write) -> Result<()> {
    assert_eq!((ids.count(), dw.row_count()), (dy.rows(), dy.row_count()));
    if exec.is_dry() {
        return Ok(());
    }
    with_float!(dy.dtype(), T => match &exec.device {
        Device::Cuda(_) => unreachable!("no CUDA half yet"),
        Device::Cpu(_) => scatter_cpu::<T>(exec, dy, ids, dw, write),
    });
    Ok(())
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
