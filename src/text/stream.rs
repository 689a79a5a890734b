//! Decoding while tokens arrive. A character may span several tokens: its bytes are held back until it is
//! whole, so that what was emitted is never taken back.

use super::Tokenizer;

/// Turns a stream of token ids into a stream of text. What it emits, joined, is what
/// [`Tokenizer::decode`] gives for all ids at once.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    /// At most three bytes: the beginning of a character.
    held: Vec<u8>,
}

impl StreamDecoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// The text that became certain with `id`; often a word, sometimes nothing yet.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if tokenizer.is_special(id) {
            return String::new();
        }
        self.held.extend_from_slice(tokenizer.piece(id));
        let whole = self.held.len() - unfinished_bytes(&self.held);
        let rest = self.held.split_off(whole);
        let ready = std::mem::replace(&mut self.held, rest);
        String::from_utf8(ready)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// What is left at the end: U+FFFD where a character never became whole, otherwise nothing.
    pub fn flush(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}

/// How many bytes at the end are the valid beginning of a character whose rest has not come.
fn unfinished_bytes(bytes: &[u8]) -> usize {
    let tail_from = bytes.len().saturating_sub(3);
    // Only a lead byte within the last three can still wait for its continuation.
    (tail_from..bytes.len())
        .find(|&from| {
            bytes[from] >= 0xC0
                && matches!(std::str::from_utf8(&bytes[from..]), Err(error) if error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .map_or(0, |from| bytes.len() - from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_an_unfinished_character_from_a_broken_one() {
        let cases: [(&[u8], usize); 10] = [
            (b"", 0),
            (b"abc", 0),
            ("é".as_bytes(), 0),
            (b"a\xC3", 1),
            (b"\xE2\x82", 2),
            (b"\xF0\x9F\x98", 3),
            (b"\xFF", 0),
            (b"\xC0", 0),
            (b"\x80\x80", 0),
            // A lead byte that the next byte already contradicts is broken, not unfinished.
            (b"\xE2a", 0),
        ];
        for (bytes, expected) in cases {
            assert_eq!(unfinished_bytes(bytes), expected, "{bytes:x?}");
        }
    }
}
