//! Certificates of erasure: what was asked for, what went, what it had reached and what remains, signed with the
//! appliance's Ed25519 key as receipts are. No name stands in one; whoever has a name and the installation's keys can
//! tell that its keyed hash is the one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    receipt::key_text,
    signed::{self, ALGORITHM},
};
use crate::{
    base::{Error, Id, Result},
    seal::{PublicKey, Signer},
};

/// The version of the fields and of what is signed.
const VERSION: u32 = 1;
const DOMAIN: &str = "cloister erasure certificate v1\n";

/// What an erasure cannot reach. Every certificate says it.
pub const RESIDUAL: [&str; 5] = [
    "A copy of the keyring from before (a backup, blocks that a disk has let go of and not overwritten, an SSD's spare \
     blocks) opens the documents for whoever has what unsealed the root key then, until that copy is destroyed (a \
     backup's by `cloister backup forget`), or `cloister key rekey` was run and the old key file, passphrase or shares \
     are destroyed.",
    "What was trained on the documents may repeat them: the tokenizers, checkpoints and models under `reached`, until \
     they are trained anew by the commands beside them and no longer used.",
    "Prompts, answers and feedback are tied to a person by the user who asked alone: those of a user of the subject's \
     name were emptied; what others wrote or were told about the person was not looked for.",
    "Names that people gave to collections, models, user accounts and tokens stay, as do the reasons they gave for \
     deployments, identifiers, times and sizes.",
    "Files outside this installation are untouched: ingesting them again takes them in again.",
];

/// Something that was made of what was erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reached {
    pub id: Id,
    /// How the documents got there.
    pub because: String,
    /// The command that makes it anew without them; None where another's does, or nothing is left to make it of.
    pub retrain: Option<String>,
}

/// What was erased. Only integers, strings, lists and maps of them: every JSON library writes these alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    pub version: u32,
    pub install: Id,
    pub erasure: Id,
    /// Who asked: an API token's identifier, or `local:UID`.
    pub actor: String,
    pub asked_at_ms: u64,
    pub erased_at_ms: u64,
    /// Keyed hashes of the subjects that were asked for, in hexadecimal.
    pub subjects: Vec<String>,
    /// Documents that were asked for by identifier.
    pub asked: Vec<Id>,
    /// Every document version whose key was destroyed, with the keyed hash of its name in hexadecimal.
    pub documents: BTreeMap<Id, String>,
    /// Rows of refused inputs of the same names that were deleted.
    pub quarantined: u64,
    /// Rows of jobs that no longer quote a name.
    pub jobs: u64,
    /// Answers and opinions that were emptied.
    pub answers: u64,
    pub feedback: u64,
    /// Number of the audit log's entry that says it was done, and the log's signed checkpoint from then.
    pub audit_entry: u64,
    pub audit_checkpoint: String,
    pub reached: Vec<Reached>,
    pub residual: Vec<String>,
}

/// A certificate with what proves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedCertificate {
    pub certificate: Certificate,
    /// How to check: Ed25519 over the line `cloister erasure certificate v1`, then the certificate as RFC 8785
    /// canonical JSON.
    pub algorithm: String,
    /// Hexadecimal.
    pub public_key: String,
    /// Hexadecimal.
    pub signature: String,
}

impl Certificate {
    pub fn version() -> u32 {
        VERSION
    }

    pub fn sign(self, signer: &Signer) -> Result<SignedCertificate> {
        let signature = signed::sign(DOMAIN, &self, signer)?;
        Ok(SignedCertificate {
            certificate: self,
            algorithm: ALGORITHM.to_owned(),
            public_key: key_text(&signer.public_key()),
            signature,
        })
    }
}

