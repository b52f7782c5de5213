//! The bytes of a connection, between its socket and HTTP.
//!
//! Three things that a library for HTTP does not do, and Go's does: targets of requests may have
//! bytes that are not a URI's (`heads`); a client that is still sending when it is answered is
//! listened to until it has read the answer; and before a connection becomes one of bare bytes it is
//! known that the head of the reply was read.

use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::server::TlsStream;

mod heads;
mod unread;

use heads::Heads;

/// How long an answered client may go on sending before it pauses, ...
const LINGER_PAUSE: Duration = Duration::from_secs(5);
/// ... in all, ...
const LINGER: Duration = Duration::from_secs(30);
/// ... and how much.
const LINGER_BYTES: u64 = 4 << 30;

/// How long what follows a head is held back until the head was read.
const HEAD: Duration = Duration::from_millis(200);

/// A connection's socket.
#[derive(Debug)]
pub enum Socket {
    /// Of this machine.
    Unix(UnixStream),
    /// Of another one that has proved who it is.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection.
#[derive(Debug)]
pub struct Transport {
    socket: Socket,
    heads: Heads,
    /// What was read, in the form that HTTP is to get it.
    pending: BytesMut,
    closing: Closing,
    /// How long it may pause while it is listened to after the answer.
    pause: Duration,
}

/// What HTTP's library gets of a connection that arrives in these pieces.
pub fn passed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> BytesMut {
    let (mut heads, mut out) = (Heads::default(), BytesMut::new());
    pieces.into_iter().for_each(|piece| heads.pass(piece, &mut out));
    out
}

/// How far the end of a connection has come.
#[derive(Debug)]
enum Closing {
    No,
    Lingering(Linger),
    Done,
}

impl Transport {
    /// A connection over a socket.
    pub fn new(socket: Socket) -> Self {
        Self {
            socket,
            heads: Heads::default(),
            pending: BytesMut::new(),
            closing: Closing::No,
            pause: LINGER_PAUSE,
        }
    }

    /// The connection once it is no longer HTTP's, which may have read `early` of what follows: nobody
    /// lingers on it.
    #[must_use]
    pub fn hijacked(mut self, early: &[u8]) -> Self {
        self.pending = [early, &self.pending].concat().as_slice().into();
        self.heads = Heads::bare();
        self.closing = Closing::Done;
        self
    }

    /// Waits until the other side has read all that was sent, but not for long. Programs that read
    /// a head through a buffer lose what comes with it when they go on without the buffer.
    ///
    /// Other machines cannot be asked.
    pub fn head_read(&self) -> impl Future<Output = ()> + Send + use<> {
        let copy = match &self.socket {
            Socket::Unix(socket) => socket.as_fd().try_clone_to_owned().ok(),
            Socket::Tls(_) => None,
        };
        async move {
            let Some(Ok(socket)) = copy.map(|copy| UnixStream::from_std(copy.into())) else {
                return;
            };
            let _ = tokio::time::timeout(HEAD, all_read(&socket)).await;
        }
    }
}

async fn all_read(socket: &UnixStream) {
    while socket.ready(Interest::WRITABLE).await.is_ok() {
        // Until the kernel reports that more was read. This comes before the question, so that no
        // report between the two is missed.
        let seen = socket.try_io(Interest::WRITABLE, || Err::<(), _>(would_block()));
        debug_assert!(seen.is_err());
        if !unread::is_any(socket) {
            return;
        }
    }
}

fn would_block() -> io::Error {
    io::ErrorKind::WouldBlock.into()
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        loop {
            if !me.pending.is_empty() {
                let length = me.pending.len().min(buffer.remaining());
                buffer.put_slice(&me.pending[..length]);
                me.pending.advance(length);
                return Poll::Ready(Ok(()));
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut me.socket).poll_read(cx, buffer))?;
            let read = &buffer.filled()[before..];
            let body = me.heads.body(read);
            if body == read.len() {
                return Poll::Ready(Ok(()));
            }
            me.heads.pass(&read[body..], &mut me.pending);
            buffer.set_filled(before + body);
            if body > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    /// Ends our side, then reads what the client has not sent yet of its request: a client that is
    /// cut off would miss the answer.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if let Closing::No = me.closing {
            ready!(Pin::new(&mut me.socket).poll_shutdown(cx))?;
            let owing = me.heads.is_within_a_request();
            me.closing =
                if owing { Closing::Lingering(Linger::new(me.pause)) } else { Closing::Done };
        }
        if let Closing::Lingering(linger) = &mut me.closing {
            ready!(linger.poll(&mut me.socket, &mut me.heads, cx));
            me.closing = Closing::Done;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut me.socket).poll_shutdown(cx)
    }
}

