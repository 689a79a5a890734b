//! Token extents: a snapshot's text as token ids, ready for training. A shard is one object that carries a run of extents,
//! each sealed under its document's extent key, so that erasing the document's key takes its tokens with it; the
//! object's own content is their index. An extent is an unbroken run of tokens of
//! one document on one side of the split, without special tokens: where documents begin and end is the
//! loader's matter.

use std::{fmt, io::Write, ops::Range};

use memmap2::{Advice, MmapMut};
use serde::{Deserialize, Serialize};

use super::{
    parallel,
    snapshot::{Entry, Snapshot},
    split::Split,
    tokenizer,
};
use crate::{
    base::{Context, Error, Id, IdKind, Monitor, Result},
    seal::{self, BLOB_OVERHEAD_BYTES},
    text::{self, Tokenizer},
    vault::{Depot, ObjectReader},
};

/// A longer run is cut into several extents: to read a window of it, one extent is opened. Text without line
/// ends may exceed it, by what the tokenizer makes of one piece.
pub const EXTENT_TOKENS_MAX: usize = 1 << 16;
/// Extents are gathered in memory up to this and then written as one shard.
const SHARD_BYTES: usize = 64 << 20;
const MAGIC: &[u8; 8] = b"CLTOK\0\0\x02";
/// Magic, number of extents, bytes of a token, snapshot and tokenizer.
const HEAD_BYTES: usize = 8 + 4 + 4 + 17 + 17;
const INDEX_ENTRY_BYTES: usize = 63;
const EXTENTS_PER_SHARD_MAX: u32 = 1 << 24;

/// What to tokenise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentsSpec {
    pub snapshot: Id,
    pub tokenizer: Id,
    /// 0: one per core.
    #[serde(default)]
    pub threads: usize,
}

/// Tokens and the bytes of normalised text that they encode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAmount {
    pub extents: u64,
    pub tokens: u64,
    pub bytes: u64,
}

/// The shards that hold the tokens, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtentsOutcome {
    pub shards: Vec<Id>,
    pub train: TokenAmount,
    pub held_out: TokenAmount,
}

/// A run of tokens of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    pub document: Id,
    /// The sealed object of that document's version, whose extent key opens the tokens.
    pub object: Id,
    /// The extents of a document are numbered in the order of its text.
    pub part: u32,
    pub split: Split,
    pub tokens: u32,
    /// UTF-8 bytes of the normalised text that was encoded.
    pub bytes: u64,
}

/// Tokenises a snapshot.
pub fn run(spec: &ExtentsSpec, depot: &dyn Depot, monitor: &dyn Monitor) -> Result<ExtentsOutcome> {
    let snapshot = Snapshot::load(depot, spec.snapshot)?;
    let tokenizer = tokenizer::load(depot, spec.tokenizer)?;
    let width = Width::of(tokenizer.vocab_size());
    let mut stage = parallel::Stage::new("tokenise", "byte", snapshot.entries.iter().map(Entry::bytes).sum());
    let source = Source { snapshot: spec.snapshot, tokenizer: spec.tokenizer, width };
    let mut shards = Shards { depot, source, gathered: Vec::new(), gathered_bytes: 0, written: Vec::new() };
    let mut outcome = ExtentsOutcome {
        shards: Vec::new(),
        train: TokenAmount::default(),
        held_out: TokenAmount::default(),
    };
    parallel::in_order(
        spec.threads,
        snapshot.entries.iter(),
        |entry| tokenise(entry, &snapshot, &tokenizer, depot, &source),
        |sealed| {
            let bytes: u64 = sealed.iter().map(|extent| extent.extent.bytes).sum();
            for sealed in sealed {
                let amount = match sealed.extent.split {
                    Split::Train => &mut outcome.train,
                    Split::HeldOut => &mut outcome.held_out,
                };
                amount.extents += 1;
                amount.tokens += u64::from(sealed.extent.tokens);
                amount.bytes += sealed.extent.bytes;
                shards.add(sealed)?;
            }
            stage.advance(bytes, monitor)
        },
    )?;
    outcome.shards = shards.finish()?;
    Ok(outcome)
}

