//! A segment: its header, its lines, and the walk over them that checks each group against its checkpoint.

use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding};
use serde::{Deserialize, Serialize};

use super::{
    note::{Body, LogKey},
    tree::{Frontier, leaf_hash},
};
use crate::{
    base::{Context, Error, Result},
    seal::{Digest, Signer, sha256},
};

/// A segment that has grown beyond this is followed by another: small enough to be read whole into memory.
pub(super) const SEGMENT_BYTES: u64 = 16 << 20;
/// A checkpoint closes at most this many entries.
pub(super) const GROUP_ENTRIES_MAX: usize = 256;
const FORMAT: &str = "cloister audit log v1";
const CHECKPOINT_START: &[u8] = b"{\"checkpoint\":\"";
/// What a header begins with.
pub(super) const SEGMENT_START: &[u8] = b"{\"segment\":";

/// Where the log stands: the tree, and the hash of the last header or checkpoint line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub tree: Frontier,
    pub chain: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    segment: u64,
    format: String,
    origin: String,
    /// Number of the first entry.
    first: u64,
    frontier: Vec<String>,
    previous: String,
}

#[derive(Serialize, Deserialize)]
struct CheckpointLine<'a> {
    #[serde(borrow)]
    checkpoint: std::borrow::Cow<'a, str>,
}

/// A segment's path in the log's directory.
pub(super) fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:06}.log"))
}

/// The header line of segment `number`, which begins at `place`; with its end. `place` moves past it.
pub(super) fn header_line(origin: &str, number: u64, place: &mut Place) -> Result<Vec<u8>> {
    let header = Header {
        segment: number,
        format: FORMAT.into(),
        origin: origin.into(),
        first: place.tree.size(),
        frontier: place.tree.subtrees().iter().map(|hash| Base64::encode_string(hash)).collect(),
        previous: Base64::encode_string(&place.chain),
    };
    let mut line = serde_json::to_vec(&header).context("writing an audit segment's header")?;
    place.chain = sha256(&line);
    line.push(b'\n');
    Ok(line)
}

/// The checkpoint line after the entries `leaves`, with its end. `place.tree` already holds them; its chain
/// moves on.
pub(super) fn checkpoint_line(
    key: &LogKey,
    signer: &Signer,
    place: &mut Place,
    leaves: &[Digest],
) -> Result<Vec<u8>> {
    let root = place.tree.root();
    let body = Body { size: place.tree.size(), root: &root, group: Some((&place.chain, leaves)) };
    let note = key.sign(signer, &body);
    let mut line = serde_json::to_vec(&CheckpointLine { checkpoint: note.into() }).context("a checkpoint")?;
    place.chain = sha256(&line);
    line.push(b'\n');
    Ok(line)
}

/// What the walk over a segment found.
pub(super) struct Walked {
    pub begin: Place,
    /// After the last good checkpoint.
    pub end: Place,
    /// Where in the file that is.
    pub good_bytes: usize,
    /// Whole entry lines after it.
    pub entries_after: u64,
    pub bytes_after: usize,
    pub wrong: Option<Wrong>,
    /// Text of the last checkpoint line, its signature not yet verified.
    pub last_note: Option<String>,
    /// Roots at the sizes that were asked for.
    pub seen: Vec<(u64, Digest)>,
}

/// The first thing that is wrong in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub entry: u64,
    pub what: String,
}

/// Walks over a segment and checks everything but the signatures: entries against leaves, leaves against
/// roots, lines against the chain. Whoever verifies the last signature of the log has then verified all.
pub(super) fn walk(bytes: &[u8], key: &LogKey, number: u64, watched: &[u64]) -> Result<Walked, Wrong> {
    let (header, mut rest) = split_line(bytes)
        .ok_or_else(|| Wrong { entry: 0, what: format!("segment {number} has no header") })?;
    let begin = read_header(header, key, number)?;
    let mut end = Place { tree: begin.tree.clone(), chain: sha256(header) };
    let mut walked = Walked {
        end: end.clone(),
        good_bytes: bytes.len() - rest.len(),
        entries_after: 0,
        bytes_after: 0,
        wrong: None,
        last_note: None,
        seen: Vec::new(),
        begin,
    };
    let (mut leaves, mut group_tree): (Vec<Digest>, Frontier) = (Vec::new(), end.tree.clone());
    while let Some((line, after)) = split_line(rest) {
        rest = after;
        if !line.starts_with(CHECKPOINT_START) {
            let leaf = leaf_hash(line);
            group_tree.push(leaf);
            leaves.push(leaf);
            walked.entries_after += 1;
            continue;
        }
        let root = group_tree.root();
        let body = Body { size: group_tree.size(), root: &root, group: Some((&end.chain, &leaves)) };
        match note_with_body(line, &body.to_text(key.name())) {
            Some(note) if !leaves.is_empty() => walked.last_note = Some(note),
            // Of the append that was going on when the power went, a disk may have some sectors and not others, which
            // read as zeros. No line has any; and whoever puts them there does no more than one who cuts the log.
            _ if bytes[walked.good_bytes..].contains(&0) => break,
            _ => {
                walked.wrong = Some(diagnose(line, key, &end, &leaves));
                return Ok(walked);
            }
        }
        end = Place { tree: group_tree.clone(), chain: sha256(line) };
        if watched.contains(&end.tree.size()) {
            walked.seen.push((end.tree.size(), root));
        }
        (walked.good_bytes, walked.entries_after) = (bytes.len() - rest.len(), 0);
        walked.end = end.clone();
        leaves.clear();
    }
    walked.bytes_after = bytes.len() - walked.good_bytes;
    Ok(walked)
}

