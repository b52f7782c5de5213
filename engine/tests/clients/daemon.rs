//! A daemon for one test, and a small HTTP client for it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// The longest that anything here may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that goes with the test.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short, because the paths of sockets may have 107 bytes only; and none begins another.
        let path = std::env::temp_dir().join(format!("rnet-{}-{number:03}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whoever was started with this directory in its command line is ours, and nobody else's;
        // so is the process of a container whose shim lives here, which ends after it.
        let text = self.0.to_str().unwrap();
        let ours = || [processes_with(text), contained_in(text)].concat();
        for pid in ours() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let gone = || ours().is_empty() && shims_in(text).is_empty();
        let end = Instant::now() + PATIENCE;
        while !gone() && Instant::now() < end {
            std::thread::yield_now();
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The processes of this machine that are so.
fn processes(are_so: impl Fn(i32) -> bool) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| are_so(*pid)).map(Pid::from_raw).collect()
}

fn processes_with(text: &str) -> Vec<Pid> {
    processes(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        pid != i32::try_from(std::process::id()).unwrap()
            && String::from_utf8_lossy(&line).contains(text)
    })
}

/// The shims that work in a directory.
fn shims_in(text: &str) -> Vec<Pid> {
    processes(|pid| {
        let is_shim = std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|c| c == b"rnet-shim\n");
        let place = std::fs::read_link(format!("/proc/{pid}/cwd"));
        is_shim && place.is_ok_and(|place| place.starts_with(text))
    })
}

/// The children of those shims.
fn contained_in(text: &str) -> Vec<Pid> {
    let shims: Vec<_> = shims_in(text).iter().map(ToString::to_string).collect();
    processes(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let behind_name = stat.rsplit(')').next().unwrap_or_default();
        let parent = behind_name.split_whitespace().nth(1);
        parent.is_some_and(|parent| shims.iter().any(|shim| shim == parent))
    })
}

/// The command that runs the daemon in namespaces of its own.
pub fn isolated(program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--propagation", "private", "sh", "-c"]);
    command.args(["ip link set lo up && exec \"$@\"", "sh", program]);
    command
}

/// Who talks to the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    Docker,
    Rnet,
}

impl Client {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Docker, Self::Rnet];
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    pub scratch: Scratch,
    child: Child,
}

impl Daemon {
    /// Starts a daemon and waits until it says that it is ready.
    pub fn start(flags: &[&str]) -> Self {
        Self::start_in(Scratch::new(), env!("CARGO_BIN_EXE_rnet"), &["daemon"], flags)
    }

    pub fn start_in(scratch: Scratch, program: &str, first: &[&str], flags: &[&str]) -> Self {
        let child = ready(&scratch, isolated(program).args(first), flags);
        Self { scratch, child }
    }

    /// Starts a daemon that may have so many descriptors and says all in the file `log`.
    pub fn start_with_descriptors(descriptors: u32, flags: &[&str]) -> Self {
        let scratch = Scratch::new();
        let log = File::create(scratch.path("log")).unwrap();
        let mut command = isolated("sh");
        command.args(["-c", &format!("ulimit -n {descriptors}; exec \"$@\""), "sh"]);
        command.args([env!("CARGO_BIN_EXE_rnet"), "daemon"]).stderr(log);
        let child = ready(&scratch, &mut command, flags);
        Self { scratch, child }
    }

