//! What a certificate of a node says, and the request for one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine_error::{Error, Kind, Result};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::AttributeTypeAndValue;

use crate::authority::{EARLIER, digest_of, failed};
use crate::token::Role;

/// Docker's word for a role in a certificate.
pub(crate) fn unit(role: Role) -> &'static str {
    match role {
        Role::Manager => "swarm-manager",
        Role::Worker => "swarm-worker",
    }
}

/// Who holds a certificate, as it says. Whether it is genuine is another question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The cluster.
    pub cluster: String,
    /// The node.
    pub node: String,
    /// What the node does.
    pub role: Role,
    /// When the certificate begins.
    pub from: SystemTime,
    /// When it ends.
    pub until: SystemTime,
}

impl Holder {
    /// That of a certificate.
    pub fn of(der: &[u8]) -> Result<Self> {
        let wrong = || Error::new(Kind::Unauthorized, "the certificate is none of a node");
        let (_, parsed) = X509Certificate::from_der(der).map_err(|_| wrong())?;
        let subject = parsed.subject();
        let units: Vec<_> = subject.iter_organizational_unit().filter_map(text).collect();
        let role = [Role::Manager, Role::Worker].into_iter().find(|role| units == [unit(*role)]);
        let validity = parsed.validity();
        Ok(Self {
            cluster: subject.iter_organization().find_map(text).ok_or_else(wrong)?.to_owned(),
            node: subject.iter_common_name().find_map(text).ok_or_else(wrong)?.to_owned(),
            role: role.ok_or_else(wrong)?,
            from: time(validity.not_before.timestamp()),
            until: time(validity.not_after.timestamp()),
        })
    }

    /// That of a certificate as PEM.
    pub fn of_pem(pem: &str) -> Result<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes());
        Self::of(&der.map_err(|error| Error::internal("cannot read a certificate", error))?)
    }

    /// How long it is good for, from when it was asked for.
    pub(crate) fn life(&self) -> Duration {
        self.until.duration_since(self.from + EARLIER).unwrap_or_default()
    }

    /// When half of its time is over, and a new one is asked for.
    pub fn half_time(&self) -> SystemTime {
        half_time(self.from, self.until)
    }
}

fn half_time(from: SystemTime, until: SystemTime) -> SystemTime {
    let issued = from + EARLIER;
    issued + until.duration_since(issued).unwrap_or_default() / 2
}

/// When half of the time of any certificate is over.
pub(crate) fn half_time_of_pem(pem: &str) -> Result<SystemTime> {
    let failed = |error| Error::internal("cannot read a certificate", error);
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(failed)?;
    let unreadable = |_| Error::new(Kind::Internal, "cannot read a certificate");
    let (_, parsed) = X509Certificate::from_der(&der).map_err(unreadable)?;
    let validity = parsed.validity();
    Ok(half_time(time(validity.not_before.timestamp()), time(validity.not_after.timestamp())))
}

fn time(stamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(stamp.unsigned_abs())
}

fn text<'a>(attribute: &'a AttributeTypeAndValue<'a>) -> Option<&'a str> {
    attribute.as_str().ok()
}

/// Who signed: the authority's name and key, as DER.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The name.
    pub name: Vec<u8>,
    /// The key.
    pub key: Vec<u8>,
}

impl Signer {
    /// That of an authority's certificate, as PEM.
    pub fn of_pem(pem: &str) -> Result<Self> {
        let failed = |error| Error::internal("cannot read the authority", error);
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(failed)?;
        let unreadable = |_| Error::new(Kind::Internal, "cannot read the authority");
        let (_, parsed) = X509Certificate::from_der(&der).map_err(unreadable)?;
        let name = parsed.subject().as_raw().to_vec();
        Ok(Self { name, key: parsed.public_key().raw.to_vec() })
    }
}

/// A new key, and the request for a certificate.
#[derive(Clone)]
pub struct KeyAndRequest {
    /// The key, as PEM.
    pub key: String,
    /// The request, as PEM.
    pub request: String,
}

impl std::fmt::Debug for KeyAndRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyAndRequest").finish_non_exhaustive()
    }
}

impl KeyAndRequest {
    /// Makes them.
    pub fn new() -> Result<Self> {
        Self::with(&KeyPair::generate().map_err(failed("make a key"))?)
    }

    /// A request for a key that there is, as PEM.
    pub fn of(key: &str) -> Result<Self> {
        Self::with(&KeyPair::from_pem(key).map_err(failed("read the node's key"))?)
    }

    fn with(key: &KeyPair) -> Result<Self> {
        let request = CertificateParams::default().serialize_request(key);
        let request = request.and_then(|request| request.pem());
        let request = request.map_err(failed("make a certificate request"))?;
        Ok(Self { key: key.serialize_pem(), request })
    }
}

/// What tells the key of a request from every other one, for records.
pub(crate) fn key_of_request(request: &str) -> Result<String> {
    let parsed = rcgen::CertificateSigningRequestParams::from_pem(request);
    let parsed = parsed
        .map_err(|error| Error::caused(Kind::Invalid, "this is no certificate request", error))?;
    let digest = digest_of(rcgen::PublicKeyData::der_bytes(&parsed.public_key));
    Ok(crate::base36::encode(&digest, 50))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{Authority, NODE_LIFE, Subject};

    #[test]
    fn a_certificate_says_who_holds_it_and_in_which_role() {
        let authority = Authority::create().unwrap();
        let own = KeyAndRequest::new().unwrap();
        let addresses = ["192.0.2.1".parse().unwrap()];
        let subject =
            Subject { cluster: "c1", node: "n1", role: Role::Manager, addresses: &addresses };
        let pem = authority.certify(&own.request, &subject, NODE_LIFE).unwrap();
        let holder = Holder::of_pem(&pem).unwrap();
        assert_eq!((holder.cluster.as_str(), holder.node.as_str()), ("c1", "n1"));
        assert_eq!(holder.role, Role::Manager);
        let left = holder.half_time().duration_since(SystemTime::now()).unwrap();
        assert!(left > Duration::from_secs(44 * 86400) && left < Duration::from_secs(46 * 86400));
    }

    #[test]
    fn the_authority_is_the_same_when_it_is_read_again_and_is_no_node() {
        let authority = Authority::create().unwrap();
        let again = Authority::load(authority.certificate(), authority.key()).unwrap();
        assert_eq!(authority.digest(), again.digest());
        assert!(Holder::of_pem(authority.certificate()).is_err());
        let (_, peer) = authority.issue_peer("192.0.2.1".parse().unwrap(), NODE_LIFE).unwrap();
        assert!(Holder::of_pem(&peer).is_err());
    }

    #[test]
    fn what_is_no_request_is_not_certified() {
        let authority = Authority::create().unwrap();
        let subject = Subject { cluster: "c", node: "n", role: Role::Worker, addresses: &[] };
        let error = authority.certify("bogus", &subject, NODE_LIFE).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
    }
}
