//! Reads a stream on one thread and uses it on another, so that decompression, digests and the disk
//! do not wait for each other.

use std::io::{self, Read};
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// Bytes that are handed over at once.
const PIECE: usize = 256 << 10;
/// Pieces that may lie between the two, beside the one that each of them holds.
const WAITING: usize = 4;

/// Reads `from` here while `user` reads the same bytes on a thread of its own, and returns what
/// `user` made of them. An error of reading is the user's, who knows what the bytes were for. A user
/// that returns early ends the reading.
pub(super) fn handed<T: Send>(
    mut from: impl Read,
    user: impl FnOnce(&mut Pieces) -> io::Result<T> + Send,
) -> io::Result<T> {
    let (filled, to_use) = sync_channel(WAITING);
    let (done_with, to_fill) = sync_channel(WAITING + 2);
    let mut pieces = Pieces { filled: to_use, done_with, piece: Vec::new(), at: 0 };
    thread::scope(|scope| {
        let using = thread::Builder::new()
            .name("unpack".to_owned())
            .spawn_scoped(scope, move || user(&mut pieces))?;
        feed(&mut from, &filled, &to_fill);
        // Its end is told by nobody being there to send more.
        drop(filled);
        using.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Sends all of a stream, until it ends, fails, or nobody takes it any more.
fn feed(
    from: &mut impl Read,
    filled: &SyncSender<io::Result<Vec<u8>>>,
    to_fill: &Receiver<Vec<u8>>,
) {
    loop {
        let mut piece = to_fill.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let read = fill(from, &mut piece);
        let ended = !matches!(read, Ok(count) if count == PIECE);
        let sent = match read {
            Ok(0) => return,
            Ok(count) => {
                piece.truncate(count);
                filled.send(Ok(piece))
            }
            Err(error) => filled.send(Err(error)),
        };
        if ended || sent.is_err() {
            return;
        }
    }
}

/// Fills a piece, unless the stream ends before. What came before an error is not used: the error
/// is said instead.
fn fill(from: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < piece.len() {
        match from.read(&mut piece[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// The bytes that the other thread read.
#[derive(Debug)]
pub(super) struct Pieces {
    filled: Receiver<io::Result<Vec<u8>>>,
    done_with: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            let Ok(next) = self.filled.recv() else { return Ok(0) };
            let used = std::mem::replace(&mut self.piece, next?);
            self.at = 0;
            // For the next bytes; at the end nobody wants it.
            let _ = self.done_with.try_send(used);
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|number| u8::try_from(number % 251).unwrap()).collect()
    }

    #[test]
    fn all_bytes_arrive_in_order_whatever_their_number() {
        for count in [0, 1, PIECE - 1, PIECE, PIECE + 1, 20 * PIECE + 7] {
            let sent = bytes(count);
            let got = handed(&sent[..], |pieces| {
                let mut got = Vec::new();
                pieces.read_to_end(&mut got).map(|_| got)
            });
            assert!(got.unwrap() == sent, "{count} bytes");
        }
    }

    #[test]
    fn an_error_of_reading_is_told_to_the_user_after_what_came_before() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk is gone"))
            }
        }
        let sent = bytes(2 * PIECE);
        let error = handed(sent.chain(Broken), |pieces| {
            let mut got = Vec::new();
            let error = pieces.read_to_end(&mut got).unwrap_err();
            assert!(got == sent, "{} bytes", got.len());
            Err::<(), _>(error)
        });
        assert_eq!(error.unwrap_err().to_string(), "the disk is gone");
    }

    #[test]
    fn a_user_that_gives_up_ends_an_endless_stream() {
        let result = handed(io::repeat(7), |pieces| {
            pieces.read_exact(&mut [0; 10])?;
            Err::<(), _>(io::Error::other("not an archive"))
        });
        assert_eq!(result.unwrap_err().to_string(), "not an archive");
    }
}