/// How many bytes a stored token id takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Two,
    Four,
}

impl Width {
    fn of(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 { Self::Two } else { Self::Four }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    fn pack(self, ids: &[u32]) -> Vec<u8> {
        match self {
            Self::Two => ids.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect(),
            Self::Four => ids.iter().flat_map(|&id| id.to_le_bytes()).collect(),
        }
    }

    fn unpack(self, packed: &[u8], ids: &mut Vec<u32>) {
        match self {
            Self::Two => {
                ids.extend(packed.as_chunks::<2>().0.iter().map(|&id| u32::from(u16::from_le_bytes(id))))
            }
            Self::Four => ids.extend(packed.as_chunks::<4>().0.iter().map(|&id| u32::from_le_bytes(id))),
        }
    }
}

/// What a shard's extents have in common: where their tokens come from, and how they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source {
    snapshot: Id,
    tokenizer: Id,
    width: Width,
}

struct SealedExtent {
    extent: Extent,
    blob: Vec<u8>,
}

fn tokenise(
    entry: &Entry,
    snapshot: &Snapshot,
    tokenizer: &Tokenizer,
    depot: &dyn Depot,
    source: &Source,
) -> Result<Vec<SealedExtent>> {
    let text = snapshot.text(depot, entry)?;
    let key = depot.extent_key(entry.document.object)?;
    let mut sealed = Vec::new();
    let mut from = 0;
    for span in &entry.spans {
        let to = from + span.bytes as usize;
        let stretch = text.get(from..to).ok_or_else(|| misfit(entry))?;
        from = to;
        for (piece, ids) in runs(tokenizer, stretch)? {
            let extent = Extent {
                document: entry.document.document,
                object: entry.document.object,
                part: sealed.len() as u32,
                split: span.split,
                tokens: ids.len() as u32,
                bytes: piece as u64,
            };
            let blob = seal::seal_blob(&key, &binding(&extent, source), &source.width.pack(&ids))?;
            sealed.push(SealedExtent { extent, blob });
        }
    }
    Ok(sealed)
}

fn misfit(entry: &Entry) -> Error {
    Error::integrity(format!("the spans of {} do not fit its text", entry.document.document))
}

/// A stretch of text as runs of about [`EXTENT_TOKENS_MAX`] ids, each with the bytes of text it encodes.
fn runs(tokenizer: &Tokenizer, stretch: &str) -> Result<Vec<(usize, Vec<u32>)>> {
    let mut runs: Vec<(usize, Vec<u32>)> = Vec::new();
    for piece in text::pieces(stretch) {
        let ids = tokenizer.encode(piece)?;
        match runs.last_mut() {
            Some((bytes, run)) if run.len() + ids.len() <= EXTENT_TOKENS_MAX => {
                *bytes += piece.len();
                run.extend(ids);
            }
            _ => runs.push((piece.len(), ids)),
        }
    }
    Ok(runs)
}

/// What an extent's ciphertext is bound to: nobody can pass one off as another, nor as one of another tokenizer's.
fn binding(extent: &Extent, source: &Source) -> Vec<u8> {
    let mut binding = b"cloister token extent v2".to_vec();
    binding.push(source.width.bytes() as u8);
    binding.extend_from_slice(&source.snapshot.to_bytes());
    binding.extend_from_slice(&source.tokenizer.to_bytes());
    binding.extend_from_slice(&index_entry(extent, 0, 0)[..INDEX_ENTRY_BYTES - 12]);
    binding
}

