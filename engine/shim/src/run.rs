//! The shim's process: leaving the daemon's tree, reading the configuration, and the loop.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::sys::prctl::set_child_subreaper;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::protocol::{Config, Failure, Started, View};
use super::server::{Server, Starter};
use super::{console, system};

/// The longest configuration.
const LONGEST: usize = 4 << 20;
/// The shim's own score: the kernel should take anything else first.
const OOM_SCORE: i32 = -999;

/// Runs the shim until its container has ended. What to do is read from stdin, a socket; how the
/// start went is written to it.
pub fn main() -> ExitCode {
    system::close_inherited();
    if system::detach().is_err() {
        return ExitCode::FAILURE;
    }
    system::ignore_signals();
    let Ok(stdin) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    let mut socket = UnixStream::from(stdin);
    let Ok(Some(Task { config, mut descriptors, word })) = task(&mut socket) else {
        // The daemon has ended without needing us.
        return ExitCode::SUCCESS;
    };
    let go = word || !config.held;
    let of_view = config.view.as_ref().map_or(0, View::descriptors);
    let attached = descriptors.split_off(of_view.min(descriptors.len()));
    match prepare(&config).and_then(|oom_score| Server::new(config, attached, oom_score)) {
        Ok(server) => server.run(descriptors, Starter::new(socket, go)),
        Err(error) => {
            let error = format!("failed to create task for container: {error}");
            report(&mut socket, &Started::Failed(Failure { error, code: 128 }));
            ExitCode::FAILURE
        }
    }
}

/// What to say to a person who calls the program by hand.
pub fn usage() -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    let text = format!(
        "rnet-shim {version}: the parent of one container; the rnet daemon starts it, and tells \
         it on its standard input what to do\n"
    );
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// Writes the one line about the start.
pub(super) fn report(socket: &mut UnixStream, started: &Started) {
    if let Ok(mut line) = serde_json::to_vec(started) {
        line.push(b'\n');
        // A daemon that is gone asks for the status when it is back.
        let _ = socket.write_all(&line);
    }
}

/// What the daemon wants.
struct Task {
    config: Config,
    /// What came with it.
    descriptors: Vec<OwnedFd>,
    /// Whether the word to let the container run has come too.
    word: bool,
}

/// Reads one line of JSON, and what comes with it; `None` if the daemon hung up.
fn task(socket: &mut UnixStream) -> io::Result<Option<Task>> {
    let mut read = Vec::new();
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let (length, descriptors) = console::receive(socket, &mut buffer)?;
        if length == 0 || read.len() > LONGEST {
            return Ok(None);
        }
        read.extend_from_slice(&buffer[..length]);
        all.extend(descriptors);
        if let Some(end) = read.iter().position(|byte| *byte == b'\n') {
            let config = serde_json::from_slice(&read[..end])?;
            return Ok(Some(Task { config, descriptors: all, word: read.len() > end + 1 }));
        }
    }
}

/// Makes this process what it has to be; returns the score that it had.
fn prepare(config: &Config) -> io::Result<Option<i32>> {
    // Names are relative to here: a socket's path must be short.
    std::env::set_current_dir(&config.directory)?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let errors = std::fs::OpenOptions::new().create(true).append(true).open("shim.log")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&errors)?;
    set_child_subreaper(true)?;
    let score = std::fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let lowered = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE.to_string());
    // Without the capability we go on as we are.
    Ok(score.filter(|_| lowered.is_ok()))
}
