//! The cluster's own authority, and what it certifies.
//!
//! A node's certificate names the node (common name), its role (organisational unit) and the cluster
//! (organisation), as Docker's do. The key that others are certified with is on managers only.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use engine_error::{Error, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use ring::{digest, hmac};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::certificate::{KeyAndRequest, unit};
use crate::token::Role;

/// How long a digest of a certificate is, in bytes.
pub const DIGEST: usize = 32;

/// The name by which a certificate tells a manager.
pub(crate) const MANAGER: &str = "swarm-manager";

/// The common name of what members of the store show to each other. No node is called so.
pub(crate) const PEER: &str = "rnet-store-member";

/// How long the authority itself is good for.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86400);

/// How long a certificate of a node is good for, unless the cluster says otherwise.
pub const NODE_LIFE: Duration = Duration::from_secs(90 * 86400);

/// How much earlier than now a certificate begins: clocks differ.
pub(crate) const EARLIER: Duration = Duration::from_secs(3600);

/// What signs the certificates of a cluster.
pub struct Authority {
    certificate: String,
    der: CertificateDer<'static>,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Whom a certificate is for.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The cluster.
    pub cluster: &'a str,
    /// The node.
    pub node: &'a str,
    /// What it does.
    pub role: Role,
    /// Where a manager is reached.
    pub addresses: &'a [IpAddr],
}

impl Authority {
    /// A new one.
    pub fn create() -> Result<Self> {
        let key = KeyPair::generate().map_err(failed("make a key for the cluster's authority"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "swarm-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        last(&mut params, SystemTime::now(), AUTHORITY_LIFE);
        let certificate = params.self_signed(&key).map_err(failed("make the authority"))?;
        Self::load(&certificate.pem(), &key.serialize_pem())
    }

    /// That of a certificate and its key.
    pub fn load(certificate: &str, key: &str) -> Result<Self> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes());
        let der = der.map_err(|error| Error::internal("cannot read the authority", error))?;
        let pair = KeyPair::from_pem(key).map_err(failed("read the authority's key"))?;
        let issuer = Issuer::from_ca_cert_der(&der, pair).map_err(failed("read the authority"))?;
        Ok(Self { certificate: certificate.to_owned(), der, key: key.to_owned(), issuer })
    }

    /// Its certificate, as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its key, as PEM.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What tells it from every other one.
    pub fn digest(&self) -> [u8; DIGEST] {
        digest_of(&self.der)
    }

    /// What secrets of tokens follow from.
    pub(crate) fn token_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.issuer.key().serialized_der())
    }

    /// A certificate for who sent a request. Nothing of the request counts but its key.
    pub fn certify(&self, request: &str, subject: &Subject<'_>, life: Duration) -> Result<String> {
        self.certify_since(SystemTime::now(), request, subject, life)
    }

    /// The same as of another time.
    pub fn certify_since(
        &self,
        now: SystemTime,
        request: &str,
        subject: &Subject<'_>,
        life: Duration,
    ) -> Result<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, subject.cluster);
        params.distinguished_name.push(DnType::OrganizationalUnitName, unit(subject.role));
        params.distinguished_name.push(DnType::CommonName, subject.node);
        params.subject_alt_names.push(name(subject.node)?);
        if subject.role == Role::Manager {
            params.subject_alt_names.push(name(MANAGER)?);
            let addresses = subject.addresses.iter().map(|address| SanType::IpAddress(*address));
            params.subject_alt_names.extend(addresses);
        }
        self.sign(params, now, request, life)
    }

    /// A certificate for what the members of the store say to each other.
    pub fn certify_peer(&self, request: &str, address: IpAddr, life: Duration) -> Result<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, PEER);
        params.subject_alt_names.push(SanType::IpAddress(address));
        self.sign(params, SystemTime::now(), request, life)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        now: SystemTime,
        request: &str,
        life: Duration,
    ) -> Result<String> {
        let request = CertificateSigningRequestParams::from_pem(request);
        let request = request.map_err(|error| {
            Error::caused(engine_error::Kind::Invalid, "this is no certificate request", error)
        })?;
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        last(&mut params, now, life);
        let signed = params.signed_by(&request.public_key, &self.issuer);
        Ok(signed.map_err(failed("sign a certificate"))?.pem())
    }

    /// A key with a certificate for it, both made here: what a manager needs for itself.
    pub fn issue_peer(&self, address: IpAddr, life: Duration) -> Result<(String, String)> {
        let own = KeyAndRequest::new()?;
        Ok((own.key, self.certify_peer(&own.request, address, life)?))
    }
}

/// What tells a certificate from every other one.
pub(crate) fn digest_of(der: &[u8]) -> [u8; DIGEST] {
    let mut bytes = [0; DIGEST];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
    bytes
}

/// The same of one as PEM.
pub fn digest_of_pem(pem: &str) -> Result<[u8; DIGEST]> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes());
    let der = der.map_err(|error| Error::internal("cannot read a certificate", error))?;
    Ok(digest_of(&der))
}

fn last(params: &mut CertificateParams, now: SystemTime, life: Duration) {
    params.not_before = (now - EARLIER).into();
    params.not_after = (now + life).into();
}

fn name(text: &str) -> Result<SanType> {
    let name = text.try_into().map_err(failed("name the holder of a certificate"))?;
    Ok(SanType::DnsName(name))
}

pub(crate) fn failed(what: &'static str) -> impl Fn(rcgen::Error) -> Error {
    move |error| Error::internal(format!("cannot {what}"), error)
}
