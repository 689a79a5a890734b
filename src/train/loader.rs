//! The data loader: documents packed into rows of one context length, in an order that is a function of the
//! seed and the position alone. Every token of every document is an input once an epoch but for the remainder
//! that fills no row, which the next epoch's turn moves elsewhere; no row joins two documents without a bound.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::{
    base::{Error, Philox, Result},
    ops::cross_entropy::IGNORE,
};

/// Documents as tokens, without any special token: a [`crate::corpus`] token set, or a test's vectors.
pub trait Documents: Sync {
    /// The tokens of document `document`.
    fn read(&self, document: usize, into: &mut Vec<u32>) -> Result<()>;
}

/// A piece of one document in a row: `len` inputs from place `from` of `<|bos|> tokens... <|eos|>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub document: usize,
    pub from: u64,
    pub len: u64,
}

/// Packed rows as the model takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// [N]
    pub inputs: Vec<u32>,
    /// [N] the token after each input; never of another document.
    pub targets: Vec<u32>,
    /// Lengths of the pieces, in order; they sum to N. Attention and positions start anew at each.
    pub pieces: Vec<u32>,
}

impl Packed {
    pub fn clear(&mut self) {
        self.inputs.clear();
        self.targets.clear();
        self.pieces.clear();
    }

    /// Fills up to `rows` positions with ones that count for nothing, so that every pass has one shape and
    /// finds its memory where the dry run found it.
    pub fn pad(&mut self, rows: usize, context: usize) {
        while self.inputs.len() < rows {
            let len = context.min(rows - self.inputs.len());
            self.inputs.resize(self.inputs.len() + len, 0);
            self.targets.resize(self.targets.len() + len, IGNORE);
            self.pieces.push(len as u32);
        }
    }
}

/// The tokens that stand around every document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub bos: u32,
    pub eos: u32,
}

/// One document of an index, or an unbroken run of one: which, and how many tokens it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub document: usize,
    pub tokens: u64,
    /// Whether the document ends here; a run that another follows, or that was cut where held-out text begins,
    /// does not, and no end is learnt there.
    pub ends: bool,
}

impl Entry {
    /// Predicted positions: each token, and the end.
    fn positions(self) -> u64 {
        self.tokens + u64::from(self.ends)
    }
}

/// Positions that one pass over `entries` predicts.
pub fn positions(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.positions()).sum()
}

/// Training rows, without end: epoch after epoch, each in another order.
pub struct Order {
    entries: Vec<Entry>,
    context: u64,
    seed: u64,
    rows_per_epoch: u64,
    epoch: Epoch,
}

/// One epoch's order: documents shuffled and laid end to end in a ring, the ring turned, cut into rows, the rows
/// shuffled.
struct Epoch {
    number: u64,
    /// Shuffled.
    entries: Vec<Entry>,
    /// Where each entry begins in the ring, and the ring's length last.
    starts: Vec<u64>,
    turn: u64,
    rows: Vec<u32>,
}

impl Order {
    /// # Errors
    /// `Usage` where the documents do not fill one row.
    pub fn new(entries: Vec<Entry>, context: u64, seed: u64) -> Result<Self> {
        let rows_per_epoch = positions(&entries) / context;
        if rows_per_epoch == 0 || rows_per_epoch > u64::from(u32::MAX) {
            return Err(Error::usage(format!(
                "{} positions make {rows_per_epoch} rows of {context}",
                positions(&entries)
            ))
            .remedy("a run needs from 1 to 2^32 rows: change the context, or the snapshot"));
        }
        let epoch = Epoch::new(&entries, rows_per_epoch, seed, 0);
        Ok(Self { entries, context, seed, rows_per_epoch, epoch })
    }

    pub fn rows_per_epoch(&self) -> u64 {
        self.rows_per_epoch
    }

    /// The pieces of row `row`, counted from the run's first.
    pub fn row(&mut self, row: u64) -> Vec<Piece> {
        let number = row / self.rows_per_epoch;
        if self.epoch.number != number {
            self.epoch = Epoch::new(&self.entries, self.rows_per_epoch, self.seed, number);
        }
        let place = self.epoch.rows[(row % self.rows_per_epoch) as usize];
        self.epoch.pieces(u64::from(place) * self.context, self.context)
    }
}

