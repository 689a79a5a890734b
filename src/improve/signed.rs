//! What receipts and certificates are signed as: a line that says which of them it is, then canonical JSON.

use serde::Serialize;
use serde_json::Value;

use crate::{
    base::{Context, Error, Result, hex, unhex},
    seal::{PublicKey, Signer},
};

/// How to check: Ed25519 over the domain's line, then the signed part as RFC 8785 canonical JSON.
pub(super) const ALGORITHM: &str = "ed25519-jcs";

/// The signature, in hexadecimal.
pub(super) fn sign<T: Serialize>(domain: &str, value: &T, signer: &Signer) -> Result<String> {
    Ok(hex(&signer.sign(signed_text(domain, value)?.as_bytes())))
}

/// # Errors
/// `Integrity` where `signature` is not that of the holder of `key` over `value`.
pub(super) fn verify<T: Serialize>(domain: &str, value: &T, signature: &str, key: &PublicKey) -> Result<()> {
    let signature = unhex(signature).ok_or_else(|| Error::integrity("the signature is not hexadecimal"))?;
    key.verify(signed_text(domain, value)?.as_bytes(), &signature)
}

/// `domain` stands before the signed text, so that no other text of this key can pass for one of its kind.
pub(super) fn signed_text<T: Serialize>(domain: &str, value: &T) -> Result<String> {
    let value = serde_json::to_value(value).context("writing what is to be signed")?;
    let mut text = domain.to_owned();
    write_canonical(&value, &mut text);
    Ok(text)
}

/// RFC 8785 for what is signed here: sorted keys, no white space. Keys are ASCII, so that sorting by bytes is
/// sorting by UTF-16 units, and numbers are integers.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            out.push('{');
            for (place, name) in names.into_iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write_canonical(&fields[name], out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_json_is_that_of_other_libraries() {
        let value = serde_json::json!({"b": "é\n\"", "a": [1, {"z": [], "y": {}}], "c": null});
        // Python: json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        let due = "mark\n{\"a\":[1,{\"y\":{},\"z\":[]}],\"b\":\"é\\n\\\"\",\"c\":null}";
        assert_eq!(signed_text("mark\n", &value).expect("plain data"), due);
    }
}
