//! What a run reads: the snapshot's tokens, split into training and held-out documents, and what the tokenizer
//! says of them.

use super::{
    loader::{self, Bounds, Documents, Entry, Piece, Reader},
    recipe::DataFacts,
};
use crate::{
    base::{Error, Id, Result},
    corpus::{
        self, Split,
        extents::{Loaded, TokenSet},
    },
    text::{Special, Tokenizer},
    vault::Depot,
};

pub struct Data<'d> {
    pub tokens: TokenSet<'d>,
    loaded: Option<Loaded>,
    pub tokenizer: Tokenizer,
    pub bounds: Bounds,
    /// In the order of the shards.
    pub train: Vec<Entry>,
    pub heldout: Vec<Entry>,
    pub facts: DataFacts,
}

impl Documents for TokenSet<'_> {
    fn read(&self, document: usize, into: &mut Vec<u32>) -> Result<()> {
        TokenSet::read(self, document, into)
    }
}

impl Documents for Loaded {
    fn read(&self, document: usize, into: &mut Vec<u32>) -> Result<()> {
        Loaded::read(self, document, into);
        Ok(())
    }
}

impl<'d> Data<'d> {
    /// # Errors
    /// What opening says; `Usage` where the tokenizer lacks the tokens that stand around a document.
    pub fn open(tokenizer: Id, shards: &[Id], depot: &'d dyn Depot) -> Result<Self> {
        let tokenizer = corpus::tokenizer::load(depot, tokenizer)?;
        let special = |special: Special| {
            tokenizer.special(special).ok_or_else(|| {
                Error::usage(format!("the tokenizer has no {} token", special.text()))
                    .remedy("train one with `tokenizer train`, which has it")
            })
        };
        let bounds = Bounds { bos: special(Special::Bos)?, eos: special(Special::Eos)? };
        let tokens = TokenSet::open(depot, shards)?;
        let (mut train, mut heldout, mut heldout_bytes) = (Vec::new(), Vec::new(), 0);
        let extents = tokens.documents();
        for (document, extent) in extents.iter().enumerate() {
            let ends = extents.get(document + 1).is_none_or(|next| next.document != extent.document);
            let entry = Entry { document, tokens: u64::from(extent.tokens), ends };
            match extent.split {
                Split::Train => train.push(entry),
                Split::HeldOut => {
                    heldout.push(entry);
                    heldout_bytes += extent.bytes;
                }
            }
        }
        let facts = DataFacts {
            vocab: tokenizer.vocab_size() as u64,
            train_tokens: loader::positions(&train),
            heldout_tokens: loader::positions(&heldout),
            heldout_bytes,
        };
        Ok(Self { tokens, loaded: None, tokenizer, bounds, train, heldout, facts })
    }

    /// Takes all tokens into memory if `spare_bytes` are enough for them: a run reads its rows in any order, and each from
    /// the disk would cost it a whole extent.
    ///
    /// # Errors
    /// What reading says.
    pub fn load(&mut self, spare_bytes: u64) -> Result<()> {
        if self.tokens.loaded_bytes() <= spare_bytes {
            self.loaded = Some(self.tokens.load()?);
        }
        Ok(())
    }

    pub fn reader(&self) -> Reader<'_> {
        let documents: &dyn Documents = match &self.loaded {
            Some(loaded) => loaded,
            None => &self.tokens,
        };
        Reader::new(documents, self.bounds, self.facts.vocab as u32)
    }

    /// Held-out rows: all of them, or about `positions` positions spread evenly over them.
    pub fn heldout_rows(&self, context: u64, positions: Option<u64>) -> Vec<Vec<Piece>> {
        let rows = loader::heldout_rows(&self.heldout, context);
        let wanted = positions.map_or(rows.len(), |positions| (positions / context).max(1) as usize);
        spread(rows, wanted)
    }
}

/// `wanted` items at even distances, or all where there are no more.
fn spread<T>(items: Vec<T>, wanted: usize) -> Vec<T> {
    let count = items.len();
    if wanted >= count {
        return items;
    }
    let chosen = items.into_iter().enumerate();
    // Item i is taken where the running share passes a whole number.
    chosen.filter(|(i, _)| (i + 1) * wanted / count > i * wanted / count).map(|(_, item)| item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_evenly() {
        for (count, wanted) in [(10, 3), (100, 7), (5, 5), (3, 9), (1000, 1)] {
            let sample = spread((0..count).collect(), wanted);
            assert_eq!(sample.len(), wanted.min(count));
            let gaps: Vec<usize> = sample.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let (least, most) = (gaps.iter().min(), gaps.iter().max());
            assert!(most.zip(least).is_none_or(|(most, least)| most - least <= 1), "{sample:?}");
        }
    }
}
