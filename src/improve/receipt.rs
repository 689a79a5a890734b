//! Receipts: which model gave an answer, from which run and data, signed with the appliance's Ed25519 key. The
//! texts themselves stay out; their hashes bind the receipt to a prompt and an answer that the holder knows.

use serde::{Deserialize, Serialize};

use super::signed::{self, ALGORITHM};
use crate::{
    base::{Error, Id, Result, hex},
    seal::{PublicKey, Signer, sha256},
};

/// The version of the fields and of what is signed.
const VERSION: u32 = 1;
/// Stands before the signed text, so that no other text of this key can pass for a receipt.
const DOMAIN: &str = "cloister receipt v1\n";

/// Where an answer came from. Only integers and strings: every JSON library writes these alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    pub version: u32,
    pub install: Id,
    pub answer: Id,
    /// "chat" or "completion".
    pub kind: String,
    /// The API token that asked.
    pub token: Id,
    pub model: Id,
    pub model_name: String,
    pub tokenizer: Option<Id>,
    /// None where the model was imported.
    pub run: Option<Id>,
    pub snapshot: Option<Id>,
    /// Merkle root over the document versions of the snapshot, in hexadecimal.
    pub dataset_root: Option<String>,
    /// By which the model stood for its name. A receipt of an answer by the newest model of a name has neither of the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Id>,
    /// "approved", "approved alone" (by one person at the machine) or "inherited" (from before approvals).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployed_by: Option<String>,
    pub asked_at_ms: u64,
    pub answered_at_ms: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub finish_reason: String,
    /// SHA-256 of the prompt as it is kept, in hexadecimal.
    pub prompt_sha256: String,
    /// SHA-256 of the answer's text, in hexadecimal.
    pub answer_sha256: String,
}

/// A receipt with what proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedReceipt {
    pub receipt: Receipt,
    /// How to check: Ed25519 over the line `cloister receipt v1`, then the receipt as RFC 8785 canonical JSON.
    pub algorithm: String,
    /// Hexadecimal.
    pub public_key: String,
    /// Hexadecimal.
    pub signature: String,
}

impl Receipt {
    pub fn version() -> u32 {
        VERSION
    }

    pub fn sign(self, signer: &Signer) -> Result<SignedReceipt> {
        let signature = signed::sign(DOMAIN, &self, signer)?;
        Ok(SignedReceipt {
            receipt: self,
            algorithm: ALGORITHM.to_owned(),
            public_key: key_text(&signer.public_key()),
            signature,
        })
    }
}

impl SignedReceipt {
    /// Whether this is what the holder of `key` signed. The key inside the receipt is only a hint: whoever
    /// forges a receipt puts their own there.
    ///
    /// # Errors
    /// `Integrity` where anything in it was altered or another key signed it.
    pub fn verify(&self, key: &PublicKey) -> Result<()> {
        if self.algorithm != ALGORITHM || self.receipt.version != VERSION {
            return Err(Error::integrity("the receipt is of a kind that this version does not know"));
        }
        signed::verify(DOMAIN, &self.receipt, &self.signature, key)
            .map_err(|error| error.context(format!("verifying the receipt of {}", self.receipt.answer)))
    }
}

/// A public key as receipts write it: for a file that verifiers compare with.
pub fn key_text(key: &PublicKey) -> String {
    hex(&key.0)
}

/// SHA-256 as receipts write it.
pub fn text_hash(text: &str) -> String {
    hex(&sha256(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{base::IdKind, seal::Key};

    fn receipt() -> Receipt {
        let id = |kind| Id::from_parts(kind, 1, [7; 10]);
        Receipt {
            version: VERSION,
            install: id(IdKind::Install),
            answer: id(IdKind::Answer),
            kind: "chat".into(),
            token: id(IdKind::Token),
            model: id(IdKind::Model),
            model_name: "rules \"é\" \u{1}".into(),
            tokenizer: Some(id(IdKind::Tokenizer)),
            run: Some(id(IdKind::Run)),
            snapshot: Some(id(IdKind::Snapshot)),
            dataset_root: Some("ab".repeat(32)),
            deployment: Some(id(IdKind::Deployment)),
            deployed_by: Some("approved".into()),
            asked_at_ms: 1,
            answered_at_ms: 2,
            prompt_tokens: 3,
            completion_tokens: 4,
            finish_reason: "stop".into(),
            prompt_sha256: text_hash("a"),
            answer_sha256: text_hash("b"),
        }
    }

    fn signer(seed: u8) -> Signer {
        Signer::new(Key::from_bytes(&[seed; 32]).expect("a key"))
    }

    #[test]
    fn survives_the_wire_and_verifies() {
        let signed = receipt().sign(&signer(1)).expect("signs");
        let there = serde_json::to_string(&signed).expect("plain data");
        let back: SignedReceipt = serde_json::from_str(&there).expect("reads");
        back.verify(&signer(1).public_key()).expect("verifies");
        // FIPS 180-2's answer for "abc".
        assert!(text_hash("abc").starts_with("ba7816bf8f01cfea414140de5dae2223"));
    }

    #[test]
    fn without_a_deployment_a_receipt_is_what_it_was_before_there_were_any() {
        let plain = Receipt { deployment: None, deployed_by: None, ..receipt() };
        let signed = plain.sign(&signer(1)).expect("signs");
        let there = serde_json::to_string(&signed).expect("plain data");
        assert!(!there.contains("deploy"), "{there}");
        let back: SignedReceipt = serde_json::from_str(&there).expect("reads");
        back.verify(&signer(1).public_key()).expect("verifies");
    }

    #[test]
    fn any_altered_field_is_noticed() {
        let signed = receipt().sign(&signer(1)).expect("signs");
        let key = signer(1).public_key();
        let whole = serde_json::to_value(&signed).expect("plain data");
        let fields: Vec<String> = whole["receipt"].as_object().expect("an object").keys().cloned().collect();
        assert_eq!(fields.len(), 20);
        for field in fields {
            let mut altered = whole.clone();
            let value = &mut altered["receipt"][&field];
            *value = match &*value {
                Value::Number(number) => Value::from(number.as_u64().expect("integers") + 1),
                Value::String(text) if text.contains("_0") => {
                    Value::from(text.replace('7', "8").replace('E', "F"))
                }
                Value::String(text) => Value::from(format!("{text}0")),
                other => panic!("{field} is {other}"),
            };
            assert_ne!(altered, whole, "{field}");
            let refused = serde_json::from_value::<SignedReceipt>(altered)
                .map_or(true, |altered| altered.verify(&key).is_err());
            assert!(refused, "{field} was altered unnoticed");
        }
        assert!(signed.verify(&signer(2).public_key()).is_err(), "another key");
        for signature in ["", "zz", "abc", &signed.signature[2..]] {
            assert!(SignedReceipt { signature: signature.into(), ..signed.clone() }.verify(&key).is_err());
        }
    }
}
