//! Mutual TLS: a client that is not signed by our authority does not get as far as HTTP.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::Tls;

/// How long a handshake may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Does handshakes with our certificates.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file has no usable certificate or key.
    #[error("cannot read {path}: {reason}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The parts do not fit together.
    #[error("certificate and key do not fit: {0}")]
    Parts(String),
}

impl Acceptor {
    /// Reads the certificates.
    pub fn new(tls: &Tls) -> Result<Self, TlsError> {
        let parts = |error: &dyn std::fmt::Display| TlsError::Parts(error.to_string());
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&tls.authority)? {
            roots.add(certificate).map_err(|error| parts(&error))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .map_err(|error| parts(&error))?;
        let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| file(&tls.key, &e))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| parts(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&tls.certificate)?, key)
            .map_err(|error| parts(&error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Does one handshake.
    pub fn accept(
        &self,
        stream: TcpStream,
    ) -> impl Future<Output = io::Result<TlsStream<TcpStream>>> + Send + use<> {
        let handshake = self.0.accept(stream);
        async { tokio::time::timeout(TIMEOUT, handshake).await? }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| file(path, &error))?;
    if all.is_empty() { Err(file(path, &"no certificate in it")) } else { Ok(all) }
}

fn file(path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { path: path.display().to_string(), reason: reason.to_string() }
}
