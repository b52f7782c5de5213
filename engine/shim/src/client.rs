//! The daemon's side of a shim: starting one, and asking it.

use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use cnm::{HasKind, Kind};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::protocol::{
    Config, EXIT, Event, Exec, Exit, Failure, GO, LIMIT, MOST_DESCRIPTORS, Reply, Request, SOCKET,
    Started, Status, Streams, View,
};

/// The longest line a shim sends: a status with all its exits.
const LONGEST_LINE: u64 = 1 << 20;
/// How long a shim may take for an answer. It has nothing to wait for, but it may have been stopped.
const ANSWER: Duration = Duration::from_secs(10);

/// A failed conversation with a shim.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// The container or the exec'd process could not be started.
    #[error("{}", .0.error)]
    Start(Failure),
    /// The shim does not answer: it has ended, or never was.
    #[error("the shim of container {container} is gone")]
    Gone {
        /// The container, by its directory's name.
        container: String,
        /// What the socket said.
        source: io::Error,
    },
    /// The shim is there, and does not answer.
    #[error("the shim of container {container} did not answer within {limit:?}")]
    Silent {
        /// The container, by its directory's name.
        container: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The process asked about does not run.
    #[error("process {process} is not running")]
    NotRunning {
        /// The exec'd process's or the container's id.
        process: String,
    },
    /// The shim could not be started or spoken to.
    #[error("cannot {action} the shim of container {container}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The container.
        container: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The shim refused.
    #[error("the shim of container {container} refused: {message}")]
    Refused {
        /// The container.
        container: String,
        /// Its reason.
        message: String,
    },
}

impl HasKind for ShimError {
    fn kind(&self) -> Kind {
        match self {
            Self::Start(failure) if matches!(failure.code, 126 | 127) => Kind::Invalid,
            Self::NotRunning { .. } => Kind::Conflict,
            Self::Gone { .. } | Self::Silent { .. } => Kind::Unavailable,
            Self::Start(_) | Self::Io { .. } | Self::Refused { .. } => Kind::Internal,
        }
    }
}

/// Starts shims. Keeps one ready, so that a container's start does not wait for the program to be
/// loaded; the ready one ends by itself when the daemon does.
#[derive(Debug)]
pub struct Shims {
    program: PathBuf,
    ready: Mutex<Option<Pending>>,
}

/// A shim that has been started and not yet been told what to do.
#[derive(Debug)]
struct Pending {
    child: Child,
    socket: BlockingStream,
}

impl Shims {
    /// Shims are started from `program`, the `rnet-shim` binary.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), ready: Mutex::new(None) }
    }

    /// Has a shim make a container and, if `config.held` says so, hold it back. Blocks no longer
    /// than it takes to tell the shim. `descriptors` are those of the configuration's view, if it has
    /// one, and then sockets that take part in the container's streams from the first byte on, as
    /// `config.attached` says.
    pub fn begin(&self, config: &Config, descriptors: &[OwnedFd]) -> Result<Starting, ShimError> {
        let expected = config.attached.len() + config.view.as_ref().map_or(0, View::descriptors);
        debug_assert_eq!(descriptors.len(), expected);
        let failed =
            |action| move |source| ShimError::Io { action, container: config.id.clone(), source };
        let ready = self.ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let mut sent = Err(io::ErrorKind::NotConnected.into());
        let mut pending = ready;
        if let Some(shim) = &pending {
            sent = shim.send(config, descriptors);
        }
        if sent.is_err() {
            let fresh = Pending::start(&self.program).map_err(failed("start"))?;
            fresh.send(config, descriptors).map_err(failed("configure"))?;
            pending = Some(fresh);
        }
        let shim = pending.ok_or_else(|| failed("start")(io::ErrorKind::NotConnected.into()))?;
        // It takes a runtime to make the container, and one to take away what came of it.
        let limit = config.runtime.limit * 2 + ANSWER;
        Ok(Starting { shim, container: config.id.clone(), held: config.held, limit })
    }

    /// Starts a shim and its container: blocks until the container runs or has failed to.
    ///
    /// # Errors
    /// [`ShimError::Start`] with Docker's text and exit code if the runtime refused.
    pub fn spawn(&self, config: &Config, descriptors: &[OwnedFd]) -> Result<i32, ShimError> {
        self.begin(config, descriptors)?.run()
    }

    /// Makes the next [`Shims::spawn`] quick. To be called when nobody waits: after a start has been
    /// answered, and when the daemon is up.
    pub fn prepare(&self) -> io::Result<()> {
        let mut ready = self.ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if ready.is_none() {
            *ready = Some(Pending::start(&self.program)?);
        }
        Ok(())
    }
}

