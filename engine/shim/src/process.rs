//! A process of the container, from the call of the runtime to its exit status: its stdio and its
//! state.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;

use super::console::ConsoleSocket;
use super::failure::Remains;
use super::jsonfile::Stream;
use super::log::Log;
use super::peer::Peer;
use super::program::Program;
use super::protocol::{Config, Failure, Stdin};
use super::system::Scene;
use super::{launch, system};

/// Input a process has not read yet; its clients wait when there is more.
const INPUT_LIMIT: usize = 64 * 1024;
/// The longest path of a socket.
const SOCKET_PATH: usize = 100;
/// How long a process that was let go may take to become its own program.
const BECOMES: Duration = Duration::from_secs(2);
/// As much as is read of what a runtime says.
const LONGEST_LOG: u64 = 64 * 1024;

/// A process of the container.
#[derive(Debug)]
pub(super) struct Process {
    /// The shim's own number for it; the container's first process is 0.
    pub(super) id: u64,
    /// The client's id for it, if it was exec'd.
    pub(super) exec: Option<String>,
    pub(super) tty: bool,
    pub(super) phase: Phase,
    size: Option<(u16, u16)>,
    terminal: Option<OwnedFd>,
    input: Option<Input>,
    pub(super) outputs: Vec<Output>,
    pub(super) log: Option<Log>,
}

/// How far it is.
#[derive(Debug)]
pub(super) enum Phase {
    /// The runtime is at work.
    Launching { runtime: i32, console: Option<ConsoleSocket>, files: Files, since: Instant },
    /// It is made and waits to be let go.
    Held { pid: i32 },
    /// It has been let go, and may still run the runtime's program.
    Released { pid: i32, before: Program, since: Instant },
    /// It runs.
    Running { pid: i32 },
    /// It has ended, and what it wrote is still being read.
    Ended { code: i32, signal: Option<i32>, time: String, at: Instant, published: bool },
}

/// One output stream that has not ended.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) file: File,
    stream: Stream,
}

/// The way to its stdin.
#[derive(Debug)]
struct Input {
    file: File,
    queue: VecDeque<u8>,
    once: bool,
    closing: bool,
}

/// What the runtime leaves in the shim's directory at a start.
#[derive(Debug)]
pub(super) struct Files {
    pid: PathBuf,
    log: PathBuf,
    process: Option<PathBuf>,
}

/// What a process is started with.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) config: &'a Config,
    pub(super) id: u64,
    pub(super) tty: bool,
    pub(super) size: Option<(u16, u16)>,
    pub(super) stdin: Stdin,
    pub(super) log: Option<Log>,
    /// The descriptors of [`Config::view`], for the container's first process.
    pub(super) view: Vec<OwnedFd>,
    /// The exec'd process: its id and its OCI object; the container itself if absent.
    pub(super) exec: Option<(String, &'a serde_json::Value)>,
    /// The score the daemon had.
    pub(super) oom_score: Option<i32>,
}

impl Launch<'_> {
    /// Calls the runtime. What becomes of it is known when that ends.
    pub(super) fn start(mut self) -> io::Result<Process> {
        let name = self.exec.as_ref().map_or("init".to_owned(), |_| format!("exec-{}", self.id));
        let files = self.files(&name)?;
        let runtime = &self.config.runtime;
        let descriptors = std::mem::take(&mut self.view);
        let mut command = match &self.config.view {
            Some(view) if !descriptors.is_empty() => {
                launch::with_view(runtime, Scene::new(descriptors, view, &self.config.bundle)?)
            }
            _ => launch::command(runtime),
        };
        system::restore_signals(&mut command, self.oom_score);
        command.current_dir(&self.config.bundle);
        command.arg("--log").arg(&files.log).args(["--log-format", "json"]);
        match &files.process {
            None => command.args(["create", "--bundle"]).arg(&self.config.bundle),
            Some(process) => command.args(["exec", "--detach", "--process"]).arg(process),
        };
        command.arg("--pid-file").arg(&files.pid);
        let mut console = None;
        let (mut input, mut outputs) = (None, Vec::new());
        self.config.quiet(&mut command)?;
        if self.tty {
            let socket = format!("{name}.tty");
            console = Some(ConsoleSocket::bind(Path::new(&socket))?);
            command.arg("--console-socket").arg(self.socket_path(&socket));
        } else {
            if self.stdin != Stdin::Closed {
                let (read, write) = pipe()?;
                command.stdin(read);
                input = Some(Input::new(write, self.stdin)?);
            }
            for stream in [Stream::Stdout, Stream::Stderr] {
                let (read, write) = pipe()?;
                match stream {
                    Stream::Stdout => command.stdout(write),
                    Stream::Stderr => command.stderr(write),
                };
                outputs.push(Output::new(read, stream)?);
            }
        }
        // A group of its own, so that all of it can be ended.
        command.process_group(0);
        let runtime = command.arg(&self.config.id).spawn()?.id().cast_signed();
        Ok(Process {
            id: self.id,
            exec: self.exec.map(|(id, _)| id),
            tty: self.tty,
            phase: Phase::Launching { runtime, console, files, since: Instant::now() },
            size: self.size,
            terminal: None,
            input,
            outputs,
            log: self.log,
        })
    }

    fn files(&self, name: &str) -> io::Result<Files> {
        let file = |suffix: &str| self.config.directory.join(format!("{name}.{suffix}"));
        let files = Files {
            pid: file("pid"),
            log: file("log"),
            process: self.exec.is_some().then(|| file("json")),
        };
        for stale in [&files.pid, &files.log] {
            let _ = std::fs::remove_file(stale);
        }
        if let (Some(path), Some((_, process))) = (&files.process, &self.exec) {
            std::fs::write(path, serde_json::to_vec(process)?)?;
        }
        Ok(files)
    }

    /// The socket as the runtime is told it: relative to its working directory if need be.
    fn socket_path(&self, name: &str) -> PathBuf {
        let path = self.config.directory.join(name);
        if path.as_os_str().len() < SOCKET_PATH { path } else { name.into() }
    }
}

