//! Products with a weight matrix. A weight is stored as PyTorch stores it, `[O,I]`: y = x wᵀ. The sum over the
//! inner dimension is kept in the accumulator's type.

use super::{Exec, Float, Write, with_float};
use crate::{
    device::{Device, MatMut, MatRef, cuda::gemm_own::Layout, host},
    tensor::{Tensor, TensorMut},
};

/// y = x wᵀ, with y in the operands' type or in their accumulator's.
///
/// Shapes: x `[N,I]`; w `[O,I]`; y `[N,O]`.
pub fn forward(exec: &Exec, x: Tensor, w: Tensor, y: TensorMut) {
    assert_eq!((x.row_count(), x.rows(), w.rows()), (w.row_count(), y.rows(), y.row_count()));
    if exec.is_dry() {
        return;
    }
    with_float!(x.dtype(), T => match &exec.device {
        Device::Cuda(cuda) => cuda.multiply(Layout::Nt, x, w, &y, false),
        Device::Cpu(pool) => {
            let (a, b) = (matrix::<T>(x), matrix::<T>(w).t());
            if y.dtype() == x.dtype() {
                T::multiply(pool, a, b, matrix_mut(y), Write::Replace);
            } else {
                T::multiply_up(pool, a, b, matrix_mut(y), Write::Replace);
            }
        }
    });
}

/// dx = dy w.
///
/// Shapes: dy `[N,O]`; w `[O,I]`; dx `[N,I]`.
pub fn backward_input(exec: &Exec, dy: Tensor, w: Tensor, dx: TensorMut, write: Write) {
    assert_eq!((dy.row_count(), dy.rows(), w.row_count()), (w.rows(), dx.rows(), dx.row_count()));
    if exec.is_dry() {
        return;
    }
    with_float!(dy.dtype(), T => match &exec.device {
        Device::Cuda(cuda) => cuda.multiply(Layout::Nn, dy, w, &dx, write == Write::Add),
        Device::Cpu(pool) => T::multiply(pool, matrix(dy), matrix(w), matrix_mut(dx), write),
    });
}

/// dw = dyᵀ x.
///
/// Shapes: dy `[N,O]`; x `[N,I]`; dw `[O,I]`.
pub fn backward_weight(exec: &Exec, dy: Tensor, x: Tensor, dw: TensorMut, write: Write) {
    assert_eq!((dy.rows(), dy.row_count(), x.row_count()), (x.rows(), dw.rows(), dw.row_count()));
    if exec.is_dry() {
        return;
    }
    with_float!(dy.dtype(), T => match &exec.device {
        Device::Cuda(cuda) => cuda.multiply(Layout::Tn, dy, x, &dw, write == Write::Add),
        Device::Cpu(pool) => T::multiply(pool, matrix(dy).t(), matrix(x), matrix_mut(dw), write),
    });
}

fn matrix<T: Float>(tensor: Tensor<'_>) -> MatRef<'_, T> {
    MatRef::row_major(host::slice(tensor), tensor.rows(), tensor.row_count())
}

fn matrix_mut<T: Float>(tensor: TensorMut<'_>) -> MatMut<'_, T> {
    let (rows, columns) = (tensor.rows(), tensor.row_count());
    MatMut::row_major(host::slice_mut(tensor), rows, columns)
}
