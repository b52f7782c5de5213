//! What the daemon and a shim say to each other: JSON, one line each way per connection.
//!
//! A connection carries one [`Request`] and one [`Reply`]. After `attach`, and after `exec` with
//! streams, the connection turns into the stream itself: towards the client it is Docker's stdcopy
//! framing without a terminal and raw bytes with one; towards the shim it is stdin, and half a
//! close is its end. After `watch` it turns into JSON lines of [`Event`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Everything a shim is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The container's id, also its name for the runtime.
    pub id: String,
    /// How the OCI runtime is called.
    pub runtime: RuntimeCommand,
    /// The shim's directory: `sock` and `exit.json` are made here.
    pub directory: PathBuf,
    /// The OCI bundle, where `config.json` is.
    pub bundle: PathBuf,
    /// What the runtime sees and nobody else does, if the root file system comes as a mount: that
    /// is then the first of [`VIEW_DESCRIPTORS`] sent along. The others are a mount namespace, to
    /// call the runtime in a copy of it, which lacks the namespaces of other containers and, where that is to be
    /// hidden, [`HYBRID`]; and what is `/` in there. Those of [`View::mounts`] follow.
    pub view: Option<View>,
    /// Whether the container's process has a terminal.
    pub tty: bool,
    /// Rows and columns of the terminal at its start.
    pub console_size: Option<(u16, u16)>,
    /// What happens to the container's stdin.
    pub stdin: Stdin,
    /// Where the output is kept.
    pub log: Log,
    /// The file with an `oom_kill` counter of the container's memory cgroup.
    pub oom_events: Option<PathBuf>,
    /// What the inherited attach sockets take part in, one entry per socket, in order.
    pub attached: Vec<Streams>,
    /// Whether the container is made and then held back until [`GO`] comes on the same socket. If
    /// that socket ends without it, the container is taken away again.
    #[serde(default)]
    pub held: bool,
}

/// How an OCI runtime is called.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RuntimeCommand {
    /// The executable.
    pub program: PathBuf,
    /// Its `--root`.
    pub root: PathBuf,
    /// Arguments before the subcommand that are always given.
    pub arguments: Vec<String>,
    /// Whether it has to be called where [`HYBRID`] is not mounted: crun refuses a host that has
    /// version 1 controllers and others left in the unified hierarchy.
    #[serde(default)]
    pub hide_hybrid: bool,
    /// How a container that it has made is let go.
    #[serde(default)]
    pub gate: Gate,
    /// How long it may take for anything that it is asked.
    #[serde(default = "limit")]
    pub limit: Duration,
}

fn limit() -> Duration {
    LIMIT
}

/// How the first process of a container is let go that a runtime's `create` has made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// It reads from a FIFO, as crun's does.
    Written,
    /// It writes to a FIFO, as runc's does.
    Read,
    /// By the runtime's own `start`.
    #[default]
    Command,
}

/// A runtime's own view of the host's mounts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct View {
    /// Where the root file system is attached. As with [`View::network`], the directory is on a
    /// private mount, so that nothing there spreads.
    pub root: PathBuf,
    /// The file that the container's own network namespace is attached to.
    pub network: PathBuf,
    /// The file that it is pinned to; none if the runtime makes it or shares the host's.
    pub pin: Option<PathBuf>,
    /// The user namespace of the container, if it has one: where it is attached, and the file that it is
    /// pinned to.
    #[serde(default)]
    pub user: Option<(PathBuf, PathBuf)>,
    /// Where further mounts are attached, each a descriptor of its own: what a container has of a
    /// volume or an image.
    #[serde(default)]
    pub mounts: Vec<PathBuf>,
}

impl View {
    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        VIEW_DESCRIPTORS + self.mounts.len()
    }
}

/// What happens to a process's stdin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// `/dev/null` from the start.
    #[default]
    Closed,
    /// Open until the process ends, whoever comes and goes.
    Open,
    /// Open until the first attached client ends its input.
    Once,
}

/// The names that users know ways of logging by. What `local` keeps is written as `json-file` does it.
pub const LOG_DRIVERS: [&str; 6] = ["json-file", "local", "none", "syslog", "journald", "fluentd"];

/// Where the output of the container's first process is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Log {
    /// Nowhere.
    #[default]
    None,
    /// Docker's `json-file` format.
    JsonFile {
        /// The current file; rotated ones are `<path>.1` (newest) and up.
        path: PathBuf,
        /// Bytes after which a new file is begun; 0 is no limit.
        max_size: u64,
        /// Files kept, the current one included; at least 1.
        max_files: u32,
        /// Whether all but the current one are compressed.
        #[serde(default)]
        compress: bool,
        /// What every record has of its container.
        #[serde(default)]
        attributes: BTreeMap<String, String>,
    },
    /// Handed over to somebody else, line by line.
    Sent {
        /// To whom.
        to: Destination,
        /// How many bytes wait at most for one who does not take them.
        bound: u64,
        /// What is kept here beside.
        copy: Option<Box<Self>>,
    },
}

/// Who takes logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "taker", rename_all = "snake_case")]
pub enum Destination {
    /// A syslog.
    Syslog(Syslog),
    /// The host's journald.
    Journald {
        /// The fields of every message.
        fields: Vec<(String, String)>,
    },
    /// A fluentd.
    Fluentd(Fluentd),
}

