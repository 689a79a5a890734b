//! Matrix products on a card: by cuBLASLt where it is and rows are many, else by our own kernels.

use std::sync::{MutexGuard, PoisonError};

use super::{
    Cuda, Products,
    context::Stream,
    cublaslt::{CublasLt, Shape},
    gemm_own::{self, Layout},
};
use crate::{
    base::Result,
    tensor::{DType, Tensor, TensorMut},
};

/// Alignments beyond this make no difference to cuBLASLt.
const ALIGNMENT_BYTES_MAX: u32 = 256;

impl Cuda {
    /// C = A B, or C += A B. A and B are f32 or both bf16; C is as they are, or f32. Sums are kept in f32; no TF32.
    pub fn multiply(&self, layout: Layout, a: Tensor, b: Tensor, c: &TensorMut, add: bool) {
        let (m, n) = (c.rows(), c.row_count());
        let k = if layout == Layout::Tn { a.rows() } else { a.row_count() };
        let Some(products) = self.products.as_ref().filter(|_| !gemm_own::has_few_rows(layout, a, b)) else {
            return gemm_own::multiply(self, layout, a, b, c, add);
        };
        assert!(a.dtype() == b.dtype() && (c.dtype() == a.dtype() || c.dtype() == DType::F32));
        assert_eq!([a.count(), b.count()], [m * k, n * k], "A and B");
        if m == 0 || n == 0 || self.has_failed() {
            return;
        }
        let addresses = [a, b, c.as_ref()].map(|x| x.address() as u64);
        let alignments =
            addresses.map(|address| 1 << address.trailing_zeros().min(ALIGNMENT_BYTES_MAX.ilog2()));
        let shape = Shape { layout, m, n, k, dtypes: [a.dtype(), c.dtype()], alignments };
        let prepare = || products.lt().prepare(shape, &self.context);
        self.keep(prepare().and_then(|()| self.queue().product(self, shape, addresses, add)));
    }

    /// Enqueues a product that was put into the queue.
    pub(super) fn start_product(
        &self,
        shape: Shape,
        addresses: [u64; 3],
        add: bool,
        stream: &Stream,
    ) -> Result<()> {
        let Some(products) = &self.products else { return Ok(()) };
        // SAFETY: the tensors were of these shapes when the product was asked for, and live until it is enqueued; the
        // workspace is of its size.
        unsafe { products.lt().multiply(shape, addresses, add, products.workspace.address, stream.0.cast()) }
    }
}

impl Products {
    fn lt(&self) -> MutexGuard<'_, CublasLt> {
        self.lt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
