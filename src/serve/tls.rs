//! The appliance's own TLS identity: a self-signed certificate that lies in the clear beside its sealed key. TLS 1.3
//! only. Clients trust the certificate file, or compare its fingerprint. While the appliance is sealed nobody has that
//! key: it speaks under a certificate of the moment, which nobody trusts and which says that it is sealed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
};

use super::clients;

use crate::{
    base::{Context, Error, ErrorKind, Result, fs::write_atomic},
    seal::{self, Key},
    work::Fingerprint,
};

crate::into_cause!(rcgen::Error, rustls::Error, rustls::pki_types::pem::Error);

/// Binds the sealed key to its certificate: a key from elsewhere does not open.
const AAD: &[u8] = b"tls|key|1|";

/// What a client is told to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// SHA-256 over the certificate, as browsers and `openssl` show it.
    pub fingerprint: String,
    /// The public certificate's file, for `curl --cacert`.
    pub certificate_pem: PathBuf,
    certificate: CertificateDer<'static>,
    sealed_key: Vec<u8>,
}

impl Identity {
    /// Reads the identity in `keys_dir`, or makes one; `key` seals the private key.
    ///
    /// # Errors
    /// A certificate or key that is damaged, or that another installation's key sealed.
    pub fn ensure(keys_dir: &Path, key: &Key) -> Result<Self> {
        let (certificate_pem, key_path) = (keys_dir.join("tls.pem"), keys_dir.join("tls.key.sealed"));
        // The certificate is written last: without it nobody has been told to trust the key.
        if !certificate_pem.exists() {
            make(&certificate_pem, &key_path, key)?;
        }
        let pem = std::fs::read(&certificate_pem).context("reading the TLS certificate")?;
        let certificate = CertificateDer::from_pem_slice(&pem)
            .with_context(|| format!("reading {}", certificate_pem.display()))
            .map_err(|error| broken(error.with_kind(ErrorKind::Integrity)))?;
        let sealed_key = std::fs::read(&key_path).context("reading the sealed TLS key").map_err(broken)?;
        let fingerprint = Fingerprint::of(&certificate).to_string();
        Ok(Self { fingerprint, certificate_pem, certificate, sealed_key })
    }

    /// What rustls serves with, to those whom `client_ca` signed a certificate for, or to everybody.
    ///
    /// # Errors
    /// `Integrity` where the key does not open, or is not the certificate's; `Usage` where the authority is none.
    pub fn server_config(&self, key: &Key, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>> {
        let private = seal::open_blob(key, &aad(&self.certificate), &self.sealed_key)
            .context("opening the TLS key")
            .map_err(broken)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(private.to_vec()));
        config(self.certificate.clone(), private, client_ca)
    }
}

/// What rustls serves with while the identity is sealed: a certificate that is made now and lies in memory alone.
pub fn throwaway() -> Result<Arc<ServerConfig>> {
    let pair = KeyPair::generate().context("making a TLS key")?;
    let certificate = certificate(&pair, "cloister (sealed)")?;
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
    config(certificate.der().clone(), private, None)
}

fn config(
    certificate: CertificateDer<'static>,
    private: PrivateKeyDer<'static>,
    client_ca: Option<&Path>,
) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = clients::verifier(&provider, client_ca)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("setting TLS up")?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate], private)
        .context("taking the TLS key")
        .map_err(|error| broken(error.with_kind(ErrorKind::Integrity)))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn make(certificate_pem: &Path, key_path: &Path, key: &Key) -> Result<()> {
    let pair = KeyPair::generate().context("making a TLS key")?;
    let certificate = certificate(&pair, "cloister")?;
    let sealed = seal::seal_blob(key, &aad(certificate.der()), &pair.serialize_der())?;
    write_atomic(key_path, &sealed)?;
    write_atomic(certificate_pem, certificate.pem().as_bytes())
}

fn certificate(pair: &KeyPair, name: &str) -> Result<Certificate> {
    let mut parameters = CertificateParams::new(names()).context("naming the TLS certificate")?;
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.self_signed(pair).context("signing the TLS certificate")
}

/// What a client may call this machine.
fn names() -> Vec<String> {
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(String::from).to_vec();
    if let Ok(host) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        let host = host.trim();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if !host.is_empty() && host.chars().all(is_name) && host != "localhost" {
            names.push(host.to_owned());
        }
    }
    names
}

fn aad(certificate: &CertificateDer<'_>) -> Vec<u8> {
    [AAD, &seal::sha256(certificate)].concat()
}

fn broken(error: Error) -> Error {
    error.remedy(
        "remove keys/tls.pem and keys/tls.key.sealed: a new identity is made, and clients must be told to trust it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::from_bytes(&[byte; 32]).expect("a key")
    }

    #[test]
    fn is_made_once_and_opens_with_its_own_key_alone() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let made = Identity::ensure(directory.path(), &key(1)).expect("made");
        assert_eq!(Identity::ensure(directory.path(), &key(1)).expect("read"), made);
        assert_eq!(made.fingerprint.len(), 32 * 3 - 1);
        made.server_config(&key(1), None).expect("serves");
        assert_eq!(made.server_config(&key(2), None).map(|_| ()).unwrap_err().kind(), ErrorKind::Integrity);
    }

    #[test]
    fn a_damaged_identity_is_refused_and_says_what_to_do() {
        let directory = tempfile::tempdir().expect("temporary directory");
        Identity::ensure(directory.path(), &key(1)).expect("made");
        let other = tempfile::tempdir().expect("temporary directory");
        Identity::ensure(other.path(), &key(1)).expect("made");
        // The same installation's key, but another certificate's.
        let (mine, others) = (directory.path().join("tls.key.sealed"), other.path().join("tls.key.sealed"));
        std::fs::copy(others, &mine).expect("copies");
        let swapped = Identity::ensure(directory.path(), &key(1)).expect("reads");
        assert!(swapped.server_config(&key(1), None).is_err());
        std::fs::remove_file(mine).expect("removes");
        let error = Identity::ensure(directory.path(), &key(1)).unwrap_err();
        assert!(error.remedy_text().is_some_and(|remedy| remedy.contains("tls.pem")));
        std::fs::write(directory.path().join("tls.pem"), "no certificate").expect("writes");
        let error = Identity::ensure(directory.path(), &key(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
    }
}
