//! Keys and values of running sequences in pages. A slot is a place for one token: page * page length + offset.
//! Which sequence has which pages is the scheduler's affair; here they are numbers in a table.

use super::{Exec, Float, attention::Heads, card, lanes::each_numbered, with_float};
use crate::{
    device::{Device, cuda::Arg, host},
    tensor::{Tensor, TensorMut},
};

/// Copies the keys and values of each row to its slot.
///
/// Shapes: qkv `[N,(H+2K)*D]`; slots `[N]`; keys, values `[K,slots,D]`.
///
/// # Panics
/// If a slot lies past the end.
pub fn write(exec: &Exec, qkv: Tensor, heads: Heads, slots: Tensor, keys: TensorMut, values: TensorMut) {
    assert_eq!((qkv.row_count(), slots.count()), (heads.row_count(), qkv.rows()));
    assert!(keys.rows() == heads.key_value && keys.shape() == values.shape());
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => {
            with_float!(qkv.dtype(), T => write_cpu::<T>(exec, qkv, heads, slots, keys, values))
        }
        Device::Cuda(cuda) => {
            let slots_len = keys.row_count() / heads.dim;
            let counts = [qkv.rows(), qkv.row_count(), heads.key_value, heads.dim, slots_len].map(Arg::from);
            let [rows, width, key_value, d, slots_len] = counts;
            let args = [
                qkv.into(),
                slots.into(),
                (&keys).into(),
                (&values).into(),
                rows,
                width,
                key_value,
                d,
                slots_len,
            ];
            let grid = card::elements(qkv.rows() * 2 * heads.key_value * heads.dim, qkv.dtype());
            card::launch(cuda, "paged_kv_write", qkv.dtype(), grid, &args);
        }
    }
}

fn write_cpu<T: Float>(
    exec: &Exec,
    qkv: Tensor,
    heads: Heads,
    slots: Tensor,
    keys: TensorMut,
    values: TensorMut,
) {
    let (width, d, head) = (heads.row_count(), heads.dim, keys.row_count());
    let (qkv, slots) = (host::slice::<T>(qkv), host::slice::<u32>(slots));
    let pages =
        host::slice_mut::<T>(keys).chunks_mut(head).zip(host::slice_mut::<T>(values).chunks_mut(head));
    each_numbered(exec.pool(), pages, |head, (keys, values)| {
        for (row, &slot) in qkv.chunks_exact(width).zip(slots) {
            let place = slot as usize * d..(slot as usize + 1) * d;
            keys[place.clone()].copy_from_slice(&row[heads.key_at(head)..][..d]);
            values[place].copy_from_slice(&row[heads.value_at(head)..][..d]);
        }
    });
}
