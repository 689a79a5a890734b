//! Attention in tiles (Dao et al. 2022): scores exist for one tile at a time, the softmax is kept up to date
//! as tiles go by, and backward computes the tiles again from the saved log of the sum of exponentials. Queries
//! are grouped over key-value heads (Ainslie et al. 2023), and sequences packed into one batch do not see each
//! other. Within a sequence a [`Mask`] says which keys a query sees.

mod cpu;
mod cuda;
mod mask;

pub use mask::Mask;

use super::{Exec, with_float};
use crate::{
    base::{Error, Result},
    device::Device,
    tensor::{Tensor, TensorMut},
};

/// How heads lie in a row of `qkv`: H query heads, then K key heads, then K value heads, each of width D.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub query: usize,
    pub key_value: usize,
    pub dim: usize,
}

impl Heads {
    /// Query heads that share one key-value head.
    pub fn group(&self) -> usize {
        self.query / self.key_value
    }

    /// (H+2K)*D.
    pub fn row_count(&self) -> usize {
        (self.query + 2 * self.key_value) * self.dim
    }

    pub fn key_at(&self, head: usize) -> usize {
        (self.query + head) * self.dim
    }

    pub fn value_at(&self, head: usize) -> usize {
        (self.query + self.key_value + head) * self.dim
    }
}

/// Keys and values in pages, see [`paged_kv`](super::paged_kv): what a sequence attends to beside what it brings.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'a> {
    /// `[K,slots,D]`
    pub keys: Tensor<'a>,
    /// `[K,slots,D]`
    pub values: Tensor<'a>,
    /// `[S,pages of a sequence]`: the pages of each sequence in the order of its tokens.
    pub tables: Tensor<'a>,
    /// `[S]`: tokens of each sequence, those of this batch included. Its last rows are the batch's.
    pub contexts: Tensor<'a>,
    /// Tokens in a page.
    pub page_len: usize,
}

/// What rows attend to.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// `[S+1]`: the first row of each sequence, and N. No row sees another sequence.
    pub bounds: Tensor<'a>,
    pub mask: Mask,
    /// Where keys and values lie, if not in the batch.
    pub pages: Option<Pages<'a>>,
}

/// Whether the device computes heads of this width.
///
/// # Errors
/// `Unavailable`: a card has kernels for some widths alone.
pub fn check(device: &Device, heads: Heads) -> Result<()> {
    match device {
        Device::Cuda(_) if !cuda::has_width(heads.dim) => Err(Error::unavailable(format!(
            "the model's heads are {} wide; a card computes multiples of 8 up to 256",
            heads.dim
        ))
        .remedy("use --device cpu")),
        _ => Ok(()),
    }
}

/// o = softmax(q kᵀ / sqrt(D)) v, each row over the keys of its own sequence that the mask shows it.
///
/// Without pages, keys and values are those in `qkv`; with pages, they must have been written there before.
///
/// Shapes: qkv `[N,(H+2K)*D]`; o `[N,H*D]`; lse `[N,H]` in the accumulator's type.
///
/// # Errors
/// Where a device wants workspace that is not there.
pub fn forward(
    exec: &Exec,
    qkv: Tensor,
    heads: Heads,
    scope: Scope,
    o: TensorMut,
    lse: TensorMut,
) -> Result<()> {
    assert_eq!((qkv.row_count(), qkv.rows()), (heads.row_count(), o.rows()));
    assert_eq!(
        (o.row_count(), lse.rows(), lse.row_count()),
        (heads.query * heads.dim, o.rows(), heads.query)
    );
    match &exec.device {
        Device::Cuda(cuda) => cuda::forward(exec, cuda, qkv, heads, scope, o, lse)?,
        Device::Cpu(_) if exec.is_dry() => {}
        Device::Cpu(_) => with_float!(qkv.dtype(), T => cpu::forward::<T>(exec, qkv, heads, scope, o, lse)),
    }
    Ok(())
}

/// Replaces `qkv` with its gradient. Only for packed batches: nothing is learnt through pages.
///
/// Shapes: dout, o `[N,H*D]`; lse `[N,H]`; qkv `[N,(H+2K)*D]`.
///
/// # Errors
/// Where a device wants workspace that is not there.
pub fn backward(
    exec: &Exec,
    dout: Tensor,
    o: Tensor,
    lse: Tensor,
    qkv: TensorMut,
    heads: Heads,
    scope: Scope,
) -> Result<()> {
    assert_eq!((qkv.row_count(), qkv.rows()), (heads.row_count(), o.rows()));
    assert_eq!((dout.shape(), lse.rows()), (o.shape(), o.rows()));
    assert!(scope.pages.is_none(), "nothing is learnt through pages");
    match &exec.device {
        Device::Cuda(cuda) => cuda::backward(exec, cuda, dout, (o, lse), qkv, heads, scope)?,
        Device::Cpu(_) if exec.is_dry() => {}
        Device::Cpu(_) => with_float!(o.dtype(), T => {
            cpu::backward::<T>(exec, dout, o, lse, qkv, heads, scope);
        }),
    }
    Ok(())
}
