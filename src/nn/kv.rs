//! The keys and values of running sequences, in pages that a scheduler hands out.

use crate::{
    base::Result,
    ops::{Exec, attention::Heads},
    tensor::{Buf, DType},
};

/// Pages of every layer: `[K,pages*page_len,D]` keys, and as many values.
pub struct PagedKv {
    pub(super) layers: Vec<Layer>,
    page_len: usize,
}

pub(super) struct Layer {
    pub keys: Buf,
    pub values: Buf,
}

impl PagedKv {
    /// Takes the pages from persistent memory.
    pub fn new(
        exec: &Exec,
        layers: usize,
        heads: Heads,
        pages: usize,
        page_len: usize,
        dtype: DType,
    ) -> Result<Self> {
        let shape = [heads.key_value, pages * page_len, heads.dim];
        let layer = |_| {
            let keys = exec.persistent.take(shape, dtype)?;
            Ok(Layer { keys, values: exec.persistent.take(shape, dtype)? })
        };
        Ok(Self { layers: (0..layers).map(layer).collect::<Result<_>>()?, page_len })
    }

    /// Tokens in a page.
    pub fn page_len(&self) -> usize {
        self.page_len
    }
}
