//! What a pass runs with.

use super::{Grads, PagedKv, ParamId, Params};
use crate::{
    base::Result,
    ops::{Exec, Write},
    tensor::{Buf, DType, Shape, Tensor, TensorMut},
};

/// Borrowed for one pass: where it runs, the weights it reads, and, where there are any, the gradients and the KV
/// pages that it writes.
pub struct Ctx<'a> {
    pub exec: &'a Exec,
    pub params: &'a Params,
    /// None where nothing is learnt.
    pub grads: Option<&'a mut Grads>,
    /// None where sequences are whole in the batch.
    pub kv: Option<&'a mut PagedKv>,
}

impl<'a> Ctx<'a> {
    /// For a forward pass over whole sequences.
    pub fn new(exec: &'a Exec, params: &'a Params) -> Self {
        Self { exec, params, grads: None, kv: None }
    }

    /// For forward and backward.
    pub fn with_grads(mut self, grads: &'a mut Grads) -> Self {
        self.grads = Some(grads);
        self
    }

    /// For prefill and decode.
    pub fn with_kv(mut self, kv: &'a mut PagedKv) -> Self {
        self.kv = Some(kv);
        self
    }

    pub fn weight(&self, id: ParamId) -> Tensor<'a> {
        self.params.view(id)
    }

    /// The type of weights and activations.
    pub fn dtype(&self) -> DType {
        self.params.dtype()
    }

    /// A buffer in the type of the activations.
    pub fn take(&self, shape: impl Into<Shape>) -> Result<Buf> {
        self.exec.take(shape, self.dtype())
    }

    /// A buffer in the type that sums are kept in.
    pub fn take_accumulator(&self, shape: impl Into<Shape>) -> Result<Buf> {
        self.exec.take(shape, self.dtype().accumulator())
    }

    /// One contribution to a parameter's gradient, see [`Grads::contribute`]. Nothing where none are kept.
    pub fn contribute(
        &mut self,
        id: ParamId,
        write: impl FnOnce(&Exec, TensorMut, Write) -> Result<()>,
    ) -> Result<()> {
        match &mut self.grads {
            Some(grads) => grads.contribute(self.exec, id, write),
            None => Ok(()),
        }
    }
}
