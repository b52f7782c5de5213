//! A client of the registry protocol: one repository, at one of the places that have it.
//!
//! Credentials go to the host they belong to, and to the token server it names, over TLS. Plain
//! HTTP is for loopback and the hosts an operator listed. What is worth another attempt gets one:
//! overload, server errors, broken connections.

mod auth;
mod failure;
mod tls;

use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LINK, RANGE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;

pub(super) use self::failure::Failure;
use super::digest::Digest;
use super::reference::{DEFAULT_DOMAIN, Reference};
use super::{Options, RegistryAuth};

/// Attempts of one request.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Largest manifest or index, as registries have it.
const LARGEST_MANIFEST: usize = 4 << 20;
const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A place that may have a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Scheme and host.
    base: String,
    host: String,
    /// Whether certificates are checked.
    verify: bool,
    /// Whether the user's credentials are for this place.
    trusted: bool,
}

/// A repository at an [`Endpoint`].
#[derive(Debug)]
pub(super) struct Registry {
    client: Client,
    endpoint: Endpoint,
    repository: String,
    auth: Option<RegistryAuth>,
    /// The `Authorization` that the registry accepted last.
    authorization: Mutex<Option<String>>,
}

/// A manifest or an index, byte for byte.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
    pub(super) media_type: String,
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// The places to ask for a repository, in order.
pub(super) fn endpoints(reference: &Reference, options: &Options) -> Vec<Endpoint> {
    let domain = reference.domain();
    let mut endpoints = Vec::new();
    if domain == DEFAULT_DOMAIN {
        for mirror in &options.mirrors {
            let mirror = mirror.trim_end_matches('/');
            let host = mirror.split_once("://").map_or(mirror, |(_, host)| host).to_owned();
            let base =
                if mirror.contains("://") { mirror.to_owned() } else { format!("https://{host}") };
            let verify = !is_insecure(&host, &options.insecure);
            endpoints.push(Endpoint { base, host, verify, trusted: false });
        }
        let host = "registry-1.docker.io".to_owned();
        let base = format!("https://{host}");
        endpoints.push(Endpoint { base, host, verify: true, trusted: true });
        return endpoints;
    }
    let insecure = is_insecure(domain, &options.insecure);
    let host = domain.to_owned();
    let base = format!("https://{host}");
    endpoints.push(Endpoint { base, host: host.clone(), verify: !insecure, trusted: true });
    if insecure {
        let base = format!("http://{host}");
        endpoints.push(Endpoint { base, host, verify: false, trusted: true });
    }
    endpoints
}

/// Whether a host may be spoken to without checked certificates: loopback, and what is listed,
/// by name or by network.
fn is_insecure(host: &str, listed: &[String]) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.split(':').next().unwrap_or(host),
    };
    let address = bare.parse::<IpAddr>().ok();
    bare == "localhost"
        || address.is_some_and(|address| address.is_loopback())
        || listed.iter().any(|entry| {
            let network = entry.parse::<ipnetwork::IpNetwork>().ok();
            entry == host
                || entry == bare
                || network.zip(address).is_some_and(|(network, address)| network.contains(address))
        })
}

impl Endpoint {
    /// Whether the user did not name this place.
    pub(super) fn is_mirror(&self) -> bool {
        !self.trusted
    }
}

impl Registry {
    pub(super) fn new(
        endpoint: Endpoint,
        reference: &Reference,
        auth: Option<RegistryAuth>,
    ) -> Result<Self, Failure> {
        let client =
            tls::client(&endpoint.host, endpoint.verify, endpoint.base.starts_with("http:"))?;
        let auth = auth.filter(|_| endpoint.trusted);
        let authorization = auth
            .as_ref()
            .filter(|auth| !auth.registry_token.is_empty())
            .map(|auth| format!("Bearer {}", auth.registry_token));
        Ok(Self {
            client,
            endpoint,
            repository: reference.path().to_owned(),
            auth,
            authorization: Mutex::new(authorization),
        })
    }

    /// A manifest or index by tag or digest, checked against the digest where there is one.
    pub(super) async fn manifest(
        &self,
        name: &str,
        promised: Option<Digest>,
    ) -> Result<Document, Failure> {
        let url = self.url(&format!("manifests/{name}"));
        let mut failed = 0;
        loop {
            let response = self.get(&url, Some(MANIFEST_TYPES), None).await?;
            let media_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
            let media_type = media_type.unwrap_or_default().split(';').next().unwrap_or_default();
            let media_type = media_type.trim().to_owned();
            let bytes = match body(response, LARGEST_MANIFEST, &url).await {
                Err(Failure::Broken(_)) if failed + 1 < ATTEMPTS => {
                    failed += 1;
                    pause(failed, None).await;
                    continue;
                }
                result => result?,
            };
            let digest = Digest::of(&bytes);
            if let Some(promised) = promised
                && promised != digest
            {
                return Err(Failure::Other(format!(
                    "manifest verification failed for digest {promised}: the content is {digest}"
                )));
            }
            return Ok(Document { bytes, digest, media_type });
        }
    }

    /// A small blob, whole and checked.
    pub(super) async fn small_blob(
        &self,
        digest: Digest,
        largest: usize,
    ) -> Result<Vec<u8>, Failure> {
        let url = self.url(&format!("blobs/{digest}"));
        let mut failed = 0;
        loop {
            let response = self.get(&url, None, None).await?;
            match body(response, largest, &url).await {
                Err(Failure::Broken(_)) if failed + 1 < ATTEMPTS => {
                    failed += 1;
                    pause(failed, None).await;
                }
                Ok(bytes) if Digest::of(&bytes) != digest => {
                    return Err(Failure::Other(format!(
                        "blob verification failed: the content is not {digest}"
                    )));
                }
                result => return result,
            }
        }
    }

