//! A manager's member of etcd: a process that outlives the daemon, as shims do.
//!
//! Which process it is, its data directory tells: that is found in the arguments, and compared by
//! what it is on disk. So the daemon that comes next finds it without having written anything down.
//! What is none of etcd's, another user's or in a container is never taken for it.

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
use serde_json::Value;
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

/// Who ended so often in a row will do so again.
const HOPELESS: usize = 5;

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
    /// Whether it forgets all others that it knows of.
    pub alone: bool,
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
        let alone_again = self.alone.then(|| "--force-new-cluster".to_owned());
        values.chain(flags.map(str::to_owned)).chain(alone_again).collect()
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

/// How often it ended and was not well in between.
#[derive(Clone, Debug, Default)]
struct Ends {
    in_a_row: usize,
    why: Option<String>,
}

/// A member that is kept running.
#[derive(Debug)]
pub struct EtcdProcess {
    plan: Plan,
    ends: watch::Receiver<Ends>,
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

impl EtcdProcess {
    /// Keeps one running: adopts the process that is there, or starts one, and starts another when it
    /// ends.
    pub fn keep(plan: Plan) -> Result<Self> {
        let program = program()?;
        let stop = Arc::new(Notify::new());
        let (tell, ends) = watch::channel(Ends::default());
        let task = tokio::spawn(supervise(program, plan.clone(), tell, stop.clone()));
        Ok(Self { plan, ends, stop, task })
    }

    /// Why it ended, if it has not been well for a while since.
    pub fn problem(&self) -> Option<String> {
        self.ends.borrow().why.clone()
    }

    /// Whether it ends whenever it is started.
    pub fn keeps_ending(&self) -> bool {
        self.ends.borrow().in_a_row >= HOPELESS
    }

