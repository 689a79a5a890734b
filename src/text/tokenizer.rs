//! The tokenizer itself: loading, encoding, decoding. It is the `tokenizers` crate's model behind our own
//! checks, with a table of each token's bytes beside it, so that decoding is a concatenation.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde::Serialize;
use tokenizers::{DecoderWrapper, Model, ModelWrapper};

use super::{
    bytes,
    words::{self, Words},
};
use crate::base::{Context, Error, Result};

/// A `tokenizer.json` larger than this is refused before it is parsed: the largest published ones have 35 MB.
pub const JSON_BYTES_MAX: usize = 128 << 20;
/// Published vocabularies end at 262,144.
pub const VOCAB_MAX: usize = 1 << 20;

/// The special tokens of a tokenizer trained here; they have the first ids, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    /// Stands before every document and conversation.
    Bos,
    /// Stands after every document.
    Eos,
    /// Fills a batch; never a target.
    Pad,
    System,
    User,
    Assistant,
    /// Ends a turn of a conversation.
    End,
}

impl Special {
    pub const ALL: [Special; 7] =
        [Self::Bos, Self::Eos, Self::Pad, Self::System, Self::User, Self::Assistant, Self::End];

    pub fn text(self) -> &'static str {
        match self {
            Self::Bos => "<|bos|>",
            Self::Eos => "<|eos|>",
            Self::Pad => "<|pad|>",
            Self::System => "<|system|>",
            Self::User => "<|user|>",
            Self::Assistant => "<|assistant|>",
            Self::End => "<|end|>",
        }
    }
}

/// A byte-level BPE tokenizer. `Send + Sync`: one stands in an `Arc` for all threads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// What each id (0..V) writes; a special token writes its own text.
    pieces: Vec<Box<[u8]>>,
    /// Special tokens and their ids, longest text first.
    specials: Vec<(String, u32)>,
    /// Which ids (0..V) are special.
    are_special: Vec<bool>,
    /// For a tokenizer trained here: its words, by which it encodes several times faster than step by step.
    words: Option<Words>,
}

