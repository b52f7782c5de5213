//! HTTP clients that trust what the system trusts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Identity};

use super::Failure;

/// Where distributions keep the bundle of certificate authorities.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];
/// Where operators put authorities for one registry, and what we show to it.
const PER_HOST: [&str; 2] = ["/etc/rnet/certs.d", "/etc/docker/certs.d"];

/// A client for one host, which waits so long for the next byte of an answer.
pub(super) fn client(
    host: &str,
    verify: bool,
    plain: bool,
    patience: Option<Duration>,
) -> Result<Client, Failure> {
    // Whoever is first installs it; it is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let policy = Policy::custom(|attempt| {
        let downgrade = attempt.url().scheme() == "http"
            && attempt.previous().iter().any(|url| url.scheme() == "https");
        if downgrade {
            attempt.error("redirected from https to http")
        } else if attempt.previous().len() > 10 {
            attempt.error("stopped after 10 redirects")
        } else {
            attempt.follow()
        }
    });
    let mut builder = Client::builder()
        .user_agent(concat!("rnet/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(15))
        .redirect(policy);
    if let Some(patience) = patience {
        builder = builder.read_timeout(patience);
    }
    if !plain {
        builder = builder.tls_certs_only(authorities(host));
        if let Some(identity) = identity(host)? {
            builder = builder.identity(identity);
        }
    }
    if !verify {
        builder = builder.tls_danger_accept_invalid_certs(true);
        let bare = host.split(':').next().unwrap_or(host);
        if bare == "localhost" || host.starts_with("127.") || host.starts_with("[::1]") {
            builder = builder.no_proxy();
        }
    }
    builder.build().map_err(|error| Failure::Other(format!("cannot make an HTTP client: {error}")))
}

/// The files of a kind that operators put there for a host.
fn files(host: &str, extension: &str) -> Vec<PathBuf> {
    let directories = PER_HOST.iter().map(|directory| Path::new(directory).join(host));
    let entries = directories.filter_map(|directory| fs::read_dir(directory).ok()).flatten();
    let paths = entries.flatten().map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|known| known == extension)).collect()
}

/// The certificate that a host wants to see, `NAME.cert`, with its key beside it.
fn identity(host: &str) -> Result<Option<Identity>, Failure> {
    let Some(certificate) = files(host, "cert").into_iter().min() else { return Ok(None) };
    let key = certificate.with_extension("key");
    let unreadable = |path: &Path, error: &dyn std::fmt::Display| {
        Failure::Other(format!("cannot use {} for {host}: {error}", path.display()))
    };
    if !key.exists() {
        return Err(Failure::Other(format!(
            "missing key {} for client certificate {}. CA certificates must use the extension .crt",
            key.display(),
            certificate.display()
        )));
    }
    let mut pem = fs::read(&certificate).map_err(|error| unreadable(&certificate, &error))?;
    pem.extend(fs::read(&key).map_err(|error| unreadable(&key, &error))?);
    Identity::from_pem(&pem).map(Some).map_err(|error| unreadable(&certificate, &error))
}

fn authorities(host: &str) -> Vec<Certificate> {
    let bundle = match std::env::var_os("SSL_CERT_FILE") {
        Some(path) => fs::read(path).ok(),
        None => BUNDLES.iter().find_map(|path| fs::read(path).ok()),
    };
    let mut authorities = bundle.map(|bytes| certificates(&bytes)).unwrap_or_default();
    for path in files(host, "crt") {
        match fs::read(&path) {
            Ok(bytes) => authorities.extend(certificates(&bytes)),
            Err(error) => tracing::warn!(%error, path = %path.display(), "a CA is left out"),
        }
    }
    authorities
}

fn certificates(pem: &[u8]) -> Vec<Certificate> {
    Certificate::from_pem_bundle(pem).unwrap_or_else(|error| {
        tracing::warn!(%error, "a bundle of certificates cannot be read");
        Vec::new()
    })
}