    /// Ends the process.
    pub async fn end(mut self) -> Result<()> {
        self.stop.notify_one();
        // It has its own limits.
        let _ = (&mut self.task).await;
        end(&self.plan.data()).await
    }
}

impl Drop for EtcdProcess {
    /// The process goes on.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends whatever process has a data directory.
pub async fn end(data: &Path) -> Result<()> {
    let Some(process) = found(data).await else { return Ok(()) };
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

async fn supervise(program: PathBuf, plan: Plan, ends: watch::Sender<Ends>, stop: Arc<Notify>) {
    let mut wait = BACK_OFF[0];
    loop {
        let begun = Instant::now();
        let Some(why) = run(&program, &plan, &ends, &stop).await else { return };
        tracing::warn!(why, again = ?wait, "the member of etcd ended");
        ends.send_modify(|ends| {
            ends.in_a_row += 1;
            ends.why = Some(why);
        });
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
    ends: &watch::Sender<Ends>,
    stop: &Notify,
) -> Option<String> {
    let since = length(&plan.log);
    let (process, mut child) = match begun(program, plan).await {
        Ok(begun) => begun,
        Err(error) => return Some(format!("cannot start {}: {error}", program.display())),
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
            ends.send_replace(Ends::default());
        }
    };
    if told && let Err(error) = terminate(&ended).await {
        tracing::error!(error = error.chain(), "a member of etcd does not end");
        return None;
    }
    // Nobody else takes note of a child's end.
    let status = child.as_mut().and_then(|child| child.wait().ok());
    let how = status.map_or_else(|| "it is gone".to_owned(), |status| status.to_string());
    let words = last_words(&plan.log, since).map(|words| format!(": {words}")).unwrap_or_default();
    (!told).then(|| format!("{how}{words}"))
}

/// The process that is there, or one that is started.
async fn begun(program: &Path, plan: &Plan) -> io::Result<(OwnedFd, Option<Child>)> {
    let (program, plan) = (program.to_owned(), plan.clone());
    let begin = move || match find(&plan.data()) {
        Some(process) => Ok((process, None)),
        None => start(&program, &plan).map(|(process, child)| (process, Some(child))),
    };
    tokio::task::spawn_blocking(begin).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// The process that is there. Looking for it goes through all that there are.
async fn found(data: &Path) -> Option<OwnedFd> {
    let data = data.to_owned();
    tokio::task::spawn_blocking(move || find(&data)).await.ok().flatten()
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
    let place = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    let (own, root) = (place(data)?, place(Path::new("/proc/self/root"))?);
    let user = rustix::process::geteuid().as_raw();
    let argument = format!("--data-dir={}", data.display());
    let is = |process: &Path| {
        let words = fs::read(process.join("cmdline")).unwrap_or_default();
        if !words.split(|byte| *byte == 0).any(|word| word == argument.as_bytes()) {
            return false;
        }
        // Anybody may say these words, and a container may have a directory of that name.
        let there = process.join("root");
        fs::metadata(process).is_ok_and(|process| process.uid() == user)
            && fs::read_link(process.join("exe")).is_ok_and(|program| is_etcd(&program))
            && place(&there) == Some(root)
            && place(&there.join(data.strip_prefix("/").unwrap_or(data))) == Some(own)
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

/// Whether a running program is etcd's. The kernel says of one that was exchanged meanwhile that it
/// is deleted.
fn is_etcd(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().as_bytes();
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    let known = self::program().ok().and_then(|known| known.canonicalize().ok());
    name == b"etcd"
        || known.is_some_and(|known| known.file_name().is_some_and(|n| n.as_bytes() == name))
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

/// What it complained of last, and worst, since its log was as long as this.
fn last_words(log: &Path, since: usize) -> Option<String> {
    let text = fs::read(log).ok()?;
    let text = text.get(since..).unwrap_or(&text);
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(16_384)..]).into_owned();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines: Vec<_> = lines.collect();
    let is_bad = |line: &&Value| {
        matches!(line["level"].as_str(), Some("error" | "dpanic" | "panic" | "fatal"))
    };
    let line = lines.iter().rfind(is_bad).or(lines.last());
    let words = line.map(|line| {
        let said = [&line["msg"], &line["error"]].into_iter().filter_map(Value::as_str);
        said.collect::<Vec<_>>().join(": ")
    });
    let words = words.or_else(|| text.lines().last().map(str::to_owned))?;
    Some(words.chars().take(300).collect())
}

fn length(log: &Path) -> usize {
    fs::metadata(log).map_or(0, |log| usize::try_from(log.len()).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_only_says_that_he_has_the_directory_is_let_alone() {
        let data = std::env::temp_dir().join(format!("rnet-member-{}", std::process::id()));
        fs::create_dir_all(&data).unwrap();
        let argument = format!("--data-dir={}", data.display());
        let mut stranger = Command::new("sh")
            .args(["-c", "read word", "etcd", &argument])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        assert!(find(&data).is_none());
        end(&data).await.unwrap();
        assert!(stranger.try_wait().unwrap().is_none(), "it was ended");
        drop(stranger.stdin.take());
        stranger.wait().unwrap();
        fs::remove_dir(&data).unwrap();
    }

    #[test]
    fn what_is_told_of_an_end_is_the_worst_that_was_said_since_the_beginning() {
        let log = std::env::temp_dir().join(format!("rnet-member-log-{}", std::process::id()));
        let old = r#"{"level":"fatal","msg":"of another time"}"#;
        let bad = r#"{"level":"fatal","msg":"discovery failed","error":"address already in use"}"#;
        let odd = r#"{"level":"warn","msg":"rejected connection","error":"EOF"}"#;
        fs::write(&log, format!("{old}\n{bad}\n{odd}\n")).unwrap();
        let said = |since| last_words(&log, since);
        let worst = "discovery failed: address already in use";
        assert_eq!(said(old.len() + 1).as_deref(), Some(worst));
        assert_eq!(said(old.len() + bad.len() + 2).as_deref(), Some("rejected connection: EOF"));
        // It was cut off meanwhile, and says something else.
        fs::write(&log, "Killed\n").unwrap();
        assert_eq!(said(1000).as_deref(), Some("Killed"));
        fs::remove_file(&log).unwrap();
    }

    #[test]
    fn a_program_that_was_exchanged_while_it_runs_is_still_etcd() {
        for (program, is) in [
            ("/usr/bin/etcd", true),
            ("/usr/bin/etcd (deleted)", true),
            ("/usr/bin/etcdctl", false),
            ("/usr/bin/dash", false),
        ] {
            assert_eq!(is_etcd(Path::new(program)), is, "{program}");
        }
    }
}
