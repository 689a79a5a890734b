//! The byte alphabet of GPT-2: every byte has a printable character that stands for it in a vocabulary, so
//! that `tokenizer.json` is readable text and yet any byte sequence can be written in tokens.

/// The character that stands for `byte`. Printable Latin-1 stands for itself; the other 68 bytes are
/// numbered upwards from U+0100 in their order.
pub fn char_of(byte: u8) -> char {
    let code = match byte {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => u32::from(byte),
        0x00..=0x20 => 0x100 + u32::from(byte),
        0x7F..=0xA0 => 0x121 + u32::from(byte - 0x7F),
        0xAD => 0x143,
    };
    char::from_u32(code).expect("all codes lie below the surrogates")
}

/// `text` written in the alphabet, a letter per byte.
pub fn spell(text: &str) -> String {
    text.bytes().map(char_of).collect()
}

/// The byte that `letter` stands for, or `None` where it is no letter of the alphabet.
pub fn byte_of(letter: char) -> Option<u8> {
    match u32::from(letter) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121) as u8 + 0x7F),
        0x143 => Some(0xAD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_bijection_and_the_alphabet_of_the_tokenizers_crate() {
        let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
            assert!(alphabet.contains(&char_of(byte)), "{byte:#x}");
        }
        assert_eq!(char_of(b' '), 'Ġ');
        assert_eq!(char_of(b'\n'), 'Ċ');
    }

    #[test]
    fn other_letters_stand_for_nothing() {
        for letter in ['\0', ' ', '\u{7F}', '\u{AD}', '\u{144}', '€', '\u{10FFFF}'] {
            assert_eq!(byte_of(letter), None, "{letter:?}");
        }
    }
}
