//! Containers come and go while the daemon is killed at random moments: nothing is left of them.
//!
//! The test runs itself again in network, mount and process namespaces, so that whatever goes
//! wrong ends with it. It needs root, and `rnet-dns` built beside `rnet`.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]
#![expect(clippy::print_stderr, reason = "the seed is needed to have a failure again")]

mod daemon;
mod snapshot;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::daemon::{Daemon, PATIENCE, until};
use crate::snapshot::Snapshot;

const CYCLES: u32 = 200;

/// The last cycle in which somebody else flushes the ruleset: a daemon that starts later makes the users'
/// table anew.
const LAST_FLUSH: u32 = CYCLES / 2;

/// What the networks are, by number from 1. Containers begin on one of the first three, whose ports
/// are published by the host's addresses, or on a LAN, and join another one.
const KINDS: [&str; 6] = ["", "", "apart", "routed", "internal", "macvlan"];

/// The number of the network that is on a LAN, which the host has access to.
const LAN: u8 = 6;

/// Another LAN, by ipvlan, where the kernel has that: else a network like any other.
const OTHER_LAN: u8 = 7;

/// A cable for the LANs: two links on one parent are of one driver.
const PREPARE: &str = "ip link set lo up && ip link add lan0 type veth peer name lan1 && \
                       ip link set lan0 up && ip link set lan1 up && \"$@\"; exit $?";
const INSIDE: &str = "RNET_SOAK_INSIDE";
const SEED: &str = "RNET_SOAK_SEED";
const NAME: &str = "nothing_is_left_when_the_daemon_is_killed_at_random_moments";

