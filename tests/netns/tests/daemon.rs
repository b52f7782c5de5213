//! What goes on while the daemon does not, and what it finds when it comes back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netns_tests::lookup::addresses;
use netns_tests::{Daemon, Host, Lab, SILENCE, Server, TIMEOUT, patient, wait_until};

/// A container that is asked for by port and by name, and one that asks.
struct Scene {
    lab: Lab,
    daemon: Daemon,
    web: Host,
    asker: Host,
    known: BTreeMap<String, Vec<IpAddr>>,
    _server: Server,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new();
        let daemon = Daemon::start(&lab.host, &[]);
        daemon.rnet("network create --ipv6 n1");
        let web = daemon.run("web", "--network n1 -p 8080:80 -p 8080:80/udp");
        let asker = daemon.run("asker", "--network n1");
        let (server, known) = (web.serve(80), daemon.addresses("web"));
        Self { lab, daemon, web, asker, known, _server: server }
    }

    /// The port answers other machines, the host and containers, and the name is known.
    fn works(&self) {
        for (host, client) in Lab::both(Lab::HOST).into_iter().zip(Lab::both(Lab::CLIENT)) {
            assert_eq!(self.lab.client.tcp(host, 8080).unwrap(), client);
            assert_eq!(self.lab.client.udp(host, 8080).unwrap(), client);
            assert!(self.lab.host.tcp(host, 8080).is_ok(), "{host}");
            assert!(self.asker.tcp(host, 8080).is_ok(), "{host}");
            assert!(self.web.tcp(host, 8080).is_ok(), "{host}");
        }
        for localhost in Lab::both(["127.0.0.1", "::1"]) {
            assert!(self.lab.host.tcp(localhost, 8080).is_ok(), "{localhost}");
        }
        assert_eq!(addresses(&self.asker, "web"), self.known["n1"]);
        for address in &self.known["n1"] {
            assert!(self.asker.tcp(*address, 80).is_ok(), "{address}");
        }
    }
}

#[test]
fn a_daemon_killed_after_a_start_does_not_make_the_container_younger() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("run -d --name c1 rnet/toolbox trap 0");
    let started = |daemon: &Daemon| {
        let text = daemon.rnet("inspect -f {{.State.StartedAt}} c1");
        chrono::DateTime::parse_from_rfc3339(&text).unwrap()
    };
    let before = started(&daemon);
    daemon.kill();
    // What would be seen if the next daemon took its own time for that of the start.
    let least = patient(Duration::from_millis(500));
    let passed = || (chrono::Utc::now() - before.to_utc()).to_std().unwrap();
    wait_until("time has passed", || passed() >= least * 2);
    daemon.restart();
    let difference = (started(&daemon) - before).abs().to_std().unwrap();
    assert!(difference < least, "{difference:?}");
}

#[test]
fn a_container_adds_nothing_but_its_namespace_to_the_mounts_of_the_host() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    let points = || -> Vec<String> {
        let output = daemon.command("cat").arg("/proc/self/mountinfo").output().unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        table.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned()).collect()
    };
    let before = points();
    daemon.rnet("run -d --name c1 rnet/toolbox trap 0");
    let after = points();
    let new: Vec<_> = after.iter().filter(|point| !before.contains(point)).collect();
    assert_eq!(new.len(), 1, "{new:?}");
    assert!(new[0].contains("/ns/"), "{new:?}");
    daemon.rnet("rm -f c1");
    assert_eq!(points(), before);
}

#[test]
fn a_killed_daemon_is_not_missed_and_the_next_one_adopts_what_there_is() {
    let mut scene = Scene::new();
    scene.works();
    scene.daemon.rnet("run -d --name ends rnet/toolbox trap 7");
    wait_until("the container listens to signals", || {
        scene.daemon.rnet("logs ends").contains("ready")
    });
    let pid = scene.daemon.rnet("inspect -f {{.State.Pid}} ends");
    let ports = scene.daemon.rnet("port web");
    for _ in 0..3 {
        scene.daemon.kill();
        scene.works();
        scene.daemon.restart();
        scene.works();
    }
    scene.daemon.kill();
    scene.daemon.signal(&pid, "-TERM");
    wait_until("the container has ended", || !scene.daemon.root(&format!("proc/{pid}")).exists());
    scene.daemon.restart();
    assert_eq!(scene.daemon.rnet("wait ends"), "7");
    assert_eq!(scene.daemon.rnet("port web"), ports);
    assert_eq!(scene.daemon.addresses("web"), scene.known);
    assert_eq!(scene.daemon.rnet("inspect -f {{.State.Status}} web"), "running");
    scene.works();
}

