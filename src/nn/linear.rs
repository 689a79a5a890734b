//! A product with a weight matrix, with a bias or without.

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

/// y = x wᵀ + b, w `[O,I]`, b `[O]`. Adapters and sharding over ranks belong here, so that no layer above need know of them.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    pub w: ParamId,
    pub b: Option<ParamId>,
}

impl Linear {
    /// x `[N,I]` to y `[N,O]`.
    pub fn forward(&self, cx: &mut Ctx, x: Tensor) -> Result<Buf> {
        let w = cx.weight(self.w);
        let mut y = cx.take([x.rows(), w.rows()])?;
        match self.b {
            Some(b) => matmul::forward_bias(cx.exec, x, w, cx.weight(b), y.view_mut()),
            None => matmul::forward(cx.exec, x, w, y.view_mut()),
        }
        Ok(y)
    }

    /// x `[N,I]` to `[N,O/2]`: the upper half of what [`Linear::forward`] gives, gated by the lower. For passes that
    /// nothing is learnt from.
    ///
    /// # Panics
    /// If there is a bias: no family has one there.
    pub fn infer_gated(&self, cx: &mut Ctx, x: Tensor, activation: Activation) -> Result<Buf> {
        assert!(self.b.is_none(), "a gated product with a bias");
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

    /// The gradients of weight and bias, from x `[N,I]` and dy `[N,O]`.
    pub fn backward_weight(&self, cx: &mut Ctx, x: Tensor, dy: Tensor) -> Result<()> {
        cx.contribute(self.w, |exec, dw, write| {
            matmul::backward_weight(exec, dy, x, dw, write);
            Ok(())
        })?;
        match self.b {
            Some(b) => cx.contribute(b, |exec, db, write| matmul::backward_bias(exec, dy, db, write)),
            None => Ok(()),
        }
    }
}
