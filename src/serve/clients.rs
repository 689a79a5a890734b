//! Certificates of clients. The handshake asks for one and takes any, signed by whomever: the client proves that it has the
//! key, and what the certificate is good for is said by the tokens that are bound to it (RFC 8705). Where an authority is
//! named, nobody gets past the handshake without a certificate that it signed.

use std::{path::Path, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime, pem::PemObject},
    server::{
        ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::{
    base::{Context, Error, Result},
    work::Fingerprint,
};

crate::into_cause!(VerifierBuilderError);

/// Who gets past the handshake: whoever `authority` signed a certificate for, or everybody where there is none.
///
/// # Errors
/// `Usage` where the authority's file holds no certificate.
pub fn verifier(
    provider: &Arc<CryptoProvider>,
    authority: Option<&Path>,
) -> Result<Arc<dyn ClientCertVerifier>> {
    let Some(path) = authority else {
        return Ok(Arc::new(AnyCertificate(provider.signature_verification_algorithms)));
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).with_context(|| format!("trusting {}", path.display()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .with_context(|| format!("trusting {}", path.display()))
}

/// The first certificate of a PEM file, which is the client's own where others follow.
///
/// # Errors
/// `Usage` where there is none.
pub fn fingerprint_in(path: &Path) -> Result<Fingerprint> {
    let certificates = certificates(path)?;
    let own = &certificates[0];
    ParsedCertificate::try_from(own).with_context(|| format!("reading {}", path.display()))?;
    Ok(Fingerprint::of(own))
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let reading = || format!("reading the certificate {}", path.display());
    let pem = std::fs::read(path).with_context(reading)?;
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().with_context(reading)?;
    if certificates.is_empty() {
        return Err(Error::usage(format!("{} holds no certificate", path.display()))
            .remedy("it should be PEM: a line BEGIN CERTIFICATE, base 64, a line END CERTIFICATE"));
    }
    Ok(certificates)
}

#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        ParsedCertificate::try_from(certificate).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 alone is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn a_file_without_a_certificate_is_refused_by_name() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("client.pem");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        std::fs::write(&path, "no certificate").expect("writes");
        let error = fingerprint_in(&path).expect_err("none");
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("client.pem"), "{error}");
        assert!(verifier(&provider, Some(&path)).is_err());
        let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, nonsense).expect("writes");
        assert!(fingerprint_in(&path).is_err() && verifier(&provider, Some(&path)).is_err());
        assert!(verifier(&provider, Some(&directory.path().join("nowhere.pem"))).is_err());
        verifier(&provider, None).expect("none is needed");
    }
}