/// An index entry: document, object, part, side, tokens, bytes, where the blob begins in what is carried, its length.
fn index_entry(extent: &Extent, offset: u64, length: u32) -> [u8; INDEX_ENTRY_BYTES] {
    let mut entry = [0; INDEX_ENTRY_BYTES];
    let mut rest = &mut entry[..];
    let mut put = |bytes: &[u8]| {
        let (place, after) = std::mem::take(&mut rest).split_at_mut(bytes.len());
        place.copy_from_slice(bytes);
        rest = after;
    };
    put(&extent.document.to_bytes());
    put(&extent.object.to_bytes());
    put(&extent.part.to_le_bytes());
    put(&[u8::from(extent.split == Split::HeldOut)]);
    put(&extent.tokens.to_le_bytes());
    put(&extent.bytes.to_le_bytes());
    put(&offset.to_le_bytes());
    put(&length.to_le_bytes());
    entry
}

fn parse_index_entry(entry: &[u8; INDEX_ENTRY_BYTES]) -> Result<(Extent, u64, u32)> {
    let id = |at: usize| Id::from_bytes(std::array::from_fn(|byte| entry[at + byte]));
    let number = |at: usize, bytes: usize| {
        entry[at..at + bytes].iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte))
    };
    let split = match entry[38] {
        0 => Split::Train,
        1 => Split::HeldOut,
        other => return Err(Error::integrity(format!("a token extent on side {other}"))),
    };
    let extent = Extent {
        document: id(0)?,
        object: id(17)?,
        part: number(34, 4) as u32,
        split,
        tokens: number(39, 4) as u32,
        bytes: number(43, 8),
    };
    Ok((extent, number(51, 8), number(59, 4) as u32))
}

/// Gathers sealed extents and writes them out shard by shard.
struct Shards<'d> {
    depot: &'d dyn Depot,
    source: Source,
    gathered: Vec<SealedExtent>,
    gathered_bytes: usize,
    written: Vec<Id>,
}

impl Shards<'_> {
    fn add(&mut self, sealed: SealedExtent) -> Result<()> {
        self.gathered_bytes += sealed.blob.len();
        self.gathered.push(sealed);
        if self.gathered_bytes >= SHARD_BYTES { self.write() } else { Ok(()) }
    }

    fn finish(mut self) -> Result<Vec<Id>> {
        if !self.gathered.is_empty() {
            self.write()?;
        }
        Ok(self.written)
    }

    fn write(&mut self) -> Result<()> {
        let index_bytes = HEAD_BYTES + self.gathered.len() * INDEX_ENTRY_BYTES;
        let mut object = self.depot.create_carrying(IdKind::Shard, index_bytes as u64)?;
        let mut index = Vec::with_capacity(index_bytes);
        index.extend_from_slice(&head(self.gathered.len() as u32, &self.source));
        let mut offset = 0;
        for SealedExtent { extent, blob } in self.gathered.drain(..) {
            index.extend_from_slice(&index_entry(&extent, offset, blob.len() as u32));
            offset += blob.len() as u64;
            object.carry(&blob).context("writing a token shard")?;
        }
        object.write_all(&index).context("writing a token shard")?;
        self.gathered_bytes = 0;
        self.written.push(self.depot.commit(object)?);
        Ok(())
    }
}

/// How a shard's content begins.
fn head(extents: u32, source: &Source) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&extents.to_le_bytes());
    head.extend_from_slice(&(source.width.bytes() as u32).to_le_bytes());
    head.extend_from_slice(&source.snapshot.to_bytes());
    head.extend_from_slice(&source.tokenizer.to_bytes());
    head
}

/// The extents of some shards, open for reading; several threads may read at once.
pub struct TokenSet<'d> {
    depot: &'d dyn Depot,
    extents: Vec<Extent>,
    places: Vec<Place>,
    shards: Vec<(ObjectReader, Source)>,
}

/// Where an extent's ciphertext lies.
#[derive(Clone, Copy)]
struct Place {
    shard: u32,
    length: u32,
    offset: u64,
}

impl Place {
    fn length(&self) -> usize {
        self.length as usize
    }
}

impl<'d> TokenSet<'d> {
    /// Reads the indexes of `shards`.
    ///
    /// # Errors
    /// `Integrity` when one is not what was written.
    pub fn open(depot: &'d dyn Depot, shards: &[Id]) -> Result<Self> {
        let mut set = Self { depot, extents: Vec::new(), places: Vec::new(), shards: Vec::new() };
        for &shard in shards {
            set.add(depot.open(shard)?).with_context(|| format!("opening token shard {shard}"))?;
        }
        Ok(set)
    }

