//! What there is: in the kernel, on disk, in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use cnm::Store;
use cnm::ipam::Lease;
use cnm::store::Disk;

use crate::daemon::{Daemon, PATIENCE};

type Lines = BTreeSet<String>;

/// Everything that a container could leave behind, by kind, as lines to compare.
#[derive(PartialEq, Eq)]
pub(crate) struct Snapshot(BTreeMap<&'static str, Lines>);

impl Snapshot {
    /// Looks around. The daemon must not run: the store is its alone.
    pub(crate) fn take(daemon: &Daemon) -> Self {
        let directory = daemon.directory();
        Self(BTreeMap::from([
            ("links", first_words("/proc/self/net/dev", 0)),
            ("IPv4 routes", lines_of("ip", &["-4", "route", "show", "table", "all"])),
            ("IPv6 addresses", first_words("/proc/self/net/if_inet6", 0)),
            ("nf_tables", lines_of("nft", &["list", "ruleset"])),
            ("mounts", first_words("/proc/self/mountinfo", 4)),
            ("listening sockets", listening()),
            ("processes", processes()),
            ("cgroups", cgroups(directory).iter().map(|path| path.display().to_string()).collect()),
            ("files", files(directory)),
            ("records", records(&daemon.data().join("store.redb"))),
        ]))
    }

    /// What ends after its container, a shim for one, is given time to.
    pub(crate) fn assert_is_back(&self, daemon: &Daemon) {
        let end = Instant::now() + PATIENCE / 4;
        loop {
            let now = Self::take(daemon);
            if now == *self {
                return;
            }
            assert!(Instant::now() < end, "left over:\n{}", self.difference(&now));
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn difference(&self, now: &Self) -> String {
        let mut text = String::new();
        for (kind, lines) in &self.0 {
            let gone = lines.difference(&now.0[kind]).map(|line| format!("  - {line}\n"));
            let new = now.0[kind].difference(lines).map(|line| format!("  + {line}\n"));
            let changes: String = gone.chain(new).collect();
            if !changes.is_empty() {
                text.extend([kind, ":\n", &changes]);
            }
        }
        text
    }
}

/// The cgroup above the containers of a test, of its own name in every hierarchy.
pub(crate) fn parent(directory: &Path) -> String {
    format!("/{}", directory.file_name().unwrap().to_str().unwrap())
}

/// The cgroups there and below, the innermost first.
pub(crate) fn cgroups(directory: &Path) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found = Vec::new();
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        let top = hierarchy.join(parent(directory).trim_start_matches('/'));
        if top.is_dir() && !hierarchy.is_symlink() {
            walk(&top, &mut |path| found.extend(path.is_dir().then(|| path.to_owned())));
            found.push(top);
        }
    }
    found
}

/// Calls for everything under a directory, what is inside before what it is in.
fn walk(directory: &Path, each: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            walk(&path, each);
        }
        each(&path);
    }
}

/// The paths under the daemon's directory, but for those that are the daemon's own.
fn files(directory: &Path) -> Lines {
    let mut found = Lines::new();
    walk(directory, &mut |path| {
        let path = path.strip_prefix(directory).unwrap_or(path).display().to_string();
        if !["sock", "pid", "log"].contains(&path.as_str()) {
            found.insert(path);
        }
    });
    found
}

/// The keys of the store. An address that belongs to nobody any more is remembered, so that it
/// rests before somebody else gets it: that is no lease.
fn records(store: &Path) -> Lines {
    let store = Disk::open(store).unwrap();
    let rests = |key: &str, value: &[u8]| {
        key.starts_with("lease/")
            && serde_json::from_slice::<Lease>(value)
                .is_ok_and(|lease| lease.owner.is_empty() && lease.released.is_some())
    };
    let all = store.list("").unwrap().into_iter();
    all.filter(|(key, value)| !rests(key, value)).map(|(key, _)| key).collect()
}

fn lines_of(program: &str, arguments: &[&str]) -> Lines {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    // A set's elements are wrapped into lines as they fit.
    let text = String::from_utf8(output.stdout).unwrap().replace(",\n", ", ");
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// One word of each line of a file.
fn first_words(path: &str, word: usize) -> Lines {
    let text = fs::read_to_string(path).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().nth(word)).map(str::to_owned).collect()
}

/// Addresses of sockets that listen, and of UDP sockets.
fn listening() -> Lines {
    let mut found = Lines::new();
    for protocol in ["tcp", "tcp6", "udp", "udp6"] {
        let text = fs::read_to_string(format!("/proc/self/net/{protocol}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            if let [_, local, _, "0A" | "07", ..] = words[..] {
                found.insert(format!("{protocol} {local}"));
            }
        }
    }
    found
}

/// The names of the processes that run, of those in this process namespace.
fn processes() -> Lines {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit());
    let mut found = Lines::new();
    for pid in pids {
        let stat = fs::read_to_string(pid.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.rsplit_once(") ") else { continue };
        let name = name.split_once('(').map_or("", |(_, name)| name);
        if !rest.starts_with('Z') {
            found.insert(name.to_owned());
        }
    }
    found
}
