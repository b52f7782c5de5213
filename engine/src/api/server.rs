//! Connections: accepted, served over HTTP/1.1, ended with the daemon.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, HeaderValue, PRAGMA, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{self, Response};
use super::listener::{Listener, Stream};
use super::request::Request;
use super::transport::{Socket, Transport};
use super::{Api, error, route, version};
use engine_error::Error;

/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long nobody is accepted after the kernel could not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long replies may take to reach their clients when the daemon stops. Streams that have no
/// end of their own are cut off then.
const FAREWELL: Duration = Duration::from_secs(1);

/// What is under way.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    requests: TaskTracker,
    connections: TaskTracker,
}

impl Tasks {
    /// Waits until all requests are answered, for so long, and the answers have left. Returns how
    /// many requests were not.
    pub async fn end(&self, limit: Duration) -> usize {
        self.requests.close();
        let _ = tokio::time::timeout(limit, self.requests.wait()).await;
        self.connections.close();
        let _ = tokio::time::timeout(FAREWELL, self.connections.wait()).await;
        self.requests.len()
    }
}

/// Serves a listener until the daemon stops.
pub async fn serve(
    api: Arc<Api>,
    listener: Listener,
    mut stop: watch::Receiver<bool>,
    tasks: Tasks,
) {
    // Told once, and again when it comes back: a full table of descriptors is no reason to fill the
    // disk with a log too.
    let mut refused = false;
    loop {
        let accepted = tokio::select! {
            accepted = next(&api, &listener, &mut refused) => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((place, stream, peer)) => {
                refused = false;
                let requests = tasks.requests.clone();
                let is_local = matches!(stream, Stream::Unix(_));
                let gone = CancellationToken::new();
                let from = Origin { peer: peer.into(), is_local, requests, gone };
                let connection = connection(api.clone(), stream, stop.clone(), from);
                tasks.connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            // This client has left again.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut refused, true) {
                    tracing::warn!(%error, %listener, "cannot accept connections for now");
                }
                // Out of descriptors, most likely: they come back as connections end.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The next connection, once there is a place for it. Clients that hold connections take no
/// descriptors from containers and networks.
async fn next(
    api: &Api,
    listener: &Listener,
    refused: &mut bool,
) -> std::io::Result<(OwnedSemaphorePermit, Stream, String)> {
    let places = &api.connections;
    if places.available_permits() == 0 && !std::mem::replace(refused, true) {
        tracing::warn!(%listener, "too many connections: further clients wait until some have left");
    }
    let place = places.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((place, stream, peer))
}

/// How many connections there may be where a process may have so many descriptors. Each takes two,
/// and half of all are for other things.
pub fn places(descriptors: u64) -> usize {
    let places = usize::try_from(descriptors / 4).unwrap_or(usize::MAX);
    places.clamp(8, Semaphore::MAX_PERMITS)
}

/// Where requests of a connection come from, and who counts them.
#[derive(Clone)]
struct Origin {
    peer: Arc<str>,
    /// Whether that is on this machine.
    is_local: bool,
    requests: TaskTracker,
    /// Cancelled when the client is known to be gone.
    gone: CancellationToken,
}

async fn connection(api: Arc<Api>, stream: Stream, stop: watch::Receiver<bool>, from: Origin) {
    match stream {
        Stream::Unix(stream) => {
            let Ok(copy) = stream.as_fd().try_clone_to_owned() else { return };
            tokio::select! {
                () = http(api, Transport::new(Socket::Unix(stream)), stop, from) => {}
                () = hang_up(copy) => {}
            }
        }
        Stream::Tls(handshake) => match handshake.await {
            Ok(stream) => {
                let copy = stream.get_ref().0.as_fd().try_clone_to_owned();
                let (gone, transport) =
                    (from.gone.clone(), Transport::new(Socket::Tls(Box::new(stream))));
                tokio::select! {
                    () = http(api, transport, stop, from) => {}
                    () = farewell(copy, gone) => {}
                }
            }
            Err(error) => tracing::debug!(%error, "a TLS handshake went wrong"),
        },
    }
}

/// Waits until the other end of a unix socket is closed, not only for writing. Without this a
/// stream with nothing to tell, as `events`, would be kept for clients that left long ago.
async fn hang_up(socket: OwnedFd) {
    let Ok(socket) = UnixStream::from_std(socket.into()) else {
        return std::future::pending().await;
    };
    while let Ok(ready) = socket.ready(Interest::WRITABLE).await {
        if ready.is_write_closed() {
            return;
        }
        // Until the kernel reports something new.
        let seen = socket.try_io(Interest::WRITABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
        debug_assert!(seen.is_err());
    }
}

/// Notes that a client of another machine has ended its side; never returns. It may still read, for all
/// that can be known, and is answered; but like Go's server nobody waits for anything on its behalf.
async fn farewell(socket: std::io::Result<OwnedFd>, gone: CancellationToken) {
    if let Ok(Ok(socket)) = socket.map(|socket| TcpStream::from_std(socket.into())) {
        while let Ok(ready) = socket.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                gone.cancel();
                break;
            }
            // Until the kernel reports something new.
            let seen =
                socket.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
            debug_assert!(seen.is_err());
        }
    }
    std::future::pending::<()>().await;
}

async fn http(api: Arc<Api>, transport: Transport, mut stop: watch::Receiver<bool>, from: Origin) {
    let service = service_fn(move |request| {
        let (api, from) = (api.clone(), from.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(api, request, &from).await) }
    });
    let connection =
        protocol(HEAD_TIMEOUT).serve_connection(TokioIo::new(transport), service).with_upgrades();
    tokio::pin!(connection);
    let stopped = async { stop.wait_for(|stop| *stop).await.is_ok() };
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stopped => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// HTTP as it is spoken here: who sends no whole head in time is cut off.
fn protocol(head_timeout: Duration) -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol
        .half_close(true)
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout);
    protocol
}

