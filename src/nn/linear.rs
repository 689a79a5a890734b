//! A product with a weight matrix.

use super::{Ctx, ParamId};
use crate::{
    base::Result,
    ops::{
        Write,
        glu::{self, Activation},
        matmul,
    },
    tensor::{Buf, Tensor},
};

/// y = x wᵀ, w `[O,I]`. Adapters and sharding over ranks belong here, so that no layer above need know of them.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    pub w: ParamId,
}

impl Linear {
    /// x `[N,I]` to y `[N,O]`.
    pub fn forward(&self, cx: &mut Ctx, x: Tensor) -> Result<Buf> {
        let w = cx.weight(self.w);
        let mut y = cx.take([x.rows(), w.rows()])?;
        matmul::forward(cx.exec, x, w, y.view_mut());
        Ok(y)
    }

    /// x `[N,I]` to `[N,O/2]`: the upper half of what [`Linear::forward`] gives, gated by the lower. For passes that
    /// nothing is learnt from.
    pub fn infer_gated(&self, cx: &mut Ctx, x: Tensor, activation: Activation) -> Result<Buf> {
        let w = cx.weight(self.w);
        let mut y = cx.take([x.rows(), w.rows() / 2])?;
        glu::project(cx.exec, x, w, activation, y.view_mut())?;
        Ok(y)
    }

    /// dy `[N,O]` to dx `[N,I]`.
    pub fn backward_input(&self, cx: &mut Ctx, dy: Tensor) -> Result<Buf> {
        let w = cx.weight(self.w);
        let mut dx = cx.take([dy.rows(), w.row_count()])?;
        matmul::backward_input(cx.exec, dy, w, dx.view_mut(), Write::Replace);
        Ok(dx)
    }

    /// The weight's gradient, from x `[N,I]` and dy `[N,O]`.
    pub fn backward_weight(&self, cx: &mut Ctx, x: Tensor, dy: Tensor) -> Result<()> {
        cx.contribute(self.w, |exec, dw, write| {
            matmul::backward_weight(exec, dy, x, dw, write);
            Ok(())
        })
    }
}
