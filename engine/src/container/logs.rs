//! Reading a container's log: `json-file` lines, rotated files included, to the end and beyond.

pub(crate) mod driver;
mod files;
pub(super) mod rotation;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::Stream;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde::Deserialize;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use self::files::Lines;
use super::Containers;
use super::live::Progress;
use super::{LogLine, LogQuery};
use engine_error::{Error, Result};

/// How many lines wait for a slow reader.
const BACKLOG: usize = 256;

/// One line of the file.
#[derive(Deserialize)]
struct Record {
    log: String,
    stream: String,
    time: DateTime<Utc>,
}

impl Containers {
    /// Reads a container's log.
    pub fn logs(
        &self,
        key: &str,
        query: LogQuery,
    ) -> Result<impl Stream<Item = Result<LogLine>> + Send + 'static + use<>> {
        if !query.stdout && !query.stderr {
            return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
        }
        let live = self.registry.find(key)?;
        let container = live.get();
        if !driver::can_be_read(self.log_driver(&container.spec), &container.spec.log_options) {
            return Err(Error::new(
                cnm::Kind::NotImplemented,
                "configured logging driver does not support reading",
            ));
        }
        let progress = live.progress.subscribe();
        Ok(read(container.paths.log.clone(), query, progress))
    }
}

/// The lines of the log at `path`. With `follow` it goes on until the container ends.
pub(crate) fn read(
    path: PathBuf,
    query: LogQuery,
    progress: watch::Receiver<Progress>,
) -> impl Stream<Item = Result<LogLine>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        if let Err(source) = follow(path.clone(), query, progress, &sender).await {
            let text = format!("cannot read the log {}", path.display());
            let _ = sender.send(Err(Error::internal(text, source))).await;
        }
    });
    futures_util::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|line| (line, receiver))
    })
}

async fn follow(
    path: PathBuf,
    query: LogQuery,
    mut progress: watch::Receiver<Progress>,
    sender: &mpsc::Sender<Result<LogLine>>,
) -> io::Result<()> {
    // Watched before the first read, so that no line falls between the two.
    let changes = if query.follow { Some(Changes::of(&path)?) } else { None };
    let tail = query.tail;
    let mut lines = on_a_thread(move || Lines::open(&path, tail)).await?;
    loop {
        let running = progress.borrow_and_update().running;
        loop {
            let (batch, query) =
                (Batch { lines, found: Vec::new(), end: End::Later }, query.clone());
            let batch = on_a_thread(move || batch.read(&query)).await?;
            lines = batch.lines;
            for line in batch.found {
                if sender.send(Ok(line)).await.is_err() {
                    return Ok(());
                }
            }
            match batch.end {
                End::Later if sender.is_closed() => return Ok(()),
                End::Later => {}
                End::Now => break,
                End::Over => return Ok(()),
            }
        }
        let Some(changes) = changes.as_ref().filter(|_| running) else { return Ok(()) };
        tokio::select! {
            told = changes.wait() => told?,
            over = progress.changed() => if over.is_err() { return Ok(()) },
            () = sender.closed() => return Ok(()),
            () = until(query.until) => return Ok(()),
        }
    }
}

/// Reads files where waiting for a disk holds nobody up.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Lines that are looked at in one go: a thread is not kept by a client that reads slowly, nor by
/// one who left while nothing is found for it.
struct Batch {
    lines: Lines,
    found: Vec<LogLine>,
    end: End,
}

/// Why a batch ended.
enum End {
    /// It is full.
    Later,
    /// There are no more lines now.
    Now,
    /// There will be none that is wanted.
    Over,
}

impl Batch {
    fn read(mut self, query: &LogQuery) -> io::Result<Self> {
        for _ in 0..BACKLOG {
            let Some(record) = self.lines.next()? else {
                self.end = End::Now;
                break;
            };
            let Some(line) = parse(&record).filter(|line| wanted(line, query)) else { continue };
            if query.until.is_some_and(|until| line.time > until) {
                self.end = End::Over;
                break;
            }
            self.found.push(line);
        }
        Ok(self)
    }
}

fn wanted(line: &LogLine, query: &LogQuery) -> bool {
    let stream = if line.stream == 2 { query.stderr } else { query.stdout };
    stream && query.since.is_none_or(|since| line.time >= since)
}

/// A record of the log as a line; one that is none (the disk was full, the power failed) is left out.
pub fn parse(text: &[u8]) -> Option<LogLine> {
    let record: Record = serde_json::from_slice(text).ok()?;
    Some(LogLine {
        stream: if record.stream == "stderr" { 2 } else { 1 },
        time: record.time,
        bytes: Bytes::from(record.log),
    })
}

async fn until(time: Option<DateTime<Utc>>) {
    match time.map(|time| (time - Utc::now()).to_std()) {
        Some(rest) => tokio::time::sleep(rest.unwrap_or_default()).await,
        None => std::future::pending().await,
    }
}

/// Tells of changes of the log that is written. The directory has others: those that are rotated,
/// those that are being compressed, and what a reader unpacks there.
struct Changes {
    watch: AsyncFd<OwnedFd>,
    name: OsString,
}

impl Changes {
    fn of(path: &Path) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let kinds = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, path.parent().unwrap_or(path), kinds)?;
        let name = path.file_name().unwrap_or_default().to_owned();
        #[expect(deprecated, reason = "an owned descriptor keeps what its successor has promised")]
        Ok(Self { watch: AsyncFd::new(watch)?, name })
    }

    async fn wait(&self) -> io::Result<()> {
        loop {
            let mut ready = self.watch.readable().await?;
            let told = self.are_there();
            ready.clear_ready();
            if told {
                return Ok(());
            }
        }
    }

    /// Takes all that is pending at once, because one look at the files serves it all; tells
    /// whether anything of it is about the log.
    fn are_there(&self) -> bool {
        let mut buffer = [const { MaybeUninit::uninit() }; 4096];
        let mut events = inotify::Reader::new(self.watch.get_ref(), &mut buffer);
        let mut told = false;
        while let Ok(event) = events.next() {
            // What has no name tells that some were lost.
            let is_it = |name: &CStr| name.to_bytes() == self.name.as_bytes();
            told |= event.file_name().is_none_or(is_it);
        }
        told
    }
}
