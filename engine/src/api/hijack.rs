//! Connections that stop being HTTP: attach and exec.
//!
//! The connection to the container carries what the client is to get, framed already; bytes are
//! copied both ways as they are. The client's half close is the end of standard input; the end of
//! the container's output is the end of all.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use hyper::StatusCode;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use super::body::{self, Response};
use super::transport::Transport;
use super::version::Version;
use crate::container::Attached;
use engine_error::Error;

/// How long a client may go on sending to a container that has ended. What it sends is read and
/// dropped, because closing before would reset the connection and lose output still on its way.
const LINGER: Duration = Duration::from_secs(10);

/// The media type of bytes as they are.
const RAW: &str = "application/vnd.docker.raw-stream";

/// The media type of a container's streams.
pub fn content_type(tty: bool, version: Version) -> &'static str {
    if tty || version < Version(42) { RAW } else { "application/vnd.docker.multiplexed-stream" }
}

/// Why a client cannot be attached: a line of text, after which nothing follows. Clients that read
/// the connection's bytes themselves expect no JSON.
pub fn refusal(error: &Error) -> Response {
    let mut response = body::text(super::error::status(error.kind()), error.chain() + "\r\n");
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(RAW));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Hands the connection over, or streams in an ordinary reply where the client did not ask.
pub fn respond(attached: Attached, upgrade: Option<OnUpgrade>, version: Version) -> Response {
    let Some(upgrade) = upgrade else {
        // Docker tells no frames here, and the end of the connection is that of the output.
        let mut response = body::stream(RAW, output(attached));
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return response;
    };
    let content_type = content_type(attached.raw, version);
    tokio::spawn(async move {
        if let Some(client) = client(upgrade).await {
            let head_read = client.head_read();
            copy(client, attached.stream, head_read).await;
        }
    });
    let mut response = body::empty(StatusCode::SWITCHING_PROTOCOLS);
    response.extensions_mut().insert(ReasonPhrase::from_static(b"UPGRADED"));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    response
}

/// The connection of a client that asked for it, once the head of the reply is on its way. None of one
/// that has left.
pub async fn client(upgrade: OnUpgrade) -> Option<Transport> {
    match upgrade.await.map(Upgraded::downcast::<TokioIo<Transport>>) {
        Ok(Ok(parts)) => Some(parts.io.into_inner().hijacked(&parts.read_buf)),
        Ok(Err(_)) => {
            tracing::error!("a connection is no socket");
            None
        }
        Err(error) => {
            tracing::debug!(%error, "a client left before it was attached");
            None
        }
    }
}

/// The container's side as a stream. Its write half stays open, so that standard input does.
fn output(attached: Attached) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    ReaderStream::new(attached.stream)
}

/// Copies both ways; output goes to the client once it is `ready`.
async fn copy<C>(
    client: C,
    container: impl AsyncRead + AsyncWrite + Send,
    ready: impl Future<Output = ()> + Send,
) where
    C: AsyncRead + AsyncWrite + Send,
{
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_container, mut to_container) = tokio::io::split(container);
    let input = async {
        // A container that no longer reads is no reason to stop showing its output.
        let _ = tokio::io::copy(&mut from_client, &mut to_container).await;
        let _ = to_container.shutdown().await;
        std::future::pending::<()>().await;
    };
    let output = async {
        ready.await;
        let copied = tokio::io::copy(&mut from_container, &mut to_client).await;
        // A container that ends before it has read all its input resets the connection, and then
        // there is no more output.
        let whole =
            copied.map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true);
        whole && to_client.shutdown().await.is_ok()
    };
    let whole = tokio::select! {
        whole = output => whole,
        () = input => false,
    };
    if whole {
        let mut rest = [0; 4096];
        let drain = async { while matches!(from_client.read(&mut rest).await, Ok(1..)) {} };
        let _ = tokio::time::timeout(LINGER, drain).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn output_is_whole_when_the_container_ends_before_it_has_read_its_input() {
        let (near, client) = tokio::net::UnixStream::pair().unwrap();
        let (far, mut container) = tokio::net::UnixStream::pair().unwrap();
        let copying = tokio::spawn(copy(near, far, async {}));
        let (mut output, mut input) = client.into_split();
        let flood =
            tokio::spawn(async move { while input.write_all(&[b'y'; 4096]).await.is_ok() {} });
        container.read_exact(&mut [0; 2]).await.unwrap();
        container.write_all(b"y\n").await.unwrap();
        drop(container);
        let mut text = String::new();
        output.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "y\n");
        drop(output);
        flood.abort();
        copying.await.unwrap();
    }

    #[tokio::test]
    async fn half_close_ends_stdin_and_output_goes_on() {
        let (mut client, near) = duplex(64);
        let (far, mut container) = duplex(64);
        let copying = tokio::spawn(copy(near, far, async {}));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut input = String::new();
        container.read_to_string(&mut input).await.unwrap();
        assert_eq!(input, "question");
        container.write_all(b"answer").await.unwrap();
        drop(container);
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "answer");
        copying.await.unwrap();
    }

    #[test]
    fn the_content_type_tells_whether_there_are_frames() {
        assert_eq!(content_type(true, Version(51)), "application/vnd.docker.raw-stream");
        assert_eq!(content_type(false, Version(41)), "application/vnd.docker.raw-stream");
        assert_eq!(content_type(false, Version(42)), "application/vnd.docker.multiplexed-stream");
    }
}
