//! A request as the operations see it: parsed, with its version, its body still to be read.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body_util::{BodyExt, BodyStream, Limited};
use hyper::Method;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, ORIGIN, UPGRADE};
use hyper::upgrade::OnUpgrade;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::query::{Query, decode};
use super::version::{NEWEST, Version, of_segment};
use super::websocket;
use super::wire::{go, syntax};
use engine_error::{Error, Result};

/// The most that a JSON body may have.
const JSON_LIMIT: usize = 16 << 20;

/// A request.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The segments of the path, decoded, without the version. The last is empty after a slash.
    pub path: Vec<String>,
    /// Where the path leads once it is cleaned of `//` and `..`, if it has any.
    pub moved: Option<String>,
    /// The query.
    pub query: Query,
    /// The API version it is in.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// Cancelled if the client leaves before it has all of the reply.
    pub left: CancellationToken,
    body: Incoming,
    upgrade: Option<OnUpgrade>,
}

impl Request {
    /// Takes a request apart.
    pub fn new(mut request: hyper::Request<Incoming>, is_local: bool) -> Result<Self> {
        // Who opens a web socket tells an origin whatever it is, and no browser reaches a unix socket.
        if !(is_local && websocket::is_asked_for(request.headers())) {
            refuse_browsers(request.headers())?;
        }
        let upgrade = wants_upgrade(request.headers()).then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let path = decode(parts.uri.path(), false);
        let moved = cleaned(parts.uri.path()).map(|path| match parts.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        });
        let path = path.strip_prefix('/').unwrap_or(&path);
        let mut path: Vec<String> = path.split('/').map(str::to_owned).collect();
        let version = match path.first().map(|first| of_segment(first)).transpose()?.flatten() {
            Some(version) => {
                path.remove(0);
                version
            }
            None => NEWEST,
        };
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        Ok(Self {
            method: parts.method,
            path,
            moved,
            query,
            version,
            headers: parts.headers,
            left: CancellationToken::new(),
            body,
            upgrade,
        })
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Gives away the connection, if the client asked for that.
    pub fn take_upgrade(&mut self) -> Option<OnUpgrade> {
        self.upgrade.take()
    }

    /// The body as a JSON value, which must be there.
    pub async fn present(self) -> Result<Value> {
        const ENDED: &str = "invalid JSON: got EOF while reading request body";
        let value = self.found().await?;
        value.ok_or_else(|| Error::invalid(ENDED))
    }

    /// The body as a JSON value; `null` if there is none.
    pub async fn value(self) -> Result<Value> {
        Ok(self.found().await?.unwrap_or_default())
    }

    async fn found(self) -> Result<Option<Value>> {
        let content_type = self.header(CONTENT_TYPE.as_str()).unwrap_or_default().to_owned();
        let bytes = self.bytes(JSON_LIMIT).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        check_media(&content_type)?;
        let mut values = serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>();
        let invalid = |error: serde_json::Error| {
            let told = syntax::complaint(&bytes).unwrap_or_else(|| error.to_string());
            Error::invalid(format!("invalid JSON: {told}"))
        };
        let value = values.next().transpose().map_err(invalid)?;
        let rest = bytes.get(values.byte_offset()..).unwrap_or_default().trim_ascii_start();
        // Go's decoder takes a closing bracket for the end of what it was given.
        match rest.first() {
            None | Some(b'}' | b']') => Ok(value),
            Some(_) => Err(Error::invalid("unexpected content after JSON")),
        }
    }

    /// The body as JSON of a shape, by Go's rules.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T> {
        let value = self.value().await?;
        go::from_value(value).map_err(|error| Error::invalid(format!("invalid JSON: {error}")))
    }

    /// The whole body.
    pub async fn bytes(self, limit: usize) -> Result<Bytes> {
        let collected = Limited::new(self.body, limit).collect().await;
        let bytes = collected.map_err(|error| {
            Error::caused(cnm::Kind::Invalid, "cannot read the request's body", error)
        })?;
        Ok(bytes.to_bytes())
    }

    /// Whether there is certainly no body.
    pub fn is_empty(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The body as it comes.
    pub fn stream(self) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin + 'static {
        BodyStream::new(self.body).filter_map(|frame| {
            std::future::ready(match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(std::io::Error::other(error))),
            })
        })
    }
}

/// A path without empty parts, `.` and `..`, unless it is that already.
fn cleaned(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && clean.len() > 1 {
        clean.push('/');
    }
    (path.starts_with('/') && clean != path).then_some(clean)
}

/// The body of a request must say that it is JSON.
fn check_media(content_type: &str) -> Result<()> {
    if content_type.is_empty() {
        return Err(Error::invalid("malformed Content-Type header (): mime: no media type"));
    }
    let media = content_type.split(';').next().unwrap_or_default().trim();
    if media.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    if media.contains(',') {
        return Err(Error::invalid(format!(
            "malformed Content-Type header ({content_type}): mime: unexpected content after media \
             subtype"
        )));
    }
    Err(Error::invalid(format!(
        "unsupported Content-Type header ({content_type}): must be 'application/json'"
    )))
}

/// No page in a browser may talk to the API: requests that a browser marked are not a client's.
fn refuse_browsers(headers: &HeaderMap) -> Result<()> {
    let marked = headers.contains_key(ORIGIN)
        || headers.keys().any(|name| name.as_str().starts_with("sec-fetch-"));
    if marked {
        return Err(Error::new(cnm::Kind::Forbidden, "requests from web pages are refused"));
    }
    Ok(())
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let upgrade = connection
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    upgrade && headers.contains_key(UPGRADE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_s_router_does_it() {
        for (path, clean) in [
            ("/../version", Some("/version")),
            ("//info", Some("/info")),
            ("/a//b/./c", Some("/a/b/c")),
            ("/a/../b/", Some("/b/")),
            ("/a/..", Some("/")),
            ("/a/b", None),
            ("/a/b/", None),
            ("/", None),
            ("*", None),
        ] {
            assert_eq!(cleaned(path).as_deref(), clean, "{path}");
        }
    }
}