/// What an answered client still sends.
#[derive(Debug)]
struct Linger {
    over: Pin<Box<Sleep>>,
    pause: Duration,
    end: Instant,
    left: u64,
    buffer: Vec<u8>,
}

impl Linger {
    fn new(pause: Duration) -> Self {
        Self {
            over: Box::pin(sleep(pause)),
            pause,
            end: Instant::now() + LINGER,
            left: LINGER_BYTES,
            buffer: vec![0; 64 << 10],
        }
    }

    /// Reads and drops the rest of the request.
    fn poll(&mut self, socket: &mut Socket, heads: &mut Heads, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.over.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut self.buffer);
            let read = ready!(Pin::new(&mut *socket).poll_read(cx, &mut buffer));
            let bytes = buffer.filled();
            heads.pass(bytes, &mut BytesMut::new());
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            self.left = self.left.saturating_sub(length);
            let ended = read.is_err() || length == 0 || !heads.is_within_a_request();
            if ended || self.left == 0 {
                return Poll::Ready(());
            }
            self.over.as_mut().reset(self.end.min(Instant::now() + self.pause));
        }
    }
}

/// The same call for either kind of socket.
macro_rules! of_either {
    ($socket:expr, $name:ident, $method:ident($($argument:expr),*)) => {
        match $socket.get_mut() {
            Self::Unix($name) => Pin::new($name).$method($($argument),*),
            Self::Tls($name) => Pin::new($name).$method($($argument),*),
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        of_either!(self, socket, poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        of_either!(self, socket, poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        of_either!(self, socket, poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Unix(socket) => socket.is_write_vectored(),
            Self::Tls(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        of_either!(self, socket, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        of_either!(self, socket, poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (UnixStream, Transport) {
        let (near, far) = UnixStream::pair().unwrap();
        (near, Transport::new(Socket::Unix(far)))
    }

    #[tokio::test]
    async fn a_client_that_is_still_sending_when_it_is_answered_sends_to_the_end() {
        let (mut client, mut transport) = pair();
        let sending = tokio::spawn(async move {
            client.write_all(b"POST / HTTP/1.1\r\nContent-Length: 4000000\r\n\r\n").await.unwrap();
            client.write_all(&vec![b'x'; 4_000_000]).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        });
        transport.read_exact(&mut [0; 100]).await.unwrap();
        transport.write_all(b"no").await.unwrap();
        transport.shutdown().await.unwrap();
        drop(transport);
        assert_eq!(sending.await.unwrap(), "no");
    }

    #[tokio::test]
    async fn a_client_that_goes_on_without_sending_is_not_waited_for_long() {
        let (mut client, mut transport) = pair();
        client.write_all(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n").await.unwrap();
        transport.read_exact(&mut [0; 38]).await.unwrap();
        transport.pause = Duration::from_millis(1);
        transport.shutdown().await.unwrap();
        let mut nothing = String::new();
        client.read_to_string(&mut nothing).await.unwrap();
        assert_eq!(nothing, "");
    }

    #[tokio::test]
    async fn what_follows_a_head_waits_until_the_head_was_read() {
        let (mut client, mut transport) = pair();
        transport.write_all(b"head").await.unwrap();
        let waiting = tokio::spawn(transport.head_read());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        client.read_exact(&mut [0; 4]).await.unwrap();
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_body_is_not_touched_and_what_follows_it_is_a_head_again() {
        let (mut client, mut transport) = pair();
        let head = "POST /a?{\"} HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
        client.write_all(format!("{head}{{\"}}{head}{{\"}}").as_bytes()).await.unwrap();
        drop(client);
        let mut text = String::new();
        transport.read_to_string(&mut text).await.unwrap();
        let head = head.replace("{\"}", "%7B%22%7D");
        assert_eq!(text, format!("{head}{{\"}}{head}{{\"}}"));
    }
}
