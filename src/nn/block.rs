//! What stacks, and what wraps what stacks.

use std::sync::Arc;

use super::{Batch, Ctx};
use crate::{base::Result, ops::elementwise, tensor::Buf};

/// A layer that passes on what it gets, changed: a stream of activations forward, its gradient backward.
pub trait Block {
    type Stream;
    type Gradient;
    /// What backward needs.
    type Saved;

    fn forward(&self, cx: &mut Ctx, batch: &Batch, s: Self::Stream) -> Result<(Self::Stream, Self::Saved)>;

    /// Forward alone: what backward would need is not kept, or not made.
    fn infer(&self, cx: &mut Ctx, batch: &Batch, s: Self::Stream) -> Result<Self::Stream> {
        Ok(self.forward(cx, batch, s)?.0)
    }

    /// From the gradient of what went out to the gradient of what came in; parameters' gradients on the way.
    fn backward(
        &self,
        cx: &mut Ctx,
        batch: &Batch,
        saved: Self::Saved,
        ds: Self::Gradient,
    ) -> Result<Self::Gradient>;
}

/// Blocks one after the other.
pub struct Stack<B>(pub Vec<B>);

impl<B: Block> Block for Stack<B> {
    type Stream = B::Stream;
    type Gradient = B::Gradient;
    type Saved = Vec<B::Saved>;

    fn forward(&self, cx: &mut Ctx, batch: &Batch, mut s: B::Stream) -> Result<(B::Stream, Self::Saved)> {
        let mut all_saved = Vec::with_capacity(self.0.len());
        for block in &self.0 {
            let (out, saved) = block.forward(cx, batch, s)?;
            all_saved.push(saved);
            s = out;
        }
        Ok((s, all_saved))
    }

    fn infer(&self, cx: &mut Ctx, batch: &Batch, s: B::Stream) -> Result<B::Stream> {
        self.0.iter().try_fold(s, |s, block| block.infer(cx, batch, s))
    }

    fn backward(
        &self,
        cx: &mut Ctx,
        batch: &Batch,
        mut saved: Self::Saved,
        mut ds: B::Gradient,
    ) -> Result<B::Gradient> {
        for block in self.0.iter().rev() {
            let saved = saved.pop().expect("forward saved one for each block");
            ds = block.backward(cx, batch, saved, ds)?;
        }
        Ok(ds)
    }
}

/// A stream that can be kept as well as passed on.
pub trait Keep: Sized {
    fn keep(self, cx: &mut Ctx) -> Result<(Self, Self)>;
}

/// Keeps its input alone and runs forward again when backward comes: memory for time, not one bit of difference.
pub struct Recompute<B>(pub B);

impl<B: Block<Stream: Keep>> Block for Recompute<B> {
    type Stream = B::Stream;
    type Gradient = B::Gradient;
    type Saved = B::Stream;

    fn forward(&self, cx: &mut Ctx, batch: &Batch, s: B::Stream) -> Result<(B::Stream, B::Stream)> {
        let (kept, s) = s.keep(cx)?;
        Ok((self.0.forward(cx, batch, s)?.0, kept))
    }

    fn infer(&self, cx: &mut Ctx, batch: &Batch, s: B::Stream) -> Result<B::Stream> {
        self.0.infer(cx, batch, s)
    }

    fn backward(&self, cx: &mut Ctx, batch: &Batch, kept: B::Stream, ds: B::Gradient) -> Result<B::Gradient> {
        let saved = self.0.forward(cx, batch, kept)?.1;
        self.0.backward(cx, batch, saved, ds)
    }
}

/// The residual stream of a transformer: the sum so far, and what the last layer wants added to it. The addition is
/// left to the next norm, which passes over the row anyway. The gradient of the stream is that of the whole sum.
pub struct Residual {
    /// `[N,C]`; shared with the norm that saved it, and never written again.
    pub sum: Arc<Buf>,
    /// `[N,C]`
    pub branch: Option<Buf>,
}

impl Keep for Residual {
    fn keep(self, cx: &mut Ctx) -> Result<(Self, Self)> {
        let sum = match self.branch {
            Some(mut branch) => {
                elementwise::add(cx.exec, self.sum.view(), branch.view_mut());
                Arc::new(branch)
            }
            None => self.sum,
        };
        Ok((Self { sum: sum.clone(), branch: None }, Self { sum, branch: None }))
    }
}