/// The line at the start of `bytes`, if it is whole, and what follows it.
pub(super) fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Number of the first entry of a segment, from its header line.
pub(super) fn first_entry(header: &[u8]) -> Result<u64> {
    let header: Header = serde_json::from_slice(header)
        .context("reading the header of an audit segment")
        .map_err(|error| error.with_kind(crate::base::ErrorKind::Integrity))?;
    Ok(header.first)
}

pub(super) fn is_checkpoint(line: &[u8]) -> bool {
    line.starts_with(CHECKPOINT_START)
}

fn read_header(line: &[u8], key: &LogKey, number: u64) -> Result<Place, Wrong> {
    // What a bad header says of its place is worth nothing: whoever joins the segments knows it.
    let wrong = |why: &str| Wrong { entry: 0, what: format!("the header of segment {number} {why}") };
    let header: Header = serde_json::from_slice(line).map_err(|_| wrong("cannot be read"))?;
    if header.format != FORMAT {
        return Err(wrong(&format!("says '{}', and this version reads '{FORMAT}'", header.format)));
    }
    if header.origin != key.name() {
        return Err(wrong(&format!("says it belongs to {}, not to {}", header.origin, key.name())));
    }
    if header.segment != number {
        return Err(wrong(&format!("says it is segment {}", header.segment)));
    }
    let digest = |text: &String| -> Option<Digest> { Base64::decode_vec(text).ok()?.try_into().ok() };
    let frontier = header.frontier.iter().map(digest).collect::<Option<_>>();
    let tree = frontier.and_then(|subtrees| Frontier::from_parts(header.first, subtrees));
    match (tree, digest(&header.previous)) {
        (Some(tree), Some(chain)) => Ok(Place { tree, chain }),
        _ => Err(wrong("was altered")),
    }
}

/// The note in a checkpoint line, when its text is exactly `body`.
fn note_with_body(line: &[u8], body: &str) -> Option<String> {
    let CheckpointLine { checkpoint } = serde_json::from_slice(line).ok()?;
    let signatures = checkpoint.strip_prefix(body)?;
    // One blank line, one signature line: nothing else can hide in what the chain alone covers.
    let signature = signatures.strip_prefix("\n— ")?.strip_suffix('\n')?;
    (!signature.contains('\n')).then(|| checkpoint.into_owned())
}

/// Says which entry of a group is not what its checkpoint says, and how it differs.
fn diagnose(line: &[u8], key: &LogKey, before: &Place, leaves: &[Digest]) -> Wrong {
    let start = before.tree.size();
    let signed = serde_json::from_slice(line)
        .ok()
        .and_then(|CheckpointLine { checkpoint }: CheckpointLine| key.open(&checkpoint).ok());
    let before_start = start.saturating_sub(1);
    let Some(signed) = signed else {
        let what = match leaves.len() as u64 {
            0 => format!("a checkpoint after entry {before_start} was added or altered"),
            1 => format!("the checkpoint over entry {start} was altered"),
            more => format!("the checkpoint over entries {start} to {} was altered", start + more - 1),
        };
        return Wrong { entry: if leaves.is_empty() { before_start } else { start }, what };
    };
    let first = signed.checkpoint.size - (signed.leaves.len() as u64).min(signed.checkpoint.size);
    if first > start {
        return Wrong { entry: start, what: format!("entry {start} is missing: entry {first} follows") };
    }
    if first < start {
        return Wrong {
            entry: first,
            what: format!("entry {first} stands again after entry {before_start}"),
        };
    }
    let same = leaves.iter().zip(&signed.leaves).take_while(|(found, due)| found == due).count();
    let entry = start + same as u64;
    let place_of = |leaf: &Digest, list: &[Digest]| list.iter().position(|other| other == leaf);
    let what = match (leaves.get(same), signed.leaves.get(same)) {
        (None, None) if signed.previous != Some(before.chain) => {
            let what = format!("the checkpoint or header after entry {before_start} was altered");
            return Wrong { entry: before_start, what };
        }
        (None, None) => {
            let what = format!("the entries up to {before_start} are not those that were signed");
            return Wrong { entry: before_start, what };
        }
        (Some(_), None) => "was added".to_owned(),
        (None, Some(_)) => "is missing".to_owned(),
        (Some(found), Some(due)) => match (place_of(found, &signed.leaves), place_of(due, leaves)) {
            (Some(_), None) => "is missing".to_owned(),
            (None, Some(_)) => "is not at its place: another was added there".to_owned(),
            (Some(was), Some(_)) => format!("is out of order: entry {} stands there", start + was as u64),
            (None, None) => "was edited".to_owned(),
        },
    };
    Wrong { entry, what: format!("entry {entry} {what}") }
}

impl From<Wrong> for Error {
    fn from(wrong: Wrong) -> Self {
        Error::integrity(format!("the audit log was tampered with: {}", wrong.what))
            .remedy("keep the log as it is for whoever investigates; restore it from a backup beside it")
    }
}