    /// What a daemon has said that was started so.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path("log")).unwrap()
    }

    /// Ends the daemon and starts it anew in the same namespaces, with other flags. Gives back the
    /// log up to where it is ready.
    pub fn restart(&mut self, flags: &[&str]) -> String {
        self.restart_after(Signal::SIGTERM, flags)
    }

    /// The same after an end by a signal.
    pub fn restart_after(&mut self, signal: Signal, flags: &[&str]) -> String {
        let open = |kind: &str| File::open(format!("/proc/{}/ns/{kind}", self.id())).unwrap();
        let (network, mounts) = (open("net"), open("mnt"));
        self.signal(signal);
        assert_eq!(self.wait(), (signal == Signal::SIGTERM).then_some(0));
        let enter = |flag: &str, namespace: &File| {
            format!("{flag}=/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
        };
        let log = self.scratch.path("log");
        let mut command = Command::new("nsenter");
        command.args([enter("--net", &network), enter("--mount", &mounts)]);
        command.args([env!("CARGO_BIN_EXE_rnet"), "daemon"]).stderr(File::create(&log).unwrap());
        self.child = ready(&self.scratch, &mut command, flags);
        std::fs::read_to_string(log).unwrap()
    }

    /// Its process, as the host numbers it.
    pub fn id(&self) -> String {
        self.child.id().to_string()
    }

    pub fn socket(&self) -> PathBuf {
        self.scratch.path("sock")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for its end and gives back its exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Sends one request and reads the whole reply.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let body = body.map(Value::to_string).unwrap_or_default();
        let json = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        self.send(method, path, json, body.as_bytes())
    }

    pub fn get(&self, path: &str) -> Reply {
        self.call("GET", path, None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.call("POST", path, Some(body))
    }

    pub fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        Reply::read(self.open(method, path, &format!("Connection: close\r\n{headers}"), body))
    }

    /// Sends one request; the reply is still to be read.
    pub fn open(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: docker\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        stream
    }

    /// Runs the docker command against this daemon.
    pub fn docker(&self, arguments: &[&str]) -> Output {
        self.docker_command(arguments).output().expect("the docker command is installed")
    }

    pub fn docker_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(arguments);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", self.scratch.path("docker"));
        command.stdin(Stdio::null());
        command
    }

    /// A command of one of the clients against this daemon.
    pub fn client(&self, client: Client, arguments: &[&str]) -> Command {
        let Client::Rnet = client else { return self.docker_command(arguments) };
        let mut command = Command::new(env!("CARGO_BIN_EXE_rnet"));
        command.args(arguments);
        command.env("RNET_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", self.scratch.path("docker"));
        command.stdin(Stdio::null());
        command
    }

    /// Runs a client to its end: exit code, stdout, stderr.
    pub fn ask(&self, client: Client, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.client(client, arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Runs a client, which must succeed, and gives back its output.
    pub fn ok(&self, client: Client, arguments: &[&str]) -> String {
        let (code, out, error) = self.ask(client, arguments);
        assert_eq!(code, Some(0), "{client:?} {arguments:?}: {error}");
        out
    }

    /// Runs a program in the network namespace of this daemon.
    pub fn beside(&self, program: &str, arguments: &[&str]) -> Output {
        self.beside_command(program, arguments).output().unwrap()
    }

    pub fn beside_command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.id(), "-n", program]).args(arguments);
        command
    }

    /// Runs the docker command, which must succeed, and gives back its output without the last
    /// line feed.
    pub fn docker_ok(&self, arguments: &[&str]) -> String {
        let output = self.docker(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
    }

    /// Runs the docker command, which must fail, and gives back its exit code and its complaint.
    pub fn docker_err(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.docker(arguments);
        assert!(!output.status.success(), "docker {arguments:?} succeeded");
        (output.status.code(), String::from_utf8(output.stderr).unwrap().trim().to_owned())
    }
}

/// Starts a daemon and waits until it says that it is ready.
fn ready(scratch: &Scratch, command: &mut Command, flags: &[&str]) -> Child {
    let path = scratch.path("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    command.args(standard_flags(scratch)).args(flags).env("NOTIFY_SOCKET", &path);
    let child = command.spawn().unwrap();
    let mut state = [0; 256];
    let length = notify.recv(&mut state).expect("the daemon says that it is ready");
    let state = String::from_utf8_lossy(&state[..length]).into_owned();
    assert!(state.starts_with("READY=1"), "{state}");
    std::fs::remove_file(path).unwrap();
    child
}

/// The flags that keep a daemon in its directory.
pub fn standard_flags(scratch: &Scratch) -> Vec<String> {
    let host = format!("unix://{}", scratch.text("sock"));
    let flags = [
        ("--data-root", scratch.text("data")),
        ("--exec-root", scratch.text("run")),
        ("--pidfile", scratch.text("pid")),
        ("--host", host),
    ];
    flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        // Containers and the resolver outlive a daemon, unless it is told to take them along.
        if UnixStream::connect(self.socket()).is_ok() && !std::thread::panicking() {
            let reply = self.call("POST", "/rnet/reset", None);
            assert!(reply.status < 300, "{}", reply.text());
        } else {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// A whole reply.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub reason: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn read(stream: UnixStream) -> Self {
        let mut reader = BufReader::new(stream);
        let mut reply = Self::read_head(&mut reader);
        if reply.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = read_chunk(&mut reader) {
                reply.body.extend(chunk);
            }
        } else {
            reader.read_to_end(&mut reply.body).unwrap();
        }
        reply
    }

    /// The head only: what follows is left in the reader.
    pub fn read_head(reader: &mut impl BufRead) -> Self {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let mut words = line.trim_end().splitn(3, ' ').skip(1);
        let status = words.next().and_then(|status| status.parse().ok()).expect(&line);
        let reason = words.next().unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        Self { status, reason, headers, body: Vec::new() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The message of an error.
    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// The lines that a program writes, as they come.
#[derive(Debug)]
pub struct Lines(mpsc::Receiver<String>);

impl Lines {
    pub fn of(out: impl Read + Send + 'static) -> Self {
        let (told, heard) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(out).lines().map_while(Result::ok);
            lines.map_while(|line| told.send(line).ok()).for_each(drop);
        });
        Self(heard)
    }

    /// The first line that is so; nothing if the program ends before. That there is none for all of
    /// the patience is a fault.
    pub fn first(&mut self, mut is_so: impl FnMut(&str) -> bool) -> Option<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.0.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if is_so(&line) => return Some(line),
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("no line is so"),
            }
        }
    }
}

/// The next chunk of a chunked body, or nothing at its end.
pub fn read_chunk(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let length = usize::from_str_radix(line.trim_end(), 16).ok().filter(|length| *length > 0)?;
    let mut chunk = vec![0; length + 2];
    reader.read_exact(&mut chunk).unwrap();
    chunk.truncate(length);
    Some(chunk)
}

/// Runs a program to its end: exit code, stdout, stderr.
pub fn run(program: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}
