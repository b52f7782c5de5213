//! The client's side of mutual TLS: files of flags, of a context or of the usual directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::commands::TlsFlags;
use super::error::CliError;

/// How TLS is spoken: with the certificates of a context, if there are any, and with whomever the
/// daemon is if that is not verified.
pub(crate) fn config(
    flags: &TlsFlags,
    context: Option<&Path>,
    unverified: bool,
) -> Result<Arc<ClientConfig>, CliError> {
    let named = context.map(Into::into).or_else(|| std::env::var_os("DOCKER_CERT_PATH"));
    let directory = named.map_or_else(
        || {
            let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
            home.join(".docker")
        },
        PathBuf::from,
    );
    let file = |flag: &Option<PathBuf>, name: &str| flag.clone().unwrap_or(directory.join(name));
    let (ca, cert, key) = (
        file(&flags.tlscacert, "ca.pem"),
        file(&flags.tlscert, "cert.pem"),
        file(&flags.tlskey, "key.pem"),
    );
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier((!unverified).then_some(&ca), &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| CliError::new(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    // Who has no certificate, and names none, shows none.
    let named = flags.tlscert.is_some() || flags.tlskey.is_some();
    if !named && !cert.exists() && !key.exists() {
        return Ok(Arc::new(builder.with_no_client_auth()));
    }
    let own = PrivateKeyDer::from_pem_file(&key).map_err(|error| bad(&key, &error))?;
    let config = builder.with_client_auth_cert(certificates(&cert)?, own);
    Ok(Arc::new(config.map_err(|error| bad(&cert, &error))?))
}

/// Who says whether a daemon is the one that is meant: an authority, or nobody.
fn verifier(
    ca: Option<&PathBuf>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, CliError> {
    let Some(ca) = ca else { return Ok(Arc::new(Anybody(provider.clone()))) };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| bad(ca, &error))?;
    }
    let builder =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    Ok(builder.build().map_err(|error| bad(ca, &error))?)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CliError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    found.map_err(|error| bad(path, &error))
}

fn bad(path: &Path, error: &dyn std::fmt::Display) -> CliError {
    CliError::new(format!("cannot use {}: {error}", path.display()))
}

/// Takes any daemon for the one that is meant, as `skip-tls-verify` of a context asks for. It has to
/// have the key of the certificate that it shows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
