//! A client of the registry protocol: one repository, at one of the places that have it.
//!
//! Credentials go to the host they belong to, and to the token server it names, over TLS. Plain
//! HTTP is for loopback and the hosts an operator listed. What is worth another attempt gets one:
//! overload, server errors, broken connections.

mod auth;
mod call;
mod failure;
mod login;
mod search;
mod tls;
mod upload;

use std::fmt;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, LINK, RANGE};
use reqwest::{Client, Response};
use serde::Deserialize;

use self::call::Call;
pub(super) use self::failure::Failure;
pub(super) use self::login::login;
pub use self::search::SearchResult;
pub(super) use self::search::search;
pub(super) use self::upload::{Begun, Source};
use super::digest::Digest;
use super::reference::{DEFAULT_DOMAIN, Reference};
use super::{Options, RegistryAuth};

/// Attempts of one request.
const ATTEMPTS: u32 = 5;
/// An answer of which no byte comes for so long does not come.
const PATIENCE: Duration = Duration::from_secs(60);
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

/// What a repository is asked for, and tokens are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// To read.
    Pull,
    /// To read and write, and to read these others at the same place.
    Push(Vec<String>),
}

/// A repository at an [`Endpoint`].
pub(super) struct Registry {
    client: Client,
    /// The same without a limit on how long an answer takes: uploads have one of their own.
    uploads: Client,
    endpoint: Endpoint,
    repository: String,
    access: Access,
    auth: Option<RegistryAuth>,
    /// The `Authorization` that the registry accepted last.
    authorization: Mutex<Option<String>>,
}

impl fmt::Debug for Registry {
    /// Secrets stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("endpoint", &self.endpoint)
            .field("repository", &self.repository)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
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
    let mut endpoints = Vec::new();
    if reference.domain() == DEFAULT_DOMAIN {
        for mirror in &options.mirrors {
            let mirror = mirror.trim_end_matches('/');
            let host = mirror.split_once("://").map_or(mirror, |(_, host)| host).to_owned();
            let base =
                if mirror.contains("://") { mirror.to_owned() } else { format!("https://{host}") };
            let verify = !is_insecure(&host, &options.insecure);
            endpoints.push(Endpoint { base, host, verify, trusted: false });
        }
    }
    endpoints.extend(own_endpoints(reference.domain(), options));
    endpoints
}

/// The places of a registry itself.
fn own_endpoints(domain: &str, options: &Options) -> Vec<Endpoint> {
    let host = if domain == DEFAULT_DOMAIN { "registry-1.docker.io" } else { domain }.to_owned();
    let insecure = domain != DEFAULT_DOMAIN && is_insecure(&host, &options.insecure);
    let schemes: &[&str] = if insecure { &["https", "http"] } else { &["https"] };
    let place = |scheme: &&str| Endpoint {
        base: format!("{scheme}://{host}"),
        host: host.clone(),
        verify: !insecure,
        trusted: true,
    };
    schemes.iter().map(place).collect()
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
    pub(super) async fn open(
        endpoint: Endpoint,
        reference: &Reference,
        auth: Option<RegistryAuth>,
        access: Access,
    ) -> Result<Self, Failure> {
        let plain = endpoint.base.starts_with("http:");
        let (host, verify) = (endpoint.host.clone(), endpoint.verify);
        let writes = access != Access::Pull;
        let made = tokio::task::spawn_blocking(move || {
            let client = tls::client(&host, verify, plain, Some(PATIENCE))?;
            let uploads =
                if writes { tls::client(&host, verify, plain, None)? } else { client.clone() };
            Ok::<_, Failure>((client, uploads))
        });
        let (client, uploads) = made.await.map_err(|error| Failure::Other(error.to_string()))??;
        let auth = auth.filter(|_| endpoint.trusted);
        let authorization = auth
            .as_ref()
            .filter(|auth| !auth.registry_token.is_empty())
            .map(|auth| format!("Bearer {}", auth.registry_token));
        Ok(Self {
            client,
            uploads,
            endpoint,
            repository: reference.path().to_owned(),
            access,
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
            let response = self.ask(&Call::get(&url).with(ACCEPT, MANIFEST_TYPES)).await?;
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
            let response = self.ask(&Call::get(&url)).await?;
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
        let url = self.url(&format!("blobs/{digest}"));
        let mut call = Call::get(&url);
        if from > 0 {
            call = call.with(RANGE, &format!("bytes={from}-"));
        }
        self.ask(&call).await
    }

    /// All tags.
    pub(super) async fn tags(&self) -> Result<Vec<String>, Failure> {
        let mut tags = Vec::new();
        let mut url = self.url("tags/list");
        for _ in 0..1000 {
            let response = self.ask(&Call::get(&url)).await?;
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

    #[tokio::test]
    async fn what_lets_somebody_in_is_not_shown() {
        let reference = Reference::parse("127.0.0.1:5000/a").unwrap();
        let place = endpoints(&reference, &Options::default()).remove(1);
        let auth = RegistryAuth { registry_token: "secret".to_owned(), ..RegistryAuth::default() };
        let registry = Registry::open(place, &reference, Some(auth), Access::Pull).await.unwrap();
        assert!(registry.authorization.lock().unwrap().as_deref() == Some("Bearer secret"));
        let shown = format!("{registry:?}");
        assert!(shown.contains("127.0.0.1:5000") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn cve_2021_41092_mirrors_are_asked_first_for_docker_io_only_and_get_no_credentials() {
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