/// A syslog, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syslog {
    /// Where it is.
    pub to: SyslogTo,
    /// The number of the facility.
    pub facility: u8,
    /// The head of a message.
    pub format: SyslogFormat,
    /// The name of who says it.
    pub tag: String,
    /// The name of this host.
    pub hostname: String,
}

/// Where a syslog is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "way", rename_all = "snake_case")]
pub enum SyslogTo {
    /// Where the host's own one usually is.
    Local,
    /// A stream socket of this host.
    Unix {
        /// Its path.
        path: PathBuf,
    },
    /// A datagram socket of this host.
    UnixDatagram {
        /// Its path.
        path: PathBuf,
    },
    /// UDP.
    Udp {
        /// Host and port.
        address: String,
    },
    /// TCP.
    Tcp {
        /// Host and port.
        address: String,
    },
}

/// The head of a message of syslog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyslogFormat {
    /// Without the host.
    Local,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424.
    Rfc5424,
    /// The same with microseconds.
    Rfc5424Micro,
}

/// A fluentd, and what it is told with every message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fluentd {
    /// Where it is.
    pub to: FluentdTo,
    /// The tag.
    pub tag: String,
    /// What every record has of its container.
    pub fields: Vec<(String, String)>,
    /// Whether times have nanoseconds.
    pub fine: bool,
    /// Whether a container starts without it, and it has what was written when it is there.
    #[serde(default)]
    pub may_be_away: bool,
}

/// Where a fluentd is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "way", rename_all = "snake_case")]
pub enum FluentdTo {
    /// TCP.
    Tcp {
        /// Host and port.
        address: String,
    },
    /// A socket of this host.
    Unix {
        /// Its path.
        path: PathBuf,
    },
}

/// Which of a process's streams a client takes part in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// The client's bytes are the process's input.
    pub stdin: bool,
    /// The client gets what the process writes to stdout (or to its terminal).
    pub stdout: bool,
    /// The client gets what the process writes to stderr.
    pub stderr: bool,
}

/// How a start ended: the one line a shim writes back to the daemon that started it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Started {
    /// The container runs.
    Running {
        /// Its first process, as the host sees it.
        pid: i32,
    },
    /// It does not.
    Failed(Failure),
}

/// Why a process could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The sentence for the user, in Docker's words.
    pub error: String,
    /// 126 (cannot be executed), 127 (not found) or 128.
    pub code: i32,
}

/// What a client asks of a shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Turns the connection into the streams of the container's first process.
    Attach(Streams),
    /// Starts another process in the container. With any stream the connection becomes it.
    Exec(Exec),
    /// Sets the size of a terminal.
    Resize {
        /// The exec'd process; the container's first one if absent.
        exec: Option<String>,
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// Sends a signal.
    Kill {
        /// The exec'd process; the container's first one if absent.
        exec: Option<String>,
        /// The signal's number.
        signal: i32,
    },
    /// Asks what runs.
    Status,
    /// Turns the connection into a stream of [`Event`]s, those of the past first.
    Watch,
}

/// A process to start in a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// Its id, unique in the container.
    pub id: String,
    /// The OCI `process` object.
    pub process: serde_json::Value,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Rows and columns of the terminal at its start.
    pub console_size: Option<(u16, u16)>,
    /// What the connection carries after the reply.
    pub streams: Streams,
    /// Whether what it writes comes in frames; if absent, those without a terminal have them.
    #[serde(default)]
    pub framed: Option<bool>,
}

/// What a shim answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Done; after `attach` and `watch` the stream follows.
    Done,
    /// The exec'd process runs; its stream follows if one was asked for.
    Running {
        /// Its id, as the host sees it.
        pid: i32,
    },
    /// The answer to [`Request::Status`].
    Status(Status),
    /// The process could not be started.
    Failed(Failure),
    /// There is no such process, or it has ended.
    NotRunning,
    /// The request could not be understood or carried out.
    Error {
        /// Why.
        message: String,
    },
}

/// What runs under a shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The container's first process, while it runs.
    pub pid: Option<i32>,
    /// The exec'd processes that run: id and process id.
    pub execs: Vec<(String, i32)>,
    /// How the container and its exec'd processes ended (the most recent ones).
    pub exits: Vec<Exit>,
}

/// What a watching client is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A process ended. Everything it wrote is in the log by then. When it is the container's first
    /// one, the connection ends as soon as the runtime has removed what it made.
    Exit(Exit),
    /// The kernel killed a process of the container for want of memory.
    Oom,
}

/// How a process ended; also the content of `exit.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exec'd process; the container's first one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<String>,
    /// The exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// When, RFC 3339 with nanoseconds, UTC.
    pub time: String,
    /// Whether the kernel killed a process of the container for want of memory.
    pub oom: bool,
}

/// How long a runtime may take for anything that it is asked: it takes a hundredth of a second, and a
/// hundred times that where all processors are busy. One that takes longer hangs.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Where a host with cgroup version 1 may have the unified hierarchy too.
pub const HYBRID: &str = "/sys/fs/cgroup/unified";
/// How many descriptors come with a [`View`] that has no further mounts.
pub const VIEW_DESCRIPTORS: usize = 3;
/// How many descriptors may come with a [`Config`]; the kernel passes few more at once.
pub const MOST_DESCRIPTORS: usize = 250;
/// What lets a container run that is held back.
pub const GO: &[u8] = b"go\n";
/// The name of the socket in the shim's directory.
pub const SOCKET: &str = "sock";
/// The name of the file with the container's [`Exit`] in the shim's directory.
pub const EXIT: &str = "exit.json";
