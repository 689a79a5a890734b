//! Self-attention: one product for queries, keys and values, rotation, attention, one product out.

use std::sync::Arc;

use super::{Batch, Ctx, Linear, batch::Paging};
use crate::{
    base::Result,
    ops::{
        Exec,
        attention::{self, Heads, Mask, Pages, Scope},
        paged_kv,
        rope::{self, Angles, Direction},
    },
    tensor::{Buf, DType, Tensor},
};

pub struct Attention {
    /// To `[N,(H+2K)*D]`.
    pub qkv: Linear,
    /// From `[N,H*D]`.
    pub out: Linear,
    pub heads: Heads,
    pub mask: Mask,
    pub rope: Arc<Rope>,
    /// Which of the KV pages are this layer's.
    pub layer: usize,
}

/// What [`Attention::backward`] needs.
pub struct AttentionSaved {
    /// `[N,C]`
    x: Buf,
    /// `[N,(H+2K)*D]`, rotated; of a paged batch, from which nothing is learnt, the queries alone
    qkv: Buf,
    /// `[N,H*D]`
    o: Buf,
    /// `[N,H]`
    lse: Buf,
}

impl Attention {
    /// x `[N,C]` to `[N,C]`.
    pub fn forward(&self, cx: &mut Ctx, batch: &Batch, x: Buf) -> Result<(Buf, AttentionSaved)> {
        let mut qkv = self.qkv.forward(cx, x.view())?;
        let mut o = cx.take([batch.rows(), self.heads.query * self.heads.dim])?;
        let mut lse = cx.take_accumulator([batch.rows(), self.heads.query])?;
        let exec = cx.exec;
        let pages = match &batch.paging {
            Some(paging) => Some(self.extend_pages(cx, batch, paging, &mut qkv)),
            None => {
                self.rotate(cx, batch, &mut qkv, Direction::Forward);
                None
            }
        };
        let scope = Scope { bounds: batch.bounds(), mask: self.mask, pages };
        attention::forward(exec, qkv.view(), self.heads, scope, o.view_mut(), lse.view_mut())?;
        let y = self.out.forward(cx, o.view())?;
        Ok((y, AttentionSaved { x, qkv, o, lse }))
    }

    /// dy `[N,C]` to dx `[N,C]`.
    pub fn backward(&self, cx: &mut Ctx, batch: &Batch, saved: AttentionSaved, dy: Tensor) -> Result<Buf> {
        let AttentionSaved { x, mut qkv, o, lse } = saved;
        self.out.backward_weight(cx, o.view(), dy)?;
        let dout = self.out.backward_input(cx, dy)?;
        let scope = Scope { bounds: batch.bounds(), mask: self.mask, pages: None };
        let (o_view, lse_view) = (o.view(), lse.view());
        attention::backward(cx.exec, dout.view(), o_view, lse_view, qkv.view_mut(), self.heads, scope)?;
        drop((dout, o, lse));
        self.rotate(cx, batch, &mut qkv, Direction::Backward);
        self.qkv.backward_weight(cx, x.view(), qkv.view())?;
        drop(x);
        self.qkv.backward_input(cx, qkv.view())
    }

    fn rotate(&self, cx: &mut Ctx, batch: &Batch, qkv: &mut Buf, direction: Direction) {
        let heads = self.heads.query + self.heads.key_value;
        rope::rotate(cx.exec, qkv.view_mut(), heads, self.angles(batch), direction);
    }

    fn angles<'c>(&'c self, batch: &'c Batch) -> Angles<'c> {
        Angles { positions: batch.positions(), table: self.rope.table.view() }
    }

    /// Rotates a paged batch's queries, writes its keys and values where it wants them, and lends all of the layer's
    /// pages.
    fn extend_pages<'c>(
        &self,
        cx: &'c mut Ctx,
        batch: &Batch,
        paging: &'c Paging,
        qkv: &mut Buf,
    ) -> Pages<'c> {
        let kv = cx.kv.as_mut().expect("a paged batch is run with KV pages");
        let page_len = kv.page_len();
        let layer = &mut kv.layers[self.layer];
        let pages = (layer.keys.view_mut(), layer.values.view_mut());
        let (qkv, angles, slots) = (qkv.view_mut(), self.angles(batch), paging.slots.view());
        paged_kv::extend(cx.exec, qkv, self.heads, angles, slots, pages);
        Pages {
            keys: layer.keys.view(),
            values: layer.values.view(),
            tables: paging.tables.view(),
            contexts: paging.contexts.view(),
            page_len,
        }
    }
}

/// The rotation's cosines and sines, one table for all layers.
pub struct Rope {
    /// `[P,D]`
    table: Buf,
}

impl Rope {
    /// For positions below `positions`, in persistent memory.
    pub fn new(exec: &Exec, positions: usize, head_dim: usize, theta: f64, dtype: DType) -> Result<Self> {
        let mut table = exec.persistent.take([positions, head_dim], dtype.accumulator())?;
        if !exec.is_dry() {
            let numbers = rope::table(positions, head_dim, theta);
            match table.dtype() {
                DType::F64 => exec.write(&mut table, &numbers),
                _ => exec.write(&mut table, &numbers.iter().map(|&x| x as f32).collect::<Vec<_>>()),
            }
        }
        Ok(Self { table })
    }
}
