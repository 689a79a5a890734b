//! Products with a weight matrix, and what is done to them in the same pass where the device can: a bias, GELU, and its
//! gradient. A weight is stored as PyTorch stores it, `[O,I]`: y = x wᵀ. The sum over the inner dimension is kept in the
//! accumulator's type.

use super::{
    Exec, Float, Write, elementwise,
    gelu::{self, Formula},
    reduce, with_float,
};
use crate::{
    base::Result,
    device::{
        Device, MatMut, MatRef,
        cuda::{Epilogue, gemm_own::Layout},
        host,
    },
    tensor::{Tensor, TensorMut},
};

/// y = x wᵀ, with y in the operands' type or in their accumulator's.
///
/// Shapes: x `[N,I]`; w `[O,I]`; y `[N,O]`.
pub fn forward(exec: &Exec, x: Tensor, w: Tensor, y: TensorMut) {
    check_forward(x, w, &y);
    product(exec, Layout::Nt, (x, w), y, Write::Replace);
}

/// y = x wᵀ + b.
///
/// Shapes: x `[N,I]`; w `[O,I]`; b `[O]`; y `[N,O]`.
pub fn forward_bias(exec: &Exec, x: Tensor, w: Tensor, b: Tensor, mut y: TensorMut) {
    check_forward(x, w, &y);
    assert_eq!(b.count(), w.rows());
    if !at_once(exec, Layout::Nt, (x, w), &y, Epilogue::Bias, (Some(b), None)) {
        elementwise::repeat(exec, b, y.reborrow());
        product(exec, Layout::Nt, (x, w), y, Write::Add);
    }
}

/// y = gelu(pre) with pre = x wᵀ + b, which backward takes.
///
/// Shapes: x `[N,I]`; w `[O,I]`; b `[O]`; pre, y `[N,O]`.
pub fn forward_bias_gelu(
    exec: &Exec,
    x: Tensor,
    w: Tensor,
    b: Tensor,
    formula: Formula,
    mut pre: TensorMut,
    y: TensorMut,
) {
    check_forward(x, w, &y);
    assert_eq!((b.count(), pre.shape()), (w.rows(), y.shape()));
    let operands = (Some(b), Some(pre.as_ref()));
    let can = formula == Formula::Tanh;
    if !can || !at_once(exec, Layout::Nt, (x, w), &y, Epilogue::BiasGelu, operands) {
        forward_bias(exec, x, w, b, pre.reborrow());
        gelu::forward(exec, pre.as_ref(), formula, y);
    }
}

/// dx = dy w.
///
/// Shapes: dy `[N,O]`; w `[O,I]`; dx `[N,I]`.
pub fn backward_input(exec: &Exec, dy: Tensor, w: Tensor, dx: TensorMut, write: Write) {
    check_backward_input(dy, w, &dx);
    product(exec, Layout::Nn, (dy, w), dx, write);
}

/// dpre = (dy w) gelu'(pre), where the product's input was gelu(pre).
///
/// Shapes: dy `[N,O]`; w `[O,I]`; pre, dpre `[N,I]`.
pub fn backward_input_gelu(
    exec: &Exec,
    dy: Tensor,
    w: Tensor,
    pre: Tensor,
    formula: Formula,
    mut dpre: TensorMut,
) {
    check_backward_input(dy, w, &dpre);
    assert_eq!(pre.shape(), dpre.shape());
    let can = formula == Formula::Tanh;
    if !can || !at_once(exec, Layout::Nn, (dy, w), &dpre, Epilogue::GeluGradient, (None, Some(pre))) {
        product(exec, Layout::Nn, (dy, w), dpre.reborrow(), Write::Replace);
        gelu::backward(exec, pre, formula, dpre);
    }
}

/// dw = dyᵀ x.
///
/// Shapes: dy `[N,O]`; x `[N,I]`; dw `[O,I]`.
pub fn backward_weight(exec: &Exec, dy: Tensor, x: Tensor, dw: TensorMut, write: Write) {
    assert_eq!((dy.rows(), dy.row_count(), x.row_count()), (x.rows(), dw.rows(), dw.row_count()));
    product(exec, Layout::Tn, (dy, x), dw, write);
}

/// db = the sum of dy's rows. Of its own: cuBLASLt can make it beside a product, and promises no order of the sum.
///
/// Shapes: dy `[N,O]`; db `[O]`.
pub fn backward_bias(exec: &Exec, dy: Tensor, db: TensorMut, write: Write) -> Result<()> {
    reduce::rows(exec, dy, db, write)
}

fn check_forward(x: Tensor, w: Tensor, y: &TensorMut) {
    assert_eq!((x.row_count(), x.rows(), w.rows()), (w.row_count(), y.rows(), y.row_count()));
}

fn check_backward_input(dy: Tensor, w: Tensor, dx: &TensorMut) {
    assert_eq!((dy.row_count(), dy.rows(), w.row_count()), (w.rows(), dx.rows(), dx.row_count()));
}

/// C = A B, or C += A B, of operands that lie as `layout` says.
fn product(exec: &Exec, layout: Layout, (a, b): (Tensor, Tensor), c: TensorMut, write: Write) {
    if exec.is_dry() {
        return;
    }
    with_float!(a.dtype(), T => match &exec.device {
        Device::Cuda(cuda) => cuda.multiply(layout, a, b, &c, write == Write::Add),
        Device::Cpu(pool) => {
            let (same, a, b) = (c.dtype() == a.dtype(), matrix::<T>(a), matrix::<T>(b));
            let (a, b) = match layout {
                Layout::Nt => (a, b.t()),
                Layout::Nn => (a, b),
                Layout::Tn => (a.t(), b),
            };
            match same {
                true => T::multiply(pool, a, b, matrix_mut(c), write),
                false => T::multiply_up(pool, a, b, matrix_mut(c), write),
            }
        }
    });
}

/// A product and its epilogue in one pass. False, with nothing done, where the device does not do that.
fn at_once(
    exec: &Exec,
    layout: Layout,
    (a, b): (Tensor, Tensor),
    c: &TensorMut,
    epilogue: Epilogue,
    (bias, kept): (Option<Tensor>, Option<Tensor>),
) -> bool {
    match &exec.device {
        Device::Cuda(cuda) if !exec.portable && !exec.is_dry() => {
            cuda.multiply_with((layout, a, b, c), epilogue, bias, kept)
        }
        _ => false,
    }
}

fn matrix<T: Float>(tensor: Tensor<'_>) -> MatRef<'_, T> {
    MatRef::row_major(host::slice(tensor), tensor.rows(), tensor.row_count())
}

fn matrix_mut<T: Float>(tensor: TensorMut<'_>) -> MatMut<'_, T> {
    let (rows, columns) = (tensor.rows(), tensor.row_count());
    MatMut::row_major(host::slice_mut(tensor), rows, columns)
}
