//! Bytes as hexadecimal digits.

/// Two lower-case digits a byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that `text` writes, in digits of either case; None where it is anything else.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        assert_eq!(hex(&[0, 0x0A, 0xFF]), "000aff");
        assert_eq!(unhex("000aFF"), Some(vec![0, 0x0A, 0xFF]));
        for wrong in ["0", "0g", "+1", "é", "00 1"] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }
}
