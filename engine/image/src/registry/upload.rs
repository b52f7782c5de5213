//! Writing to a registry: blobs, by upload or by reference to another repository, and manifests.
//!
//! An upload that breaks goes on where the registry says that it has got to; where it cannot say,
//! it begins again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::call::{Call, accepted};
use super::{ATTEMPTS, Failure, Registry, failure, pause};
use crate::digest::Digest;

/// An upload that moves no byte for so long has broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// A registry that does not say for so long that it has all of an upload has broken: it may have to read
/// and to copy gigabytes.
const LOOKED_AT: Duration = Duration::from_secs(15 * 60);
/// How much of a blob is read at a time.
const PIECE: usize = 256 << 10;

/// A blob to upload: a file, whole, and what it is known as.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// What came of the wish to upload a blob.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// The other repository's blob is in this one now.
    Mounted,
    /// It goes to this URL.
    At(String),
}

impl Registry {
    /// Reaches the registry and gets the token that everything else needs.
    pub(crate) async fn greet(&self) -> Result<(), Failure> {
        let url = format!("{}/v2/", self.endpoint.base);
        self.ask(&Call::get(&url)).await.map(drop)
    }

    /// Whether the repository has a blob.
    pub(crate) async fn has_blob(&self, digest: Digest) -> Result<bool, Failure> {
        let url = self.url(&format!("blobs/{digest}"));
        match self.ask(&Call::new(Method::HEAD, &url)).await {
            Ok(_) => Ok(true),
            Err(Failure::ManifestUnknown(_) | Failure::NameUnknown(_)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// Begins an upload; with a repository that may have the blob, no byte may have to travel.
    pub(crate) async fn begin(
        &self,
        digest: Digest,
        other: Option<&str>,
    ) -> Result<Begun, Failure> {
        let mut url = self.url("blobs/uploads/");
        if let Some(other) = other {
            url = format!("{url}?mount={digest}&from={other}");
        }
        let response = self.ask(&Call::new(Method::POST, &url)).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(Begun::Mounted);
        }
        place_of(&url, &response).map(Begun::At)
    }

    /// Ends an upload that is not needed.
    pub(crate) async fn cancel(&self, place: &str) {
        // The registry forgets it by itself some day.
        let _ = self.ask_once(&Call::new(Method::DELETE, place)).await;
    }

    /// Sends a blob to where its upload began, or anew. `told` hears how many bytes are there.
    pub(crate) async fn upload(
        &self,
        blob: &Source,
        place: String,
        told: impl Fn(u64) + Send + Sync + Clone + 'static,
    ) -> Result<(), Failure> {
        let (mut place, mut from) = (Some(place), 0);
        let (mut failed, mut best) = (0, 0);
        loop {
            let failure = match self.attempt(blob, &mut place, from, told.clone()).await {
                Ok(()) => return Ok(()),
                Err(failure) if failure.may_pass() || failure.is_unreachable() => failure,
                Err(failure) => return Err(failure),
            };
            failed += 1;
            if failed >= ATTEMPTS {
                return Err(failure);
            }
            pause(failed, failure.wait()).await;
            // The last answer may be what was lost.
            if self.has_blob(blob.digest).await.is_ok_and(|has| has) {
                return Ok(());
            }
            let known = match &place {
                Some(url) => self.progress(url).await,
                None => None,
            };
            (place, from) = known.map_or((None, 0), |(next, from)| (Some(next), from));
            if from > best {
                (best, failed) = (from, 1);
            }
        }
    }

    /// One attempt at the rest of a blob.
    async fn attempt(
        &self,
        blob: &Source,
        place: &mut Option<String>,
        from: u64,
        told: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<(), Failure> {
        let url = match place.clone() {
            Some(url) => url,
            None => match self.begin(blob.digest, None).await? {
                Begun::Mounted => return Ok(()),
                Begun::At(url) => url,
            },
        };
        *place = Some(url.clone());
        let result = match self.patch(blob, &url, from, told).await {
            Ok(next) => {
                *place = Some(next.clone());
                self.close(blob, &next).await
            }
            Err(failure) => Err(failure),
        };
        if let Err(Failure::OutOfStep(_)) = &result {
            // What it says that it has of this upload is not so.
            *place = None;
        }
        result
    }

    /// Ends an upload that is whole. The registry may look at all of it before it answers.
    async fn close(&self, blob: &Source, url: &str) -> Result<(), Failure> {
        let mut end = Url::parse(url).map_err(|_| invalid(url))?;
        end.query_pairs_mut().append_pair("digest", &blob.digest.to_string());
        let call = Call::new(Method::PUT, end.as_str());
        match tokio::time::timeout(LOOKED_AT, self.ask_by(&self.uploads, &call)).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(Failure::Broken(format!("upload of {}: i/o timeout", blob.digest))),
        }
    }

    /// Sends what comes after `from`; where the upload goes on.
    async fn patch(
        &self,
        blob: &Source,
        url: &str,
        from: u64,
        told: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<String, Failure> {
        let disk = |error| Failure::Other(format!("cannot read blob {}: {error}", blob.digest));
        let mut file = tokio::fs::File::open(&blob.path).await.map_err(disk)?;
        file.seek(std::io::SeekFrom::Start(from)).await.map_err(disk)?;
        let rest = blob.size.saturating_sub(from);
        let sent = Arc::new(AtomicU64::new(from));
        let count = Arc::clone(&sent);
        let pieces = ReaderStream::with_capacity(file.take(rest), PIECE).inspect_ok(move |piece| {
            let length = u64::try_from(piece.len()).unwrap_or_default();
            told(count.fetch_add(length, Ordering::Relaxed) + length);
        });
        let mut request = self.uploads.patch(url).header(CONTENT_LENGTH, rest);
        request = request.header(CONTENT_TYPE, "application/octet-stream");
        if from > 0 {
            request = request.header(CONTENT_RANGE, format!("{from}-{}", blob.size - 1));
        }
        let request = request.body(reqwest::Body::wrap_stream(pieces.boxed()));
        let response = tokio::select! {
            response = self.send(request, url) => response?,
            () = stalled(&sent) => {
                return Err(Failure::Broken(format!("upload of {}: i/o timeout", blob.digest)));
            }
        };
        if response.status() == StatusCode::UNAUTHORIZED && self.is_here(url) {
            // A token has run out; the next attempt has another.
            self.answer_challenge(url, &response).await?;
            return Err(Failure::Broken("the registry asked for credentials again".into()));
        }
        place_of(url, &accepted(response).await?)
    }

    /// Where an upload goes on, and how much of it the registry has; nothing if it does not know it.
    async fn progress(&self, url: &str) -> Option<(String, u64)> {
        let response = self.ask(&Call::get(url)).await.ok()?;
        let next = place_of(url, &response).unwrap_or_else(|_| url.to_owned());
        let range = response.headers().get(RANGE)?.to_str().ok()?;
        let last: u64 = range.rsplit_once('-')?.1.parse().ok()?;
        // Of an upload without a byte the last one is said to be the first, too.
        Some((next, if last == 0 { 0 } else { last + 1 }))
    }

    /// Writes a manifest under a tag or its digest.
    pub(crate) async fn put_manifest(
        &self,
        name: &str,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Result<(), Failure> {
        let url = self.url(&format!("manifests/{name}"));
        let call = Call::new(Method::PUT, &url).with(CONTENT_TYPE, media_type).body(bytes);
        self.ask(&call).await.map(drop)
    }
}

/// Where an answer says that an upload goes on.
fn place_of(url: &str, response: &Response) -> Result<String, Failure> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let base = Url::parse(url).map_err(|_| invalid(url))?;
    let Some(location) = location else {
        return Err(Failure::Other("the registry does not say where to upload to".into()));
    };
    let next = base.join(location).map_err(|_| invalid(location))?;
    if base.scheme() == "https" && next.scheme() != "https" {
        let host = next.host_str().unwrap_or_default();
        return Err(Failure::Other(format!("refused to upload to {host} without TLS")));
    }
    Ok(next.to_string())
}

/// Ends when nothing has moved for too long.
async fn stalled(sent: &AtomicU64) {
    let mut last = sent.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(PATIENCE).await;
        let now = sent.load(Ordering::Relaxed);
        if now == last {
            return;
        }
        last = now;
    }
}

fn invalid(url: &str) -> Failure {
    // What comes after the path may be a secret.
    Failure::Other(format!("invalid place of an upload {:?}", failure::bare(url)))
}
