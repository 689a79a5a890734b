//! Dataset snapshots: the frozen list of document versions that a run sees, with what was normalised, which
//! duplicates were left out and which text is held out. The manifest is a sealed object; its Merkle root
//! stands for it in lineage and receipts, and says nothing of the content.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    clean::Clean,
    merkle, parallel,
    split::{self, Span, Split, SplitSpec, Unit},
};
use crate::{
    base::{Context, Error, Id, IdKind, Monitor, Result, hex},
    seal::{self, Digest, Key},
    vault::Depot,
};

/// A document version as the store lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DocumentRef {
    pub document: Id,
    pub version: u32,
    /// The sealed object that holds this version's text.
    pub object: Id,
}

/// What to freeze, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotSpec {
    /// The latest version of every document of the collections.
    pub documents: Vec<DocumentRef>,
    #[serde(default)]
    pub clean: Clean,
    #[serde(default)]
    pub split: SplitSpec,
    /// 0: one per core.
    #[serde(default)]
    pub threads: usize,
}

/// How much text is on one side of the split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Documents that have text on this side; one may be on both.
    pub documents: u64,
    pub bytes: u64,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotOutcome {
    pub snapshot: Id,
    /// The Merkle root, in hexadecimal.
    pub root: String,
    /// Documents that count: neither duplicates nor empty.
    pub documents: u64,
    pub duplicates: u64,
    pub empty: u64,
    pub train: Amount,
    pub held_out: Amount,
    /// What was held out as one, when `split.unit` left it open.
    pub unit: Unit,
}

/// One document version of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    #[serde(flatten)]
    pub document: DocumentRef,
    /// HMAC of the normalised text under the document's extent key: once the document is erased, nobody can
    /// tell any more whether a text was this one.
    #[serde(with = "digits")]
    pub tag: Digest,
    /// Covers the normalised text from its beginning to its end.
    pub spans: Vec<Span>,
}

impl Entry {
    pub fn bytes(&self) -> u64 {
        self.spans.iter().map(|span| span.bytes).sum()
    }

    fn leaf(&self) -> Digest {
        let mut leaf = Vec::with_capacity(80);
        leaf.extend_from_slice(&self.document.document.to_bytes());
        leaf.extend_from_slice(&self.document.version.to_le_bytes());
        leaf.extend_from_slice(&self.document.object.to_bytes());
        leaf.extend_from_slice(&self.tag);
        merkle::leaf_hash(&leaf)
    }
}

/// A document that says, after normalisation, what another one says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duplicate {
    pub document: DocumentRef,
    pub of: Id,
}

/// The manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    format: u32,
    pub clean: Clean,
    pub split: SplitSpec,
    pub unit: Unit,
    /// In the order of the documents' ids, which is that of their age.
    pub entries: Vec<Entry>,
    pub duplicates: Vec<Duplicate>,
    /// Documents without any text after normalisation.
    pub empty: Vec<DocumentRef>,
}

const FORMAT: u32 = 1;

/// Makes a snapshot.
///
/// # Errors
/// `Usage` when there is no text at all, or too little to hold any of it out.
pub fn run(spec: &SnapshotSpec, depot: &dyn Depot, monitor: &dyn Monitor) -> Result<SnapshotOutcome> {
    let snapshot = Snapshot::make(spec, depot, monitor)?;
    let manifest = serde_json::to_vec(&snapshot).context("writing the snapshot's manifest")?;
    let mut object = depot.create(IdKind::Snapshot, manifest.len() as u64)?;
    std::io::Write::write_all(&mut object, &manifest).context("writing the snapshot's manifest")?;
    let id = depot.commit(object)?;
    Ok(SnapshotOutcome {
        snapshot: id,
        root: hex(&snapshot.root()),
        documents: snapshot.entries.len() as u64,
        duplicates: snapshot.duplicates.len() as u64,
        empty: snapshot.empty.len() as u64,
        train: snapshot.amount(Split::Train),
        held_out: snapshot.amount(Split::HeldOut),
        unit: snapshot.unit,
    })
}

impl Snapshot {
    /// Reads a manifest back.
    pub fn load(depot: &dyn Depot, id: Id) -> Result<Self> {
        let manifest = depot.open(id)?.read_all()?;
        let snapshot: Self = serde_json::from_slice(&manifest)
            .with_context(|| format!("reading the manifest of {id}"))
            .map_err(|error| error.with_kind(crate::base::ErrorKind::Integrity))?;
        match snapshot.format {
            FORMAT => Ok(snapshot),
            other => Err(Error::failed(format!("the manifest of {id} has format {other}, not {FORMAT}"))
                .remedy("read it with the version of cloister that wrote it, or a later one")),
        }
    }

