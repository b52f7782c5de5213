//! Streams of bytes for code that blocks: a body as `Read`, a `Write` as a body.

use std::io::{self, Read, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use tokio::sync::{Semaphore, mpsc};

/// Pieces on their way: a slow side stops the fast one.
const DEPTH: usize = 8;
/// A client that does nothing for so long is given up if others need its place.
const IDLE: Duration = Duration::from_secs(60);

/// How long the client may do nothing: for ever, but not while there is no place left for others.
#[derive(Clone, Debug)]
struct Patience {
    idle: Duration,
    places: Arc<Semaphore>,
}

impl Patience {
    /// Waits for the client; nothing if its place is needed.
    async fn wait<T>(&self, client: impl Future<Output = T>) -> Option<T> {
        let mut client = pin!(client);
        loop {
            match tokio::time::timeout(self.idle, &mut client).await {
                Ok(done) => return Some(done),
                Err(_) if self.places.available_permits() > 0 => {}
                Err(_) => return None,
            }
        }
    }
}

fn stood_still() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client stood still while others waited")
}

/// Reads a stream, from a thread that may be blocked.
pub(in crate::api) fn reader(
    bytes: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
) -> Reader {
    reading(bytes, None)
}

/// The same for whoever holds one of so many places meanwhile.
pub(in crate::api) fn held_reader(
    bytes: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    places: &Arc<Semaphore>,
) -> Reader {
    reading(bytes, Some(Patience { idle: IDLE, places: places.clone() }))
}

fn reading(
    mut bytes: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    patience: Option<Patience>,
) -> Reader {
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        loop {
            let next = match &patience {
                Some(patience) => patience.wait(bytes.next()).await,
                None => Some(bytes.next().await),
            };
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

/// A `Write` and what is written.
pub(in crate::api) fn writer() -> (Writer, mpsc::Receiver<io::Result<Bytes>>) {
    let (sender, receiver) = mpsc::channel(DEPTH);
    (Writer { sender }, receiver)
}

/// The same for whoever holds one of so many places meanwhile.
pub(in crate::api) fn held_writer(
    places: &Arc<Semaphore>,
) -> (Writer, mpsc::Receiver<io::Result<Bytes>>) {
    watched_writer(Patience { idle: IDLE, places: places.clone() })
}

fn watched_writer(patience: Patience) -> (Writer, mpsc::Receiver<io::Result<Bytes>>) {
    let (writer, mut written) = writer();
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(piece) = written.recv().await {
            match patience.wait(sender.send(piece)).await {
                Some(Ok(())) => {}
                Some(Err(_)) => return,
                None => {
                    // This ends the copy. The client may see it whenever it goes on.
                    drop(written);
                    let _ = sender.send(Err(stood_still())).await;
                    return;
                }
            }
        }
    });
    (writer, receiver)
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
        let mut reader = reader(pieces);
        let text = tokio::task::spawn_blocking(move || io::read_to_string(&mut reader));
        assert_eq!(text.await.unwrap().unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_stream_that_breaks_is_no_end() {
        let mut reader = reader(stream::iter([Err(io::ErrorKind::ConnectionReset.into())]));
        let text = tokio::task::spawn_blocking(move || io::read_to_string(&mut reader));
        assert!(text.await.unwrap().is_err());
    }

    fn patience(places: usize) -> Patience {
        Patience { idle: Duration::from_millis(20), places: Arc::new(Semaphore::new(places)) }
    }

    #[tokio::test]
    async fn a_client_that_does_nothing_gives_its_place_to_others() {
        let (mut writer, bytes) = watched_writer(patience(0));
        let mut reader = reading(stream::pending(), Some(patience(0)));
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
    async fn a_client_in_nobody_s_way_may_do_nothing() {
        let patience = patience(1);
        let slow = tokio::time::timeout(patience.idle * 5, std::future::pending::<()>());
        assert!(patience.wait(slow).await.is_some());
    }

    #[tokio::test]
    async fn what_is_written_is_streamed() {
        let (mut writer, bytes) = writer();
        let writing = tokio::task::spawn_blocking(move || writer.write_all(b"hello"));
        let pieces: Vec<Bytes> = super::super::received(bytes).try_collect().await.unwrap();
        assert_eq!(pieces.concat(), b"hello");
        writing.await.unwrap().unwrap();
    }
}
