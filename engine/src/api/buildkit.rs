//! `POST /grpc` and `POST /session`: what clients of `BuildKit` open. It is not part of this engine.
//!
//! They show what a call is answered, but nothing of a connection that is refused: that they take for a
//! reason to look for another builder. So they get their connections, and on them the one answer to all
//! calls that they show. No call is read any further than its head.

use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Api;
use super::body::{self, Response};
use super::hijack;
use super::request::Request;
use super::transport::Transport;
use engine_error::{Error, Result};

/// What is said to clients that speak the protocol of `BuildKit`.
pub const NO_BUILDKIT: &str = "this engine has no BuildKit: build with DOCKER_BUILDKIT=0 docker build or with \
     rnet build, or make a builder with docker buildx create --use --driver docker-container";

/// gRPC's number for that, which no client tries again.
const UNIMPLEMENTED: HeaderValue = HeaderValue::from_static("12");

/// The protocol that both are about.
const PROTOCOL: &str = "h2c";
/// How long a client may keep a connection. Every call is answered at once: what is longer is idle.
const LIFE: Duration = Duration::from_secs(10);
/// How many calls a client may make at the same time.
const CALLS: u32 = 32;
/// The most that the head of a call may have.
const HEAD: u32 = 16 << 10;

/// `POST /grpc`: calls of a client, all of which are answered the same.
pub async fn calls(api: &Api, request: Request) -> Result<Response> {
    hand_over(api, request, answer).await
}

/// `POST /session`: where a client waits to be called, which nobody does.
pub async fn session(api: &Api, request: Request) -> Result<Response> {
    hand_over(api, request, outlast).await
}

/// Hands a connection over, if there is a place for one of its kind, and has it ended when its life is over.
async fn hand_over<T: Future + Send>(
    api: &Api,
    mut request: Request,
    talk: impl FnOnce(Transport) -> T + Send + 'static,
) -> Result<Response> {
    match request.header(UPGRADE.as_str()) {
        None => return Err(Error::invalid("no upgrade proto in request")),
        Some(PROTOCOL) => {}
        Some(other) => return Err(Error::invalid(format!("protocol {other} not supported"))),
    }
    let upgrade = request.take_upgrade().ok_or_else(|| Error::not_found(NO_BUILDKIT))?;
    let place = api.transfers.sessions.take(&request.left).await?;
    tokio::spawn(async move {
        let talk = async {
            if let Some(client) = hijack::client(upgrade).await {
                talk(client).await;
            }
        };
        let _ = tokio::time::timeout(LIFE, talk).await;
        drop(place);
    });
    let mut response = body::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(response)
}

/// Waits until a client leaves.
async fn outlast(mut client: impl AsyncRead + Unpin) {
    let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
}

/// Answers the calls of a client until it leaves.
async fn answer(client: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), h2::Error> {
    let mut protocol = h2::server::Builder::new();
    protocol.max_concurrent_streams(CALLS).max_header_list_size(HEAD);
    let mut connection = protocol.handshake::<_, Bytes>(client).await?;
    while let Some(call) = connection.accept().await {
        let (_, mut reply) = call?;
        // The client may have taken its call back.
        let _ = reply.send_response(refusal(), true);
    }
    Ok(())
}

/// An answer that has an end and no beginning, as gRPC has it for errors.
fn refusal() -> hyper::Response<()> {
    let mut response = hyper::Response::new(());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", UNIMPLEMENTED);
    headers.insert("grpc-message", HeaderValue::from_static(NO_BUILDKIT));
    response
}
