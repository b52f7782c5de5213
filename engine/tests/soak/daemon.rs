//! A daemon that is killed and started again, and what is asked of it in between.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

/// The longest that anything here may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

pub(crate) struct Daemon {
    directory: PathBuf,
    process: Mutex<Option<Child>>,
    /// How much of the log is of earlier processes.
    earlier: Mutex<usize>,
}

impl Daemon {
    pub(crate) fn new(directory: &Path) -> Self {
        let daemon = Self {
            directory: directory.to_owned(),
            process: Mutex::default(),
            earlier: Mutex::default(),
        };
        fs::create_dir_all(daemon.data()).unwrap();
        daemon
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.directory.join("run")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// What the present process wrote.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.log_file()).unwrap_or_default();
        let earlier = (*self.earlier.lock().unwrap()).min(log.len());
        String::from_utf8_lossy(&log[earlier..]).into_owned()
    }

    /// Whether the present process found the kernel other than it should be.
    pub(crate) fn healed(&self) -> bool {
        self.log().contains("heal the kernel's state")
    }

    /// Starts a process and does not wait for it.
    pub(crate) fn spawn(&self) {
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        *self.earlier.lock().unwrap() = usize::try_from(log.metadata().unwrap().len()).unwrap();
        let flags = [
            ("--data-root", self.data()),
            ("--exec-root", self.run()),
            ("--pidfile", self.directory.join("pid")),
            ("--host", PathBuf::from(format!("unix://{}", self.socket().display()))),
        ];
        let child = Command::new(env!("CARGO_BIN_EXE_rnet"))
            .arg("daemon")
            .args(flags.iter().flat_map(|(flag, value)| [Path::new(flag), value]))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.process.lock().unwrap() = Some(child);
    }

    /// Starts a process and waits until it answers.
    pub(crate) fn start(&self) {
        self.spawn();
        until("the daemon answers", || {
            let mut process = self.process.lock().unwrap();
            let ended = process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended: {ended:?}\n{}", self.log());
            self.request("GET", "/_ping", "").is_ok_and(|(status, _)| status == 200)
        });
    }

    pub(crate) fn kill(&self) {
        self.end(Signal::SIGKILL);
    }

    pub(crate) fn stop(&self) {
        self.end(Signal::SIGTERM);
    }

    fn end(&self, signal: Signal) {
        let mut child = self.process.lock().unwrap().take().unwrap();
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        until("the daemon ends", || !alive(child.id()));
        child.wait().unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("sock")
    }

    /// Status and body of the reply to one request.
    fn request(&self, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} /v1.44{path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        let (head, body) = reply.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or(io::ErrorKind::InvalidData)?, body.to_owned()))
    }

    /// Asks until there is an answer. One who asked a daemon that was killed cannot know whether
    /// it was done, so then `done` are good answers too.
    pub(crate) fn insist(&self, method: &str, path: &str, body: &str, done: &[u16]) {
        let end = Instant::now() + PATIENCE;
        let mut asked_before = false;
        loop {
            match self.request(method, path, body) {
                Ok((200..300, _)) => return,
                Ok((status, _)) if asked_before && done.contains(&status) => return,
                Ok((status, text)) => {
                    panic!(
                        "{method} {path}: {status} {text}\nasked before: {asked_before}\n{}",
                        self.log()
                    )
                }
                Err(error) => assert!(Instant::now() < end, "{method} {path}: {error}"),
            }
            asked_before = true;
            thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// A dual-stack network of a kind.
    pub(crate) fn create_network(&self, name: &str, number: u8, kind: &str) {
        let option = |name: &str| format!("com.docker.network.bridge.{name}");
        let driver = if matches!(kind, "macvlan" | "ipvlan") { kind } else { "bridge" };
        let options = match kind {
            "macvlan" => json!({"parent": "lan0", "rnet.macvlan.host_access": "true"}),
            "ipvlan" => json!({"parent": "lan1"}),
            "apart" => json!({option("enable_icc"): "false"}),
            "routed" => json!({
                option("gateway_mode_ipv4"): "routed",
                option("gateway_mode_ipv6"): "routed",
            }),
            _ => json!({}),
        };
        let pools = [format!("10.77.{number}.0/24"), format!("fd77:{number}::/64")];
        let pools = pools.map(|subnet| json!({"Subnet": subnet}));
        let body = json!({
            "Name": name, "Driver": driver, "EnableIPv6": true, "IPAM": {"Config": pools}, "Options": options,
            "Internal": kind == "internal",
        });
        self.insist("POST", "/networks/create", &body.to_string(), &[409]);
    }
}

/// Whether a process runs; one that nobody waited for yet does not.
fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}