impl Pending {
    fn start(program: &Path) -> io::Result<Self> {
        let (ours, theirs) = BlockingStream::pair()?;
        let child = Command::new(program)
            // The service manager talks to the daemon alone; a runtime would answer for it.
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, socket: ours })
    }

    /// Hands over the configuration; the descriptors travel with its first byte.
    fn send(&self, config: &Config, descriptors: &[OwnedFd]) -> io::Result<()> {
        let line = line(config)?;
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors))
        {
            return Err(io::Error::other("too many descriptors for one message"));
        }
        let slices = [IoSlice::new(&line)];
        let sent = sendmsg(&self.socket, &slices, &mut ancillary, SendFlags::NOSIGNAL)?;
        (&self.socket).write_all(&line[sent..])
    }

    /// Waits for the one line, so long; the process we started has made way for its grandchild by
    /// then.
    fn result(mut self, limit: Duration) -> io::Result<Started> {
        let mut answer = String::new();
        let end = Instant::now() + limit;
        let read = read_until(&self.socket, end, &mut answer);
        self.forget();
        read?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        serde_json::from_str(&answer).map_err(Into::into)
    }

    /// Reaps the process that we started. It has ended, or hangs and is of no use.
    fn forget(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a line, or all that there is, until this time.
fn read_until(socket: &BlockingStream, end: Instant, into: &mut String) -> io::Result<()> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "it does not answer");
    let mut reader = BufReader::new(socket);
    while !into.ends_with('\n') {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        socket.set_read_timeout(Some(left))?;
        match reader.read_line(into) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(late()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Drop for Shims {
    fn drop(&mut self) {
        let ready = self.ready.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(Pending { mut child, socket }) = ready.take() {
            drop(socket);
            // It has read the end of its input and is about to end.
            let _ = child.wait();
        }
    }
}

/// A container on its way. Dropped, it is taken away again if it is held back.
#[derive(Debug)]
#[must_use = "the container is there when this has run"]
pub struct Starting {
    shim: Pending,
    container: String,
    held: bool,
    /// How long to wait for it.
    limit: Duration,
}

impl Starting {
    /// Lets the container run: blocks until it does, or has failed to.
    ///
    /// # Errors
    /// [`ShimError::Start`] with Docker's text and exit code if the runtime refused.
    pub fn run(self) -> Result<i32, ShimError> {
        let Self { shim, container, held, limit } = self;
        if held {
            // A shim that is gone has said why, or says nothing.
            let _ = (&shim.socket).write_all(GO);
        }
        let heard = shim.result(limit);
        match heard.map_err(|source| ShimError::Io { action: "hear from", container, source })? {
            Started::Running { pid } => Ok(pid),
            Started::Failed(failure) => Err(ShimError::Start(failure)),
        }
    }

    /// Has a container that is held back taken away again: blocks until nothing is left of it.
    pub fn cancel(self) {
        let Self { mut shim, limit, .. } = self;
        // It may have failed by itself, and have gone.
        let _ = shim.socket.shutdown(Shutdown::Write);
        let end = Instant::now() + limit;
        let mut said = String::new();
        // One line at most, and the end.
        while read_until(&shim.socket, end, &mut said).is_ok() && !said.is_empty() {
            said.clear();
        }
        shim.forget();
    }
}

/// A running shim, reached by the socket in its directory.
#[derive(Clone, Debug)]
pub struct ShimClient {
    directory: PathBuf,
    /// How long it may take for an answer.
    limit: Duration,
}

/// A started exec.
#[derive(Debug)]
pub struct ExecStarted {
    /// The process, as the host sees it.
    pub pid: i32,
    /// Its streams, if any were asked for.
    pub stream: Option<UnixStream>,
}

/// The events of a shim.
#[derive(Debug)]
pub struct Watch {
    lines: tokio::io::BufReader<UnixStream>,
}

impl ShimClient {
    /// The shim whose directory this is. Nothing is checked before the first request.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), limit: ANSWER }
    }

    /// The same, but with less or more patience for its answers.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// What runs, and what has ended.
    pub async fn status(&self) -> Result<Status, ShimError> {
        let asked = async {
            let mut stream = self.connect().await?;
            stream.write_all(&line(&Request::Status)?).await?;
            // A long reply, with nothing behind it: the shim closes the connection.
            let mut reply = Vec::new();
            stream.take(LONGEST_LINE).read_to_end(&mut reply).await?;
            Ok(serde_json::from_slice(&reply)?)
        };
        match self.within(self.limit, asked).await? {
            Reply::Status(status) => Ok(status),
            other => Err(self.refused(other, "")),
        }
    }

    /// Sends a signal to the container's first process, or to an exec'd one.
    pub async fn kill(&self, signal: i32, exec: Option<&str>) -> Result<(), ShimError> {
        let request = Request::Kill { exec: exec.map(str::to_owned), signal };
        self.done(&request, exec).await
    }

    /// Sets the size of the terminal of the container's first process, or of an exec'd one.
    pub async fn resize(
        &self,
        rows: u16,
        columns: u16,
        exec: Option<&str>,
    ) -> Result<(), ShimError> {
        let request = Request::Resize { exec: exec.map(str::to_owned), rows, columns };
        self.done(&request, exec).await
    }

    /// The streams of the container's first process, from now on.
    pub async fn attach(&self, streams: Streams) -> Result<UnixStream, ShimError> {
        match self.ask(&Request::Attach(streams)).await? {
            (Reply::Done, stream) => Ok(stream),
            (other, _) => Err(self.refused(other, "")),
        }
    }

    /// Starts another process in the container; answers when it runs or has failed to.
    pub async fn exec(&self, exec: Exec) -> Result<ExecStarted, ShimError> {
        let id = exec.id.clone();
        let streams = exec.streams;
        match self.ask(&Request::Exec(exec)).await? {
            (Reply::Running { pid }, stream) => {
                let wanted = streams != Streams::default();
                Ok(ExecStarted { pid, stream: wanted.then_some(stream) })
            }
            (other, _) => Err(self.refused(other, &id)),
        }
    }

    /// The exits of the past and of the future.
    pub async fn watch(&self) -> Result<Watch, ShimError> {
        match self.ask(&Request::Watch).await? {
            (Reply::Done, stream) => Ok(Watch { lines: tokio::io::BufReader::new(stream) }),
            (other, _) => Err(self.refused(other, "")),
        }
    }

    async fn done(&self, request: &Request, exec: Option<&str>) -> Result<(), ShimError> {
        match self.ask(request).await?.0 {
            Reply::Done => Ok(()),
            other => Err(self.refused(other, exec.unwrap_or_default())),
        }
    }

    /// One request, one reply; what remains of the connection is the stream.
    async fn ask(&self, request: &Request) -> Result<(Reply, UnixStream), ShimError> {
        let asked = async {
            let mut stream = self.connect().await?;
            stream.write_all(&line(request)?).await?;
            let reply = read_reply(&mut stream).await?;
            Ok((reply, stream))
        };
        let limit = match request {
            Request::Exec(_) => self.limit + LIMIT,
            _ => self.limit,
        };
        self.within(limit, asked).await
    }

    /// Waits for an answer, so long.
    async fn within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = io::Result<T>>,
    ) -> Result<T, ShimError> {
        let container = self.container();
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer.map_err(|source| ShimError::Gone { container, source }),
            Err(_) => Err(ShimError::Silent { container, limit }),
        }
    }

    /// Connects through the directory's descriptor, because a socket's path is at most 108 bytes.
    async fn connect(&self) -> io::Result<UnixStream> {
        let directory = std::fs::File::open(&self.directory)?;
        UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())).await
    }

    fn container(&self) -> String {
        self.directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn refused(&self, reply: Reply, process: &str) -> ShimError {
        let container = self.container();
        match reply {
            Reply::Failed(failure) => ShimError::Start(failure),
            Reply::NotRunning if process.is_empty() => ShimError::NotRunning { process: container },
            Reply::NotRunning => ShimError::NotRunning { process: process.to_owned() },
            Reply::Error { message } => ShimError::Refused { container, message },
            other => ShimError::Refused { container, message: format!("it answered {other:?}") },
        }
    }
}

