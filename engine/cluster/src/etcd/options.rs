//! How etcd is to be talked to.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use engine_error::{Error, Kind, Result};
use etcd_client::{Certificate, Identity, TlsOptions};

use crate::place::{Place, Tls};

/// Where etcd is, and what it wants to see.
#[derive(Clone, Default)]
pub struct EtcdOptions {
    /// Its members, such as `https://h1:2379`; without a scheme it is that of `tls`.
    pub endpoints: Vec<String>,
    /// What it is to be believed by, and what we show it.
    pub tls: Option<EtcdTls>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// The longest that a call takes; five seconds if absent.
    pub limit: Option<Duration>,
}

/// Certificates in PEM.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// Those of the authorities that etcd's certificate is from; none where any public one does.
    pub authority: Option<Vec<u8>>,
    /// Ours with its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither passwords nor keys are for logs.
        f.debug_struct("EtcdOptions").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTls").finish_non_exhaustive()
    }
}

impl EtcdOptions {
    /// Those of a place, with what is in its files.
    pub fn of(place: &Place) -> Result<Self> {
        let user = place.user.as_ref().map(|user| {
            let password = text(&user.password_file, "the password of the cluster's store")?;
            Ok::<_, Error>((user.name.clone(), password.trim_end().to_owned()))
        });
        Ok(Self {
            endpoints: place.endpoints.clone(),
            tls: place.tls.as_ref().map(EtcdTls::of).transpose()?,
            user: user.transpose()?,
            limit: None,
        })
    }
}

impl EtcdTls {
    fn of(tls: &Tls) -> Result<Self> {
        let Some(authority) = &tls.authority else {
            let message = "the certificate of the authority that the cluster's store is to be \
                           believed by is missing: give it with the option cacert";
            return Err(Error::invalid(message));
        };
        let authority = read(authority, "the authority's certificate")?;
        let identity = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => Some((
                read(certificate, "this host's certificate")?,
                read(key, "the key of this host's certificate")?,
            )),
            _ => None,
        };
        Ok(Self { authority: Some(authority), identity })
    }

    pub(super) fn options(self) -> TlsOptions {
        let mut options = TlsOptions::new();
        if let Some(authority) = self.authority {
            options = options.ca_certificate(Certificate::from_pem(authority));
        }
        if let Some((certificate, key)) = self.identity {
            options = options.identity(Identity::from_pem(certificate, key));
        }
        options
    }
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        Error::caused(Kind::Invalid, format!("cannot read {what}: {}", path.display()), error)
    })
}

fn text(path: &Path, what: &str) -> Result<String> {
    String::from_utf8(read(path, what)?).map_err(|error| {
        let message = format!("cannot read {what}: {} is not text", path.display());
        Error::caused(Kind::Invalid, message, error)
    })
}