    /// The Merkle root over the document versions.
    pub fn root(&self) -> Digest {
        merkle::root(&self.leaves())
    }

    /// The leaf of a document and the proof that it is under the root.
    pub fn prove(&self, document: Id) -> Option<(Digest, merkle::Proof)> {
        let index = self.entries.iter().position(|entry| entry.document.document == document)?;
        Some((self.entries[index].leaf(), merkle::prove(&self.leaves(), index)?))
    }

    pub fn amount(&self, side: Split) -> Amount {
        let mut amount = Amount::default();
        for entry in &self.entries {
            let bytes: u64 =
                entry.spans.iter().filter(|span| span.split == side).map(|span| span.bytes).sum();
            amount.bytes += bytes;
            amount.documents += u64::from(bytes > 0);
        }
        amount
    }

    /// The normalised text of an entry.
    ///
    /// # Errors
    /// `NotFound` when the document was erased since; `Integrity` when its text is not the one that was frozen.
    pub fn text(&self, depot: &dyn Depot, entry: &Entry) -> Result<String> {
        let text = normalised(depot, entry.document.object, &self.clean)?;
        if text.len() as u64 != entry.bytes() {
            return Err(Error::integrity(format!(
                "{} has {} bytes of text, and had {} when the snapshot was made",
                entry.document.document,
                text.len(),
                entry.bytes()
            )));
        }
        Ok(text)
    }

    /// The stretches of an entry's normalised text that are on one side.
    pub fn stretches(&self, depot: &dyn Depot, entry: &Entry, side: Split) -> Result<Vec<String>> {
        let text = self.text(depot, entry)?;
        let mut from = 0;
        let mut stretches = Vec::new();
        for span in &entry.spans {
            let to = from + span.bytes as usize;
            let stretch = text.get(from..to).ok_or_else(|| {
                Error::integrity(format!("the spans of {} do not fit its text", entry.document.document))
            })?;
            if span.split == side {
                stretches.push(stretch.to_owned());
            }
            from = to;
        }
        Ok(stretches)
    }

    fn leaves(&self) -> Vec<Digest> {
        self.entries.iter().map(Entry::leaf).collect()
    }

    fn make(spec: &SnapshotSpec, depot: &dyn Depot, monitor: &dyn Monitor) -> Result<Self> {
        check(&spec.split)?;
        let mut documents = spec.documents.clone();
        documents.sort_unstable();
        let read = read_all(&documents, spec, depot, monitor)?;

        let mut snapshot = Self {
            format: FORMAT,
            clean: spec.clean.clone(),
            split: spec.split.clone(),
            unit: Unit::Document,
            entries: Vec::new(),
            duplicates: Vec::new(),
            empty: Vec::new(),
        };
        // The oldest of equal documents stays, so that a later copy changes nothing.
        let mut first_with: HashMap<Digest, Id> = HashMap::new();
        let mut distinct: Vec<&ReadDocument> = Vec::new();
        for document in &read {
            if document.part_bytes.is_empty() {
                snapshot.empty.push(document.document);
            } else if let Some(&of) = first_with.get(&document.equality) {
                snapshot.duplicates.push(Duplicate { document: document.document, of });
            } else {
                first_with.insert(document.equality, document.document.document);
                distinct.push(document);
            }
        }
        snapshot.unit = spec.split.unit.unwrap_or(match distinct.len() {
            0..split::DOCUMENTS_MIN => Unit::Part,
            _ => Unit::Document,
        });
        snapshot.entries = place(&distinct, &spec.split, snapshot.unit)?;
        Ok(snapshot)
    }
}

fn check(spec: &SplitSpec) -> Result<()> {
    if spec.held_out_share > 0.0 && spec.held_out_share <= 0.5 {
        return Ok(());
    }
    Err(Error::usage(format!("a held-out share of {}", spec.held_out_share))
        .remedy("choose a share above 0 and up to 0.5; 0.05 is usual"))
}

/// What of a document is kept while a snapshot is made: digests and sizes, never its text.
struct ReadDocument {
    document: DocumentRef,
    /// Equal for equal texts, under a key of this run alone.
    equality: Digest,
    /// Of the normalised text; does not leave this run.
    digest: Digest,
    tag: Digest,
    /// The text cut into parts.
    part_bytes: Vec<u64>,
}