impl SignedCertificate {
    /// Whether this is what the holder of `key` signed. The key inside the certificate is only a hint: whoever forges
    /// one puts their own there.
    ///
    /// # Errors
    /// `Integrity` where anything in it was altered or another key signed it.
    pub fn verify(&self, key: &PublicKey) -> Result<()> {
        if self.algorithm != ALGORITHM || self.certificate.version != VERSION {
            return Err(Error::integrity("the certificate is of a kind that this version does not know"));
        }
        signed::verify(DOMAIN, &self.certificate, &self.signature, key).map_err(|error| {
            error.context(format!("verifying the certificate of {}", self.certificate.erasure))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{
        base::{
            IdKind,
            damage::{FIRST_TIER, again_and_again},
            hex,
        },
        seal::Key,
    };

    fn certificate() -> Certificate {
        let id = |kind| Id::from_parts(kind, 1, [7; 10]);
        Certificate {
            version: VERSION,
            install: id(IdKind::Install),
            erasure: id(IdKind::Erasure),
            actor: "local:0".into(),
            asked_at_ms: 1,
            erased_at_ms: 2,
            subjects: vec!["ab".repeat(32)],
            asked: vec![id(IdKind::Document)],
            documents: [(id(IdKind::Document), "cd".repeat(32))].into(),
            quarantined: 1,
            jobs: 2,
            answers: 3,
            feedback: 4,
            audit_entry: 5,
            audit_checkpoint: "note\n".into(),
            reached: vec![Reached { id: id(IdKind::Model), because: "é".into(), retrain: None }],
            residual: RESIDUAL.map(str::to_owned).to_vec(),
        }
    }

    fn signer(seed: u8) -> Signer {
        Signer::new(Key::from_bytes(&[seed; 32]).expect("a key"))
    }

    #[test]
    fn any_altered_field_is_noticed() {
        let signed = certificate().sign(&signer(1)).expect("signs");
        let key = signer(1).public_key();
        let whole = serde_json::to_value(&signed).expect("plain data");
        serde_json::from_value::<SignedCertificate>(whole.clone())
            .expect("reads")
            .verify(&key)
            .expect("verifies");
        let fields: Vec<String> =
            whole["certificate"].as_object().expect("an object").keys().cloned().collect();
        assert_eq!(fields.len(), 17);
        for field in fields {
            let mut altered = whole.clone();
            let value = &mut altered["certificate"][&field];
            *value = match &*value {
                Value::Number(number) => Value::from(number.as_u64().expect("integers") + 1),
                Value::String(text) => Value::from(text.replace('7', "8") + "0"),
                Value::Array(_) => Value::Array(Vec::new()),
                Value::Object(_) => Value::Object(serde_json::Map::new()),
                other => panic!("{field} is {other}"),
            };
            let refused = serde_json::from_value::<SignedCertificate>(altered)
                .map_or(true, |altered| altered.verify(&key).is_err());
            assert!(refused, "{field} was altered unnoticed");
        }
        assert!(signed.verify(&signer(2).public_key()).is_err(), "another key");
        for signature in ["", "zz", "abc", &signed.signature[2..]] {
            assert!(
                SignedCertificate { signature: signature.into(), ..signed.clone() }.verify(&key).is_err()
            );
        }
    }

    #[test]
    fn no_other_text_of_this_key_passes_for_one() {
        let signed = certificate().sign(&signer(1)).expect("signs");
        let as_receipt =
            signed::signed_text("cloister receipt v1\n", &signed.certificate).expect("plain data");
        let signature = hex(&signer(1).sign(as_receipt.as_bytes()));
        let forged = SignedCertificate { signature, ..signed };
        assert!(forged.verify(&signer(1).public_key()).is_err());
    }

    /// Of certificates, in the long tier.
    const MUTATIONS: u64 = 60_000;

    #[test]
    fn random_damage_is_refused() {
        withstands_damage(MUTATIONS / FIRST_TIER);
    }

    #[test]
    #[ignore = "the long tier: a minute"]
    fn random_damage_is_always_refused() {
        withstands_damage(MUTATIONS);
    }

    fn withstands_damage(mutations: u64) {
        let signed = certificate().sign(&signer(1)).expect("signs");
        let (key, whole) = (signer(1).public_key(), serde_json::to_vec(&signed).expect("plain data"));
        again_and_again(mutations, 10, &[whole], |_, damaged| {
            let read = serde_json::from_slice::<SignedCertificate>(damaged);
            if let Ok(read) =
                read.map_err(drop).and_then(|read| read.verify(&key).map_err(drop).map(|()| read))
            {
                assert_eq!(read.certificate, signed.certificate);
            }
        });
    }
}
