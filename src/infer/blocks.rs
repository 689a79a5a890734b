//! The paged KV cache's books: which blocks of positions are free, and which a sequence holds. It counts
//! blocks and never touches the keys and values in them; those belong to the model's pool.

/// The blocks of one sequence, in the order of its positions. They come from a [`BlockManager`] and go back
/// to it; there is no other way to make or to lose them.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<u32>,
}

impl BlockTable {
    pub fn ids(&self) -> &[u32] {
        &self.blocks
    }
}

/// Hands out the blocks of a pool of fixed size.
#[derive(Debug)]
pub struct BlockManager {
    block_tokens: usize,
    total: usize,
    /// Used as a stack: a block just freed is the one most likely still in the processor's cache.
    free: Vec<u32>,
}

impl BlockManager {
    pub fn new(blocks: usize, block_tokens: usize) -> Self {
        assert!(block_tokens > 0, "a block holds at least one position");
        Self { block_tokens, total: blocks, free: (0..blocks as u32).rev().collect() }
    }

    pub fn total(&self) -> usize {
        self.total
    }

    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    pub fn in_use(&self) -> usize {
        self.total - self.free.len()
    }

    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens)
    }

    /// Whether the whole pool could hold this many positions if nothing else were in it.
    pub fn could_ever_hold(&self, tokens: usize) -> bool {
        self.blocks_for(tokens) <= self.total
    }

    /// Positions that the table's blocks hold.
    pub fn capacity(&self, table: &BlockTable) -> usize {
        table.blocks.len() * self.block_tokens
    }

    pub fn can_grow(&self, table: &BlockTable, to_tokens: usize) -> bool {
        self.missing(table, to_tokens) <= self.free.len()
    }

    /// Gives the table blocks until it holds `to_tokens` positions; false, and nothing changed, where too few are free.
    #[must_use]
    pub fn grow(&mut self, table: &mut BlockTable, to_tokens: usize) -> bool {
        if !self.can_grow(table, to_tokens) {
            return false;
        }
        let kept = self.free.len() - self.missing(table, to_tokens);
        table.blocks.extend(self.free.drain(kept..).rev());
        true
    }

    pub fn release(&mut self, table: &mut BlockTable) {
        self.free.extend(table.blocks.drain(..).rev());
        debug_assert!(self.free.len() <= self.total, "more blocks came back than there are");
    }

    fn missing(&self, table: &BlockTable, to_tokens: usize) -> usize {
        self.blocks_for(to_tokens).saturating_sub(table.blocks.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Philox;

    #[test]
    fn grows_by_whole_blocks_or_not_at_all() {
        let mut manager = BlockManager::new(3, 16);
        let mut table = BlockTable::default();
        assert!(manager.grow(&mut table, 17));
        assert_eq!((manager.in_use(), manager.capacity(&table)), (2, 32));
        assert!(manager.grow(&mut table, 32), "the second block has room");
        assert!(!manager.grow(&mut table, 49));
        assert_eq!(table.ids(), [0, 1]);
        assert!(manager.could_ever_hold(48) && !manager.could_ever_hold(49));
        manager.release(&mut table);
        assert_eq!((manager.in_use(), table.ids().len()), (0, 0));
    }

    #[test]
    fn no_block_is_ever_held_twice_nor_lost() {
        let mut rng = Philox::new(1, 0);
        let mut manager = BlockManager::new(20, 4);
        let mut tables: Vec<BlockTable> = (0..6).map(|_| BlockTable::default()).collect();
        for _ in 0..2000 {
            let table = &mut tables[rng.below(6) as usize];
            if rng.below(4) == 0 {
                manager.release(table);
            } else {
                let to_tokens = manager.capacity(table) + rng.below(12) as usize;
                let could = manager.can_grow(table, to_tokens);
                assert_eq!(manager.grow(table, to_tokens), could);
            }
            let mut held: Vec<u32> = tables.iter().flat_map(|table| table.ids().to_vec()).collect();
            assert_eq!(held.len(), manager.in_use());
            held.sort_unstable();
            held.dedup();
            assert_eq!(held.len(), manager.in_use(), "a block is held twice");
        }
    }
}
