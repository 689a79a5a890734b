//! Rotary position embedding (Su et al. 2021) in the half-split layout of Hugging Face llama: channel i of a head
//! is rotated with channel i + D/2. In place; backward is the rotation by the opposite angle.

use super::{
    Exec, Float, card,
    lanes::{each, rows_per_task},
    with_float,
};
use crate::{
    device::{Device, cuda::Arg, host, simd::multiversion},
    tensor::{Tensor, TensorMut},
};

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// By how much rows are turned.
#[derive(Clone, Copy, Debug)]
pub struct Angles<'a> {
    /// `[N]`
    pub positions: Tensor<'a>,
    /// `[P,D]` in the accumulator's type: what [`table`] makes.
    pub table: Tensor<'a>,
}

/// Cosines and sines for positions `0..positions`: rows of D/2 cosines, then D/2 sines.
pub fn table(positions: usize, head_dim: usize, theta: f64) -> Vec<f64> {
    let half = head_dim / 2;
    let frequency = |i: usize| theta.powf(-2.0 * i as f64 / head_dim as f64);
    (0..positions)
        .flat_map(|position| {
            let angle = move |i| position as f64 * frequency(i);
            (0..half).map(move |i| angle(i).cos()).chain((0..half).map(move |i| angle(i).sin()))
        })
        .collect()
}

/// Rotates the first `heads` heads of every row; the values behind queries and keys stay as they are.
///
/// Shapes: x `[N, heads_in_row*D]`.
///
/// # Panics
/// If a position lies past the table.
pub fn rotate(exec: &Exec, x: TensorMut, heads: usize, angles: Angles, direction: Direction) {
    let Angles { positions, table } = angles;
    let head_dim = table.row_count();
    assert!(positions.count() == x.rows() && heads * head_dim <= x.row_count());
    if exec.is_dry() {
        return;
    }
    match &exec.device {
        Device::Cpu(_) => {
            with_float!(x.dtype(), T => rotate_cpu::<T>(exec, x, heads, angles, direction));
        }
        Device::Cuda(cuda) => {
            let turn = if direction == Direction::Forward { 1.0f32 } else { -1.0 };
            let counts = [x.rows(), x.row_count(), heads, head_dim].map(Arg::from);
            let [rows, width, heads_arg, d] = counts;
            let args = [(&x).into(), positions.into(), table.into(), rows, width, heads_arg, d, turn.into()];
            let grid = card::elements(x.rows() * heads * head_dim / 2, x.dtype());
            card::launch(cuda, "rope_rotate", x.dtype(), grid, &args);
        }
    }
}

pub(super) fn rotate_cpu<T: Float>(
    exec: &Exec,
    x: TensorMut,
    heads: usize,
    Angles { positions, table }: Angles,
    direction: Direction,
) {
    let (width, head_dim) = (x.row_count(), table.row_count());
    let rows = rows_per_task(heads * head_dim);
    let table = host::slice::<T::Acc>(table);
    let positions = host::slice::<u32>(positions).chunks(rows);
    each(exec.pool(), host::slice_mut::<T>(x).chunks_mut(rows * width).zip(positions), |(x, positions)| {
        for (row, &position) in x.chunks_exact_mut(width).zip(positions) {
            let angles = &table[position as usize * head_dim..][..head_dim];
            turn_heads(&mut row[..heads * head_dim], angles, direction);
        }
    });
}

multiversion! {
    pub(super) fn turn_heads<T: Float>(row: &mut [T], angles: &[T::Acc], direction: Direction) {
        let (cos, sin) = angles.split_at(angles.len() / 2);
        for head in row.chunks_exact_mut(angles.len()) {
            turn(head, cos, sin, direction);
        }
    }
}

#[inline(always)]
fn turn<T: Float>(head: &mut [T], cos: &[T::Acc], sin: &[T::Acc], direction: Direction) {
    let (low, high) = head.split_at_mut(cos.len());
    for (((low, high), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
        let sin = if direction == Direction::Forward { sin } else { -sin };
        let (a, b) = (low.up(), high.up());
        *low = T::down(a * cos - b * sin);
        *high = T::down(b * cos + a * sin);
    }
}