#[test]
fn a_daemon_that_is_told_to_end_leaves_containers_running() {
    let mut scene = Scene::new();
    let pid = scene.daemon.rnet("inspect -f {{.State.Pid}} web");
    scene.daemon.terminate();
    scene.works();
    scene.daemon.restart();
    scene.works();
    assert_eq!(scene.daemon.rnet("inspect -f {{.State.Pid}} web"), pid);
    assert_eq!(scene.daemon.addresses("web"), scene.known);
}

/// Flushes the ruleset again and again, while a client connects by both families.
fn connects_while_flushed(scene: &Scene) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients = Lab::both(Lab::HOST).map(|host| {
            let (client, done) = (&scene.lab.client, &done);
            scope.spawn(move || {
                let mut made = 0;
                while !done.load(Ordering::Relaxed) || made == 0 {
                    client.tcp(host, 8080).unwrap();
                    made += 1;
                }
            })
        });
        for _ in 0..20 {
            let nft = |words: &str| {
                let words = words.split(' ');
                scene.daemon.command("nft").args(words).status().unwrap().success()
            };
            assert!(nft("add table inet theirs") && nft("flush ruleset"));
            assert!(!nft("list table inet theirs"), "the ruleset was flushed");
        }
        done.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
    });
}

#[test]
fn no_connection_fails_while_others_flush_the_ruleset() {
    let mut scene = Scene::new();
    connects_while_flushed(&scene);
    scene.works();
    scene.daemon.kill();
    connects_while_flushed(&scene);
    scene.works();
    scene.daemon.restart();
    connects_while_flushed(&scene);
    scene.works();
}

#[test]
fn ports_and_names_are_back_when_the_resolver_was_killed() {
    let scene = Scene::new();
    let first = scene.daemon.resolver().unwrap();
    scene.daemon.signal(&first, "-KILL");
    let host: IpAddr = Lab::HOST[0].parse().unwrap();
    assert!(scene.lab.client.tcp(host, 8080).is_ok(), "the kernel needs no resolver");
    wait_until("there is another resolver with the port", || {
        scene.lab.host.tcp([0_u16, 0, 0, 0, 0, 0, 0, 1], 8080).is_ok()
    });
    scene.works();
    let stranger = scene.lab.host.run(|| std::net::TcpListener::bind("0.0.0.0:8080"));
    assert!(stranger.is_err(), "the port is reserved again");
}

/// Has the process that answers names hang; returns its number.
fn hang_the_resolver(scene: &Scene) -> String {
    let hung = scene.daemon.resolver().unwrap();
    scene.daemon.signal(&hung, "-STOP");
    hung
}

/// Waits until another process answers in the place of one that hung, with all that it had.
fn is_replaced(scene: &Scene, hung: &str) {
    let localhost = SocketAddr::new(IpAddr::from([0_u16, 0, 0, 0, 0, 0, 0, 1]), 8080);
    wait_until("another one carries the port", || {
        scene.lab.host.tcp_to(localhost, SILENCE).is_ok()
    });
    scene.works();
    assert!(!scene.daemon.root(&format!("proc/{hung}")).exists(), "the one that hung is gone");
    let stranger = scene.lab.host.run(|| std::net::TcpListener::bind("0.0.0.0:8080"));
    assert!(stranger.is_err(), "the port is reserved again");
}

#[test]
fn a_resolver_that_hangs_is_replaced_though_nobody_asks_anything_of_it() {
    let scene = Scene::new();
    let hung = hang_the_resolver(&scene);
    is_replaced(&scene, &hung);
}

#[test]
fn containers_start_and_stop_while_the_resolver_hangs() {
    let scene = Scene::new();
    let hung = hang_the_resolver(&scene);
    let begun = Instant::now();
    thread::scope(|scope| {
        for number in 0..4 {
            let daemon = &scene.daemon;
            scope.spawn(move || {
                let name = format!("late{number}");
                daemon.run(&name, "--network n1");
                daemon.rnet(&format!("rm -f {name}"));
            });
        }
    });
    // The first to meet it waits until it is known to hang; nobody waits for that a second time.
    assert!(begun.elapsed() < patient(TIMEOUT), "{:?}", begun.elapsed());
    is_replaced(&scene, &hung);
}