impl Epoch {
    fn new(entries: &[Entry], rows: u64, seed: u64, number: u64) -> Self {
        // A stream of its own for every epoch: any epoch can be made without those before it.
        let mut rng = Philox::new(seed, DATA_STREAM + number);
        let mut entries = entries.to_vec();
        rng.shuffle(&mut entries);
        let mut starts = vec![0];
        for entry in &entries {
            starts.push(starts[starts.len() - 1] + entry.positions());
        }
        let turn = rng.below(starts[starts.len() - 1]);
        let mut rows: Vec<u32> = (0..rows as u32).collect();
        rng.shuffle(&mut rows);
        Self { number, entries, starts, turn, rows }
    }

    fn pieces(&self, from: u64, len: u64) -> Vec<Piece> {
        let ring = self.starts[self.starts.len() - 1];
        let mut place = (self.turn + from) % ring;
        let mut left = len;
        let mut pieces = Vec::new();
        while left > 0 {
            let at = self.starts.partition_point(|&start| start <= place) - 1;
            let len = (self.starts[at + 1] - place).min(left);
            pieces.push(Piece { document: self.entries[at].document, from: place - self.starts[at], len });
            left -= len;
            place = (place + len) % ring;
        }
        pieces
    }
}

/// Keeps the data order's random streams apart from those of initialisation (0) and sampling.
const DATA_STREAM: u64 = 1 << 32;

/// Held-out rows: every document once, in the order given, the last row as short as it comes.
pub fn heldout_rows(entries: &[Entry], context: u64) -> Vec<Vec<Piece>> {
    let mut rows = Vec::new();
    let (mut row, mut room) = (Vec::new(), context);
    for entry in entries {
        let mut from = 0;
        while from < entry.positions() {
            let len = (entry.positions() - from).min(room);
            row.push(Piece { document: entry.document, from, len });
            from += len;
            room -= len;
            if room == 0 {
                rows.push(std::mem::take(&mut row));
                room = context;
            }
        }
    }
    if !row.is_empty() {
        rows.push(row);
    }
    rows
}

/// Turns pieces into tokens, keeping the documents it read last.
pub struct Reader<'a> {
    documents: &'a dyn Documents,
    bounds: Bounds,
    vocab: u32,
    kept: HashMap<usize, Arc<Vec<u32>>>,
    /// Oldest first.
    order: VecDeque<usize>,
    kept_tokens: usize,
    kept_tokens_max: usize,
}

/// 256 MiB of tokens.
pub const KEPT_TOKENS_MAX: usize = 64 << 20;

impl<'a> Reader<'a> {
    pub fn new(documents: &'a dyn Documents, bounds: Bounds, vocab: u32) -> Self {
        Self {
            documents,
            bounds,
            vocab,
            kept: HashMap::new(),
            order: VecDeque::new(),
            kept_tokens: 0,
            kept_tokens_max: KEPT_TOKENS_MAX,
        }
    }

    /// Appends a row's pieces to `into`.
    ///
    /// # Errors
    /// What reading the document says; `Integrity` where it is shorter than the index says, or holds a token
    /// beyond the vocabulary.
    pub fn append(&mut self, pieces: &[Piece], into: &mut Packed) -> Result<()> {
        for piece in pieces {
            let tokens = self.bounded(piece.document)?;
            let (from, len) = (piece.from as usize, piece.len as usize);
            let cut = tokens.get(from..from + len + 1).ok_or_else(|| {
                Error::integrity(format!(
                    "extent {} of the token set has {} tokens, fewer than its index says",
                    piece.document,
                    tokens.len() - 2
                ))
            })?;
            into.inputs.extend_from_slice(&cut[..len]);
            into.targets.extend_from_slice(&cut[1..]);
            into.pieces.push(piece.len as u32);
        }
        Ok(())
    }

