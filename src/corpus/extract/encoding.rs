//! Bytes to characters: byte order marks, UTF-8, UTF-16 and UTF-32, and the legacy code pages, told apart by
//! what they would say.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_16BE, UTF_16LE};

use super::Refused;
use crate::corpus::Reason;

/// As many bytes as tell an encoding; more only cost time.
const LOOKED_AT_BYTES: usize = 1 << 20;

/// The text of `source`. `named` is the encoding that the document itself claims, where it does; it counts
/// where the bytes are not UTF-8.
///
/// # Errors
/// `Binary` where the bytes are no text in any encoding.
pub fn decode(source: Vec<u8>, named: Option<&'static Encoding>) -> Result<String, Refused> {
    if let Some(text) = utf32(&source) {
        return Ok(text);
    }
    if let Some((encoding, mark_bytes)) = Encoding::for_bom(&source) {
        return Ok(encoding.decode_without_bom_handling(&source[mark_bytes..]).0.into_owned());
    }
    if let Some(encoding) = unmarked_utf16(&source) {
        return Ok(encoding.decode_without_bom_handling(&source).0.into_owned());
    }
    refuse_binary(&source)?;
    let escapes = source[..source.len().min(LOOKED_AT_BYTES)].windows(2).any(|pair| pair == b"\x1B$");
    let source = match (escapes, String::from_utf8(source)) {
        (false, Ok(text)) => return Ok(text),
        (true, Ok(text)) => text.into_bytes(),
        (_, Err(error)) if is_damaged_utf8(error.as_bytes()) => {
            return Ok(String::from_utf8_lossy(error.as_bytes()).into_owned());
        }
        (_, Err(error)) => error.into_bytes(),
    };
    let encoding = named.filter(|named| *named != encoding_rs::UTF_8).unwrap_or_else(|| guess(&source));
    Ok(encoding.decode_without_bom_handling(&source).0.into_owned())
}

fn guess(source: &[u8]) -> &'static Encoding {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(&source[..source.len().min(LOOKED_AT_BYTES)], source.len() <= LOOKED_AT_BYTES);
    detector.guess(None, Utf8Detection::Allow)
}

/// UTF-8 with some broken places: most sequences of several bytes are right, which no code page brings about.
fn is_damaged_utf8(source: &[u8]) -> bool {
    let (mut right, mut wrong) = (0u64, 0u64);
    for chunk in source[..source.len().min(LOOKED_AT_BYTES)].utf8_chunks() {
        right += chunk.valid().chars().filter(|letter| !letter.is_ascii()).count() as u64;
        wrong += u64::from(!chunk.invalid().is_empty());
    }
    right > 0 && right >= 2 * wrong
}

fn utf32(source: &[u8]) -> Option<String> {
    let read: fn([u8; 4]) -> u32 = match source {
        [0xFF, 0xFE, 0, 0, ..] => u32::from_le_bytes,
        [0, 0, 0xFE, 0xFF, ..] => u32::from_be_bytes,
        _ => return None,
    };
    let letters = source.as_chunks::<4>().0.iter().skip(1);
    Some(letters.map(|&code| char::from_u32(read(code)).unwrap_or('\u{FFFD}')).collect())
}

/// UTF-16 without a mark: in text of the Latin scripts every other byte is zero.
fn unmarked_utf16(source: &[u8]) -> Option<&'static Encoding> {
    let head = &source[..source.len().min(4096) & !1];
    let zeroes = |from: usize| head.iter().skip(from).step_by(2).filter(|&&byte| byte == 0).count();
    let (even, odd) = (zeroes(0), zeroes(1));
    let (most, few) = (head.len() * 2 / 5, head.len() / 50);
    if head.len() >= 8 && odd > most && even <= few {
        return Some(UTF_16LE);
    }
    (head.len() >= 8 && even > most && odd <= few).then_some(UTF_16BE)
}

/// Text holds next to no control characters; what is compressed or compiled holds a tenth of them.
fn refuse_binary(source: &[u8]) -> Result<(), Refused> {
    let is_control = |byte: u8| matches!(byte, 0..=8 | 0x0E..=0x1A | 0x1C..=0x1F | 0x7F);
    let head = &source[..source.len().min(LOOKED_AT_BYTES)];
    let controls = head.iter().filter(|&&byte| is_control(byte)).count();
    if controls > 2 + head.len() / 100 {
        return Err(Refused::new(Reason::Binary, "control characters throughout"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(source: &[u8]) -> String {
        decode(source.to_vec(), None).expect("text")
    }

    #[test]
    fn reads_the_unicode_encodings() {
        let text = "Die Prüfung – Größe: 5 €, naïve, 日本";
        let utf16 = |big: bool| -> Vec<u8> {
            text.encode_utf16()
                .flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() })
                .collect()
        };
        let utf32: Vec<u8> = text.chars().flat_map(|letter| u32::from(letter).to_le_bytes()).collect();
        assert_eq!(decoded(text.as_bytes()), text);
        assert_eq!(decoded(&[&[0xEF, 0xBB, 0xBF], text.as_bytes()].concat()), text);
        assert_eq!(decoded(&[vec![0xFF, 0xFE], utf16(false)].concat()), text);
        assert_eq!(decoded(&[vec![0xFE, 0xFF], utf16(true)].concat()), text);
        assert_eq!(decoded(&[vec![0xFF, 0xFE, 0, 0], utf32].concat()), text);
        assert_eq!(decoded(&utf16(false)), text);
        assert_eq!(decoded(&utf16(true)), text);
    }

    #[test]
    fn reads_legacy_code_pages() {
        let cases: [(&'static Encoding, &str); 4] = [
            (
                encoding_rs::WINDOWS_1252,
                "Die Prüfung der Verträge über 5 € – größere Beträge gelten ähnlich.",
            ),
            (
                encoding_rs::WINDOWS_1251,
                "Все люди рождаются свободными и равными в своем достоинстве и правах.",
            ),
            (
                encoding_rs::SHIFT_JIS,
                "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
            ),
            (encoding_rs::ISO_2022_JP, "すべての人間は、生まれながらにして自由であり、かつ、平等である。"),
        ];
        for (encoding, text) in cases {
            assert_eq!(decoded(&encoding.encode(text).0), text, "{}", encoding.name());
        }
    }

    #[test]
    fn damaged_utf8_keeps_what_is_whole() {
        let text = decoded(b"gr\xC3\xB6\xC3\x9Fer \xC3\xBCber \xFF und \xC3\xA4hnlich\xC3");
        assert_eq!(text, "größer über \u{FFFD} und ähnlich\u{FFFD}");
    }

    #[test]
    fn what_is_no_text_is_called_binary() {
        let mut rng = crate::base::Philox::new(1, 0);
        let noise: Vec<u8> = (0..4096).map(|_| rng.next_u32() as u8).collect();
        assert_eq!(decode(noise, None).unwrap_err().reason, Reason::Binary);
        assert_eq!(decode(vec![0; 100], None).unwrap_err().reason, Reason::Binary);
        // A form feed or a stray control character makes nobody's text binary.
        assert_eq!(decoded(b"page one\x0C\x01page two"), "page one\x0C\x01page two");
    }
}