/// What a vocabulary is made of, for `tokenizer show`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub vocab_size: usize,
    pub special_tokens: Vec<String>,
    /// Bytes of the longest token that is not special.
    pub longest_piece_bytes: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. The bytes may come from anywhere: whatever they hold, the outcome is a
    /// working tokenizer or an error.
    ///
    /// # Errors
    /// What is not byte-level BPE, has holes in its ids or lacks a byte is refused by name.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        if json.len() > JSON_BYTES_MAX {
            return Err(Error::failed(format!(
                "tokenizer.json has {} bytes, more than {JSON_BYTES_MAX}",
                json.len()
            )));
        }
        // The crate indexes and unwraps here and there on inconsistent input: a panic is a refusal too.
        std::panic::catch_unwind(AssertUnwindSafe(|| {
            let inner = tokenizers::Tokenizer::from_bytes(json)
                .context("not a tokenizer.json that this build can read")?;
            Self::from_inner(inner)
        }))
        .unwrap_or_else(|_| Err(Error::failed("inconsistent content")))
        .map_err(|error| {
            error.context("reading tokenizer.json").remedy(
                "bring the tokenizer.json of a byte-level BPE tokenizer (GPT-2, Llama 3, Qwen or one trained here)",
            )
        })
    }

    /// The Hugging Face `tokenizer.json`: the same bytes for the same tokenizer.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        Ok(self.inner.to_string(false).context("writing tokenizer.json")?.into_bytes())
    }

    pub(super) fn from_inner(mut inner: tokenizers::Tokenizer) -> Result<Self> {
        require_byte_level(&inner)?;
        // Text is text: "<|eos|>" in a document must not end it, nor one in a chat message a turn.
        inner.set_encode_special_tokens(true);
        inner.with_padding(None);
        inner.with_truncation(None).context("switching truncation off")?;

        let vocab = inner.get_vocab(true);
        if vocab.len() > VOCAB_MAX {
            return Err(Error::failed(format!("{} tokens, more than {VOCAB_MAX}", vocab.len())));
        }
        let added = inner.get_added_tokens_decoder();
        let mut pieces: Vec<Option<Box<[u8]>>> = vec![None; vocab.len()];
        for (token, id) in &vocab {
            let place = pieces
                .get_mut(*id as usize)
                .ok_or_else(|| Error::failed(format!("token id {id} among {} tokens", vocab.len())))?;
            let is_added = added.contains_key(id);
            let piece = if is_added { token.as_bytes().into() } else { piece_bytes(token)? };
            if place.replace(piece).is_some() {
                return Err(Error::failed(format!("token id {id} stands twice")));
            }
        }
        let pieces: Vec<Box<[u8]>> = pieces
            .into_iter()
            .collect::<Option<_>>()
            .ok_or_else(|| Error::failed("the token ids have holes"))?;
        for byte in 0..=255 {
            let letter = bytes::char_of(byte).to_string();
            if !vocab.contains_key(&letter) {
                return Err(Error::failed(format!("no token for the byte {byte:#04x}")));
            }
        }
        let mut specials: Vec<(String, u32)> = added
            .into_iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .map(|(id, token)| (token.content, id))
            .collect();
        specials.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b)));
        let mut are_special = vec![false; pieces.len()];
        for &(_, id) in &specials {
            let place = are_special.get_mut(id as usize);
            *place
                .ok_or_else(|| Error::failed(format!("special token id {id} is not in the vocabulary")))? =
                true;
        }
        let words = if has_our_words(&inner)? { Some(Words::new()?) } else { None };
        Ok(Self { inner, pieces, specials, are_special, words })
    }

    /// The ids of `text`, without any special token, whatever the text says. Memory stays bounded for a text
    /// of any length.
    ///
    /// # Errors
    /// None for a tokenizer trained here; an imported one may carry steps that fail.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        for piece in words::pieces(text) {
            if !self.encode_words(piece, &mut ids)? {
                let encoding = self.inner.encode_fast(piece, false).context("encoding text")?;
                ids.extend_from_slice(encoding.get_ids());
            }
        }
        Ok(ids)
    }

    /// Encodes word by word, each different word once. `false`, with `ids` as they were, where this
    /// tokenizer does not go by our words or the expression gave up.
    fn encode_words(&self, text: &str, ids: &mut Vec<u32>) -> Result<bool> {
        let (Some(words), before) = (&self.words, ids.len()) else { return Ok(false) };
        let mut known: HashMap<&str, Range<usize>> = HashMap::new();
        let mut covered_bytes = 0;
        for word in words.split(text) {
            covered_bytes += word.len();
            if let Some(again) = known.get(word) {
                ids.extend_from_within(again.clone());
                continue;
            }
            let from = ids.len();
            let tokens = self.inner.get_model().tokenize(&bytes::spell(word)).context("encoding text")?;
            ids.extend(tokens.iter().map(|token| token.id));
            known.insert(word, from..ids.len());
        }
        if covered_bytes != text.len() {
            ids.truncate(before);
        }
        Ok(covered_bytes == text.len())
    }

    /// [`Tokenizer::encode`] of each text, in parallel over all cores.
    pub fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(texts.len().max(1));
        let next = AtomicUsize::new(0);
        let encode_some = || {
            let mut encoded = Vec::new();
            while let Some((index, text)) = at(texts, next.fetch_add(1, Ordering::Relaxed)) {
                encoded.push((index, self.encode(text)?));
            }
            Ok::<_, Error>(encoded)
        };
        let mut encoded = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(encode_some)).collect();
            threads.into_iter().try_fold(Vec::new(), |mut all, thread| {
                let some: Result<Vec<(usize, Vec<u32>)>> = thread
                    .join()
                    .unwrap_or_else(|_| Err(Error::failed("a thread that encodes text panicked")));
                all.extend(some?);
                Ok::<_, Error>(all)
            })
        })?;
        encoded.sort_unstable_by_key(|&(index, _)| index);
        Ok(encoded.into_iter().map(|(_, ids)| ids).collect())
    }

    /// Like [`Tokenizer::encode`], except that special tokens written out in `text` become their ids. For
    /// text that we wrote ourselves (templates); for what a stranger wrote it is the wrong function.
    pub fn encode_with_specials(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for part in self.split_at_specials(text) {
            match part {
                Part::Special(id) => ids.push(id),
                Part::Text(text) => ids.extend(self.encode(text)?),
            }
        }
        Ok(ids)
    }

    /// [`Tokenizer::encode_with_specials`] of text in which `mark` breaks what must not become a special
    /// token; the mark itself leaves no trace.
    pub(super) fn encode_quoted(&self, text: &str, mark: char) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for part in self.split_at_specials(text) {
            match part {
                Part::Special(id) => ids.push(id),
                Part::Text(text) if text.contains(mark) => ids.extend(self.encode(&text.replace(mark, ""))?),
                Part::Text(text) => ids.extend(self.encode(text)?),
            }
        }
        Ok(ids)
    }

    /// The text of `ids`. Special tokens leave no trace; bytes that are no UTF-8 become U+FFFD, as do ids
    /// outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids.iter().filter(|&&id| !self.is_special(id)) {
            bytes.extend_from_slice(self.piece(id));
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// The bytes that `id` writes, which may be a part of a character. A special token gives its own text,
    /// an id outside the vocabulary U+FFFD.
    pub fn piece(&self, id: u32) -> &[u8] {
        self.pieces.get(id as usize).map_or("\u{FFFD}".as_bytes(), |piece| piece)
    }

    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The id of a special token, where this vocabulary has it.
    pub fn special(&self, special: Special) -> Option<u32> {
        self.id_of(special.text())
    }

    /// The id of the special token written `text`.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.specials.iter().find(|(known, _)| known == text).map(|&(_, id)| id)
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.are_special.get(id as usize).copied().unwrap_or(false)
    }

    pub fn summary(&self) -> Summary {
        let mut special_tokens = self.specials.clone();
        special_tokens.sort_by_key(|&(_, id)| id);
        let ordinary = (0..self.pieces.len()).filter(|&id| !self.is_special(id as u32));
        Summary {
            vocab_size: self.vocab_size(),
            special_tokens: special_tokens.into_iter().map(|(text, _)| text).collect(),
            longest_piece_bytes: ordinary.map(|id| self.pieces[id].len()).max().unwrap_or(0),
        }
    }

    pub(super) fn special_texts(&self) -> impl Iterator<Item = &str> {
        self.specials.iter().map(|(text, _)| text.as_str())
    }

    /// Cuts `text` at the special tokens written out in it; where two could begin, the longer one does.
    fn split_at_specials<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let mut from = 0;
        let mut at = 0;
        while at < text.len() {
            match self.specials.iter().find(|(special, _)| text[at..].starts_with(special.as_str())) {
                Some((special, id)) => {
                    if from < at {
                        parts.push(Part::Text(&text[from..at]));
                    }
                    parts.push(Part::Special(*id));
                    at += special.len();
                    from = at;
                }
                None => at += text[at..].chars().next().map_or(1, char::len_utf8),
            }
        }
        if from < text.len() {
            parts.push(Part::Text(&text[from..]));
        }
        parts
    }
}