    /// `<|bos|> tokens... <|eos|>`
    fn bounded(&mut self, document: usize) -> Result<Arc<Vec<u32>>> {
        if let Some(tokens) = self.kept.get(&document) {
            return Ok(Arc::clone(tokens));
        }
        let mut tokens = Vec::new();
        self.documents.read(document, &mut tokens)?;
        if let Some(beyond) = tokens.iter().find(|&&token| token >= self.vocab) {
            return Err(Error::integrity(format!(
                "extent {document} of the token set holds token {beyond}, and the tokenizer has {}",
                self.vocab
            ))
            .remedy("the shards were made with another tokenizer: make them again"));
        }
        tokens.insert(0, self.bounds.bos);
        tokens.push(self.bounds.eos);
        let tokens = Arc::new(tokens);
        self.keep(document, &tokens);
        Ok(tokens)
    }

    fn keep(&mut self, document: usize, tokens: &Arc<Vec<u32>>) {
        self.kept_tokens += tokens.len();
        self.kept.insert(document, Arc::clone(tokens));
        self.order.push_back(document);
        while self.kept_tokens > self.kept_tokens_max {
            let Some(oldest) = self.order.pop_front() else { break };
            self.kept_tokens -= self.kept.remove(&oldest).map_or(0, |tokens| tokens.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Vec<Vec<u32>>);

    impl Documents for Fixed {
        fn read(&self, document: usize, into: &mut Vec<u32>) -> Result<()> {
            into.extend_from_slice(&self.0[document]);
            Ok(())
        }
    }

    /// Documents of distinct tokens: the document is in the tens of thousands, the place below.
    fn documents(lengths: &[u64]) -> (Fixed, Vec<Entry>) {
        let texts = lengths.iter().enumerate();
        let texts = texts.map(|(d, &n)| (0..n).map(|i| (d as u32 + 1) * 10_000 + i as u32).collect());
        let entries =
            lengths.iter().enumerate().map(|(document, &tokens)| Entry { document, tokens, ends: true });
        (Fixed(texts.collect()), entries.collect())
    }

    const BOUNDS: Bounds = Bounds { bos: 1, eos: 2 };

    fn epoch_of(order: &mut Order, reader: &mut Reader, epoch: u64) -> Packed {
        let mut packed = Packed::default();
        for row in 0..order.rows_per_epoch() {
            let pieces = order.row(epoch * order.rows_per_epoch() + row);
            assert_eq!(pieces.iter().map(|piece| piece.len).sum::<u64>(), order.context);
            reader.append(&pieces, &mut packed).expect("in memory");
        }
        packed
    }

    #[test]
    fn an_epoch_is_every_position_once_but_for_the_remainder() {
        let (texts, entries) = documents(&[5, 0, 133, 17, 64, 1]);
        let total = positions(&entries);
        assert_eq!(total, 5 + 133 + 17 + 64 + 1 + 6);
        let mut order = Order::new(entries, 16, 3).expect("long enough");
        let mut reader = Reader::new(&texts, BOUNDS, 100_000);
        let mut seen = Vec::new();
        for epoch in 0..3 {
            let packed = epoch_of(&mut order, &mut reader, epoch);
            assert_eq!(packed.inputs.len() as u64, total / 16 * 16);
            let mut targets: Vec<u32> = packed.targets.iter().copied().filter(|&t| t != BOUNDS.eos).collect();
            targets.sort_unstable();
            assert!(targets.windows(2).all(|pair| pair[0] != pair[1]), "no token is foretold twice");
            seen.push(packed.inputs);
        }
        assert!(seen[0] != seen[1] && seen[1] != seen[2], "each epoch has another order");
    }

    #[test]
    fn no_piece_joins_two_documents() {
        let (texts, entries) = documents(&[3, 40, 7, 25]);
        let mut order = Order::new(entries, 8, 9).expect("long enough");
        let mut reader = Reader::new(&texts, BOUNDS, 100_000);
        let packed = epoch_of(&mut order, &mut reader, 1);
        let mut at = 0;
        for &len in &packed.pieces {
            let (inputs, targets) =
                (&packed.inputs[at..][..len as usize], &packed.targets[at..][..len as usize]);
            for (&input, &target) in inputs.iter().zip(targets) {
                let follows = match (input, target) {
                    (1, 2) => true,
                    (1, first) => first % 10_000 == 0,
                    (_, 2) => true,
                    (input, next) => next == input + 1,
                };
                assert!(follows, "{input} {target}");
            }
            assert!(inputs[1..].iter().all(|&input| input != BOUNDS.bos));
            at += len as usize;
        }
        assert_eq!(at, packed.inputs.len());
    }

    #[test]
    fn a_row_depends_on_seed_and_position_alone() {
        let (_, entries) = documents(&[50, 60, 70]);
        let mut straight = Order::new(entries.clone(), 8, 4).expect("long enough");
        let rows: Vec<_> = (0..100).map(|row| straight.row(row)).collect();
        let mut resumed = Order::new(entries.clone(), 8, 4).expect("long enough");
        for row in [99, 57, 3, 58] {
            assert_eq!(resumed.row(row), rows[row as usize]);
        }
        let mut other = Order::new(entries, 8, 5).expect("long enough");
        assert_ne!((0..20).map(|row| other.row(row)).collect::<Vec<_>>(), rows[..20]);
    }

    #[test]
    fn heldout_rows_cover_everything_in_order() {
        let (texts, entries) = documents(&[20, 0, 3]);
        let rows = heldout_rows(&entries, 8);
        let mut packed = Packed::default();
        let mut reader = Reader::new(&texts, BOUNDS, 100_000);
        rows.iter().for_each(|row| reader.append(row, &mut packed).expect("in memory"));
        let mut expected: Vec<u32> = (10_000..10_020).collect();
        expected.extend([2, 2]);
        expected.extend(30_000..30_003);
        expected.push(2);
        assert_eq!(packed.targets, expected);
        assert_eq!(packed.pieces, [8, 8, 5, 1, 2, 2]);
        assert!(heldout_rows(&[], 8).is_empty());
    }

    #[test]
    fn no_end_is_learnt_where_a_document_goes_on() {
        let (texts, mut entries) = documents(&[3, 2]);
        entries[0].ends = false;
        assert_eq!(positions(&entries), 3 + 2 + 1);
        let mut packed = Packed::default();
        let mut reader = Reader::new(&texts, BOUNDS, 100_000);
        heldout_rows(&entries, 64).iter().for_each(|row| reader.append(row, &mut packed).expect("in memory"));
        assert_eq!(packed.targets, [10_000, 10_001, 10_002, 20_000, 20_001, 2]);
        assert_eq!(packed.inputs, [1, 10_000, 10_001, 1, 20_000, 20_001]);
        packed.pad(10, 3);
        assert_eq!(packed.targets[6..], [IGNORE; 4]);
        assert_eq!(packed.pieces, [3, 3, 3, 1]);
    }

    #[test]
    fn too_little_is_refused_and_a_lying_index_is_found() {
        let (texts, mut entries) = documents(&[5, 5]);
        assert!(Order::new(entries.clone(), 13, 0).is_err());
        assert!(Order::new(Vec::new(), 1, 0).is_err());
        entries[1].tokens = 9;
        let mut reader = Reader::new(&texts, BOUNDS, 100_000);
        let error = reader.append(&heldout_rows(&entries, 64)[0], &mut Packed::default()).unwrap_err();
        assert_eq!(error.kind(), crate::base::ErrorKind::Integrity);
        let mut small = Reader::new(&texts, BOUNDS, 10_000);
        let error =
            small.append(&[Piece { document: 0, from: 0, len: 1 }], &mut Packed::default()).unwrap_err();
        assert!(error.to_string().contains("token 10000"), "{error}");
    }

    #[test]
    fn the_reader_keeps_no_more_than_it_may() {
        let (texts, entries) = documents(&[10, 10, 10, 10]);
        let mut reader = Reader::new(&texts, BOUNDS, 100_000);
        reader.kept_tokens_max = 30;
        for row in heldout_rows(&entries, 11) {
            reader.append(&row, &mut Packed::default()).expect("in memory");
            assert!(reader.kept_tokens <= 30);
        }
        assert_eq!(reader.kept.len(), 2);
    }
}
