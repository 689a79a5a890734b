//! Keys and values of running sequences in pages. A slot is a place for one token: page * page length + offset.
//! Which sequence has which pages is the scheduler's affair; here they are numbers in a table.

use super::{Exec, Float, attention::Heads, lanes::each_numbered, with_float};
use crate::{
    device::{Device, host},
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
    with_float!(qkv.dtype(), T => match &exec.device {
        Device::Cuda(_) => unreachable!("no CUDA half yet"),
        Device::Cpu(_) => write_cpu::<T>(exec, qkv, heads, slots, keys, values),
    });
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
