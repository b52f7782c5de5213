//! TLS as managers and nodes speak it: version 1.3, with certificates of the cluster's authority.

use std::sync::Arc;

use engine_error::{Error, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;

use crate::authority::{DIGEST, digest_of};

/// A node's own certificate, its key and the authority, as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The authority's certificate.
    pub authority: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

impl Identity {
    fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        Ok(vec![certificate(&self.certificate)?, certificate(&self.authority)?])
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        key.map_err(|error| Error::internal("cannot read the node's key", error))
    }
}

/// A manager's side: who has a certificate shows it, who has none may ask to be let in.
pub(crate) fn server(own: &Identity) -> Result<Arc<ServerConfig>> {
    let failed = |error| Error::internal("cannot serve TLS", error);
    let roots = Arc::new(roots(certificate(&own.authority)?)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let verifier = verifier.allow_unauthenticated().build();
    let verifier = verifier.map_err(|error| Error::internal("cannot serve TLS", error))?;
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(failed)?;
    let builder = builder.with_client_cert_verifier(verifier);
    Ok(Arc::new(builder.with_single_cert(own.chain()?, own.key()?).map_err(failed)?))
}

/// A node's side: it knows the authority by its digest.
pub(crate) fn client(authority: [u8; DIGEST], own: Option<&Identity>) -> Result<Arc<ClientConfig>> {
    let failed = |error| Error::internal("cannot speak TLS", error);
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(failed)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Pinned(authority)));
    let config = match own {
        Some(own) => builder.with_client_auth_cert(own.chain()?, own.key()?).map_err(failed)?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes());
    der.map_err(|error| Error::internal("cannot read a certificate", error))
}

fn roots(authority: CertificateDer<'static>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let added = roots.add(authority);
    added.map_err(|error| Error::internal("cannot trust the cluster's authority", error))?;
    Ok(roots)
}

/// Trusts what is signed by the authority with a digest, which the other side shows.
#[derive(Debug)]
struct Pinned([u8; DIGEST]);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let shown = intermediates.iter().find(|shown| digest_of(shown) == self.0);
        let authority = shown.ok_or_else(unknown)?.clone().into_owned();
        let roots = roots(authority).map_err(|_| unknown())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        let verifier = verifier.build().map_err(|_| unknown())?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, &known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, &known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
