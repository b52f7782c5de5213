//! `attach` and `resize`: a client's connection to a container's streams.

use std::io;
use std::os::unix::net::UnixStream as BlockingStream;
use std::sync::Arc;

use bytes::BufMut;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::Containers;
use super::detach::{self, Scanner};
use super::{Attach, Attached, LogLine, LogQuery, Status};
use crate::runner::StreamClient;
use engine_error::{Error, Result};
use shim::client::ShimClient;
use shim::protocol::Streams;

/// How much is carried at once.
const CHUNK: usize = 32 << 10;

impl Containers {
    /// Connects to the streams of a container, which need not run yet.
    pub async fn attach(&self, key: &str, attach: Attach) -> Result<Attached> {
        let live = self.registry.find(key)?;
        let container = live.get();
        let tty = container.spec.tty;
        let keys = detach::keys(attach.detach_keys.as_deref())?;
        let busy = match container.state.status {
            Status::Paused => Some("is paused, unpause the container before attach"),
            Status::Restarting => Some("is restarting, wait until the container is running"),
            _ => None,
        };
        if let Some(busy) = busy.filter(|_| attach.stream) {
            return Err(Error::conflict(format!("container {key} {busy}")));
        }
        let streams = Streams {
            stdin: attach.stdin && container.spec.open_stdin,
            stdout: attach.stdout,
            stderr: attach.stderr,
        };
        let shim = if attach.stream { Some(self.streams(&live, streams).await?) } else { None };
        self.tell(&container, "attach", &[]);
        // Raw bytes need nobody in between.
        let plain = !(attach.logs || tty && streams.stdin);
        let shim = match shim {
            Some(stream) if plain => return Ok(Attached { stream, raw: tty }),
            shim => shim,
        };
        let past = attach.logs.then(|| LogQuery {
            stdout: attach.stdout,
            stderr: attach.stderr,
            ..LogQuery::default()
        });
        let past = past.map(|query| self.logs(key, query)).transpose()?;
        let scanner = (tty && streams.stdin).then(|| Scanner::new(keys));
        let (client, mut ours) = UnixStream::pair().map_err(failed)?;
        let engine = self.weak();
        self.tasks.spawn(async move {
            if let Some(past) = past {
                let mut past = std::pin::pin!(past);
                while let Some(Ok(line)) = past.next().await {
                    if ours.write_all(&frame(&line, tty)).await.is_err() {
                        return;
                    }
                }
            }
            let Some(shim) = shim else { return };
            match carry(ours, shim, scanner, async {}).await {
                Ok(End::Closed) => {}
                Ok(End::Detached) => {
                    if let Some(engine) = engine.upgrade() {
                        engine.tell(&container, "detach", &[]);
                    }
                }
                Err(error) => tracing::debug!(%error, "a client left"),
            }
        });
        Ok(Attached { stream: client, raw: tty })
    }

    /// The streams of a container: of its shim, or those it will have when it is started.
    async fn streams(&self, live: &super::live::Live, streams: Streams) -> Result<UnixStream> {
        let mut waiting = None;
        let shim = live.shim_or_wait(|| {
            let (ours, stream) = BlockingStream::pair().map_err(failed)?;
            ours.set_nonblocking(true).map_err(failed)?;
            waiting = Some(ours);
            Ok(StreamClient { stream, streams })
        })?;
        match (shim, waiting) {
            (Some(shim), _) => Ok(shim.attach(streams).await?),
            (None, Some(ours)) => UnixStream::from_std(ours).map_err(failed),
            (None, None) => Err(Error::conflict("the container is ending: attach again")),
        }
    }

    /// Connects clients that attached while the shim was being started.
    pub(crate) fn attach_late(&self, shim: &Arc<ShimClient>, late: Vec<StreamClient>) {
        for StreamClient { stream, streams } in late {
            let shim = shim.clone();
            self.tasks.spawn(async move {
                let attached = async {
                    stream.set_nonblocking(true)?;
                    let client = UnixStream::from_std(stream)?;
                    let shim = shim.attach(streams).await.map_err(io::Error::other)?;
                    carry(client, shim, None, async {}).await.map(drop)
                };
                if let Err(error) = attached.await {
                    tracing::debug!(%error, "a client could not be attached");
                }
            });
        }
    }

