//! The gated feed-forward layer.

use super::{Ctx, Linear};
use crate::{
    base::Result,
    ops::glu::{self, Activation},
    tensor::{Buf, Tensor},
};

pub struct Mlp {
    /// To `[N,2F]`: gate, then up.
    pub gate_up: Linear,
    /// From `[N,F]`.
    pub down: Linear,
}

/// What [`Mlp::backward`] needs. What came out of the gate is computed again.
pub struct MlpSaved {
    /// `[N,C]`
    x: Buf,
    /// `[N,2F]`
    gate_up: Buf,
}

impl Mlp {
    /// x `[N,C]` to `[N,C]`.
    pub fn forward(&self, cx: &mut Ctx, x: Buf) -> Result<(Buf, MlpSaved)> {
        let gate_up = self.gate_up.forward(cx, x.view())?;
        let mut gated = self.take_gated(cx, &gate_up)?;
        glu::forward(cx.exec, gate_up.view(), Activation::Silu, gated.view_mut());
        let y = self.down.forward(cx, gated.view())?;
        Ok((y, MlpSaved { x, gate_up }))
    }

    /// [`Mlp::forward`] where nothing is learnt.
    pub fn infer(&self, cx: &mut Ctx, x: Buf) -> Result<Buf> {
        let gated = self.gate_up.infer_gated(cx, x.view(), Activation::Silu)?;
        drop(x);
        self.down.forward(cx, gated.view())
    }

    /// dy `[N,C]` to dx `[N,C]`.
    pub fn backward(&self, cx: &mut Ctx, saved: MlpSaved, dy: Tensor) -> Result<Buf> {
        let MlpSaved { x, mut gate_up } = saved;
        let dgated = self.down.backward_input(cx, dy)?;
        let mut gated = self.take_gated(cx, &gate_up)?;
        let (dy_gated, gate_up_view) = (dgated.view(), gate_up.view_mut());
        glu::backward(cx.exec, dy_gated, gate_up_view, Activation::Silu, gated.view_mut());
        drop(dgated);
        self.down.backward_weight(cx, gated.view(), dy)?;
        drop(gated);
        self.gate_up.backward_weight(cx, x.view(), gate_up.view())?;
        drop(x);
        self.gate_up.backward_input(cx, gate_up.view())
    }

    /// `[N,F]`
    fn take_gated(&self, cx: &Ctx, gate_up: &Buf) -> Result<Buf> {
        let shape = gate_up.shape();
        cx.take([shape.rows(), shape.row_count() / 2])
    }
}