    /// A blob as a stream from a byte on. A registry that cannot resume starts over, which the
    /// status tells.
    pub(super) async fn blob(&self, digest: Digest, from: u64) -> Result<Response, Failure> {
        let range = (from > 0).then(|| format!("bytes={from}-"));
        self.get(&self.url(&format!("blobs/{digest}")), None, range.as_deref()).await
    }

    /// All tags.
    pub(super) async fn tags(&self) -> Result<Vec<String>, Failure> {
        let mut tags = Vec::new();
        let mut url = self.url("tags/list");
        for _ in 0..1000 {
            let response = self.get(&url, None, None).await?;
            let next = response.headers().get(LINK).and_then(|link| link.to_str().ok());
            let next = next.and_then(|link| self.next_page(link));
            let bytes = body(response, LARGEST_MANIFEST, &url).await?;
            let page: Tags = serde_json::from_slice(&bytes)
                .map_err(|error| Failure::Other(format!("invalid list of tags: {error}")))?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) => url = next,
                None => break,
            }
        }
        Ok(tags)
    }

    /// `<path>; rel="next"`, within this registry.
    fn next_page(&self, link: &str) -> Option<String> {
        let target = link.strip_prefix('<')?.split('>').next()?;
        target.starts_with('/').then(|| format!("{}{target}", self.endpoint.base))
    }

    fn url(&self, rest: &str) -> String {
        format!("{}/v2/{}/{rest}", self.endpoint.base, self.repository)
    }

    /// Asks until there is an answer worth having: success, or a failure that will not pass.
    async fn get(
        &self,
        url: &str,
        accept: Option<&str>,
        range: Option<&str>,
    ) -> Result<Response, Failure> {
        let mut failed = 0;
        let mut challenged = false;
        loop {
            let response = match self.send(url, accept, range).await {
                Ok(response) => response,
                Err(error) => {
                    failed += 1;
                    if failed >= ATTEMPTS || !error.may_pass() {
                        return Err(error);
                    }
                    pause(failed, None).await;
                    continue;
                }
            };
            let status = response.status();
            if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
                return Ok(response);
            }
            if status == StatusCode::UNAUTHORIZED && !challenged {
                challenged = true;
                self.answer_challenge(url, &response).await?;
                continue;
            }
            failed += 1;
            let passing = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
            if !passing || failed >= ATTEMPTS {
                return Err(failure::of_response(response).await);
            }
            let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            pause(failed, wait.and_then(|text| text.parse().ok())).await;
        }
    }

    async fn send(
        &self,
        url: &str,
        accept: Option<&str>,
        range: Option<&str>,
    ) -> Result<Response, Failure> {
        let mut request = self.client.get(url);
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        if let Some(value) = self.authorization().clone() {
            request = request.header(AUTHORIZATION, value);
        }
        request.send().await.map_err(|error| failure::of_transport(url, &error))
    }

    async fn answer_challenge(&self, url: &str, response: &Response) -> Result<(), Failure> {
        let challenge = auth::Challenge::best(response.headers())
            .ok_or_else(|| Failure::Unauthorized("unauthorized: authentication required".into()))?;
        if challenge.is_insufficient() && self.authorization().is_some() {
            return Err(Failure::Denied(failure::DENIED.into()));
        }
        let answer = challenge
            .answer(&self.client, &self.endpoint.base, &self.repository, self.auth.as_ref(), url)
            .await?;
        *self.authorization() = Some(answer);
        Ok(())
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.authorization.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Waits before another attempt: as long as the server says, or longer each time.
pub(super) async fn pause(failed: u32, wanted: Option<u64>) {
    let growing = FIRST_PAUSE.saturating_mul(1 << failed.saturating_sub(1).min(10));
    let time = wanted.map_or(growing, Duration::from_secs).min(LONGEST_PAUSE);
    tokio::time::sleep(time).await;
}

async fn body(mut response: Response, largest: usize, url: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() <= largest => bytes.extend(&chunk),
            Ok(Some(_)) => {
                return Err(Failure::Other(format!("{url} is larger than {largest} bytes")));
            }
            Ok(None) => return Ok(bytes),
            Err(error) => return Err(failure::of_transport(url, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(reference: &str, options: &Options) -> Vec<String> {
        let reference = Reference::parse(reference).unwrap();
        endpoints(&reference, options).into_iter().map(|endpoint| endpoint.base).collect()
    }

    #[test]
    fn plain_http_is_for_loopback_and_listed_hosts() {
        let options = Options {
            insecure: vec!["reg.example:5000".into(), "10.0.0.0/8".into()],
            ..Options::default()
        };
        for host in ["127.0.0.1:5000", "localhost", "[::1]:5000", "reg.example:5000", "10.1.2.3"] {
            let wanted = [format!("https://{host}"), format!("http://{host}")];
            assert_eq!(bases(&format!("{host}/a"), &options), wanted);
        }
        for host in ["reg.example", "11.1.2.3:5000", "localhost.example:80"] {
            assert_eq!(bases(&format!("{host}/a"), &options), [format!("https://{host}")]);
        }
    }

    #[test]
    fn mirrors_are_asked_first_for_docker_io_only_and_get_no_credentials() {
        let options =
            Options { mirrors: vec!["http://127.0.0.1:5000/".into()], ..Options::default() };
        assert_eq!(
            bases("nginx", &options),
            ["http://127.0.0.1:5000", "https://registry-1.docker.io"]
        );
        assert_eq!(bases("quay.io/a/b", &options), ["https://quay.io"]);
        let all = endpoints(&Reference::parse("nginx").unwrap(), &options);
        assert_eq!(all.iter().map(|e| e.trusted).collect::<Vec<_>>(), [false, true]);
    }
}
