//! The HTTP client: one request, one connection.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::commands::TlsFlags;
use super::context::Found;
use super::error::CliError;
use super::{preferences, ssh, tls};

/// Where the daemon listens unless told otherwise.
pub(crate) const DEFAULT_HOST: &str = "unix:///run/rnet/rnet.sock";

/// The body of a request.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// A connection turned into a plain stream.
pub(crate) type Stream = TokioIo<hyper::upgrade::Upgraded>;

/// Something bytes go over.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// The daemon, as an address and the way to reach it.
pub(crate) struct Client {
    host: String,
    address: Address,
    /// What a user wants every request to have.
    headers: Vec<(String, String)>,
}

enum Address {
    Unix(PathBuf),
    Tcp { authority: String, tls: Option<Arc<rustls::ClientConfig>> },
    Ssh(Vec<String>),
}

impl Client {
    /// The daemon that was found, spoken to as flags and its context say.
    pub(crate) fn new(found: Found, flags: &TlsFlags) -> Result<Self, CliError> {
        let Found { host, certificates, unverified } = found;
        let address = match host.split_once("://") {
            Some(("unix", path)) => Address::Unix(PathBuf::from(path)),
            Some(("tcp" | "https", rest)) => {
                let secure = flags.tlsverify
                    || unverified
                    || certificates.is_some()
                    || host.starts_with("https")
                    || std::env::var("DOCKER_TLS_VERIFY").is_ok_and(|v| !v.is_empty());
                let directory = certificates.as_deref();
                let config = || tls::config(flags, directory, unverified && !flags.tlsverify);
                let tls = secure.then(config).transpose()?;
                let authority = rest.trim_end_matches('/');
                let port = if tls.is_some() { 2376 } else { 2375 };
                let bare = authority.rsplit_once(':').is_none_or(|(_, end)| end.ends_with(']'));
                let authority =
                    if bare { format!("{authority}:{port}") } else { authority.to_owned() };
                Address::Tcp { authority, tls }
            }
            Some(("ssh", rest)) => Address::Ssh(ssh::arguments(rest)?),
            _ => {
                return Err(CliError::new(format!(
                    "unable to parse docker host `{host}`: use unix:///path, tcp://host:port or \
                     ssh://user@host"
                )));
            }
        };
        Ok(Self { host, address, headers: preferences::headers() })
    }

    /// Where the daemon is, as it was named.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    async fn connect(&self) -> Result<Box<dyn Transport>, CliError> {
        let unreachable = |error: std::io::Error| {
            let host = &self.host;
            CliError::new(match error.kind() {
                std::io::ErrorKind::PermissionDenied => format!(
                    "permission denied while trying to connect to the rnet daemon at {host}: \
                     run this as root, or as a member of the socket's group"
                ),
                _ => format!(
                    "Cannot connect to the rnet daemon at {host}. Is the rnet daemon running?"
                ),
            })
        };
        match &self.address {
            Address::Unix(path) => {
                Ok(Box::new(UnixStream::connect(path).await.map_err(unreachable)?))
            }
            Address::Ssh(arguments) => Ok(Box::new(ssh::connect(arguments).map_err(unreachable)?)),
            Address::Tcp { authority, tls } => {
                let stream = TcpStream::connect(authority).await.map_err(unreachable)?;
                let Some(config) = tls else { return Ok(Box::new(stream)) };
                let name = authority.rsplit_once(':').map_or(authority.as_str(), |(name, _)| name);
                let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned())
                    .map_err(|error| CliError::new(format!("`{name}`: {error}")))?;
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                Ok(Box::new(connector.connect(name, stream).await.map_err(unreachable)?))
            }
        }
    }

    /// A bare connection to the daemon.
    pub(crate) async fn dial(
        &self,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin, CliError> {
        self.connect().await
    }

    async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, CliError> {
        let lost = |error: hyper::Error| {
            CliError::new(format!("the connection to the daemon at {} broke: {error}", self.host))
        };
        for (name, value) in &self.headers {
            // One that cannot be sent, or is not the user's to say, is left out.
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                request.headers_mut().entry(name).or_insert(value);
            }
        }
        let io = TokioIo::new(self.connect().await?);
        let (mut sender, connection) =
            hyper::client::conn::http1::Builder::new().handshake(io).await.map_err(lost)?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(lost)
    }

    /// Sends a request and returns its answer, whatever its status.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Body,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>, CliError> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, "rnet");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).map_err(|error| CliError::new(error.to_string()))?;
        self.send(request).await
    }

    /// The same for an answer that is expected to be good.
    pub(crate) async fn checked(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, CliError> {
        let (body, headers): (Body, &[(&str, &str)]) = match body {
            Some(value) => (full(value.to_string()), &[("content-type", "application/json")]),
            None => (full(""), &[]),
        };
        let response = self.request(method, path, body, headers).await?;
        good(response).await
    }

    /// Gets a JSON document.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, CliError> {
        document(self.checked(Method::GET, path, None).await?).await
    }

    /// Posts, and reads the JSON document that comes back; null if there is none.
    pub(crate) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, CliError> {
        document(self.checked(Method::POST, path, body).await?).await
    }

    /// Deletes, and reads what comes back.
    pub(crate) async fn delete(&self, path: &str) -> Result<Value, CliError> {
        document(self.checked(Method::DELETE, path, None).await?).await
    }

    /// Posts and takes the connection over as a plain stream.
    pub(crate) async fn hijack(
        &self,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Stream, CliError> {
        let request = Request::post(path)
            .header(HOST, "rnet")
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "tcp")
            .body(full(body.map(Value::to_string).unwrap_or_default()))
            .map_err(|error| CliError::new(error.to_string()))?;
        let response = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let answer = good(response).await?;
            return Err(CliError::new(format!(
                "the daemon answered {} instead of giving the stream",
                answer.status()
            )));
        }
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|error| CliError::new(format!("cannot take the stream over: {error}")))?;
        Ok(TokioIo::new(upgraded))
    }
}

