//! Checkpoints as signed notes (C2SP `signed-note` and `tlog-checkpoint`), so that witnesses and verifiers made
//! for other logs understand ours.

use base64ct::{Base64, Encoding};

use crate::{
    base::{Error, Id, Result},
    seal::{Digest, PublicKey, SIGNATURE_BYTES, Sha256, Signer},
};

/// Ed25519, in the registry of signature types.
const ALGORITHM: u8 = 1;

/// The name and public key of a log: all that verifying takes. Its text is a C2SP verifier key,
/// `name+hash+key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogKey {
    name: String,
    key: PublicKey,
}

/// How far the log had got, and the root of its tree then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number of entries.
    pub size: u64,
    pub root: Digest,
}

/// A note's text, up to and including the line end before the signatures' blank line.
pub(super) struct Body<'a> {
    pub size: u64,
    pub root: &'a Digest,
    /// Only within a segment: the chain of header and checkpoint lines, and the leaves since the last one.
    pub group: Option<(&'a Digest, &'a [Digest])>,
}

/// A note that was taken apart and whose signature is right.
pub(super) struct Opened {
    pub checkpoint: Checkpoint,
    pub previous: Option<Digest>,
    pub leaves: Vec<Digest>,
}

impl LogKey {
    /// The key of the audit log of an installation.
    pub fn new(install: Id, key: PublicKey) -> Self {
        Self { name: format!("cloister/{install}/audit"), key }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// # Errors
    /// `Usage` when the text is no verifier key of an Ed25519 key.
    pub fn parse(text: &str) -> Result<Self> {
        let broken = || {
            Error::usage("this is not the public key of an audit log").remedy(
                "it looks like cloister/ins_…/audit+1234abcd+AB…: `cloister audit checkpoint` shows it",
            )
        };
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(hash), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(broken());
        };
        let key = Base64::decode_vec(key).map_err(|_| broken())?;
        let key = key.strip_prefix(&[ALGORITHM]).and_then(|key| key.try_into().ok()).ok_or_else(broken)?;
        let parsed = Self { name: name.to_owned(), key: PublicKey(key) };
        let usable = !name.is_empty() && !name.contains(char::is_whitespace);
        if usable && hash == parsed.hash_text() { Ok(parsed) } else { Err(broken()) }
    }

    /// The first four bytes of what a note names its key by.
    fn hash(&self) -> [u8; 4] {
        let mut hash = Sha256::default();
        hash.update(self.name.as_bytes());
        hash.update(&[b'\n', ALGORITHM]);
        hash.update(&self.key.0);
        *hash.finish().first_chunk().expect("a digest has 32 bytes")
    }

    fn hash_text(&self) -> String {
        format!("{:08x}", u32::from_be_bytes(self.hash()))
    }

    pub(super) fn sign(&self, signer: &Signer, body: &Body) -> String {
        let mut note = body.to_text(&self.name);
        let signature = [&self.hash()[..], &signer.sign(note.as_bytes())].concat();
        note.push_str(&format!("\n— {} {}\n", self.name, Base64::encode_string(&signature)));
        note
    }

    /// Checks the signature of a note and takes it apart.
    ///
    /// # Errors
    /// `Integrity` when the note is not one of this log's, signed by its key.
    pub(super) fn open(&self, note: &str) -> Result<Opened> {
        let broken = || Error::integrity(format!("a checkpoint is not one that {} signed", self.name));
        let (text, signatures) = note.rsplit_once("\n\n").ok_or_else(broken)?;
        let text = &note[..text.len() + 1];
        let mark = format!("— {} ", self.name);
        let signature = signatures.lines().find_map(|line| line.strip_prefix(&mark)).ok_or_else(broken)?;
        let signature = Base64::decode_vec(signature).map_err(|_| broken())?;
        let signature = signature
            .strip_prefix(&self.hash())
            .filter(|signature| signature.len() == SIGNATURE_BYTES)
            .ok_or_else(broken)?;
        self.key.verify(text.as_bytes(), signature).map_err(|_| broken())?;
        parse_text(text, &self.name).ok_or_else(broken)
    }

    /// A checkpoint that was printed and kept elsewhere.
    pub fn open_checkpoint(&self, note: &str) -> Result<Checkpoint> {
        self.open(note).map(|opened| opened.checkpoint)
    }
}

impl std::fmt::Display for LogKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = [&[ALGORITHM], &self.key.0[..]].concat();
        write!(f, "{}+{}+{}", self.name, self.hash_text(), Base64::encode_string(&key))
    }
}

impl Body<'_> {
    pub(super) fn to_text(&self, origin: &str) -> String {
        let mut text = format!("{origin}\n{}\n{}\n", self.size, Base64::encode_string(self.root));
        if let Some((previous, leaves)) = self.group {
            text.push_str(&format!("previous {}\n", Base64::encode_string(previous)));
            let mut encoded = [0; 44];
            for leaf in leaves {
                text.push_str("leaf ");
                text.push_str(Base64::encode(leaf, &mut encoded).expect("32 bytes are 44 letters"));
                text.push('\n');
            }
        }
        text
    }
}

fn parse_text(text: &str, origin: &str) -> Option<Opened> {
    let digest = |text: &str| -> Option<Digest> { Base64::decode_vec(text).ok()?.try_into().ok() };
    let mut lines = text.lines();
    if lines.next()? != origin {
        return None;
    }
    let checkpoint = Checkpoint { size: lines.next()?.parse().ok()?, root: digest(lines.next()?)? };
    let previous = match lines.next() {
        Some(line) => Some(digest(line.strip_prefix("previous ")?)?),
        None => None,
    };
    let leaves = lines.map(|line| digest(line.strip_prefix("leaf ")?)).collect::<Option<_>>()?;
    Some(Opened { checkpoint, previous, leaves })
}
