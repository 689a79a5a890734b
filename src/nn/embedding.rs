//! Tokens to vectors.

use super::{Batch, Ctx, ParamId};
use crate::{base::Result, ops::embedding, tensor::Buf};

#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    /// `[V,C]`
    pub w: ParamId,
}

impl Embedding {
    /// To `[N,C]`.
    pub fn forward(&self, cx: &mut Ctx, batch: &Batch) -> Result<Buf> {
        let w = cx.weight(self.w);
        let mut y = cx.take([batch.rows(), w.row_count()])?;
        embedding::forward(cx.exec, batch.tokens(), w, y.view_mut());
        Ok(y)
    }

    pub fn backward(&self, cx: &mut Ctx, batch: &Batch, dy: Buf) -> Result<()> {
        cx.contribute(self.w, |exec, dw, write| {
            embedding::backward(exec, dy.view(), batch.tokens(), dw, write)
        })
    }
}
