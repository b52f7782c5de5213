//! `GET /containers/{id}/attach/ws`: a container's streams as the messages of a web socket.
//!
//! What the container writes comes as messages without frames of their own, its two outputs as one;
//! messages of the client are the container's input. Nothing is framed twice.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::StatusCode;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::body::{self, Response};
use super::request::Request;
use super::version::Version;
use super::{Api, hijack};
use crate::container::{Attach, Attached};
use engine_error::{Error, Result};

/// The most that a message of a client may have.
const LARGEST: usize = 1 << 20;

/// How much of an output is sent at once.
const CHUNK: usize = 32 << 10;

/// Whether a request asks for a web socket.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Attaches a client.
pub async fn attach(api: &Api, key: &str, mut request: Request) -> Result<Response> {
    api.engine.containers.find(key)?;
    let accept = accept(&request.headers)?;
    let upgrade = request.take_upgrade();
    let upgrade = upgrade.ok_or_else(|| Error::invalid("bad request: no upgrade asked for"))?;
    let query = &request.query;
    // Before 1.42 all streams were meant.
    let all = request.version < Version(42);
    let attach = Attach {
        stdin: all || query.flag("stdin"),
        stdout: all || query.flag("stdout"),
        stderr: all || query.flag("stderr"),
        logs: query.flag("logs"),
        stream: query.flag("stream"),
        detach_keys: query.text("detachKeys").map(str::to_owned),
    };
    let attached = api.engine.containers.attach(key, attach).await?;
    let texts = request.version < Version(28);
    tokio::spawn(serve(upgrade, attached, texts));
    let mut response = body::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(response)
}

/// What answers the client's key.
fn accept(headers: &HeaderMap) -> Result<HeaderValue> {
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_asked_for(headers));
    let version = headers.get(SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let key = key.filter(|_| version).ok_or_else(|| Error::invalid("not websocket protocol"))?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|error| Error::internal("cannot answer a web socket's key", error))
}

async fn serve(upgrade: OnUpgrade, attached: Attached, texts: bool) {
    let Some(client) = hijack::client(upgrade).await else { return };
    let limits =
        WebSocketConfig::default().max_message_size(Some(LARGEST)).max_frame_size(Some(LARGEST));
    let socket = WebSocketStream::from_raw_socket(client, Role::Server, Some(limits));
    copy(socket.await, attached, texts).await;
}

/// Copies both ways until the container's output or the connection ends.
async fn copy<C>(socket: WebSocketStream<C>, attached: Attached, texts: bool)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let (mut to_client, mut from_client) = socket.split();
    let (mut output, mut input) = attached.stream.into_split();
    let out = async {
        while let Ok(Some(bytes)) = next(&mut output, attached.raw).await {
            let message = if texts {
                Message::text(String::from_utf8_lossy(&bytes).into_owned())
            } else {
                Message::binary(bytes)
            };
            if to_client.send(message).await.is_err() {
                return;
            }
        }
        let end = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = to_client.send(Message::Close(Some(end))).await;
    };
    let into = async {
        while let Some(Ok(message)) = from_client.next().await {
            let bytes = match message {
                Message::Text(text) => Bytes::from(text),
                Message::Binary(bytes) => bytes,
                Message::Close(_) => return,
                _ => continue,
            };
            // A container that no longer reads is no reason to stop showing its output.
            let _ = input.write_all(&bytes).await;
        }
    };
    tokio::select! {
        () = out => {}
        () = into => {}
    }
}

/// The next piece of what a container wrote, out of its frame if it has one.
async fn next(output: &mut (impl AsyncRead + Unpin), raw: bool) -> std::io::Result<Option<Bytes>> {
    if raw {
        let mut bytes = vec![0; CHUNK];
        let count = output.read(&mut bytes).await?;
        bytes.truncate(count);
        return Ok(Some(bytes).filter(|bytes| !bytes.is_empty()).map(Bytes::from));
    }
    let mut head = [0; 8];
    if output.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    output.read_exact(&mut head[1..]).await?;
    let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let mut bytes = Vec::new();
    output.take(length.into()).read_to_end(&mut bytes).await?;
    Ok(Some(Bytes::from(bytes)))
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    async fn pair() -> (WebSocketStream<UnixStream>, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let (container, stream) = UnixStream::pair().unwrap();
        let server = WebSocketStream::from_raw_socket(near, Role::Server, None).await;
        tokio::spawn(copy(server, Attached { stream, raw: false }, false));
        (WebSocketStream::from_raw_socket(far, Role::Client, None).await, container)
    }

    #[tokio::test]
    async fn output_comes_without_frames_and_ends_with_the_container() {
        let (mut client, mut container) = pair().await;
        container.write_all(b"\x01\0\0\0\0\0\0\x03one\x02\0\0\0\0\0\0\x03two").await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary("one"));
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary("two"));
        drop(container);
        let end = client.next().await.unwrap().unwrap();
        let Message::Close(Some(frame)) = end else { panic!("{end:?}") };
        assert_eq!(frame.code, CloseCode::Normal);
    }

    #[tokio::test]
    async fn messages_are_the_container_s_input() {
        let (mut client, mut container) = pair().await;
        client.send(Message::binary("bytes")).await.unwrap();
        client.send(Message::text("text")).await.unwrap();
        let mut input = [0; 9];
        container.read_exact(&mut input).await.unwrap();
        assert_eq!(&input, b"bytestext");
        drop(client);
        assert_eq!(container.read(&mut input).await.unwrap(), 0);
    }
}