#[test]
fn nothing_is_left_when_the_daemon_is_killed_at_random_moments() {
    if let Some(directory) = std::env::var_os(INSIDE) {
        soak(Path::new(&directory));
        return;
    }
    let directory = std::env::temp_dir().join(format!("rnet-soak-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let _clean = Clean(directory.clone());
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        // The shell is the first process, which has to bury orphans.
        .args(["--propagation", "private", "sh", "-c", PREPARE, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(INSIDE, &directory)
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// Removes what outlives the namespaces: the directory, and the cgroups that bear its name.
struct Clean(PathBuf);

impl Drop for Clean {
    fn drop(&mut self) {
        for path in snapshot::cgroups(&self.0) {
            let _ = fs::remove_dir(path);
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn soak(directory: &Path) {
    let seed = std::env::var(SEED).ok().map(|seed| seed.parse().unwrap());
    let seed = seed.unwrap_or_else(|| {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        since.subsec_nanos().into()
    });
    eprintln!("seed {seed}: set {SEED} to have the same moments again");
    let daemon = Daemon::new(directory);
    daemon.start();
    let other_lan = if has_ipvlan() { "ipvlan" } else { "" };
    eprintln!("the other LAN is of kind {other_lan:?}");
    for (number, kind) in (1..).zip(KINDS.into_iter().chain([other_lan])) {
        daemon.create_network(&format!("net{number}"), number, kind);
    }
    // The first container has things made that stay, the cgroup above it for one.
    Cycle { daemon: &daemon, number: 0 }.run();
    daemon.stop();
    let before = Snapshot::take(&daemon);
    daemon.start();
    let kills = cycles(&daemon, Random(seed));
    eprintln!("{kills} kills in {CYCLES} cycles");
    assert!(kills > CYCLES / 4, "too few kills to tell anything");
    daemon.stop();
    before.assert_is_back(&daemon);
    // Somebody runs while no daemon does, for otherwise nothing would stay in the kernel.
    daemon.start();
    let last = [CYCLES + 1, CYCLES + 4].map(|number| Cycle { daemon: &daemon, number });
    last.iter().for_each(Cycle::begin);
    assert_ne!(last[0].networks()[0], LAN);
    assert_eq!(last[1].networks()[0], LAN);
    daemon.stop();
    daemon.start();
    assert!(!daemon.healed(), "the kernel was not what the model says:\n{}", daemon.log());
    last.iter().for_each(Cycle::end);
    daemon.stop();
    before.assert_is_back(&daemon);
}

/// Whether the kernel has links of that type.
fn has_ipvlan() -> bool {
    let ip = |words: &str| Command::new("ip").args(words.split(' ')).status().unwrap().success();
    ip("link add trial link lan1 type ipvlan") && ip("link del trial")
}

/// Runs the cycles and returns how often the daemon was killed.
fn cycles(daemon: &Daemon, mut random: Random) -> u32 {
    let mut usual = Duration::from_millis(500);
    let mut kills = 0;
    for number in 1..=CYCLES {
        let cycle = Cycle { daemon, number };
        if random.below(2) == 0 {
            let begun = Instant::now();
            cycle.run();
            usual = (usual * 3 + begun.elapsed()) / 4;
            continue;
        }
        let first = random.part_of(usual);
        // Every fourth time its successor is killed as well, while it takes up what is there.
        let second = (random.below(4) == 0).then(|| random.part_of(usual / 4));
        thread::scope(|scope| {
            let killer = scope.spawn(move || {
                wait(first);
                daemon.kill();
                if let Some(second) = second {
                    daemon.spawn();
                    wait(second);
                    daemon.kill();
                }
                daemon.start();
            });
            cycle.run();
            killer.join().unwrap();
        });
        kills += 1 + u32::from(second.is_some());
    }
    kills
}

/// Lets time pass: the moment of a kill is no condition to wait for.
fn wait(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
}

/// The life of one container.
struct Cycle<'a> {
    daemon: &'a Daemon,
    number: u32,
}

impl Cycle<'_> {
    fn name(&self) -> String {
        format!("c{}", self.number)
    }

    fn port(&self) -> u16 {
        u16::try_from(20_000 + self.number % 50).unwrap()
    }

    fn networks(&self) -> [u8; 2] {
        match self.number % 9 {
            0 => [1, 2],
            1 => [2, 1],
            2 => [3, 5],
            3 => [1, LAN],
            4 => [2, 3],
            5 => [3, 4],
            6 => [LAN, 1],
            7 => [1, OTHER_LAN],
            _ => [1, 5],
        }
    }

    /// Where it answers: at a port of the host, or at its own address on the LAN.
    fn server(&self) -> SocketAddr {
        match self.networks() {
            [LAN, _] => SocketAddr::new(self.address().parse().unwrap(), 80),
            _ => SocketAddr::from(([127, 0, 0, 1], self.port())),
        }
    }

    fn address(&self) -> String {
        format!("10.77.{LAN}.{}", 100 + self.number % 50)
    }

    fn ask(&self, path: &str, body: &serde_json::Value, done: &[u16]) {
        self.daemon.insist("POST", path, &body.to_string(), done);
    }

    /// Starts the container, and sees that it answers.
    fn begin(&self) {
        let (name, port, [first, _]) = (self.name(), self.port(), self.networks());
        let network = format!("net{first}");
        let endpoint = match first {
            LAN => json!({"IPAMConfig": {"IPv4Address": self.address()}}),
            _ => json!({}),
        };
        let host = json!({
            "NetworkMode": network,
            "CgroupParent": snapshot::parent(self.daemon.directory()),
            "PortBindings": {"80/tcp": [{"HostPort": port.to_string()}]},
        });
        let endpoints = json!({"EndpointsConfig": {network: endpoint}});
        let body = json!({
            "Image": "rnet/toolbox", "Cmd": ["httpd"], "HostConfig": host,
            "NetworkingConfig": endpoints,
        });
        self.ask(&format!("/containers/create?name={name}"), &body, &[409]);
        self.ask(&format!("/containers/{name}/start"), &json!({}), &[304]);
        // From here on it answers, whoever is killed.
        until("it answers", || self.answers());
    }

    /// Stops the container and removes it.
    fn end(&self) {
        let name = self.name();
        self.ask(&format!("/containers/{name}/stop"), &json!({}), &[304]);
        self.daemon.insist("DELETE", &format!("/containers/{name}"), "", &[404]);
    }

    /// Whether the container says who asked.
    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&self.server(), PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    fn run(&self) {
        let (name, [_, second]) = (self.name(), self.networks());
        self.begin();
        let connect = format!("/networks/net{second}/connect");
        self.ask(&connect, &json!({"Container": name}), &[403, 409]);
        assert!(self.answers(), "{name} does not answer when it is on two networks");
        let disconnect = format!("/networks/net{second}/disconnect");
        self.ask(&disconnect, &json!({"Container": name}), &[403, 404, 409, 500]);
        assert!(self.answers(), "{name} does not answer when it left a network");
        if self.number % 7 == 3 && self.number < LAST_FLUSH {
            assert!(Command::new("nft").args(["flush", "ruleset"]).status().unwrap().success());
            assert!(self.answers(), "{name} does not answer when somebody flushed the ruleset");
        }
        self.end();
        if self.number % 10 == 5 {
            let extra = format!("extra{}", self.number);
            let kind = KINDS[usize::try_from(self.number / 10).unwrap() % KINDS.len()];
            self.daemon.create_network(&extra, 9, kind);
            self.daemon.insist("DELETE", &format!("/networks/{extra}"), "", &[404]);
        }
    }
}

/// Numbers that look random and are the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn part_of(&mut self, time: Duration) -> Duration {
        let micros = u64::try_from(time.as_micros()).unwrap();
        Duration::from_micros(self.below(micros.max(1)))
    }
}
