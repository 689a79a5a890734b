//! Root-mean-square norm of the residual stream, with the pending addition done on the way.

use std::sync::Arc;

use super::{Ctx, ParamId, Residual};
use crate::{
    base::Result,
    ops::{Write, rmsnorm},
    tensor::{Buf, Tensor},
};

#[derive(Clone, Copy, Debug)]
pub struct Norm {
    /// `[C]`
    pub w: ParamId,
    pub eps: f64,
}

/// What [`Norm::backward`] needs.
pub struct NormSaved {
    /// `[N,C]`
    x: Arc<Buf>,
    /// `[N]`
    rstd: Buf,
}

impl Norm {
    /// Returns the settled sum, its norm `[N,C]`, and what backward needs.
    pub fn forward(&self, cx: &mut Ctx, s: Residual) -> Result<(Arc<Buf>, Buf, NormSaved)> {
        let Residual { sum, mut branch } = s;
        let mut y = cx.take(sum.shape())?;
        let mut rstd = cx.take_accumulator([sum.shape().rows()])?;
        let w = cx.weight(self.w);
        let added = branch.as_mut().map(Buf::view_mut);
        rmsnorm::forward(cx.exec, sum.view(), added, w, self.eps, y.view_mut(), rstd.view_mut());
        let x = branch.map_or(sum, Arc::new);
        Ok((x.clone(), y, NormSaved { x, rstd }))
    }

    /// Adds the gradient that comes through the norm to `dx`, that of the settled sum from downstream.
    pub fn backward(&self, cx: &mut Ctx, saved: NormSaved, dy: Tensor, dx: &mut Buf) -> Result<()> {
        self.backward_into(cx, saved, dy, dx, Write::Add)
    }

    /// The gradient of the settled sum where nothing else came from downstream.
    pub fn backward_last(&self, cx: &mut Ctx, saved: NormSaved, dy: Tensor) -> Result<Buf> {
        let mut dx = cx.take(dy.shape())?;
        self.backward_into(cx, saved, dy, &mut dx, Write::Replace)?;
        Ok(dx)
    }

    fn backward_into(
        &self,
        cx: &mut Ctx,
        saved: NormSaved,
        dy: Tensor,
        dx: &mut Buf,
        how: Write,
    ) -> Result<()> {
        let w = cx.weight(self.w);
        let (x, rstd) = (saved.x.view(), saved.rstd.view());
        cx.contribute(self.w, |exec, dw, write| {
            rmsnorm::backward(exec, dy, x, rstd, w, (dx.view_mut(), how), (dw, write))
        })
    }
}
