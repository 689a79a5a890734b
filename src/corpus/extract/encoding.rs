//! Bytes to characters: byte order marks, UTF-8, UTF-16 without a mark, and the legacy code pages.

/// Whether the bytes begin with the mark of a Unicode encoding.
pub fn has_bom(bytes: &[u8]) -> bool {
    encoding_rs::Encoding::for_bom(bytes).is_some()
}

/// The text of `bytes`, in whatever encoding it seems to be.
pub fn decode(bytes: Vec<u8>) -> String {
    if !has_bom(&bytes) {
        match String::from_utf8(bytes) {
            Ok(text) => return text,
            Err(error) => return decode_legacy(error.as_bytes()),
        }
    }
    decode_legacy(&bytes)
}

fn decode_legacy(bytes: &[u8]) -> String {
    let mut detector = chardetng::EncodingDetector::new(chardetng::Iso2022JpDetection::Deny);
    detector.feed(bytes, true);
    let guessed = detector.guess(None, chardetng::Utf8Detection::Allow);
    guessed.decode(bytes).0.into_owned()
}
