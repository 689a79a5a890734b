//! Normalisation of text before it is counted, hashed and tokenised. What was done is recorded in the
//! snapshot, so that the same documents give the same tokens for ever; the documents themselves stay as they
//! were extracted.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// What is done to the text of every document of a snapshot, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clean {
    /// Full Unicode lower case.
    pub lower_case: bool,
    /// Line ends become `\n`; other control characters and zero-width marks go; spaces of other widths
    /// become plain ones, trailing ones go; more than one empty line becomes one.
    pub white_space: bool,
    /// Canonical composition (Unicode NFC): one way to write each letter.
    pub nfc: bool,
}

impl Default for Clean {
    fn default() -> Self {
        Self { nfc: true, white_space: true, lower_case: false }
    }
}

impl Clean {
    /// The normalised text. Normalising twice is normalising once.
    pub fn apply(&self, text: String) -> String {
        let mut text = text;
        if self.lower_case {
            text = text.to_lowercase();
        }
        if self.white_space {
            text = match white_space(&text) {
                Cow::Borrowed(_) => text,
                Cow::Owned(cleaned) => cleaned,
            };
        }
        // Last: what went may have stood between a letter and its accent.
        if self.nfc && is_nfc_quick(text.chars()) != IsNormalized::Yes {
            text = text.nfc().collect();
        }
        text
    }
}

/// What extraction does to every text, whatever a snapshot will say: line ends become `\n`, and control
/// characters that no reader means go.
pub fn plain(text: String) -> String {
    let is_unwanted = |letter: char| letter == '\r' || letter == '\u{FEFF}' || is_noise(letter);
    if !text.contains(is_unwanted) {
        return text;
    }
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' => {
                letters.next_if_eq(&'\n');
                plain.push('\n');
            }
            letter if is_unwanted(letter) => {}
            letter => plain.push(letter),
        }
    }
    plain
}

/// Control characters other than tab and line feed.
fn is_noise(letter: char) -> bool {
    letter.is_control() && letter != '\t' && letter != '\n'
}

/// Characters that take no room and change no word: byte order mark, zero-width space, soft hyphen. Joiners
/// stay: scripts and emoji need them.
fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{FEFF}' | '\u{200B}' | '\u{AD}' | '\u{2060}')
}

fn is_wide_or_narrow_space(letter: char) -> bool {
    matches!(letter, '\u{A0}' | '\u{1680}' | '\u{2000}'..='\u{200A}' | '\u{202F}' | '\u{205F}' | '\u{3000}')
}

fn white_space(text: &str) -> Cow<'_, str> {
    if !needs_white_space(text) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len());
    let mut empty_lines = 0;
    for line in text.split(['\n', '\u{85}', '\u{2028}', '\u{2029}']) {
        let from = cleaned.len();
        for letter in line.chars() {
            match letter {
                letter if is_noise(letter) || is_invisible(letter) => {}
                letter if is_wide_or_narrow_space(letter) => cleaned.push(' '),
                letter => cleaned.push(letter),
            }
        }
        let kept = cleaned[from..].trim_end_matches([' ', '\t']).len();
        cleaned.truncate(from + kept);
        if kept > 0 {
            empty_lines = 0;
        } else if from == 0 || empty_lines > 0 {
            // Neither a document nor a gap begins with a further empty line.
            continue;
        } else {
            empty_lines += 1;
        }
        cleaned.push('\n');
    }
    cleaned.truncate(cleaned.trim_end_matches('\n').len());
    Cow::Owned(cleaned)
}

/// Whether [`white_space`] would change anything; most texts of a collection are clean already.
fn needs_white_space(text: &str) -> bool {
    let (mut before, mut before_that) = ('\n', '\n');
    for letter in text.chars() {
        let odd = is_noise(letter)
            || is_invisible(letter)
            || is_wide_or_narrow_space(letter)
            || matches!(letter, '\u{85}' | '\u{2028}' | '\u{2029}');
        let trailing =
            letter == '\n' && (matches!(before, ' ' | '\t') || (before, before_that) == ('\n', '\n'));
        if odd || trailing {
            return true;
        }
        (before, before_that) = (letter, before);
    }
    !text.is_empty() && matches!(before, ' ' | '\t' | '\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(text: &str) -> String {
        Clean::default().apply(text.to_owned())
    }

    #[test]
    fn does_what_it_says() {
        let cases = [
            ("", ""),
            ("a", "a"),
            ("e\u{301}t\u{E9}", "\u{E9}t\u{E9}"),
            ("a  \nb\t\n", "a\nb"),
            ("a\n\n\n\n b", "a\n\n b"),
            ("\n\n \na", "a"),
            ("a\u{A0}b\u{3000}c", "a b c"),
            ("soft\u{AD}hyphen\u{200B}", "softhyphen"),
            ("a\u{0}b\u{7}c", "abc"),
            ("x\u{2028}y", "x\ny"),
            ("\u{1F468}\u{200D}\u{1F469}", "\u{1F468}\u{200D}\u{1F469}"),
            ("  indented\n    code", "  indented\n    code"),
            ("\n\n\n", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(cleaned(text), expected, "{text:?}");
        }
        assert_eq!(plain("a\r\nb\rc\u{0}\u{FEFF}\td".into()), "a\nb\nc\td");
    }

    #[test]
    fn twice_is_once_and_the_short_cut_is_no_other_way() {
        let mut rng = crate::base::Philox::new(11, 0);
        let letters: Vec<char> = "ab \t\n\n\r\u{301}e\u{A0}\u{200B}\u{85}\u{2028}\u{0}İß".chars().collect();
        for lower_case in [false, true] {
            let clean = Clean { lower_case, ..Clean::default() };
            for _ in 0..2000 {
                let length = rng.below(14);
                let text: String =
                    (0..length).map(|_| letters[rng.below(letters.len() as u64) as usize]).collect();
                let once = clean.apply(text.clone());
                assert_eq!(clean.apply(once.clone()), once, "{text:?}");
                assert!(!needs_white_space(&once), "{text:?}");
            }
        }
    }
}