impl Watch {
    /// Waits until the shim has ended: it does when the runtime has removed what it made, or has had
    /// the time for it.
    pub async fn end(mut self) {
        let ended = async { while self.next().await.is_some() {} };
        let _ = tokio::time::timeout(LIMIT + ANSWER * 2, ended).await;
    }

    /// The next event; `None` when the shim has ended, or is gone.
    pub async fn next(&mut self) -> Option<Event> {
        let mut line = String::new();
        let mut limited = (&mut self.lines).take(LONGEST_LINE);
        match limited.read_line(&mut line).await {
            Ok(0) | Err(_) => None,
            Ok(_) => serde_json::from_str(&line).ok(),
        }
    }
}

/// When the shim of a directory began to serve.
pub fn started(directory: &Path) -> Option<SystemTime> {
    std::fs::symlink_metadata(directory.join(SOCKET)).and_then(|meta| meta.modified()).ok()
}

/// How the container of a shim's directory ended, if its shim has written that down.
pub fn exit(directory: &Path) -> Option<Exit> {
    let text = std::fs::read(directory.join(EXIT)).ok()?;
    serde_json::from_slice(&text).ok()
}

fn line<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// Reads byte by byte: what follows the line belongs to the stream.
async fn read_reply<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let mut line = Vec::with_capacity(128);
    loop {
        let byte = stream.read_u8().await?;
        if byte == b'\n' {
            return serde_json::from_slice(&line).map_err(Into::into);
        }
        if line.len() as u64 == LONGEST_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "endless reply"));
        }
        line.push(byte);
    }
}
