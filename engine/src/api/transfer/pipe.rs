//! Streams of bytes for code that blocks: a body as `Read`, a `Write` as a body.

use std::io::{self, Read, Write};
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::places::Places;

/// Pieces on their way: a slow side stops the fast one.
const DEPTH: usize = 8;
/// A client that does nothing for so long is given up if others need its place.
const IDLE: Duration = Duration::from_secs(60);

/// How long the client may do nothing: for ever, but not while there is no place left for others.
#[derive(Clone, Debug)]
struct Patience {
    idle: Duration,
    places: Places,
}

impl Patience {
    fn with(places: &Places) -> Self {
        Self { idle: IDLE, places: places.clone() }
    }

    /// Waits for the client; nothing if its place is needed.
    async fn wait<T>(&self, client: impl Future<Output = T>) -> Option<T> {
        let mut client = pin!(client);
        loop {
            match tokio::time::timeout(self.idle, &mut client).await {
                Ok(done) => return Some(done),
                Err(_) if self.places.are_free() => {}
                Err(_) => return None,
            }
        }
    }
}

fn stood_still() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client stood still while others waited")
}

/// Reads a stream, from a thread that has or waits for one of the places.
pub(in crate::api) fn reader(
    bytes: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    places: &Places,
) -> Reader {
    reading(bytes, Patience::with(places))
}

fn reading(
    mut bytes: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    patience: Patience,
) -> Reader {
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        loop {
            let next = patience.wait(bytes.next()).await;
            let Some(piece) = next.unwrap_or_else(|| Some(Err(stood_still()))) else { break };
            let failed = piece.is_err();
            if sender.send(piece).await.is_err() || failed {
                return;
            }
        }
        // An empty piece is the end; without it the client broke off.
        let _ = sender.send(Ok(Bytes::new())).await;
    });
    Reader { receiver, piece: Bytes::new(), ended: false }
}

/// See [`reader`].
#[derive(Debug)]
pub(in crate::api) struct Reader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    ended: bool,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && !self.ended {
            self.piece = match self.receiver.blocking_recv() {
                Some(piece) => piece?,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            };
            self.ended = self.piece.is_empty();
        }
        let length = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// A `Write` for a thread that has or waits for one of the places, and what is written.
pub(in crate::api) fn writer(places: &Places) -> (Writer, mpsc::Receiver<io::Result<Bytes>>) {
    writing(Patience::with(places))
}

fn writing(patience: Patience) -> (Writer, mpsc::Receiver<io::Result<Bytes>>) {
    let (sender, written) = mpsc::channel(DEPTH);
    // The client may see why whenever it goes on.
    let last = || Some(Err(stood_still()));
    (Writer { sender }, watched(written, patience, last))
}

/// What a thread tells that has one of the places: the same to the client, but who does not take it has
/// the other end closed.
pub(in crate::api) fn told<T: Send + 'static>(
    told: mpsc::Receiver<T>,
    places: &Places,
) -> mpsc::Receiver<T> {
    watched(told, Patience::with(places), || None)
}

/// Hands on what is made for a client. Of one that stands still, the maker's side is closed; it gets
/// `last`.
fn watched<T: Send + 'static>(
    mut made: mpsc::Receiver<T>,
    patience: Patience,
    last: impl FnOnce() -> Option<T> + Send + 'static,
) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(piece) = made.recv().await {
            match patience.wait(sender.send(piece)).await {
                Some(Ok(())) => {}
                Some(Err(_)) => return,
                None => {
                    drop(made);
                    if let Some(last) = last() {
                        let _ = sender.send(last).await;
                    }
                    return;
                }
            }
        }
    });
    receiver
}

/// See [`writer`].
#[derive(Debug)]
pub(in crate::api) struct Writer {
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Writer {
    /// Breaks the stream off.
    pub(in crate::api) fn fail(&self, error: &engine_error::Error) {
        let _ = self.sender.blocking_send(Err(io::Error::other(error.chain())));
    }
}

impl Write for &Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        match self.sender.blocking_send(Ok(piece)) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{TryStreamExt, stream};

