//! User namespaces, with the network namespaces that belong to them.
//!
//! A process with several threads can neither make a user namespace nor go into one. So this program does
//! it when it is called with arguments: it makes them, says so, and stays in them until its input ends. By
//! then whoever called it has opened them. It is killed with the daemon's end of the pipe at the latest.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};

/// The first argument.
const WORD: &str = "namespaces";
/// What is said when they are there.
const READY: &str = "ready";
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// As much as is read of what went wrong.
const LONGEST: u64 = 4096;

/// Whose user namespace it is.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// A new one, with these lines as its maps of users and of groups.
    New {
        /// `uid_map`.
        uids: &'a str,
        /// `gid_map`.
        gids: &'a str,
    },
    /// One that is there, by its file.
    Existing(&'a Path),
}

/// A user namespace, and a network namespace that belongs to it.
#[derive(Debug)]
pub struct Made {
    /// The user namespace.
    pub user: OwnedFd,
    /// The network namespace, whose loopback is down.
    pub network: OwnedFd,
}

/// Makes a network namespace that belongs to a user namespace, by this program (`rnet-shim`). They are
/// gone with the descriptors. Blocks, but not for long.
pub fn make(program: &Path, origin: Origin<'_>) -> io::Result<Made> {
    let existing = match origin {
        Origin::New { .. } => None,
        Origin::Existing(path) => Some(path),
    };
    let mut child = Command::new(program)
        .arg(WORD)
        .args(existing)
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let made = open(&mut child, origin);
    // What it has is held by descriptors now.
    let _ = child.kill();
    let _ = child.wait();
    made
}

fn open(child: &mut Child, origin: Origin<'_>) -> io::Result<Made> {
    let mut output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let end = Instant::now() + PATIENCE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            ready => {
                ready?;
                break;
            }
        }
    }
    let mut said = vec![0; READY.len()];
    let length = output.read(&mut said)?;
    said.truncate(length);
    if said != READY.as_bytes() {
        (&mut output).take(LONGEST).read_to_end(&mut said)?;
        return Err(io::Error::other(String::from_utf8_lossy(&said).into_owned()));
    }
    let of_process = format!("/proc/{}", child.id());
    if let Origin::New { uids, gids } = origin {
        fs::write(format!("{of_process}/uid_map"), uids)?;
        fs::write(format!("{of_process}/gid_map"), gids)?;
    }
    Ok(Made {
        user: File::open(format!("{of_process}/ns/user"))?.into(),
        network: File::open(format!("{of_process}/ns/net"))?.into(),
    })
}

/// The program's side, if that is what its arguments say.
pub fn main(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.next()? != OsStr::new(WORD) {
        return None;
    }
    let existing = arguments.next();
    let mut output = io::stdout();
    let entered = enter(existing.as_deref().map(Path::new));
    let said = match &entered {
        Ok(()) => READY.to_owned(),
        Err(error) => format!("failed: {error}"),
    };
    let told = output.write_all(said.as_bytes()).and_then(|()| output.flush());
    if entered.and(told).is_err() {
        return Some(ExitCode::FAILURE);
    }
    // Nobody says anything: it ends.
    let _ = io::stdin().read(&mut [0]);
    Some(ExitCode::SUCCESS)
}

#[expect(clippy::disallowed_methods, reason = "the process has no other thread and no other task")]
fn enter(existing: Option<&Path>) -> io::Result<()> {
    let Some(path) = existing else {
        // The kernel makes the user namespace first: the other belongs to it.
        return Ok(unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?);
    };
    setns(File::open(path)?, CloneFlags::CLONE_NEWUSER)?;
    Ok(unshare(CloneFlags::CLONE_NEWNET)?)
}
