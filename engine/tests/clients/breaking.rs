//! Clients that break off in the middle of what they asked for leave nothing behind: no descriptor,
//! no thread, no memory, neither in the daemon nor in the shim.
//!
//! `RNET_BREAKS=10000` runs as many execs, and a tenth as many attaches; the usual run has fewer.

use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use serde_json::{Value, json};

use crate::daemon::{Daemon, PATIENCE, Reply};

const IMAGE: &str = "rnet/toolbox";

/// How many execs are broken off in the usual run.
const USUAL: u32 = 150;

/// What may be more afterwards, in bytes: allocators keep some.
const SLACK: u64 = 16 << 20;

/// What a process has.
#[derive(Clone, Copy, Debug)]
struct Footprint {
    descriptors: usize,
    threads: usize,
    memory: u64,
}

impl Footprint {
    fn of(pid: &str) -> Self {
        let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let memory: u64 = memory.trim().trim_end_matches(" kB").parse().unwrap();
        Self { descriptors: count("fd"), threads: count("task"), memory: memory * 1024 }
    }

    fn is_no_more_than(self, before: Self) -> bool {
        self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.memory <= before.memory + SLACK
    }
}

const HIJACK: &str = "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n";

/// Leaves at once, after the head of the answer, or after saying something.
fn break_off(mut stream: UnixStream, how: u32) {
    if !how.is_multiple_of(3) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        Reply::read_head(&mut reader);
    }
    if how % 3 > 1 {
        let _ = stream.write_all(b"a line, and half of ano");
    }
}

fn exec(daemon: &Daemon, number: u32) {
    let body = json!({
        "AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Tty": number % 4 == 3,
        "Cmd": if number.is_multiple_of(2) { json!(["cat"]) } else { json!(["flood", "50"]) },
    });
    let created = daemon.post("/containers/c1/exec", &body);
    assert_eq!(created.status, 201, "{}", created.text());
    let id = created.json()["Id"].as_str().unwrap().to_owned();
    let body = json!({"Tty": number % 4 == 3}).to_string();
    let stream = daemon.open("POST", &format!("/exec/{id}/start"), HIJACK, body.as_bytes());
    break_off(stream, number);
}

fn attach(daemon: &Daemon, number: u32) {
    let path = "/containers/c1/attach?stream=1&stdin=1&stdout=1&stderr=1";
    break_off(daemon.open("POST", path, HIJACK, b""), number);
}

fn rounds(daemon: &Daemon, count: u32) {
    for number in 0..count {
        exec(daemon, number);
        if number % 10 == 0 {
            attach(daemon, number / 10);
        }
    }
    // One whose client left before its request was read is never started, and stays prepared.
    let runs = |id: &Value| {
        let exec = daemon.get(&format!("/exec/{}/json", id.as_str().unwrap()));
        exec.status == 200 && exec.json()["Running"] == true
    };
    let end = Instant::now() + PATIENCE;
    let known = || daemon.get("/containers/c1/json").json()["ExecIDs"].clone();
    while known().as_array().is_some_and(|all| all.iter().any(runs)) {
        assert!(Instant::now() < end, "execs go on without anybody");
        std::thread::yield_now();
    }
}

#[test]
fn cve_2022_23471_cve_2025_64329_execs_and_attaches_that_are_broken_off_leave_nothing() {
    let count = std::env::var("RNET_BREAKS").map_or(USUAL, |text| text.parse().unwrap());
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "-i", "--name", "c1", "--network", "none", IMAGE, "trap"]);
    let pid = daemon.docker_ok(&["inspect", "-f", "{{.State.Pid}}", "c1"]);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let shim = stat.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().to_owned();
    rounds(&daemon, 40);
    let both = || [daemon.id(), shim.clone()].map(|pid| Footprint::of(&pid));
    let before = both();
    rounds(&daemon, count);
    let end = Instant::now() + PATIENCE;
    loop {
        let after = both();
        let flat = after.iter().zip(before).all(|(now, then)| now.is_no_more_than(then));
        if flat {
            return;
        }
        assert!(Instant::now() < end, "daemon and shim had {before:?} and have {after:?}");
        std::thread::yield_now();
    }
}