/// A body that is all there.
pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// A body that is read as it is sent.
pub(crate) fn streamed(reader: impl AsyncRead + Send + Sync + 'static) -> Body {
    use futures_util::TryStreamExt;
    let frames = tokio_util::io::ReaderStream::with_capacity(reader, 64 << 10).map_ok(Frame::data);
    BodyExt::boxed(StreamBody::new(frames))
}

/// Turns an error answer into an error.
pub(crate) async fn good(response: Response<Incoming>) -> Result<Response<Incoming>, CliError> {
    let status = response.status();
    if status.is_success() || status == StatusCode::NOT_MODIFIED {
        return Ok(response);
    }
    let bytes = collect(response).await?;
    let parsed: Option<Value> = serde_json::from_slice(&bytes).ok();
    let text = String::from_utf8_lossy(&bytes);
    let message = parsed.as_ref().and_then(|v| v["message"].as_str()).unwrap_or(text.trim());
    Err(CliError::answered(status.as_u16(), message))
}

/// The whole body of an answer.
pub(crate) async fn collect(response: Response<Incoming>) -> Result<Bytes, CliError> {
    let body = response.into_body().collect().await;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|error| CliError::new(format!("the daemon's answer broke off: {error}")))
}

async fn document(response: Response<Incoming>) -> Result<Value, CliError> {
    let bytes = collect(response).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| CliError::new(format!("the daemon's answer is not JSON: {error}")))
}

/// Reads an answer of JSON documents one after the other, as they come.
pub(crate) async fn documents(
    response: Response<Incoming>,
    mut each: impl FnMut(Value) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut body = response.into_body();
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CliError::new(format!("the stream broke: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        pending.extend_from_slice(&data);
        let mut stream = serde_json::Deserializer::from_slice(&pending).into_iter::<Value>();
        while let Some(Ok(value)) = stream.next() {
            each(value)?;
        }
        let read = stream.byte_offset();
        pending.drain(..read);
    }
    Ok(())
}

/// Escapes a text for use inside a path or a query.
pub(crate) fn escape(text: &str) -> String {
    use std::fmt::Write;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b':' => {
                escaped.push(char::from(byte));
            }
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
    }
    escaped
}

/// The `filters` parameter from `key=value` flags, ready for a query.
pub(crate) fn filters(flags: &[String]) -> Result<String, CliError> {
    let mut map: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
    for flag in flags {
        let (key, value) = flag.split_once('=').ok_or_else(|| {
            CliError::new(format!("invalid argument \"{flag}\" for \"-f, --filter\" flag: invalid filter \"{flag}\" (should be name=value)"))
                .with_code(125)
        })?;
        map.entry(key.trim()).or_default().push(value);
    }
    if map.is_empty() {
        return Ok(String::new());
    }
    let text = serde_json::to_string(&map).map_err(|error| CliError::new(error.to_string()))?;
    Ok(format!("filters={}", escape(&text)))
}