fn read_all(
    documents: &[DocumentRef],
    spec: &SnapshotSpec,
    depot: &dyn Depot,
    monitor: &dyn Monitor,
) -> Result<Vec<ReadDocument>> {
    let equality_key = Key::generate()?;
    let read_one = |document: DocumentRef| {
        let text = normalised(depot, document.object, &spec.clean)?;
        let digest = seal::sha256(text.as_bytes());
        Ok(ReadDocument {
            document,
            equality: seal::hmac(&equality_key, &digest),
            digest,
            tag: seal::hmac(&depot.extent_key(document.object)?, text.as_bytes()),
            part_bytes: split::parts(&text).iter().map(|part| part.len() as u64).collect(),
        })
    };
    let mut stage = parallel::Stage::new("snapshot", "document", documents.len() as u64);
    let mut read = Vec::with_capacity(documents.len());
    parallel::in_order(spec.threads, documents.iter().copied(), read_one, |document| {
        read.push(document);
        stage.advance(1, monitor)
    })?;
    Ok(read)
}

/// The text of an object as `clean` would have it.
fn normalised(depot: &dyn Depot, object: Id, clean: &Clean) -> Result<String> {
    let bytes = depot.open(object)?.read_all()?;
    let text = String::from_utf8(bytes)
        .with_context(|| format!("the text of {object}"))
        .map_err(|error| error.with_kind(crate::base::ErrorKind::Integrity))?;
    Ok(clean.apply(text))
}

/// Puts every unit on its side.
fn place(documents: &[&ReadDocument], spec: &SplitSpec, unit: Unit) -> Result<Vec<Entry>> {
    let threshold = split::threshold(spec.held_out_share);
    let units = |document: &ReadDocument| -> Vec<u64> {
        let bytes: u64 = document.part_bytes.iter().sum();
        let by_part = unit == Unit::Part || bytes >= split::LARGE_BYTES as u64;
        if by_part { document.part_bytes.clone() } else { vec![bytes] }
    };
    let mut drawn: Vec<Vec<(u64, u64)>> = documents
        .iter()
        .map(|document| {
            let draw = |part| split::draw(spec.seed, &document.digest, part);
            units(document).into_iter().enumerate().map(|(part, bytes)| (draw(part as u64), bytes)).collect()
        })
        .collect();
    hold_out_at_least_one(&mut drawn, threshold)?;
    Ok(documents
        .iter()
        .zip(drawn)
        .map(|(document, units)| Entry {
            document: document.document,
            tag: document.tag,
            spans: spans(&units, threshold),
        })
        .collect())
}

/// Sees to it that neither side is empty: with very few units the draws may leave one so.
fn hold_out_at_least_one(drawn: &mut [Vec<(u64, u64)>], threshold: u64) -> Result<()> {
    let units = || drawn.iter().flatten().map(|&(draw, _)| draw);
    let (count, held_out) = (units().count(), units().filter(|&draw| draw < threshold).count());
    if count < 2 {
        let bytes: u64 = drawn.iter().flatten().map(|&(_, bytes)| bytes).sum();
        return Err(Error::usage(format!("{bytes} bytes of text are too little to hold any of it out"))
            .remedy("ingest more text into the collection: a few hundred kilobytes at the least"));
    }
    let flip = if held_out == 0 {
        units().min().map(|lowest| (lowest, 0))
    } else if held_out == count {
        units().max().map(|highest| (highest, u64::MAX))
    } else {
        None
    };
    if let Some((chosen, becomes)) = flip {
        drawn.iter_mut().flatten().filter(|(draw, _)| *draw == chosen).for_each(|(draw, _)| *draw = becomes);
    }
    Ok(())
}

/// Neighbouring units of one side become one span: training text should be as long as it is.
fn spans(units: &[(u64, u64)], threshold: u64) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for &(draw, bytes) in units {
        let split = if draw < threshold { Split::HeldOut } else { Split::Train };
        match spans.last_mut() {
            Some(last) if last.split == split => last.bytes += bytes,
            _ => spans.push(Span { split, bytes }),
        }
    }
    spans
}

/// Digests in a manifest, as text.
mod digits {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::{
        base::{hex, unhex},
        seal::Digest,
    };

    pub fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(digest))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let bytes = unhex(&String::deserialize(deserializer)?);
        bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| de::Error::custom("not a digest"))
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
pub(super) mod tests;