#[test]
fn a_resolver_that_hangs_does_not_keep_the_next_daemon_from_serving() {
    let mut scene = Scene::new();
    for _ in 0..2 {
        scene.daemon.kill();
        let hung = hang_the_resolver(&scene);
        scene.daemon.restart();
        is_replaced(&scene, &hung);
    }
    hang_the_resolver(&scene);
    scene.daemon.rnet("system reset --force");
    scene.daemon.ends();
    assert_eq!(scene.daemon.resolver(), None);
}

/// What of a daemon's can be seen on its host.
fn traces(scene: &Scene) -> Vec<String> {
    let mut traces: Vec<_> = scene.lab.host.links().into_iter().map(|link| link.name).collect();
    let tables = scene.daemon.command("nft").args(["list", "tables"]).output().unwrap();
    traces.extend(String::from_utf8(tables.stdout).unwrap().lines().map(str::to_owned));
    let mounts = scene.daemon.command("cat").arg("/proc/self/mounts").output().unwrap();
    let mounts = String::from_utf8(mounts.stdout).unwrap();
    let ours = scene.daemon.file("");
    let ours = ours.to_str().unwrap();
    traces.extend(mounts.lines().filter(|line| line.contains(ours)).map(str::to_owned));
    traces.sort();
    traces
}

#[test]
fn a_reset_removes_what_is_ours_and_nothing_else() {
    let mut scene = Scene::new();
    let run = |program: &str, words: &str| {
        let words = words.split(' ');
        assert!(scene.daemon.command(program).args(words).status().unwrap().success());
    };
    run("ip", "link add br-theirs type bridge");
    run("ip", "addr add 10.99.0.1/24 dev br-theirs");
    run("ip", "addr add fd00:aaaa::1/64 dev br-theirs");
    run("nft", "add table inet theirs");
    run("nft", "add chain inet theirs forward");
    let theirs = scene.daemon.file("theirs");
    std::fs::write(&theirs, "precious").unwrap();
    scene.daemon.rnet("system reset --force");
    scene.daemon.ends();
    assert!(!scene.daemon.log().contains("is left"), "{}", scene.daemon.log());
    let left = traces(&scene);
    let tables: Vec<_> = left.iter().filter(|trace| trace.starts_with("table")).collect();
    assert!(tables.iter().any(|table| **table == "table inet theirs"), "{tables:?}");
    assert!(!tables.iter().any(|table| **table == "table inet rnet"), "{tables:?}");
    let links = scene.lab.host.links();
    let mut links: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
    links.sort_unstable();
    assert_eq!(links, ["br-theirs", "lan0", "lan1", "lo"]);
    let addresses = scene.lab.host.addresses("br-theirs");
    for address in ["10.99.0.1/24", "fd00:aaaa::1/64"] {
        assert!(addresses.contains(&address.parse().unwrap()), "{addresses:?}");
    }
    assert_eq!(
        left.iter().filter(|trace| trace.contains("/run/") || trace.contains("/data/")).count(),
        0,
        "{left:?}"
    );
    assert_eq!(std::fs::read_to_string(theirs).unwrap(), "precious");
    assert_eq!(scene.daemon.resolver(), None);
    let containers = std::fs::read_dir(scene.daemon.file("data/containers"));
    assert_eq!(containers.map_or(0, Iterator::count), 0);
    for address in ["0.0.0.0:8080", "[::]:8080"] {
        assert!(scene.lab.host.run(|| std::net::TcpListener::bind(address)).is_ok(), "{address}");
    }
}

#[test]
fn a_connection_that_was_answered_for_is_not_undone_by_a_crash() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 n1");
    daemon.rnet("network create --ipv6 n2");
    daemon.run("web", "--network n1");
    let networks = |daemon: &Daemon| daemon.addresses("web").into_keys().collect::<Vec<_>>();
    for (words, left) in [
        ("connect n2 web", &["n1", "n2"][..]),
        ("disconnect n1 web", &["n2"]),
        ("connect n1 web", &["n1", "n2"]),
    ] {
        daemon.rnet(&format!("network {words}"));
        daemon.kill();
        daemon.restart();
        assert_eq!(networks(&daemon), left, "{words}");
    }
}

