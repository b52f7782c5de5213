//! Calling an OCI runtime.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::protocol::{Config, RuntimeCommand};
pub use super::system::unmount_hybrid;
use super::system::{self, Scene};

/// As much as is read of what a program says.
const LONGEST: usize = 64 * 1024;
/// How long a program may take to be gone that was killed.
const GOING: Duration = Duration::from_secs(2);

/// What a call of a program came to.
#[derive(Debug)]
pub struct Called {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub output: String,
    /// What it wrote to standard error.
    pub errors: String,
}

/// Runs a program with this input, and waits for its end: but no longer than `limit`, after which it
/// is killed with all that it has started.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] if it did not end in time.
pub fn call(command: &mut Command, input: &[u8], limit: Duration) -> io::Result<Called> {
    let end = Instant::now() + limit;
    let mut child = command
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let status = (|| {
        // One that does not read it says why not.
        let _ = feed(&mut child, input);
        let (mut stdout, mut stderr) = (pipe(child.stdout.take())?, pipe(child.stderr.take())?);
        let status =
            wait(&mut child, end, &mut [(&mut stdout, &mut output), (&mut stderr, &mut errors)])?;
        status.ok_or_else(|| {
            io::Error::new(io::ErrorKind::TimedOut, format!("it did not answer within {limit:?}"))
        })
    })();
    if status.is_err() {
        end_all(&mut child);
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Called { status: status?, output: text(output), errors: text(errors) })
}

/// Writes the input, which is no longer than what a pipe takes, and ends it.
fn feed(child: &mut Child, input: &[u8]) -> io::Result<()> {
    match child.stdin.take() {
        Some(stdin) if !input.is_empty() => {
            let mut stdin = pipe(Some(stdin))?;
            stdin.write_all(input)
        }
        _ => Ok(()),
    }
}

/// The end of a pipe that does not block.
fn pipe(end: Option<impl Into<OwnedFd>>) -> io::Result<File> {
    let file: OwnedFd = end.ok_or(io::ErrorKind::BrokenPipe)?.into();
    let flags = OFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(file.into())
}

/// Reads what a child says until it ends, or until this time: `None`.
fn wait(
    child: &mut Child,
    end: Instant,
    streams: &mut [(&mut File, &mut Vec<u8>)],
) -> io::Result<Option<ExitStatus>> {
    let exited = pidfd_of(child)?;
    let mut open = vec![true; streams.len()];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut set = vec![PollFd::new(exited.as_fd(), PollFlags::POLLIN)];
        for ((file, _), _) in streams.iter().zip(&open).filter(|(_, open)| **open) {
            set.push(PollFd::new(file.as_fd(), PollFlags::POLLIN));
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let ready = match poll(&mut set, timeout) {
            Err(nix::errno::Errno::EINTR) => continue,
            ready => ready?,
        };
        let over = set[0].revents().is_some_and(|events| !events.is_empty());
        for ((file, bytes), open) in streams.iter_mut().zip(&mut open) {
            *open = *open && read_on(file, bytes);
        }
        if over {
            return child.wait().map(Some);
        }
        if ready == 0 && left.is_zero() {
            return Ok(None);
        }
    }
}

/// Reads what is there; tells whether there may be more.
fn read_on(file: &mut File, bytes: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) if bytes.len() < LONGEST => bytes.extend_from_slice(&buffer[..length]),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

/// Ends a child that nobody waits for any more, and what it has started.
fn end_all(child: &mut Child) {
    let _ = system::kill(-child.id().cast_signed(), libc::SIGKILL);
    let Ok(exited) = pidfd_of(child) else { return };
    let mut set = [PollFd::new(exited.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(GOING).unwrap_or(PollTimeout::MAX);
    // One that the kernel does not let go is left to it: nobody is to wait for that.
    if poll(&mut set, timeout).is_ok_and(|ready| ready > 0) {
        let _ = child.wait();
    }
}

fn pidfd_of(child: &Child) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

impl Config {
    /// Nothing to read, and nobody who reads.
    ///
    /// A runtime gives its streams to the root of a user namespace, who must not get the host's null
    /// device: it has others, with as little in them.
    pub(super) fn quiet(&self, command: &mut Command) -> io::Result<()> {
        if self.view.as_ref().is_none_or(|view| view.user.is_none()) {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            return Ok(());
        }
        let output = File::from(memfd_create(c"runtime", MemfdFlags::CLOEXEC)?);
        command.stdin(io::pipe()?.0).stdout(output.try_clone()?).stderr(output);
        Ok(())
    }
}

/// The command up to its subcommand.
pub fn command(runtime: &RuntimeCommand) -> Command {
    let mut command = bare(runtime);
    if runtime.hide_hybrid {
        system::hide_hybrid(&mut command);
    }
    command
}

/// The same for a container whose root file system is a mount of its own.
pub(super) fn with_view(runtime: &RuntimeCommand, scene: Scene) -> Command {
    let mut command = bare(runtime);
    scene.enter(&mut command);
    command
}

fn bare(runtime: &RuntimeCommand) -> Command {
    let mut command = Command::new(&runtime.program);
    command.args(&runtime.arguments).arg("--root").arg(&runtime.root);
    command
}