    /// Sets the size of a container's terminal.
    pub async fn resize(&self, key: &str, rows: u16, columns: u16) -> Result<()> {
        let live = self.registry.find(key)?;
        live.settled().await;
        let Some(shim) = live.shim() else {
            return Err(Error::conflict(format!("container {} is not running", live.get().id)));
        };
        shim.resize(rows, columns, None).await?;
        let size = [("height", rows.to_string()), ("width", columns.to_string())];
        let attributes: Vec<_> = size.iter().map(|(key, value)| (*key, value.as_str())).collect();
        self.tell(&live.get(), "resize", &attributes);
        Ok(())
    }
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// One of the sides closed it.
    Closed,
    /// The client typed the keys to detach.
    Detached,
}

/// Carries bytes between a client and a shim until the shim ends its side, or the client types the
/// keys to detach. The client's side is closed after `before_end`.
pub(crate) async fn carry(
    client: UnixStream,
    shim: UnixStream,
    scanner: Option<Scanner>,
    before_end: impl Future<Output = ()>,
) -> io::Result<End> {
    let (from_client, mut to_client) = client.into_split();
    let (mut from_shim, to_shim) = shim.into_split();
    let output = async {
        tokio::io::copy(&mut from_shim, &mut to_client).await?;
        before_end.await;
        to_client.shutdown().await.map(|()| End::Closed)
    };
    let input = async {
        match input(from_client, to_shim, scanner).await {
            // The keys: the output ends with the input.
            Ok(true) => Ok(End::Detached),
            Ok(false) | Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        done = output => done,
        done = input => done,
    }
}

/// Carries a client's input; tells whether the keys to detach were typed.
async fn input(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut scanner: Option<Scanner>,
) -> io::Result<bool> {
    let mut buffer = vec![0; CHUNK];
    let mut passed = Vec::new();
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            to.shutdown().await?;
            return Ok(false);
        }
        let Some(scanner) = &mut scanner else {
            to.write_all(&buffer[..count]).await?;
            continue;
        };
        passed.clear();
        let detached = scanner.scan(&buffer[..count], &mut passed);
        to.write_all(&passed).await?;
        if detached {
            return Ok(true);
        }
    }
}

/// A log line as an attached client gets it.
fn frame(line: &LogLine, tty: bool) -> Vec<u8> {
    if tty { line.bytes.to_vec() } else { stdcopy(line.stream, &line.bytes) }
}

/// One frame of Docker's multiplexed stream.
pub(crate) fn stdcopy(stream: u8, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(bytes.len() + 8);
    frame.put_slice(&[stream, 0, 0, 0]);
    frame.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    frame.put_slice(bytes);
    frame
}

fn failed(error: io::Error) -> Error {
    Error::internal("cannot attach", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_keys_end_the_connection_and_the_rest_is_carried() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let (theirs, mut shim) = UnixStream::pair().unwrap();
        let scanner = Scanner::new(vec![16, 17]);
        let carried = tokio::spawn(carry(ours, theirs, Some(scanner), async {}));
        shim.write_all(b"hello").await.unwrap();
        let mut text = [0; 5];
        client.read_exact(&mut text).await.unwrap();
        client.write_all(b"ab\x10\x11").await.unwrap();
        assert_eq!(carried.await.unwrap().unwrap(), End::Detached);
        let mut typed = Vec::new();
        shim.read_to_end(&mut typed).await.unwrap();
        assert_eq!((&text, typed.as_slice()), (b"hello", &b"ab"[..]));
        assert_eq!(client.read(&mut text).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_end_of_input_is_passed_on_and_output_still_comes() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let (theirs, mut shim) = UnixStream::pair().unwrap();
        tokio::spawn(carry(ours, theirs, None, async {}));
        client.write_all(b"in").await.unwrap();
        client.shutdown().await.unwrap();
        let mut typed = Vec::new();
        shim.read_to_end(&mut typed).await.unwrap();
        shim.write_all(b"out").await.unwrap();
        drop(shim);
        let mut output = Vec::new();
        client.read_to_end(&mut output).await.unwrap();
        assert_eq!((typed, output), (b"in".to_vec(), b"out".to_vec()));
    }

    #[test]
    fn a_frame_has_its_stream_and_its_length_first() {
        assert_eq!(stdcopy(2, b"no"), [2, 0, 0, 0, 0, 0, 0, 2, b'n', b'o']);
    }
}
