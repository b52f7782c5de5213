//! Why a registry did not give what was asked for, in the words of Docker.

use std::io;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use crate::reference::Reference;
use engine_error::Error;

pub(super) const DENIED: &str = "denied: requested access to the resource is denied";

/// A failed request.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No manifest of that tag or digest.
    ManifestUnknown(String),
    /// No such repository.
    NameUnknown(String),
    /// Nothing for this platform.
    NoPlatform(String),
    /// Not allowed, or not there for this user.
    Denied(String),
    /// Credentials are wrong, or not enough.
    Unauthorized(String),
    /// There are no credentials for what was to be done, with the URL.
    NoCredentials(String),
    /// The registry cannot answer now; seconds after which it may.
    Busy(String, Option<u64>),
    /// No connection.
    Unreachable(String),
    /// The connection broke.
    Broken(String),
    /// The registry has other bytes of an upload than it said.
    OutOfStep(String),
    /// Anything else.
    Other(String),
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    errors: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Item {
    /// `manifest unknown: manifest unknown`.
    fn text(&self) -> String {
        format!("{}: {}", self.code.to_lowercase().replace('_', " "), self.message)
    }
}

impl Failure {
    /// Whether the same request may succeed in a moment.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Busy(..) | Self::OutOfStep(_))
    }

    /// How many seconds the registry wants to be left alone.
    pub(super) fn wait(&self) -> Option<u64> {
        if let Self::Busy(_, wait) = self { *wait } else { None }
    }

    /// Whether another place may have what this one has not.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Broken(_))
    }

    /// The error a user sees for an image.
    pub(crate) fn into_error(self, reference: &Reference) -> Error {
        let name = reference.familiar_name();
        match self {
            Self::ManifestUnknown(text) => {
                Error::not_found(format!("manifest for {reference} not found: {text}"))
            }
            Self::NameUnknown(text) => {
                Error::not_found(format!("repository {name} not found: {text}"))
            }
            Self::Denied(text) => Error::not_found(format!(
                "pull access denied for {name}, repository does not exist or may require \
                 'docker login': {text}"
            )),
            Self::NoPlatform(text) => Error::not_found(text),
            Self::Unauthorized(text) => Error::new(cnm::Kind::Unauthorized, text),
            Self::NoCredentials(url) => Error::new(
                cnm::Kind::Internal,
                format!("Head \"{url}\": no basic auth credentials"),
            ),
            Self::Unreachable(text)
            | Self::Broken(text)
            | Self::Busy(text, _)
            | Self::OutOfStep(text)
            | Self::Other(text) => Error::new(cnm::Kind::Internal, text),
        }
    }

    /// The error a user sees who changes something in a registry: what it said, as it is.
    pub(crate) fn into_plain_error(self) -> Error {
        match self {
            Self::ManifestUnknown(text) | Self::NameUnknown(text) | Self::NoPlatform(text) => {
                Error::not_found(text)
            }
            Self::Denied(text) => Error::new(cnm::Kind::Forbidden, text),
            Self::Unauthorized(text) => Error::new(cnm::Kind::Unauthorized, text),
            Self::NoCredentials(_) => Error::new(cnm::Kind::Internal, "no basic auth credentials"),
            Self::Unreachable(text)
            | Self::Broken(text)
            | Self::Busy(text, _)
            | Self::OutOfStep(text)
            | Self::Other(text) => Error::new(cnm::Kind::Internal, text),
        }
    }
}