#[test]
fn restart_policies_are_kept_by_the_next_daemon() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    for policy in ["no", "on-failure", "unless-stopped", "always"] {
        for state in ["killed", "stopped"] {
            let words = format!("run -d --name {policy}-{state} --restart {policy} --network none");
            daemon.rnet(&format!("{words} rnet/toolbox sleep 1000"));
        }
        daemon.rnet(&format!("stop -t 0 {policy}-stopped"));
    }
    let pids = |daemon: &Daemon| {
        daemon.rnet("inspect -f {{.State.Pid}} no-killed on-failure-killed unless-stopped-killed always-killed")
    };
    let before = pids(&daemon);
    daemon.kill();
    for pid in before.lines() {
        daemon.signal(pid, "-KILL");
    }
    daemon.restart();
    let expected = "always-killed\nalways-stopped\non-failure-killed\nunless-stopped-killed";
    wait_until("those that are to run, run", || {
        let running = daemon.rnet("ps --format {{.Names}}");
        let mut names: Vec<_> = running.lines().collect();
        names.sort_unstable();
        names.join("\n") == expected
    });
    let of = |name: &str| daemon.rnet(&format!("inspect -f {{{{.State.ExitCode}}}} {name}"));
    assert_eq!(of("no-killed"), "137", "what the shim wrote down is not lost");
    assert_ne!(pids(&daemon), before);
}

/// B26: the table, the bridge and the resolver of the first one were held for ever.
#[test]
fn a_daemon_stopped_with_nothing_running_makes_room_for_one_with_other_directories() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create n1");
    daemon.rnet("run --rm --network n1 -p 8080:80 rnet/toolbox true");
    let bridge = "rnet0";
    assert!(lab.host.link(bridge).is_some());
    daemon.terminate();
    assert_eq!(daemon.resolver(), None);
    assert!(lab.host.link(bridge).is_none());
    for directory in ["data", "run"] {
        std::fs::rename(daemon.file(directory), daemon.file(&format!("old-{directory}"))).unwrap();
    }
    daemon.restart();
    assert_eq!(daemon.rnet("network ls --format {{.Name}}"), "bridge\nhost\nnone");
    daemon.run("web", "-p 8080:80");
    // With somebody to serve everything stays.
    daemon.terminate();
    assert!(daemon.resolver().is_some() && lab.host.link(bridge).is_some());
    daemon.restart();
    daemon.rnet("rm -f web");
}

/// B26: it started, and every run failed in the runtime's words.
#[test]
fn a_daemon_whose_cgroups_are_hidden_says_so_when_it_starts() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    assert!(!daemon.log().contains("cgroups"), "{}", daemon.log());
    daemon.terminate();
    // From all others too: it is not for the daemon to mount them then.
    let hide = daemon.command("mount").args(["-t", "sysfs", "sysfs", "/sys"]).status().unwrap();
    assert!(hide.success());
    daemon.restart();
    assert!(daemon.log().contains("there are no cgroups at /sys/fs/cgroup"), "{}", daemon.log());
    let warnings = daemon.rnet("info -f {{.Warnings}}");
    assert!(warnings.contains("there are no cgroups at /sys/fs/cgroup"), "{warnings}");
}

#[test]
fn a_daemon_started_by_ip_netns_exec_mounts_the_cgroups_that_are_hidden_from_it() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    daemon.terminate();
    let name = "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && ip netns attach own $$";
    assert!(daemon.command("sh").args(["-c", name]).status().unwrap().success());
    daemon.restart_by(&["ip", "netns", "exec", "own"]);
    for network in ["bridge", "none"] {
        let run = format!("run --rm --network {network} -m 64m rnet/toolbox echo hello");
        assert_eq!(daemon.rnet(&run), "hello");
    }
    daemon.rnet("run -d --name running rnet/toolbox sleep 1000");
    assert_eq!(daemon.rnet("exec running echo again"), "again");
    assert!(!daemon.log().contains("there are no cgroups"), "{}", daemon.log());
    let seen = daemon.command("sh").args(["-c", "ls /sys/fs/cgroup"]).output().unwrap().stdout;
    let others = std::fs::read_dir("/sys/fs/cgroup").unwrap().count();
    assert_eq!(
        String::from_utf8(seen).unwrap().lines().count(),
        others,
        "others see what they saw"
    );
}
