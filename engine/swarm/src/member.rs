//! A manager's member of etcd: a process that outlives the daemon, as shims do.
//!
//! Which process it is, its data directory tells: that is found in the arguments, and compared by
//! what it is on disk. So the daemon that comes next finds it without having written anything down.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use engine_error::{Error, Kind, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::authority::PEER;

/// The port of a member for nodes. Other people's etcd have 2379.
pub const CLIENTS: u16 = 2387;

/// The port of a member for the other members.
pub const PEERS: u16 = 2388;

/// How long the first wait before a member is started again is, and the longest.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(10)];

/// A member that ran as long as this was well.
const WELL: Duration = Duration::from_secs(60);

/// How long a member may take to end.
const END: Duration = Duration::from_secs(10);

/// How often its log is looked at, and how large it may be, in bytes.
const LOG: (Duration, u64) = (Duration::from_secs(60), 4 << 20);

/// How large the store may become, in bytes.
const QUOTA: u64 = 4 << 30;

/// What a member needs to be started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The node's identity, which is the member's name.
    pub node: String,
    /// The cluster's identity.
    pub cluster: String,
    /// Where it listens.
    pub address: IpAddr,
    /// Its directory: `data`, and files with certificates and keys.
    pub directory: PathBuf,
    /// Where it complains.
    pub log: PathBuf,
    /// The members that there are, `name=url,…`; it alone if that is empty.
    pub members: String,
}

impl Plan {
    /// Where its data are.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Whether it has been a member already.
    pub fn has_data(&self) -> bool {
        self.data().join("member").exists()
    }

    fn arguments(&self) -> Vec<String> {
        let url = |port| format!("https://{}", SocketAddr::new(self.address, port));
        let (clients, peers) = (url(CLIENTS), url(PEERS));
        let file = |name: &str| self.directory.join(name).to_string_lossy().into_owned();
        let alone = self.members.is_empty();
        let own = format!("{}={peers}", self.node);
        let values = [
            ("name", self.node.clone()),
            ("data-dir", self.data().to_string_lossy().into_owned()),
            ("listen-client-urls", clients.clone()),
            ("advertise-client-urls", clients),
            ("listen-peer-urls", peers.clone()),
            ("initial-advertise-peer-urls", peers),
            ("initial-cluster", if alone { own } else { self.members.clone() }),
            ("initial-cluster-state", if alone { "new" } else { "existing" }.to_owned()),
            ("initial-cluster-token", self.cluster.clone()),
            ("trusted-ca-file", file("authority.pem")),
            ("cert-file", file("node.pem")),
            ("key-file", file("node.key")),
            ("peer-trusted-ca-file", file("authority.pem")),
            ("peer-cert-file", file("peer.pem")),
            ("peer-key-file", file("peer.key")),
            ("peer-cert-allowed-cn", PEER.to_owned()),
            ("auto-compaction-mode", "periodic".to_owned()),
            ("auto-compaction-retention", "1h".to_owned()),
            ("quota-backend-bytes", QUOTA.to_string()),
            ("logger", "zap".to_owned()),
            ("log-level", "warn".to_owned()),
        ];
        let values = values.into_iter().map(|(name, value)| format!("--{name}={value}"));
        let flags =
            ["--client-cert-auth", "--peer-client-cert-auth", "--enable-grpc-gateway=false"];
        values.chain(flags.map(str::to_owned)).collect()
    }
}

/// The program `etcd`.
pub fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|place| place.join("etcd"));
    found.into_iter().find(|place| place.is_file()).ok_or_else(|| {
        Error::new(
            Kind::Unavailable,
            "a manager of a swarm runs a member of etcd, and there is no `etcd` on the path: install \
             the package etcd-server (Debian, Ubuntu) or etcd (Fedora, Arch)",
        )
    })
}

