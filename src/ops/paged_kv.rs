//! Keys and values of running sequences in pages. A slot is a place for one token: page * page length + offset.
//! Which sequence has which pages is the scheduler's affair; here they are numbers in a table.

use super::{
    Exec, Float,
    attention::Heads,
    card,
    lanes::each_numbered,
    rope::{self, Angles, Direction},
    with_float,
};
use crate::{
    device::{Device, cuda::Arg, host},
    tensor::{Tensor, TensorMut},
};

/// Makes the rows of `qkv` ready for attention over pages: queries are rotated in place, keys are written to their slots
/// rotated, and values as they are. The keys in `qkv` stay as they were, for nobody reads them there.
///
/// Shapes: qkv `[N,(H+2K)*D]`; slots `[N]`; keys, values `[K,slots,D]`.
///
/// # Panics
/// If a slot lies past the end, or a position past the table.
pub fn extend(
    exec: &Exec,
    qkv: TensorMut,
    heads: Heads,
    angles: Angles,
    slots: Tensor,
    (keys, values): (TensorMut, TensorMut),
) {
    assert_eq!((qkv.row_count(), slots.count()), (heads.row_count(), qkv.rows()));
    assert_eq!((angles.table.row_count(), angles.positions.count()), (heads.dim, qkv.rows()));
    assert!(keys.rows() == heads.key_value && keys.shape() == values.shape());
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => {
            with_float!(qkv.dtype(), T => extend_cpu::<T>(exec, qkv, heads, angles, slots, (keys, values)))
        }
        Device::Cuda(cuda) => {
            let slots_len = keys.row_count() / heads.dim;
            let tensors = [(&qkv).into(), angles.positions.into(), angles.table.into(), slots.into()];
            let pages = [&keys, &values].map(Arg::from);
            let counts = [qkv.rows(), heads.query, heads.key_value, heads.dim, slots_len].map(Arg::from);
            let args = [tensors.as_slice(), &pages, &counts].concat();
            let grid = card::elements(qkv.shape().count() / 2, qkv.dtype());
            card::launch(cuda, "paged_kv_extend", qkv.dtype(), grid, &args);
        }
    }
}

fn extend_cpu<T: Float>(
    exec: &Exec,
    mut qkv: TensorMut,
    heads: Heads,
    angles: Angles,
    slots: Tensor,
    (keys, values): (TensorMut, TensorMut),
) {
    rope::rotate_cpu::<T>(exec, qkv.reborrow(), heads.query, angles, Direction::Forward);
    let (width, d, head) = (heads.row_count(), heads.dim, keys.row_count());
    let (qkv, table) = (host::slice::<T>(qkv.as_ref()), host::slice::<T::Acc>(angles.table));
    let (positions, slots) = (host::slice::<u32>(angles.positions), host::slice::<u32>(slots));
    let pages =
        host::slice_mut::<T>(keys).chunks_mut(head).zip(host::slice_mut::<T>(values).chunks_mut(head));
    each_numbered(exec.pool(), pages, |head, (keys, values)| {
        for ((row, &position), &slot) in qkv.chunks_exact(width).zip(positions).zip(slots) {
            let place = slot as usize * d..(slot as usize + 1) * d;
            let (key, angles) = (&mut keys[place.clone()], &table[position as usize * d..][..d]);
            key.copy_from_slice(&row[heads.key_at(head)..][..d]);
            rope::turn_heads(key, angles, Direction::Forward);
            values[place].copy_from_slice(&row[heads.value_at(head)..][..d]);
        }
    });
}
