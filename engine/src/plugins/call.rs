//! One call of a plugin: JSON there and back, within a limit.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::Trade;
use super::address::Address;
use super::ipam::Wishes;
use engine_error::{Error, Kind, Result};

/// What bodies are, in Docker's words.
const FORM: &str = "application/vnd.docker.plugins.v1.2+json";

/// The largest answer that is read.
const LARGEST: usize = 1 << 20;

/// The pause before a connection that was refused is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a connection that is refused is tried again: a plugin that is replaced is back by then.
const REFUSALS: Duration = Duration::from_secs(2);

/// How long a plugin that did not answer is left alone.
pub(super) const QUIET: Duration = Duration::from_secs(5);

/// A plugin that was found.
#[derive(Debug)]
pub(crate) struct Plugin {
    name: String,
    address: Address,
    patience: Duration,
    pub(super) implements: Vec<String>,
    /// What it wants to know before it gives addresses.
    pub(crate) wishes: Wishes,
    /// Whose its volumes are: `local` or `global`.
    pub(super) scope: String,
    /// Until when nobody calls it, because it did not answer.
    silent: Mutex<Option<Instant>>,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The plugin says no, in its own words.
    Refused(String),
    /// It is not known whether it did something: it cannot be reached, or did not answer.
    Lost(Error),
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            // Docker's word for it.
            CallError::Refused(text) => Self::new(Kind::Internal, format!("remote: {text}")),
            CallError::Lost(error) => error,
        }
    }
}

/// What a call can go over.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Plugin {
    pub(super) fn new(name: &str, address: Address, patience: Duration) -> Self {
        let (implements, wishes, scope, silent) = Default::default();
        Self { name: name.to_owned(), address, patience, implements, wishes, scope, silent }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_good_for(&self, trade: Trade) -> bool {
        self.implements.iter().any(|word| word == trade.as_str())
    }

    /// Whether its socket is still where it was.
    pub(super) fn is_in_place(&self) -> bool {
        match &self.address {
            Address::Unix(path) => path.exists(),
            Address::Tcp(_) => true,
        }
    }

    /// Asks it for something. Blocks, on a thread that may.
    pub(crate) fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        body: Option<&Value>,
    ) -> Result<T, CallError> {
        let left = self.silence();
        if left > Duration::ZERO {
            let text = format!("plugin {} did not answer a moment ago: try again", self.name);
            return Err(CallError::Lost(Error::new(Kind::Unavailable, text)));
        }
        let answer = self.ask(method, body)?;
        let refused = ["Err", "Error"].into_iter().filter_map(|field| answer.get(field)?.as_str());
        if let Some(text) = refused.into_iter().find(|text| !text.is_empty()) {
            return Err(CallError::Refused(text.to_owned()));
        }
        serde_json::from_value(answer).map_err(|error| self.strange(method, &error))
    }

    fn silence(&self) -> Duration {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    fn ask(&self, method: &str, body: Option<&Value>) -> Result<Value, CallError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| self.lost(method, error))?;
        let body = body.map(ToString::to_string).unwrap_or_default();
        let answer = runtime.block_on(async {
            let exchange = async {
                let wire = self.connect().await.map_err(|error| self.lost(method, error))?;
                self.exchange(wire, method, body).await
            };
            tokio::time::timeout(self.patience, exchange).await
        });
        answer.unwrap_or_else(|_| {
            let until = Instant::now() + QUIET;
            *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
            let (name, seconds) = (&self.name, self.patience.as_secs_f64());
            let text =
                format!("plugin {name} does not answer: {method} took longer than {seconds} s");
            Err(CallError::Lost(Error::new(Kind::Unavailable, text)))
        })
    }

    /// Connects, and tries again for a while where nobody listens.
    async fn connect(&self) -> io::Result<Box<dyn Wire>> {
        let begun = Instant::now();
        loop {
            let connected: io::Result<Box<dyn Wire>> = match &self.address {
                Address::Unix(path) => {
                    UnixStream::connect(path).await.map(|wire| Box::new(wire) as _)
                }
                Address::Tcp(host) => {
                    TcpStream::connect(host).await.map(|wire| Box::new(wire) as _)
                }
            };
            match connected {
                Err(_) if begun.elapsed() < REFUSALS => tokio::time::sleep(PAUSE).await,
                outcome => return outcome,
            }
        }
    }

    async fn exchange(
        &self,
        wire: Box<dyn Wire>,
        method: &str,
        body: String,
    ) -> Result<Value, CallError> {
        let lost = |error: hyper::Error| self.lost(method, io::Error::other(error));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(wire)).await.map_err(lost)?;
        let connection = tokio::spawn(connection);
        let request = Request::post(format!("/{method}"))
            .header(HOST, "plugin")
            .header(ACCEPT, FORM)
            .header(CONTENT_TYPE, FORM)
            .body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| self.lost(method, io::Error::other(error)))?;
        let answer = sender.send_request(request).await.map_err(lost)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| self.lost(method, io::Error::other(error)))?.to_bytes();
        connection.abort();
        self.understood(method, status, &body)
    }

    fn understood(
        &self,
        method: &str,
        status: StatusCode,
        body: &[u8],
    ) -> Result<Value, CallError> {
        let text = String::from_utf8_lossy(body);
        if status == StatusCode::OK {
            let empty = text.trim().is_empty();
            let read = if empty { Ok(Value::Null) } else { serde_json::from_slice(body) };
            let or_nothing = |value: Value| {
                if value.is_null() { Value::Object(serde_json::Map::new()) } else { value }
            };
            return read.map(or_nothing).map_err(|error| self.strange(method, &error));
        }
        // Some say why in the body, as JSON or as they like.
        let said = serde_json::from_slice::<Value>(body).ok();
        let said = said.and_then(|value| Some(value.get("Err")?.as_str()?.to_owned()));
        let said = said.unwrap_or_else(|| text.trim().to_owned());
        Err(CallError::Refused(format!("{method}: {status}: {said}")))
    }

    fn strange(&self, method: &str, error: &serde_json::Error) -> CallError {
        let text =
            format!("{method}: what plugin {} answers cannot be understood: {error}", self.name);
        CallError::Refused(text)
    }

    fn lost(&self, method: &str, error: io::Error) -> CallError {
        let text = format!("cannot call {method} of plugin {} at {}", self.name, self.address);
        CallError::Lost(Error::caused(Kind::Unavailable, text, error))
    }
}
