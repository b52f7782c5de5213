//! Clients that speak `BuildKit`'s protocol, which is not spoken here: they are told so, where they show it.

use std::io::{BufReader, Read};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{SendRequest, handshake};
use hyper::{Request, Response};

use crate::daemon::{Daemon, Reply};
use crate::hung::until;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: h2c\r\n";
/// How many connections there may be at the same time.
const PLACES: usize = 64;

/// A connection that is no longer HTTP/1's.
fn opened(stream: UnixStream) -> UnixStream {
    // Byte by byte, because the first frame may follow the head at once.
    let mut reader = BufReader::with_capacity(1, stream);
    let head = Reply::read_head(&mut reader);
    assert_eq!((head.status, head.header("upgrade")), (101, Some("h2c")));
    reader.into_inner()
}

async fn client(daemon: &Daemon) -> SendRequest<Bytes> {
    let stream = opened(daemon.open("POST", "/grpc", UPGRADE, b""));
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::UnixStream::from_std(stream).unwrap();
    let (client, connection) = handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Calls a method as gRPC does, with a message of so many bytes and a header of so many.
async fn call(
    client: &SendRequest<Bytes>,
    method: &str,
    message: usize,
    header: usize,
) -> Response<RecvStream> {
    let mut client = client.clone().ready().await.unwrap();
    let request = Request::post(format!("http://docker/moby.buildkit.v1.Control/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-filler", "x".repeat(header))
        .body(())
        .unwrap();
    let (reply, mut body) = client.send_request(request, false).unwrap();
    let length = u32::try_from(message).unwrap().to_be_bytes();
    let message = [&[0], &length[..], &vec![0; message]].concat();
    body.send_data(message.into(), true).unwrap();
    reply.await.unwrap()
}

#[tokio::test]
async fn every_call_for_buildkit_is_answered_with_what_to_do_instead() {
    let daemon = Daemon::start(&[]);
    let client = client(&daemon).await;
    for method in ["ListWorkers", "Info", "Solve", "DiskUsage", "Prune"] {
        let mut reply = call(&client, method, 100, 0).await;
        let header = |name| reply.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!((reply.status().as_u16(), header("grpc-status")), (200, Some("12")), "{method}");
        assert_eq!(header("content-type"), Some("application/grpc"));
        // Nothing in it would have to be encoded with percent signs.
        assert_eq!(
            header("grpc-message"),
            Some(
                "this engine has no BuildKit: build with DOCKER_BUILDKIT=0 docker build or with rnet \
                 build, or make a builder with docker buildx create --use --driver docker-container"
            )
        );
        assert!(reply.body().is_end_stream());
        assert!(reply.body_mut().data().await.is_none());
    }
}

#[tokio::test]
async fn calls_for_buildkit_may_be_so_large_and_so_many() {
    let daemon = Daemon::start(&[]);
    let client = client(&daemon).await;
    assert_eq!(call(&client, "Solve", 1 << 20, 15 << 10).await.headers()["grpc-status"], "12");
    assert_eq!(client.current_max_send_streams(), 32);
    assert_eq!(call(&client, "Solve", 0, 17 << 10).await.status(), 431);
    assert_eq!(call(&client, "Solve", 0, 0).await.headers()["grpc-status"], "12");
}

#[test]
fn clients_of_buildkit_that_stand_still_are_given_up_for_others() {
    let daemon = Daemon::start(&[]);
    let open = |path: &str| daemon.open("POST", path, UPGRADE, b"");
    let paths = ["/grpc", "/session"].into_iter().cycle().take(PLACES);
    let mut still: Vec<_> = paths.map(|path| opened(open(path))).collect();
    // One that waits and leaves takes no place from those behind it.
    drop(open("/grpc"));
    let mut next = open("/session");
    next.set_nonblocking(true).unwrap();
    let waits = next.read(&mut [0]).unwrap_err();
    assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(daemon.get("/info").status, 200);
    let served = || match next.read(&mut [0]) {
        Ok(count) => count == 1,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    };
    assert!(until(served), "those that stand still keep their places");
    for stream in &mut still {
        // What was sent on it, and the end.
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
}
