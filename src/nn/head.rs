//! Vectors to logits, or straight to the loss.

use super::{Batch, Ctx, ParamId};
use crate::{
    base::Result,
    ops::{cross_entropy, elementwise, matmul},
    tensor::Buf,
};

#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// `[V,C]`; the embedding's where they are tied.
    pub w: ParamId,
}

impl Head {
    /// The losses in nats, `[N]` in the accumulator's type. Where gradients are kept, x `[N,C]` becomes its own and
    /// the weight's is contributed: logits are not kept for a backward of their own.
    ///
    /// # Panics
    /// If the batch has no targets.
    pub fn loss(&self, cx: &mut Ctx, batch: &Batch, x: &mut Buf) -> Result<Buf> {
        let targets = batch.targets.as_ref().expect("a loss is asked of a batch with targets");
        let (ids, scale) = (targets.ids.view(), targets.scale.view());
        let mut losses = cx.take_accumulator([batch.rows()])?;
        let w = cx.weight(self.w);
        if cx.grads.is_some() {
            cx.contribute(self.w, |exec, dw, write| {
                let dw = Some((dw, write));
                cross_entropy::head(exec, x.view_mut(), w, ids, scale, losses.view_mut(), dw)
            })?;
        } else {
            cross_entropy::head(cx.exec, x.view_mut(), w, ids, scale, losses.view_mut(), None)?;
        }
        Ok(losses)
    }

    /// The logits of the rows that the batch asks for, `[R,V]` in the accumulator's type.
    pub fn logits(&self, cx: &mut Ctx, batch: &Batch, x: Buf) -> Result<Buf> {
        let w = cx.weight(self.w);
        let x = match &batch.logit_rows {
            Some(rows) => {
                let mut chosen = cx.take([rows.shape().count(), w.row_count()])?;
                elementwise::take_rows(cx.exec, x.view(), rows.view(), chosen.view_mut());
                chosen
            }
            None => x,
        };
        let mut logits = cx.take_accumulator([x.shape().rows(), w.rows()])?;
        matmul::forward(cx.exec, x.view(), w, logits.view_mut());
        Ok(logits)
    }
}
