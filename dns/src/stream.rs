//! Two streams joined: what comes from one goes to the other, until both have ended or fall silent.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::time::{Instant, sleep};

/// After what silence of both sides a connection ends. Peers that are gone without a word are found
/// long before, by the kernel's probes; this is for those who are there and have forgotten it.
pub(crate) const IDLE: Duration = Duration::from_secs(2 * 3600);

/// The same once one side has ended.
pub(crate) const HALF_CLOSED: Duration = Duration::from_secs(120);

/// How often it is looked whether they are silent.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How much is copied at once.
const BUFFER: usize = 8 << 10;

/// What happened last.
#[derive(Debug)]
struct Activity(Mutex<(Instant, bool)>);

/// Copies both ways. The end of one way is passed on and leaves the other open.
pub(crate) async fn join<A, B>(one: A, other: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let activity = Activity(Mutex::new((Instant::now(), false)));
    let ((one_out, one_in), (other_out, other_in)) = (split(one), split(other));
    let both = async {
        tokio::try_join!(copy(one_out, other_in, &activity), copy(other_out, one_in, &activity),)
    };
    tokio::select! {
        copied = both => copied.map(drop),
        () = activity.silence() => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn copy<R: AsyncRead, W: AsyncWrite>(
    mut from: ReadHalf<R>,
    mut to: WriteHalf<W>,
    activity: &Activity,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = from.read(&mut buffer).await?;
        activity.note(length == 0);
        if length == 0 {
            return to.shutdown().await;
        }
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let written = to.write(rest).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = &rest[written..];
            activity.note(false);
        }
        to.flush().await?;
    }
}

impl Activity {
    fn note(&self, end: bool) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = (Instant::now(), last.1 || end);
    }

    async fn silence(&self) {
        loop {
            sleep(LOOK_EVERY).await;
            let (last, half_closed) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= if half_closed { HALF_CLOSED } else { IDLE } {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio::task::JoinHandle;

    use super::*;

    /// A client and a server, joined.
    fn joined() -> (DuplexStream, DuplexStream, JoinHandle<io::Result<()>>) {
        let (client, near) = duplex(64);
        let (server, far) = duplex(64);
        (client, server, tokio::spawn(join(near, far)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_nobody_uses_ends() {
        let (mut client, mut server, joined) = joined();
        let begun = Instant::now();
        client.write_all(b"x").await.unwrap();
        server.read_u8().await.unwrap();
        assert_eq!(joined.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!((IDLE..IDLE + 2 * LOOK_EVERY).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_goes_on_as_long_as_one_side_says_something() {
        let (_client, mut server, joined) = joined();
        for _ in 0..8 {
            sleep(IDLE / 2).await;
            server.write_all(b"x").await.unwrap();
        }
        assert!(!joined.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_closed_connection_is_answered_and_does_not_stay() {
        let (mut client, mut server, joined) = joined();
        let begun = Instant::now();
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
        server.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        assert_eq!(joined.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < HALF_CLOSED + 2 * LOOK_EVERY, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_sides_have_ended_is_over_at_once() {
        let (mut client, mut server, joined) = joined();
        let begun = Instant::now();
        client.shutdown().await.unwrap();
        server.shutdown().await.unwrap();
        joined.await.unwrap().unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
