//! What is asked of containers, and what is answered.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::net::UnixStream;

use super::ContainerId;

/// A container was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its id.
    pub id: ContainerId,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// How to remove a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remove {
    /// Kill it if it runs.
    pub force: bool,
    /// Remove its anonymous volumes.
    pub volumes: bool,
    /// Remove a link, not the container.
    pub link: bool,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// That it does not run; at once if so.
    #[default]
    NotRunning,
    /// The next end of its process.
    NextExit,
    /// Its removal.
    Removed,
}

/// What came of waiting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    /// The exit code.
    pub code: i64,
    /// Why it could not be waited for.
    pub error: Option<String>,
}

/// What to attach to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the API")]
pub struct Attach {
    /// Send the client's bytes to the container.
    pub stdin: bool,
    /// Send standard output.
    pub stdout: bool,
    /// Send standard error.
    pub stderr: bool,
    /// Send what was written before.
    pub logs: bool,
    /// Send what is written from now on.
    pub stream: bool,
    /// The keys that end the attachment of a terminal, as `ctrl-p,ctrl-q`; these if absent.
    pub detach_keys: Option<String>,
}

/// A connection to the streams of a container or an exec'd process.
///
/// Read gives Docker's stdcopy frames, or raw bytes with a terminal; what is written is standard
/// input, and shutting down the write half is its end.
#[derive(Debug)]
pub struct Attached {
    /// The connection.
    pub stream: UnixStream,
    /// Whether the bytes are bare, as those of a terminal.
    pub raw: bool,
}

/// Which lines of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Lines at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Lines before this time.
    pub until: Option<DateTime<Utc>>,
    /// The last lines only; all if absent.
    pub tail: Option<usize>,
    /// Go on until the container ends.
    pub follow: bool,
}

/// A piece of a log: a line with its line feed, or a part of a long line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// 1 is standard output, 2 standard error.
    pub stream: u8,
    /// When it was written.
    pub time: DateTime<Utc>,
    /// What was written.
    pub bytes: Bytes,
}

/// A process to run in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the API")]
pub struct ExecSpec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// `KEY=value`, over the container's.
    pub env: Vec<String>,
    /// `-u`; the container's if empty.
    pub user: String,
    /// `-w`; the container's if empty.
    pub working_dir: String,
    /// `-t`.
    pub tty: bool,
    /// `--privileged`.
    pub privileged: bool,
    /// Attach standard input.
    pub stdin: bool,
    /// Attach standard output.
    pub stdout: bool,
    /// Attach standard error.
    pub stderr: bool,
    /// See [`Attach::detach_keys`].
    pub detach_keys: Option<String>,
    /// Rows and columns, where the client told them.
    pub console_size: Option<(u16, u16)>,
}

/// How a prepared process is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExecStart {
    /// Nothing is attached.
    pub detach: bool,
    /// The client wants bare bytes, as of a terminal, and not frames.
    pub raw: bool,
    /// Rows and columns, where the client told them anew.
    pub console_size: Option<(u16, u16)>,
}

/// An exec'd process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecView {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The container's id.
    pub container: ContainerId,
    /// What was asked for.
    pub spec: ExecSpec,
    /// Whether it runs.
    pub running: bool,
    /// Its exit code once it ended.
    pub exit_code: Option<i32>,
    /// Its process on the host; 0 if not known.
    pub pid: i32,
}

/// The processes of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    /// `UID PID PPID C STIME TTY TIME CMD`.
    pub titles: Vec<String>,
    /// One row each.
    pub processes: Vec<Process>,
}

/// The columns of one process, as [`Processes::titles`] names them.
pub type Process = Vec<String>;