/// A member that is kept running.
#[derive(Debug)]
pub struct Member {
    plan: Plan,
    problem: watch::Receiver<Option<String>>,
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Member {
    /// Keeps one running: adopts the process that is there, or starts one, and starts another when it
    /// ends.
    pub fn keep(plan: Plan) -> Result<Self> {
        let program = program()?;
        let stop = Arc::new(Notify::new());
        let (tell, problem) = watch::channel(None);
        let task = tokio::spawn(supervise(program, plan.clone(), tell, stop.clone()));
        Ok(Self { plan, problem, stop, task })
    }

    /// What it runs with.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Why it does not run, if it does not.
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    /// Ends the process.
    pub async fn end(mut self) -> Result<()> {
        self.stop.notify_one();
        // It has its own limits.
        let _ = (&mut self.task).await;
        end(&self.plan.data()).await
    }
}

impl Drop for Member {
    /// The process goes on.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends whatever process has a data directory.
pub async fn end(data: &Path) -> Result<()> {
    let Some(process) = find(data) else { return Ok(()) };
    let failed = |error| Error::internal("cannot end the member of etcd", error);
    terminate(&watched(process).map_err(failed)?).await
}

async fn terminate(process: &AsyncFd<OwnedFd>) -> Result<()> {
    for signal in [Signal::TERM, Signal::KILL] {
        // That it has ended already is no error.
        let _ = pidfd_send_signal(process.get_ref(), signal);
        if tokio::time::timeout(END, process.readable()).await.is_ok() {
            return Ok(());
        }
    }
    Err(Error::new(Kind::Unavailable, "cannot end the member of etcd: the kernel keeps it"))
}

async fn supervise(
    program: PathBuf,
    plan: Plan,
    problem: watch::Sender<Option<String>>,
    stop: Arc<Notify>,
) {
    let mut wait = BACK_OFF[0];
    loop {
        let begun = Instant::now();
        let Some(why) = run(&program, &plan, &problem, &stop).await else { return };
        tracing::warn!(why, again = ?wait, "the member of etcd ended");
        problem.send_replace(Some(why));
        if begun.elapsed() > WELL {
            wait = BACK_OFF[0];
        }
        tokio::select! {
            () = stop.notified() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(BACK_OFF[1]);
    }
}

/// Runs it until it ends. Why it did, unless it was told to.
async fn run(
    program: &Path,
    plan: &Plan,
    problem: &watch::Sender<Option<String>>,
    stop: &Notify,
) -> Option<String> {
    let (process, mut child) = match find(&plan.data()) {
        Some(process) => (process, None),
        None => match start(program, plan) {
            Ok((process, child)) => (process, Some(child)),
            Err(error) => return Some(format!("cannot start {}: {error}", program.display())),
        },
    };
    let ended = match watched(process) {
        Ok(ended) => ended,
        Err(error) => return Some(format!("cannot watch it: {error}")),
    };
    let begun = Instant::now();
    let told = loop {
        tokio::select! {
            () = stop.notified() => break true,
            ready = tokio::time::timeout(LOG.0, ended.readable()) => if ready.is_ok() { break false },
        }
        trim(&plan.log);
        if begun.elapsed() >= WELL {
            problem.send_replace(None);
        }
    };
    if told && let Err(error) = terminate(&ended).await {
        tracing::error!(error = error.chain(), "a member of etcd does not end");
        return None;
    }
    // Nobody else takes note of a child's end.
    let status = child.as_mut().and_then(|child| child.wait().ok());
    let how = status.map_or_else(|| "it is gone".to_owned(), |status| status.to_string());
    let words = last_words(&plan.log).map(|words| format!(": {words}")).unwrap_or_default();
    (!told).then(|| format!("{how}{words}"))
}

/// Starts it in a group of its own, so that what ends the daemon does not end it.
fn start(program: &Path, plan: &Plan) -> io::Result<(OwnedFd, Child)> {
    fs::create_dir_all(plan.data())?;
    fs::set_permissions(plan.data(), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    trim(&plan.log);
    let log = OpenOptions::new().create(true).append(true).open(&plan.log)?;
    let mut child = Command::new(program)
        // Its own variables would contradict what it is told here.
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .args(plan.arguments())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()?;
    let Some(process) = pidfd(child.id().cast_signed()) else {
        let _ = child.kill();
        child.wait()?;
        return Err(io::Error::other("it cannot be watched"));
    };
    Ok((process, child))
}

/// The process that has a data directory.
fn find(data: &Path) -> Option<OwnedFd> {
    let own = fs::metadata(data).ok()?;
    let argument = format!("--data-dir={}", data.display());
    let is = |process: &Path| {
        let words = fs::read(process.join("cmdline")).unwrap_or_default();
        if !words.split(|byte| *byte == 0).any(|word| word == argument.as_bytes()) {
            return false;
        }
        // Others may have a directory of that name: in a container, or a laboratory.
        let below = data.strip_prefix("/").unwrap_or(data);
        let there = fs::metadata(process.join("root").join(below));
        there.is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino()))
    };
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = std::str::from_utf8(entry.file_name().as_bytes()).ok()?.parse().ok()?;
        if !is(&entry.path()) {
            return None;
        }
        // Once it is held, another process cannot take its number.
        pidfd(pid).filter(|_| is(&entry.path()))
    })
}

/// Becomes readable when the process has ended.
fn watched(process: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(deprecated, reason = "an owned descriptor keeps what its successor has promised")]
    AsyncFd::new(process)
}

fn pidfd(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::NONBLOCK).ok()
}

/// Keeps its log small. It appends, wherever the end is.
fn trim(log: &Path) {
    let large = fs::metadata(log).is_ok_and(|log| log.len() > LOG.1);
    if large && let Err(error) = File::options().write(true).open(log).and_then(|f| f.set_len(0)) {
        tracing::debug!(%error, "cannot shorten the log of etcd");
    }
}

/// What it complained of last.
fn last_words(log: &Path) -> Option<String> {
    let text = fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    let worst = |line: &&str| line.contains("\"fatal\"") || line.contains("\"error\"");
    let line = text.lines().rfind(worst).or_else(|| text.lines().last())?;
    Some(line.chars().take(300).collect())
}
