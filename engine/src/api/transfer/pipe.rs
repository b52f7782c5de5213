//! Streams of bytes for code that blocks: a body as `Read`, a `Write` as a body.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;

/// Pieces on their way: a slow side stops the fast one.
const DEPTH: usize = 8;

/// Reads a stream, from a thread that may be blocked.
pub(in crate::api) fn reader(
    mut bytes: impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
) -> Reader {
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        while let Some(piece) = bytes.next().await {
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

    #[tokio::test]
    async fn what_is_written_is_streamed() {
        let (mut writer, bytes) = writer();
        let writing = tokio::task::spawn_blocking(move || writer.write_all(b"hello"));
        let pieces: Vec<Bytes> = super::super::received(bytes).try_collect().await.unwrap();
        assert_eq!(pieces.concat(), b"hello");
        writing.await.unwrap().unwrap();
    }
}
