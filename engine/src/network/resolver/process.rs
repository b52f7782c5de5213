//! The process `rnet-dns`: found, started, ended. Every wait for it has a limit.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dns::client::{self, Client, ClientError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use engine_error::{Error, Result};

/// How long a new process may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(5);

/// How long a process may take to end, in milliseconds.
const END_LIMIT: u16 = 5000;

/// How long to wait between two looks whether it listens, in milliseconds.
const MOMENT: u16 = 2;

/// Where the process is reached, and what it is made of.
#[derive(Debug)]
pub(super) struct Program {
    socket: PathBuf,
    path: PathBuf,
    /// Processes that this one started and has not seen end.
    children: Mutex<Vec<Child>>,
}

/// A process that runs, or did: another one never stands in its place.
#[derive(Debug)]
pub(super) struct Process(OwnedFd);

/// Who listens at the socket.
#[derive(Debug)]
pub(super) enum Found {
    /// Nobody.
    Nobody,
    /// One who answers.
    Answering(Client, Process),
    /// One who does not answer, or not in our words.
    Useless(Process, ClientError),
}

impl Program {
    pub(super) fn new(socket: PathBuf, path: PathBuf) -> Self {
        Self { socket, path, children: Mutex::default() }
    }

    /// Looks who is there.
    pub(super) fn find(&self) -> Found {
        // First the process: that is known also of one that hangs.
        let Ok(listener) = client::listener(&self.socket) else { return Found::Nobody };
        let process = Process(listener);
        match Client::connect(&self.socket) {
            Ok(client) => Found::Answering(client, process),
            Err(_) if process.ends_within(0) => Found::Nobody,
            Err(error) => Found::Useless(process, error),
        }
    }

    /// Whoever answers, or a new process. One who hangs is ended: all that he holds is free then.
    pub(super) fn find_or_start(&self) -> Result<(Client, Process)> {
        match self.find() {
            Found::Answering(client, process) => Ok((client, process)),
            Found::Nobody => self.start(),
            Found::Useless(process, error) => {
                let error = Error::from(error).chain();
                tracing::warn!(error, "a useless rnet-dns is replaced");
                self.kill(&process)?;
                self.start()
            }
        }
    }

    /// Ends a process, whatever it is at.
    pub(super) fn kill(&self, process: &Process) -> Result<()> {
        // That it has ended already is no error.
        let _ = pidfd_send_signal(&process.0, Signal::KILL);
        if !process.ends_within(END_LIMIT) {
            let message = format!(
                "cannot end rnet-dns at {}: the kernel keeps it; see its state in `ps`",
                self.socket.display()
            );
            return Err(Error::new(cnm::Kind::Unavailable, message));
        }
        self.bury();
        Ok(())
    }

    /// Asks whoever listens to end, and ends him if he does not; the process that is known, too.
    pub(super) fn end(&self, known: Option<Process>) -> Result<()> {
        let listener = match self.find() {
            Found::Nobody => None,
            Found::Useless(process, _) => Some(process),
            Found::Answering(client, process) => {
                match client.shutdown() {
                    Ok(()) => drop(process.ends_within(END_LIMIT)),
                    Err(error) => {
                        tracing::warn!(error = Error::from(error).chain(), "rnet-dns is ended");
                    }
                }
                Some(process)
            }
        };
        [listener, known].into_iter().flatten().try_for_each(|process| self.kill(&process))
    }

    /// Starts the process in a group of its own, so that what ends the daemon does not end it.
    fn start(&self) -> Result<(Client, Process)> {
        self.bury();
        let failed =
            |error| Error::internal(format!("cannot start {}", self.path.display()), error);
        let child = Command::new(&self.path)
            .env_remove("NOTIFY_SOCKET")
            .arg("--socket")
            .arg(&self.socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.log().map_err(failed)?)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let process = self.process_of(&child);
        self.children.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        let process = process?;
        match self.greet(&process) {
            Ok(client) => Ok((client, process)),
            Err(error) => {
                self.kill(&process)?;
                Err(error.into())
            }
        }
    }

    /// Waits until a new process listens.
    fn greet(&self, process: &Process) -> Result<Client, ClientError> {
        let begun = Instant::now();
        loop {
            let error = match Client::connect(&self.socket) {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            if process.ends_within(MOMENT) || begun.elapsed() > START_LIMIT {
                return Err(error);
            }
        }
    }

    /// Where the process complains. It keeps the file small itself, for which it reads it.
    fn log(&self) -> io::Result<File> {
        let path = self.socket.with_extension("log");
        OpenOptions::new().create(true).read(true).append(true).open(path)
    }

    fn process_of(&self, child: &Child) -> Result<Process> {
        let failed = || format!("cannot watch rnet-dns at {}", self.socket.display());
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::new(cnm::Kind::Internal, failed()))?;
        let opened = pidfd_open(pid, PidfdFlags::empty());
        opened.map(Process).map_err(|error| Error::internal(failed(), error))
    }

    /// Takes note of children that have ended.
    fn bury(&self) {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

impl Process {
    /// Readable when the process has ended.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Waits for its end, so many milliseconds at most.
    fn ends_within(&self, limit: u16) -> bool {
        let mut ended = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut ended, PollTimeout::from(limit)).is_ok_and(|ended| ended > 0)
    }
}