    /// What there is, in the order in which it was written.
    pub fn documents(&self) -> &[Extent] {
        &self.extents
    }

    /// Puts the tokens of extent `index` into `ids`, in place of what they held.
    ///
    /// # Errors
    /// `Integrity` when the tokens were altered; whatever the depot says when the document was erased.
    ///
    /// # Panics
    /// If there is no extent `index`.
    pub fn read(&self, index: usize, ids: &mut Vec<u32>) -> Result<()> {
        let place = self.places[index];
        let mut blob = vec![0; place.length as usize];
        self.shards[place.shard as usize].0.read_carried_at(place.offset, &mut blob)?;
        let packed = self.open_extent(index, &mut blob)?;
        ids.clear();
        ids.reserve(self.extents[index].tokens as usize);
        self.source(index).width.unpack(&blob[packed], ids);
        Ok(())
    }

    /// The memory that [`TokenSet::load`] takes.
    pub fn loaded_bytes(&self) -> u64 {
        self.places.iter().map(|place| u64::from(place.length)).sum()
    }

    /// All tokens at once, packed as they are stored: for those who have the memory, and will read them in another order
    /// than that in which they lie.
    ///
    /// # Errors
    /// As [`TokenSet::read`].
    pub fn load(&self) -> Result<Loaded> {
        let mut blobs = fresh_memory(self.loaded_bytes() as usize)?;
        let (mut rest, mut begin) = (&mut blobs[..], 0);
        let pieces = self.groups().into_iter().map(|group| {
            let blobs = rest.split_off_mut(..self.length(&group)).expect("the sum of all lengths");
            begin += blobs.len();
            Piece { begin: begin - blobs.len(), group, blobs }
        });
        let runs = seal::read_and_open(
            pieces.collect(),
            |piece| self.read_piece(piece),
            |piece| self.open_piece(piece),
        )?;
        Ok(Loaded { blobs, runs: runs.into_iter().flatten().collect() })
    }

    fn source(&self, index: usize) -> &Source {
        &self.shards[self.places[index].shard as usize].1
    }

    /// Bytes of all blobs of a group.
    fn length(&self, group: &Range<usize>) -> usize {
        self.places[group.clone()].iter().map(Place::length).sum()
    }

    /// Runs of extents that lie behind one another in one shard.
    fn groups(&self) -> Vec<Range<usize>> {
        let longest = seal::piece_bytes(self.loaded_bytes() as usize);
        let mut groups: Vec<Range<usize>> = Vec::new();
        let mut bytes = 0;
        for (index, place) in self.places.iter().enumerate() {
            bytes += place.length as usize;
            match groups.last_mut() {
                Some(group) if bytes <= longest && follows(&self.places[index - 1], place) => group.end += 1,
                _ => {
                    groups.push(index..index + 1);
                    bytes = place.length as usize;
                }
            }
        }
        groups
    }

    fn read_piece(&self, piece: &mut Piece<'_>) -> Result<()> {
        let first = self.places[piece.group.start];
        self.shards[first.shard as usize].0.read_carried_at(first.offset, piece.blobs)
    }

    /// Opens each blob where it lies.
    fn open_piece(&self, piece: Piece<'_>) -> Result<Vec<Run>> {
        let Piece { group, mut begin, blobs: mut rest } = piece;
        let open = |index: usize| {
            let blob = rest.split_off_mut(..self.places[index].length()).expect("the sum of all lengths");
            let packed = self.open_extent(index, blob)?;
            let run =
                Run { packed: begin + packed.start..begin + packed.end, width: self.source(index).width };
            begin += blob.len();
            Ok(run)
        };
        group.map(open).collect()
    }

