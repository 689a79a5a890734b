//! What a backup consists of, signed by the installation that made it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    base::{Context, Error, Id, Result, fs::write_atomic, hex, unhex},
    improve::receipt,
    seal::{PublicKey, Signer},
};

const FORMAT: &str = "cloister backup v1";
/// Stands before the signed bytes, so that no other text of this key can pass for a manifest.
const DOMAIN: &[u8] = b"cloister backup manifest v1\n";
pub(super) const MANIFEST_FILE: &str = "manifest.json";
const SIGNATURE_FILE: &str = "manifest.json.sig";

/// One backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: String,
    pub backup: Id,
    pub install: Id,
    /// Of the cloister that made it.
    pub version: String,
    pub taken_at_ms: u64,
    /// Hexadecimal: checks the signature. Whoever forges a manifest puts their own here.
    pub public_key: String,
    pub vault_epoch: u64,
    /// The vault's root, in hexadecimal.
    pub vault_root: String,
    /// The newest checkpoint of the audit log then.
    pub audit_checkpoint: String,
    /// Below the backup's own folder.
    pub files: Vec<FileRow>,
    /// Below the keys' folder of this backup.
    pub keys: Vec<FileRow>,
    /// Below the repository.
    pub objects: Vec<FileRow>,
}

/// A file: path, length, and SHA-256 in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRow {
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}

impl Manifest {
    pub(super) fn format() -> String {
        FORMAT.to_owned()
    }

    /// Bytes of everything but the keys.
    pub fn bytes(&self) -> u64 {
        self.files.iter().chain(&self.objects).map(|row| row.bytes).sum()
    }

    /// Signs the manifest and writes it into the backup's folder: with that the backup exists.
    pub(super) fn write(&self, folder: &Path, signer: &Signer) -> Result<()> {
        let bytes = serde_json::to_vec(self).context("writing the manifest")?;
        let signature = hex(&signer.sign(&signed(&bytes))) + "\n";
        write_atomic(&folder.join(SIGNATURE_FILE), signature.as_bytes())?;
        write_atomic(&folder.join(MANIFEST_FILE), &bytes)
    }

    /// Reads a backup's manifest and checks that `key` signed it, or, where none is given, the key that it names.
    ///
    /// # Errors
    /// `Integrity` where it was altered, is signed by another key, or means files outside the repository.
    pub(super) fn read(folder: &Path, key: Option<&PublicKey>) -> Result<Self> {
        let path = folder.join(MANIFEST_FILE);
        let broken = |why: String| {
            Error::integrity(format!("{}: {why}", path.display()))
                .remedy("use another backup of the repository")
        };
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let manifest: Self =
            serde_json::from_slice(&bytes).map_err(|error| broken(format!("it is no manifest: {error}")))?;
        if manifest.format != FORMAT {
            return Err(broken(format!("it is a '{}', and this version reads '{FORMAT}'", manifest.format)));
        }
        let named = unhex(&manifest.public_key).and_then(|bytes| bytes.try_into().ok()).map(PublicKey);
        let named = named.ok_or_else(|| broken("it names no public key".to_owned()))?;
        if let Some(key) = key.filter(|key| **key != named) {
            return Err(broken(format!(
                "it was signed by the key {}, not by {}",
                receipt::key_text(&named),
                receipt::key_text(key)
            )));
        }
        let signature = folder.join(SIGNATURE_FILE);
        let signature = std::fs::read_to_string(&signature)
            .with_context(|| format!("reading {}", signature.display()))?;
        let signature = unhex(signature.trim()).ok_or_else(|| broken("its signature is none".to_owned()))?;
        named
            .verify(&signed(&bytes), &signature)
            .map_err(|_| broken("it is not what was signed".to_owned()))?;
        let rows = || manifest.files.iter().chain(&manifest.keys).chain(&manifest.objects);
        if let Some(row) = rows().find(|row| !stays_inside(&row.path)) {
            return Err(broken(format!("'{}' lies outside of the backup", row.path)));
        }
        Ok(manifest)
    }
}

/// Whoever holds a signing key must not write wherever they like on the machine that restores.
fn stays_inside(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    !path.is_empty() && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
}

fn signed(bytes: &[u8]) -> Vec<u8> {
    [DOMAIN, bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{
            ErrorKind, IdKind,
            damage::{FIRST_TIER, again_and_again},
        },
        seal::Key,
    };

    #[test]
    fn only_paths_below_the_backup_are_meant() {
        for path in ["cloister.db", "audit/000001.log", "keys/tls.pem"] {
            assert!(stays_inside(path), "{path}");
        }
        for path in ["", "/etc/passwd", "../keys", "a/../../b", "./a", "a/.."] {
            assert!(!stays_inside(path), "{path}");
        }
    }

    /// Of a backup's list and its signature, in the long tier.
    const MUTATIONS: u64 = 50_000;

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
        let folder = tempfile::tempdir().expect("temporary directory");
        let signer = Signer::new(Key::from_bytes(&[9; 32]).expect("a key"));
        let id = |kind| Id::from_parts(kind, 1, [7; 10]);
        let row = |path: &str| FileRow { path: path.into(), bytes: 12, sha256: "ab".repeat(32) };
        let manifest = Manifest {
            format: Manifest::format(),
            backup: id(IdKind::Backup),
            install: id(IdKind::Install),
            version: "0.1.0".into(),
            taken_at_ms: 3,
            public_key: receipt::key_text(&signer.public_key()),
            vault_epoch: 4,
            vault_root: "cd".repeat(32),
            audit_checkpoint: "note\n".into(),
            files: vec![row("cloister.db"), row("audit/000001.log")],
            keys: vec![row("keyring")],
            objects: vec![row("objects/AB/doc_1"), row("objects/CD/doc_2")],
        };
        manifest.write(folder.path(), &signer).expect("room");
        for name in [MANIFEST_FILE, SIGNATURE_FILE] {
            let path = folder.path().join(name);
            let whole = std::fs::read(&path).expect("read");
            again_and_again(mutations / 2, 9, std::slice::from_ref(&whole), |_, damaged| {
                std::fs::write(&path, damaged).expect("write");
                // White space around a signature, and the case of its letters, are no part of it.
                match Manifest::read(folder.path(), Some(&signer.public_key())) {
                    Ok(read) => assert_eq!(read, manifest),
                    Err(error) => {
                        assert!(error.kind() == ErrorKind::Integrity || name == SIGNATURE_FILE, "{error}")
                    }
                }
            });
            std::fs::write(&path, whole).expect("write");
        }
    }
}