/// What an answer that is no success means.
pub(super) async fn of_response(response: Response) -> Failure {
    let status = response.status();
    let url = response.url().to_string();
    let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let wait = wait.and_then(|text| text.parse().ok());
    let insufficient = super::auth::Challenge::best(response.headers())
        .is_some_and(|challenge| challenge.is_insufficient());
    let bytes = super::body(response, 64 << 10, &url).await.unwrap_or_default();
    let body: Option<Body> = serde_json::from_slice(&bytes).ok();
    let item = body.and_then(|body| body.errors.into_iter().next());
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        let text = match item {
            Some(item) => item.text(),
            None => unexpected(status, &url),
        };
        return Failure::Busy(text, wait);
    }
    if status == StatusCode::RANGE_NOT_SATISFIABLE {
        return Failure::OutOfStep(
            item.map_or_else(|| unexpected(status, &url), |item| item.text()),
        );
    }
    let Some(item) = item else { return without_body(status, &url, insufficient) };
    let text = item.text();
    match item.code.as_str() {
        _ if insufficient => Failure::Denied(DENIED.into()),
        "MANIFEST_UNKNOWN" | "NOT_FOUND" => Failure::ManifestUnknown(text),
        "NAME_UNKNOWN" | "NAME_INVALID" => Failure::NameUnknown(text),
        "DENIED" => Failure::Denied(text),
        "UNAUTHORIZED" => Failure::Unauthorized(text),
        _ => match status {
            StatusCode::NOT_FOUND => Failure::ManifestUnknown(text),
            StatusCode::FORBIDDEN => Failure::Denied(text),
            _ => Failure::Other(text),
        },
    }
}

fn without_body(status: StatusCode, url: &str, insufficient: bool) -> Failure {
    match status {
        _ if insufficient => Failure::Denied(DENIED.into()),
        StatusCode::NOT_FOUND => {
            Failure::ManifestUnknown("manifest unknown: manifest unknown".into())
        }
        StatusCode::FORBIDDEN => Failure::Denied(DENIED.into()),
        StatusCode::UNAUTHORIZED => {
            Failure::Unauthorized("unauthorized: authentication required".into())
        }
        _ => Failure::Other(unexpected(status, url)),
    }
}

/// A URL without its query, which may hold secrets.
pub(super) fn bare(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

fn unexpected(status: StatusCode, url: &str) -> String {
    let url = bare(url);
    let (number, reason) = (status.as_u16(), status.canonical_reason().unwrap_or_default());
    format!("received unexpected HTTP status: {number} {reason} from {url}")
}

/// Of failures of TLS, those that people search for are told in Go's words.
fn go_words(text: String) -> String {
    let x509 = "tls: failed to verify certificate: x509: certificate";
    for (ours, theirs) in [
        ("UnknownIssuer", format!("{x509} signed by unknown authority")),
        ("Expired", format!("{x509} has expired or is not yet valid")),
        ("CertificateRequired", "remote error: tls: certificate required".to_owned()),
        ("BadCertificate", "remote error: tls: bad certificate".to_owned()),
    ] {
        if text.contains(ours) {
            return theirs;
        }
    }
    text
}

/// What an error of the connection means.
pub(super) fn of_transport(url: &str, error: &reqwest::Error) -> Failure {
    let url = bare(url);
    let mut causes: Vec<&(dyn std::error::Error + 'static)> = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        causes.push(cause);
        next = cause.source();
    }
    let host = reqwest::Url::parse(url).ok();
    let host = host.as_ref().map_or_else(String::new, |url| {
        let port = url.port_or_known_default().unwrap_or(0);
        format!("{}:{port}", url.host_str().unwrap_or_default())
    });
    let bare = host.rsplit_once(':').map_or("", |(bare, _)| bare);
    let last = causes.last().map_or_else(|| error.to_string(), ToString::to_string);
    let lookup = causes.iter().any(|cause| cause.to_string() == "dns error");
    let system = causes.iter().find_map(|cause| cause.downcast_ref::<io::Error>());
    let reason = if lookup {
        format!("dial tcp: lookup {bare}: no such host")
    } else if error.is_timeout() {
        format!("dial tcp {host}: i/o timeout")
    } else if let Some(code) =
        system.filter(|_| error.is_connect()).and_then(io::Error::raw_os_error)
    {
        let text = nix::errno::Errno::from_raw(code).desc().to_lowercase();
        format!("dial tcp {host}: connect: {text}")
    } else {
        go_words(last)
    };
    if error.is_connect() {
        // Docker's clients know the failure of the first request by its URL.
        let first = url.find("/v2/").map_or(url, |at| &url[..at + 4]);
        return Failure::Unreachable(format!("Get \"{first}\": {reason}"));
    }
    Failure::Broken(format!("Get \"{url}\": {reason}"))
}