/// Answers one request, in a task that goes on when the client hangs up.
async fn answer(api: Arc<Api>, request: hyper::Request<Incoming>, from: &Origin) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let begun = std::time::Instant::now();
    let replied = match Request::new(request, from.is_local) {
        Ok(mut request) => {
            request.left = from.gone.child_token();
            // Dropped with this, or with the reply, when the client hangs up.
            let left = request.left.clone().drop_guard();
            let answering = from.requests.spawn(async move { route::dispatch(api, request).await });
            let fault = |error| Error::internal("the request ended in a fault", error);
            let replied = answering.await.unwrap_or_else(|error| Err(fault(error)));
            replied.map(|response| response.map(|body| body::watched(body, left)))
        }
        Err(error) => Err(error),
    };
    let mut response = replied.unwrap_or_else(|error| {
        let level_is_error = error::status(error.kind()).is_server_error();
        if level_is_error {
            tracing::error!(%method, %path, peer = %from.peer, error = %error.chain(), "request failed");
        } else {
            tracing::debug!(%method, %path, peer = %from.peer, error = %error.chain(), "request refused");
        }
        error::response(&error)
    });
    let (status, peer) = (response.status().as_u16(), &from.peer);
    tracing::debug!(%method, %path, %peer, status, took = ?begun.elapsed(), "request");
    add_headers(&mut response);
    response
}

/// The headers of every reply.
fn add_headers(response: &mut Response) {
    const SERVER_NAME: &str = concat!("Docker/", env!("CARGO_PKG_VERSION"), " (linux) rnet");
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static(SERVER_NAME));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
    if let Ok(version) = HeaderValue::from_str(&version::NEWEST.to_string()) {
        headers.insert("Api-Version", version);
    }
}

/// The headers of `_ping` that keep caches away.
pub fn no_cache(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_client_that_sends_a_head_too_slowly_is_cut_off() {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"GET / HTTP/1.1\r\nHost: ").await.unwrap();
        let service = service_fn(async |_| Ok::<_, std::convert::Infallible>(body::no_content()));
        let transport = Transport::new(Socket::Unix(near));
        let served = protocol(Duration::from_millis(10))
            .serve_connection(TokioIo::new(transport), service)
            .await;
        assert!(served.is_err());
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 204"));
    }

    #[test]
    fn connections_leave_descriptors_to_the_rest() {
        assert_eq!((places(1024), places(10)), (256, 8));
        assert_eq!(places(u64::MAX), Semaphore::MAX_PERMITS);
    }

    #[tokio::test]
    async fn only_a_full_close_is_a_hang_up() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let watching = tokio::spawn(hang_up(near.as_fd().try_clone_to_owned().unwrap()));
        far.write_all(b"request").await.unwrap();
        far.shutdown().await.unwrap();
        tokio::task::yield_now().await;
        assert!(!watching.is_finished());
        drop(far);
        watching.await.unwrap();
    }
}