/// How a runtime came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RuntimeEnd {
    /// It ended with this code.
    Exited(i32),
    /// It was ended, for it took longer than this.
    Late(Duration),
}

impl fmt::Display for RuntimeEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "the runtime ended with code {code}"),
            Self::Late(limit) => {
                write!(f, "the runtime did not answer within {limit:?} and was killed")
            }
        }
    }
}

impl Files {
    /// The process that the runtime has made.
    fn read_pid(&self) -> Option<i32> {
        std::fs::read_to_string(&self.pid).ok()?.trim().parse().ok().filter(|pid| *pid > 0)
    }

    /// What was to be run, for an error message that has to name it.
    fn program(&self) -> String {
        let (path, object) = match &self.process {
            Some(path) => (path.as_path(), ""),
            None => (Path::new("config.json"), "/process"),
        };
        let text = std::fs::read(path).unwrap_or_default();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let program = json.pointer(&format!("{object}/args/0"));
        program.and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    }

    fn failure(&self, of_exec: bool, errors: &str, fallback: &str) -> Failure {
        let log = tail(&self.log).unwrap_or_default();
        let remains = Remains {
            log: &String::from_utf8_lossy(&log),
            errors,
            program: &self.program(),
            fallback,
        };
        if of_exec { remains.of_exec() } else { remains.of_create() }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        for path in [Some(&self.pid), Some(&self.log), self.process.as_ref()].into_iter().flatten()
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Input {
    fn new(file: impl Into<OwnedFd>, mode: Stdin) -> io::Result<Self> {
        let file = file.into();
        nonblocking(&file)?;
        let once = mode == Stdin::Once;
        Ok(Self { file: file.into(), queue: VecDeque::new(), once, closing: false })
    }
}

impl Output {
    fn new(file: impl Into<OwnedFd>, stream: Stream) -> io::Result<Self> {
        let file = file.into();
        nonblocking(&file)?;
        Ok(Self { file: file.into(), stream })
    }
}

impl Process {
    /// Its number on the host, while it runs.
    pub(super) fn pid(&self) -> Option<i32> {
        match self.phase {
            Phase::Released { pid, .. } | Phase::Running { pid } => Some(pid),
            _ => None,
        }
    }

    /// Whether it has been let go and not been seen to run its own program.
    pub(super) fn released(&self) -> Option<Instant> {
        match self.phase {
            Phase::Released { since, .. } => Some(since),
            _ => None,
        }
    }

    /// Looks whether a process that has been let go runs its own program now; tells whether it does.
    pub(super) fn look(&mut self) -> bool {
        let Phase::Released { pid, before, since } = &self.phase else { return false };
        // A program that does not come, from a file system that hangs say, is not waited for: the
        // process is there, and can be killed.
        let runs = since.elapsed() > BECOMES || Program::of(*pid).is_ok_and(|now| now != *before);
        if runs {
            self.phase = Phase::Running { pid: *pid };
        }
        runs
    }

    /// The runtime has ended: an exec'd process runs, the container's first one waits to be let go,
    /// or it has failed to start.
    pub(super) fn launched(&mut self, end: RuntimeEnd) -> Result<i32, Failure> {
        self.take_terminal();
        let Phase::Launching { files, .. } = &self.phase else {
            return self.pid().ok_or(Failure { error: "it has ended".to_owned(), code: 128 });
        };
        match (files.read_pid(), end) {
            (Some(pid), RuntimeEnd::Exited(0)) => {
                let held = self.exec.is_none();
                self.phase = if held { Phase::Held { pid } } else { Phase::Running { pid } };
                Ok(pid)
            }
            (_, end) => {
                let errors = self.errors();
                Err(files.failure(self.exec.is_some(), &errors, &end.to_string()))
            }
        }
    }

    /// What a runtime that failed wrote where the process would have written.
    fn errors(&self) -> String {
        let mut errors = Vec::new();
        for output in self.outputs.iter().filter(|output| output.stream == Stream::Stderr) {
            // It ends where there is no more for now.
            let _ = (&output.file).take(LONGEST_LOG).read_to_end(&mut errors);
        }
        String::from_utf8_lossy(&errors).into_owned()
    }

    /// Ends a runtime that has been at work for too long; tells whether there was one.
    pub(super) fn lose_patience(&self, now: Instant, limit: Duration) -> bool {
        let Phase::Launching { runtime, since, files, .. } = &self.phase else { return false };
        let late = now.duration_since(*since) >= limit;
        if late {
            // They may have ended just now.
            let _ = system::kill(-runtime, libc::SIGKILL);
            if let Some(pid) = files.read_pid() {
                let _ = system::kill(pid, libc::SIGKILL);
            }
        }
        late
    }

    /// Takes the terminal from the runtime, if it is there.
    pub(super) fn take_terminal(&mut self) {
        let Phase::Launching { console, .. } = &mut self.phase else { return };
        let Some(Ok(Some(terminal))) = console.as_ref().map(ConsoleSocket::receive) else { return };
        *console = None;
        let mut adopt = || -> io::Result<()> {
            if let Some((rows, columns)) = self.size {
                system::resize(terminal.as_fd(), rows, columns)?;
            }
            self.outputs.push(Output::new(terminal.try_clone()?, Stream::Stdout)?);
            self.input = Some(Input::new(terminal.try_clone()?, Stdin::Open)?);
            Ok(())
        };
        // A terminal that cannot be used is one that has hung up.
        let _ = adopt();
        self.terminal = Some(terminal);
    }

    /// Sets the terminal's size, now or when there is one.
    pub(super) fn resize(&mut self, rows: u16, columns: u16) -> io::Result<()> {
        self.size = Some((rows, columns));
        match &self.terminal {
            Some(terminal) => system::resize(terminal.as_fd(), rows, columns),
            None => Ok(()),
        }
    }

    /// Reads what it wrote, for the log and for every client, until there is no more for now.
    pub(super) fn pump(&mut self, output: usize, peers: &mut [Peer], buffer: &mut [u8]) {
        loop {
            if peers.iter().any(|peer| peer.is_congested() && peer.streams_of(self.id).is_some()) {
                return;
            }
            let stream = self.outputs[output].stream;
            match self.outputs[output].file.read(buffer) {
                Ok(length) if length > 0 => {
                    if let Some(log) = &mut self.log {
                        // A full disk must not stop the container.
                        let _ = log.write(stream, &buffer[..length]);
                    }
                    for peer in &mut *peers {
                        peer.output(self.id, stream, &buffer[..length]);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A terminal whose last user has closed it says EIO.
                Ok(_) | Err(_) => {
                    self.outputs.remove(output);
                    if let Some(log) = &mut self.log {
                        let _ = log.end(stream);
                    }
                    return;
                }
            }
        }
    }

    /// Whether it takes input at present.
    pub(super) fn wants_input(&self) -> bool {
        self.input.as_ref().is_some_and(|input| input.queue.len() < INPUT_LIMIT && !input.closing)
    }

    pub(super) fn has_input(&self) -> bool {
        self.input.is_some()
    }

    /// Passes input on.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if let Some(input) = &mut self.input
            && !input.closing
        {
            input.queue.extend(bytes);
        }
        self.drain_input();
    }

    /// A client's input has ended. Whether that ends the process's input too.
    pub(super) fn client_ended(&mut self) -> bool {
        let Some(input) = &mut self.input else { return true };
        if self.tty || !input.once {
            return false;
        }
        input.closing = true;
        self.drain_input();
        true
    }

    /// Writes queued input as far as the process takes it.
    pub(super) fn drain_input(&mut self) {
        let Some(input) = &mut self.input else { return };
        while !input.queue.is_empty() {
            match input.file.write(input.queue.as_slices().0) {
                Ok(written) => drop(input.queue.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody reads any more.
                Err(_) => {
                    input.queue.clear();
                    input.closing = true;
                }
            }
        }
        if input.closing && !self.tty {
            self.input = None;
        }
    }

    /// The file to wait on for room for queued input.
    pub(super) fn pending_input(&self) -> Option<&File> {
        self.input.as_ref().filter(|input| !input.queue.is_empty()).map(|input| &input.file)
    }

    /// It never came to be.
    pub(super) fn give_up(&mut self) {
        self.outputs.clear();
        self.release();
        let at = Instant::now();
        self.phase =
            Phase::Ended { code: 128, signal: None, time: String::new(), at, published: true };
    }

    /// Lets go of everything that its descendants might still hold open.
    pub(super) fn release(&mut self) {
        for output in std::mem::take(&mut self.outputs) {
            if let Some(log) = &mut self.log {
                let _ = log.end(output.stream);
            }
        }
        self.input = None;
        self.terminal = None;
    }
}

/// The end of a file, as much of it as a runtime's log is worth.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LONGEST_LOG)))?;
    let mut bytes = Vec::new();
    file.take(LONGEST_LOG).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe2(OFlag::O_CLOEXEC)?)
}

fn nonblocking(file: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
