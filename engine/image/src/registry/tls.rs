//! HTTP clients that trust what the system trusts.

use std::fs;
use std::path::Path;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client};

use super::Failure;

/// Where distributions keep the bundle of certificate authorities.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];
/// Where operators put authorities for one registry.
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

fn authorities(host: &str) -> Vec<Certificate> {
    let bundle = match std::env::var_os("SSL_CERT_FILE") {
        Some(path) => fs::read(path).ok(),
        None => BUNDLES.iter().find_map(|path| fs::read(path).ok()),
    };
    let mut authorities = bundle.map(|bytes| certificates(&bytes)).unwrap_or_default();
    for directory in PER_HOST {
        let Ok(entries) = fs::read_dir(Path::new(directory).join(host)) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "crt")
                && let Ok(bytes) = fs::read(path)
            {
                authorities.extend(certificates(&bytes));
            }
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
