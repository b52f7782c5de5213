//! What containers do to their own interfaces, and administrators to the namespaces of containers:
//! it is nobody else's trouble.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use cnm::LinkName;
use drivers::kernel::link;
use netns_tests::{Daemon, Host, Lab, SILENCE, Server, wait_until};

/// A port that every container here listens on.
const PORT: u16 = 7000;

/// The hardware address of what a container puts in the place of its interface.
const OWN: &str = "02:66:66:66:66:66";

/// Two containers of one network.
struct Scene {
    lab: Lab,
    daemon: Daemon,
    other: Host,
    _server: Server,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new();
        let daemon = Daemon::start(&lab.host, &[]);
        daemon.rnet("network create --ipv6 n1");
        daemon.run("meddler", "--network n1 --cap-add NET_ADMIN");
        let other = daemon.run("other", "--network n1");
        let server = other.serve(PORT);
        Self { lab, daemon, other, _server: server }
    }

    /// The other container loses its end on the host, and has it again.
    fn others_are_healed(&self) {
        let far = self.other.link("eth0").unwrap();
        let near = self.lab.host.links().into_iter().find(|link| Some(link.index) == far.peer);
        let near: LinkName = near.unwrap().name.parse().unwrap();
        self.lab.host.request(&[link::remove(&near)]);
        self.others_work();
    }

    fn others_work(&self) {
        for address in self.addresses("other") {
            let server = SocketAddr::new(address, PORT);
            wait_until("the other one is whole", || self.lab.host.tcp_to(server, SILENCE).is_ok());
        }
        self.daemon.rnet("run --rm --network n1 rnet/toolbox true");
    }

    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.daemon.addresses(name)["n1"].clone()
    }

    /// Started again, the container is as it should be.
    fn next_start_works(&self, name: &str) {
        self.daemon.rnet(&format!("restart -t 0 {name}"));
        let inside = self.daemon.inside(name);
        let _server = inside.serve(PORT);
        for address in self.addresses(name) {
            assert!(self.other.tcp(address, PORT).is_ok(), "{address}");
        }
    }
}