    use super::*;

    #[tokio::test]
    async fn a_stream_is_read_to_its_end() {
        let pieces = stream::iter([Ok(Bytes::from_static(b"he")), Ok(Bytes::from_static(b"llo"))]);
        let mut reader = reading(pieces, patience(1));
        let text = tokio::task::spawn_blocking(move || io::read_to_string(&mut reader));
        assert_eq!(text.await.unwrap().unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_stream_that_breaks_is_no_end() {
        let broken = stream::iter([Err(io::ErrorKind::ConnectionReset.into())]);
        let mut reader = reading(broken, patience(1));
        let text = tokio::task::spawn_blocking(move || io::read_to_string(&mut reader));
        assert!(text.await.unwrap().is_err());
    }

    fn patience(places: usize) -> Patience {
        Patience { idle: Duration::from_millis(20), places: Places::new("test", places) }
    }

    #[tokio::test]
    async fn a_client_that_does_nothing_gives_its_place_to_others() {
        let (mut writer, bytes) = writing(patience(0));
        let mut reader = reading(stream::pending(), patience(0));
        let writing = tokio::task::spawn_blocking(move || {
            let error = loop {
                if let Err(error) = writer.write(b"piece") {
                    break error;
                }
            };
            // It does not wait either.
            writer.fail(&engine_error::Error::internal("copy", error.to_string()));
            error
        });
        assert_eq!(writing.await.unwrap().kind(), io::ErrorKind::BrokenPipe);
        let seen: Vec<_> = super::super::received(bytes).collect().await;
        let last = seen.last().unwrap().as_ref().unwrap_err();
        assert_eq!(last.kind(), io::ErrorKind::TimedOut, "it sees that it was given up");
        let reading = tokio::task::spawn_blocking(move || reader.read(&mut [0]));
        assert_eq!(reading.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_listens_to_nothing_is_told_nothing_more_if_others_need_its_place() {
        let (sender, lines) = mpsc::channel(1);
        let lines = watched(lines, patience(0), || None);
        let telling = tokio::task::spawn_blocking(move || {
            let told = (0..).take_while(|line: &u32| sender.blocking_send(*line).is_ok());
            u32::try_from(told.count()).unwrap()
        });
        let told = telling.await.unwrap();
        let seen: Vec<_> = super::super::received(lines).collect().await;
        assert_eq!(seen, [0], "of {told} lines");
    }

    #[tokio::test]
    async fn a_client_that_does_little_but_does_it_keeps_its_place() {
        let patience = Patience { idle: Duration::from_millis(500), ..patience(0) };
        let period = patience.idle / 10;
        let (longer, piece) = (patience.idle * 2, Bytes::from_static(b"x"));
        let begun = tokio::time::Instant::now();
        let pieces = stream::unfold(tokio::time::interval(period), move |mut ticks| {
            let piece = piece.clone();
            async move {
                ticks.tick().await;
                (begun.elapsed() < longer).then_some((Ok(piece), ticks))
            }
        });
        let mut reader = reading(Box::pin(pieces), patience);
        let text = tokio::task::spawn_blocking(move || io::read_to_string(&mut reader));
        assert!(text.await.unwrap().unwrap().len() > 1);
    }

    #[tokio::test]
    async fn a_client_in_nobody_s_way_may_do_nothing() {
        let patience = patience(1);
        let slow = tokio::time::timeout(patience.idle * 5, std::future::pending::<()>());
        assert!(patience.wait(slow).await.is_some());
    }

    #[tokio::test]
    async fn what_is_written_is_streamed() {
        let (mut writer, bytes) = writing(patience(1));
        let writing = tokio::task::spawn_blocking(move || writer.write_all(b"hello"));
        let pieces: Vec<Bytes> = super::super::received(bytes).try_collect().await.unwrap();
        assert_eq!(pieces.concat(), b"hello");
        writing.await.unwrap().unwrap();
    }
}