enum Part<'t> {
    Special(u32),
    Text(&'t str),
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.vocab_size())
    }
}

fn at<'t>(texts: &[&'t str], index: usize) -> Option<(usize, &'t str)> {
    texts.get(index).map(|text| (index, *text))
}

/// Whether text goes through [`Words`] and the model, and through nothing else.
fn has_our_words(inner: &tokenizers::Tokenizer) -> Result<bool> {
    let only_special = inner.get_added_tokens_decoder().values().all(|token| token.special);
    Ok(only_special
        && inner.get_normalizer().is_none()
        && inner.get_pre_tokenizer() == Some(&words::pre_tokenizer()?))
}

fn require_byte_level(inner: &tokenizers::Tokenizer) -> Result<()> {
    match inner.get_model() {
        ModelWrapper::BPE(_) => {}
        ModelWrapper::WordPiece(_) => return Err(Error::failed("a WordPiece model, not byte-level BPE")),
        ModelWrapper::WordLevel(_) => return Err(Error::failed("a WordLevel model, not byte-level BPE")),
        ModelWrapper::Unigram(_) => return Err(Error::failed("a Unigram model, not byte-level BPE")),
    }
    match inner.get_decoder() {
        Some(DecoderWrapper::ByteLevel(_)) => Ok(()),
        _ => Err(Error::failed("its decoder is not ByteLevel")),
    }
}

/// The bytes behind a token that is written in the byte alphabet.
fn piece_bytes(token: &str) -> Result<Box<[u8]>> {
    token.chars().map(bytes::byte_of).collect::<Option<_>>().ok_or_else(|| {
        Error::failed(format!("the token {:?} is not written in the byte alphabet", shorten(token)))
    })
}

fn shorten(token: &str) -> String {
    token.chars().take(40).collect()
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
pub(super) mod tests;