/// Runs lines of `ip` in a namespace; all of them, whatever becomes of each.
fn ip(host: &Host, lines: &[&str]) {
    use std::io::Write;
    host.run(|| {
        let mut command = Command::new("ip");
        command.args(["-force", "-batch", "-"]).stdin(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
        child.wait().unwrap();
    });
}

/// The container puts a link of its own, `mine`, in the place of its interface. Healing may be faster
/// than it at first.
fn replace(meddler: &Host, make: &[&str]) {
    ip(meddler, make);
    ip(meddler, &["addr add 10.66.0.1/24 dev mine", "addr add fd66::1/64 dev mine"]);
    wait_until("a link of the container's own is in the place", || {
        ip(meddler, &["link set mine down", "link del eth0", "link set mine name eth0"]);
        ip(meddler, &["link set eth0 up"]);
        meddler.link("eth0").is_some_and(|link| link.mac == Some(OWN.parse().unwrap()))
    });
}

#[test]
fn a_container_that_replaces_its_interface_keeps_nobody_else_from_being_healed() {
    type Meddling = (&'static str, fn(&Host));
    let meddlings: [Meddling; 7] = [
        ("gone", |meddler| ip(meddler, &["link del eth0"])),
        ("renamed", |meddler| {
            ip(meddler, &["link set eth0 down", "link set eth0 name x0", "link set x0 up"]);
        }),
        ("other addresses", |meddler| {
            ip(meddler, &["addr flush dev eth0", "addr add 10.66.0.2/24 dev eth0"]);
        }),
        ("down", |meddler| ip(meddler, &["link set eth0 down", "link set lo down"])),
        ("a pair", |meddler| {
            replace(meddler, &[&format!("link add mine address {OWN} type veth peer name p0")]);
        }),
        ("a bridge", |meddler| {
            replace(meddler, &[&format!("link add mine address {OWN} type bridge")]);
        }),
        ("macvlan", |meddler| {
            let make = format!("link add mine address {OWN} link p0 type macvlan mode bridge");
            replace(meddler, &["link add p0 type veth peer name p1", &make]);
        }),
    ];
    let mut scene = Scene::new();
    for (what, meddle) in meddlings {
        println!("{what}");
        meddle(&scene.daemon.inside("meddler"));
        scene.others_are_healed();
        scene.daemon.kill();
        scene.daemon.restart();
        scene.others_work();
        scene.others_are_healed();
        scene.next_start_works("meddler");
    }
    assert_eq!(scene.daemon.rnet("system check"), "");
}

#[test]
fn a_sandbox_that_cannot_be_looked_into_leaves_the_others_healed_and_is_told() {
    // What is left of a pin: a file, nothing, a namespace of another kind.
    let damages = [
        ("umount -l $0", "is not pinned any more"),
        ("umount -l $0 && rm $0", "is not pinned any more"),
        ("umount -l $0 && mount --bind /proc/self/ns/uts $0", "cannot be looked into"),
    ];
    let mut scene = Scene::new();
    for (damage, told) in damages {
        println!("{damage}");
        let pin = scene.daemon.rnet("inspect -f {{.NetworkSettings.SandboxKey}} meddler");
        let meddler = scene.daemon.inside("meddler");
        let server = meddler.serve(PORT);
        let mut command = scene.daemon.command("sh");
        assert!(command.args(["-c", damage, &pin]).status().unwrap().success());

        scene.others_are_healed();
        wait_until("it is told", || scene.daemon.output("system check").contains(told));
        let check = scene.daemon.output("system check");
        assert!(check.contains("`rnet restart meddler`"), "{check}");
        assert!(scene.daemon.log().contains(told));
        for address in scene.addresses("meddler") {
            assert!(scene.other.tcp(address, PORT).is_ok(), "it lives on: {address}");
        }

        // The next daemon finds the namespace by the container's process.
        scene.daemon.kill();
        scene.daemon.restart();
        assert_eq!(scene.daemon.rnet("system check"), "");
        for address in scene.addresses("meddler") {
            assert!(scene.other.tcp(address, PORT).is_ok(), "it lives on: {address}");
        }
        ip(&meddler, &["link del eth0"]);
        for address in scene.addresses("meddler") {
            let server = SocketAddr::new(address, PORT);
            wait_until("it is healed again", || scene.other.tcp_to(server, SILENCE).is_ok());
        }
        drop(server);
        scene.next_start_works("meddler");
    }
}

#[test]
fn a_daemon_that_leaves_nothing_running_leaves_no_mount() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    let own = |daemon: &Daemon| {
        let output = daemon.command("cat").arg("/proc/self/mountinfo").output().unwrap();
        let run = daemon.file("run").display().to_string();
        let table = String::from_utf8(output.stdout).unwrap();
        table.lines().filter(|line| line.contains(&run)).count()
    };
    let mounted = own(&daemon);
    assert!(mounted >= 2, "{mounted}");
    for words in ["--network bridge", "--network host"] {
        daemon.rnet(&format!("run -d --name c1 {words} rnet/toolbox sleep 1000"));
        daemon.terminate();
        assert!(own(&daemon) >= 2, "{words}: a container runs");
        daemon.restart();
        daemon.rnet("exec c1 toolbox true");
        daemon.rnet("rm -f c1");
        daemon.terminate();
        assert_eq!(own(&daemon), 0, "{words}");
        daemon.restart();
        assert_eq!(own(&daemon), mounted);
    }
}

/// Both programs take every link for theirs that nobody says is not.
#[test]
fn programs_that_configure_links_are_told_to_leave_ours_alone() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    daemon.terminate();
    let both = "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/network /run/NetworkManager";
    assert!(daemon.command("sh").args(["-c", both]).status().unwrap().success());
    daemon.restart();
    let file = |path: &str| std::fs::read_to_string(daemon.root(path)).unwrap_or_default();
    let files =
        || ["run/systemd/network/05-rnet.network", "run/NetworkManager/conf.d/rnet.conf"].map(file);
    let [networkd, manager] = files();
    assert!(networkd.contains("Unmanaged=yes"), "{networkd}");
    assert!(manager.contains("unmanaged-devices+=interface-name:rnet0"), "{manager}");
    daemon.rnet("system reset --force");
    assert_eq!(files(), ["", ""]);
}