    /// Opens an extent's blob where it lies, and says where the packed tokens are in it.
    fn open_extent(&self, index: usize, blob: &mut [u8]) -> Result<Range<usize>> {
        let extent = &self.extents[index];
        let key = self.depot.extent_key(extent.object)?;
        seal::open_blob_in_place(&key, &binding(extent, self.source(index)), blob)
            .with_context(|| format!("opening the tokens of {}", extent.document))
    }

    fn add(&mut self, object: ObjectReader) -> Result<()> {
        let length = object.len_bytes();
        let mut head = [0; HEAD_BYTES];
        if length < HEAD_BYTES as u64 {
            return Err(damaged("it is too short"));
        }
        object.read_at(0, &mut head)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (count, width) = (word(8), word(12));
        let index_bytes = u64::from(count) * INDEX_ENTRY_BYTES as u64;
        if !head.starts_with(MAGIC)
            || count > EXTENTS_PER_SHARD_MAX
            || HEAD_BYTES as u64 + index_bytes != length
        {
            return Err(damaged("it does not begin as one"));
        }
        let width = match width {
            2 => Width::Two,
            4 => Width::Four,
            _ => return Err(damaged("its tokens have no known width")),
        };
        let id = |at: usize| Id::from_bytes(std::array::from_fn(|byte| head[at + byte]));
        let source = Source { snapshot: id(16)?, tokenizer: id(33)?, width };
        let mut index = vec![0; index_bytes as usize];
        object.read_at(HEAD_BYTES as u64, &mut index)?;
        for entry in index.as_chunks().0 {
            let (extent, offset, blob_bytes) = parse_index_entry(entry)?;
            let expected = extent.tokens as usize * width.bytes() + BLOB_OVERHEAD_BYTES;
            let end = offset.checked_add(u64::from(blob_bytes));
            if blob_bytes as usize != expected || end.is_none_or(|end| end > object.carried_bytes()) {
                return Err(damaged("an extent lies outside it"));
            }
            self.extents.push(extent);
            let shard = self.shards.len() as u32;
            self.places.push(Place { shard, length: blob_bytes, offset });
        }
        self.shards.push((object, source));
        Ok(())
    }
}

fn follows(before: &Place, place: &Place) -> bool {
    before.shard == place.shard && before.offset + u64::from(before.length) == place.offset
}

/// Extents that lie behind one another, and where their blobs go.
struct Piece<'b> {
    group: Range<usize>,
    /// Where `blobs` begins among all.
    begin: usize,
    blobs: &'b mut [u8],
}

impl seal::Piece for Piece<'_> {
    fn room(&self) -> &[u8] {
        self.blobs
    }
}

/// The tokens of a [`TokenSet`] in memory.
pub struct Loaded {
    /// Opened where they were read to: no token was copied.
    blobs: MmapMut,
    runs: Vec<Run>,
}

/// Where an extent's packed tokens are.
struct Run {
    packed: Range<usize>,
    width: Width,
}

impl Loaded {
    /// Puts the tokens of extent `index` into `ids`, in place of what they held.
    ///
    /// # Panics
    /// If there is no extent `index`.
    pub fn read(&self, index: usize, ids: &mut Vec<u32>) {
        let run = &self.runs[index];
        ids.clear();
        run.width.unpack(&self.blobs[run.packed.clone()], ids);
    }
}

/// Zeroed pages straight from the kernel, large ones where it has them: the threads that fill them take them, and
/// paging in 4 KiB at a time costs more than decrypting.
fn fresh_memory(bytes: usize) -> Result<MmapMut> {
    let memory = MmapMut::map_anon(bytes.max(1)).context("taking memory for the tokens")?;
    // A wish: nothing fails without it.
    let _ = memory.advise(Advice::HugePage);
    Ok(memory)
}

impl fmt::Debug for TokenSet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenSet({} extents in {} shards)", self.extents.len(), self.shards.len())
    }
}

fn damaged(what: &str) -> Error {
    Error::integrity(format!("not a token shard: {what}"))
}

#[cfg(test)]
#[path = "extents_tests.rs"]
mod tests;
