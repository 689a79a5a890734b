//! How text falls into words, across which no token reaches, and where a long text may be cut without
//! changing them.

use tokenizers::{
    PreTokenizerWrapper, SplitDelimiterBehavior,
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
    utils::SysRegex,
};

use crate::base::{Context, Result};

/// Contractions, letter runs with one leading mark or space, up to three digits, runs of other marks, line
/// ends, white space: the pattern of GPT-4's cl100k. Bounded runs would be kinder to a megabyte without a
/// space, but make the expression many times slower; long text is cut instead ([`pieces`]).
const PATTERN: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)",
    r"|[^\r\n\p{L}\p{N}]?\p{L}+",
    r"|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+",
    r"|\s+(?!\S)",
    r"|\s+",
);

/// Text is worked on in pieces of about this size: memory grows with what is encoded together.
const PIECE_BYTES: usize = 64 << 10;

/// The compiled pattern.
pub struct Words(SysRegex);

impl Words {
    pub fn new() -> Result<Self> {
        Ok(Self(SysRegex::new(PATTERN).context("compiling the word pattern")?))
    }

    /// The words of `text`, which they cover without a gap unless the expression gives up.
    pub fn split<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        self.0.find_iter(text).map(|(from, to)| &text[from..to])
    }
}

/// The same as a part of `tokenizer.json`.
pub fn pre_tokenizer() -> Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(PATTERN.to_owned());
    let split =
        Split::new(pattern, SplitDelimiterBehavior::Isolated, false).context("compiling the word pattern")?;
    let byte_level = ByteLevel::new(false, false, false);
    Ok(Sequence::new(vec![split.into(), byte_level.into()]).into())
}

/// A text in pieces that can be encoded one by one: each ends where a letter begins a line, which is always
/// a word's bound. Text without such a place is cut later, and then between any two characters.
pub fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(piece_end(rest));
        rest = after;
        Some(piece)
    })
}

fn piece_end(text: &str) -> usize {
    if text.len() <= 2 * PIECE_BYTES {
        return text.len();
    }
    let from = text.floor_char_boundary(PIECE_BYTES);
    let to = text.floor_char_boundary(16 * PIECE_BYTES);
    let mut line_starts = text[from..to].match_indices('\n').map(|(at, _)| from + at + 1);
    let begins_with_letter = |at: &usize| text[*at..].chars().next().is_some_and(char::is_alphabetic);
    line_starts.find(begins_with_letter).unwrap_or(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_pieces_cover_the_text() {
        let line = "the party  shall\n\n  give notice; 12345 of the term\r\nÀ l'été…";
        let words = Words::new().expect("compiles");
        let text = line.repeat(6 * PIECE_BYTES / line.len());
        assert_eq!(words.split(&text).collect::<String>(), text);
        assert!(pieces(&text).count() > 2);
        assert_eq!(pieces(&text).collect::<String>(), text);
        let whole: Vec<&str> = words.split(&text).collect();
        let in_pieces: Vec<&str> = pieces(&text).flat_map(|piece| words.split(piece)).collect();
        assert_eq!(in_pieces, whole);
    }

    #[test]
    fn unbroken_text_is_cut_between_characters() {
        let text = "é".repeat(20 * PIECE_BYTES);
        assert_eq!(pieces(&text).collect::<String>(), text);
        assert!(pieces(&text).all(|piece| piece.len() <= 16 * PIECE_BYTES));
        assert_eq!(pieces("").count(), 0);
    }
}
