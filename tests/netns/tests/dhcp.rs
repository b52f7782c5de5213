//! Addresses that a DHCP server of the LAN lends, with Debian's dnsmasq as the server.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use drivers::kernel::link;
use netns_tests::lookup::addresses;
use netns_tests::{Daemon, Host, Lab, wait_until};

const PORT: u16 = 7;
const ROUTER: &str = "10.77.0.1";
const CREATE: &str =
    "network create --ipam-driver dhcp -o com.docker.network.bridge.name=br-lan lan";

/// The same by macvlan.
const ON_MACVLAN: &str =
    "network create -d macvlan --ipam-driver dhcp -o parent=lan2 -o rnet.probe_ms=0 lan";

/// A host with a link `lan2` to a LAN with a router on it, by its bridge `br-lan` or by itself.
struct Lan {
    lab: Lab,
    router: Host,
    directory: PathBuf,
    server: Option<Child>,
}

impl Lan {
    fn new() -> Self {
        let lan = Self::without_bridge();
        let host = &lan.lab.host;
        host.add_bridge("br-lan");
        let bridge = host.link("br-lan").unwrap().index;
        let [name, port] = ["br-lan", "lan2"].map(|name| name.parse().unwrap());
        let up = link::switch_on(&name, None, None);
        host.request(&[link::set_bridge(&port, bridge), up]);
        lan
    }

    fn without_bridge() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("rnet-lan-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        let (lab, router) = (Lab::new(), Host::new());
        lab.host.connect("lan2", &router, "eth0");
        router.add_address("eth0", &format!("{ROUTER}/16"));
        Self { lab, router, directory, server: None }
    }

    /// Starts the server, which lends addresses of this range for two minutes, and wants to hear of
    /// that every three seconds.
    fn serve(&mut self, range: &str) {
        self.hush();
        let file = |name: &str| self.directory.join(name).display().to_string();
        let mut command = Command::new("dnsmasq");
        command.args(["--keep-in-foreground", "--port=0", "--no-ping", "--dhcp-authoritative"]);
        command.args(["--conf-file=/dev/null", "--user=root", "--log-dhcp", "--bind-interfaces"]);
        command.args([
            "--interface=eth0",
            "--dhcp-option=option:T1,3",
            "--dhcp-option=option:T2,60",
        ]);
        command.arg(format!("--dhcp-range={range},255.255.0.0,2m"));
        command.arg(format!("--dhcp-option=option:router,{ROUTER}"));
        command.arg(format!("--dhcp-leasefile={}", file("leases")));
        command.arg(format!("--log-facility={}", file("log")));
        command.arg(format!("--pid-file={}", file("pid"))).stdin(Stdio::null());
        let before = self.log().matches("DHCP, IP range").count();
        self.server = Some(self.router.run(|| command.spawn().unwrap()));
        wait_until("the server is there", || self.log().matches("DHCP, IP range").count() > before);
    }

    /// Ends the server, which forgets everything.
    fn hush(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        server.kill().unwrap();
        server.wait().unwrap();
        fs::remove_file(self.directory.join("leases")).unwrap();
    }

    /// What the server had to say.
    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// How often it said something of an address.
    fn said(&self, what: &str, of: IpAddr) -> usize {
        let text = format!("{what}(eth0) {of} ");
        self.log().lines().filter(|line| line.contains(&text)).count()
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.hush();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The one address of a container.
fn own(daemon: &Daemon, container: &str) -> IpAddr {
    let all: Vec<_> = daemon.addresses(container).into_values().flatten().collect();
    assert_eq!(all.len(), 1, "{container}: {all:?}");
    all[0]
}

fn router() -> IpAddr {
    ROUTER.parse().unwrap()
}

#[test]
fn a_container_is_lent_an_address_keeps_it_and_gives_it_back() {
    let mut lan = Lan::new();
    lan.serve("10.77.1.50,10.77.1.99");
    let daemon = Daemon::start(&lan.lab.host, &[]);
    let bridge = lan.lab.host.addresses("br-lan");
    daemon.rnet(CREATE);
    let web = daemon.run("web", "--network lan");
    let address = own(&daemon, "web");
    assert!(address.to_string().starts_with("10.77.1."), "{address}");
    assert_eq!(daemon.rnet("inspect -f {{.NetworkSettings.Networks.lan.Gateway}} web"), ROUTER);
    assert_eq!(daemon.rnet("network inspect -f {{.IPAM.Driver}} lan"), "dhcp");
    // The LAN sees the container itself, in both directions.
    let _servers = [web.serve(PORT), lan.router.serve(PORT)];
    assert_eq!(web.tcp(router(), PORT).unwrap(), address);
    assert_eq!(lan.router.tcp(address, PORT).unwrap(), router());
    let asker = daemon.run("asker", "--network lan");
    assert_eq!(addresses(&asker, "web"), [address]);
    wait_until("more time was asked for", || lan.said("DHCPACK", address) >= 2);
    // The same container is lent the same address again.
    daemon.rnet("restart -t 0 web");
    assert_eq!(own(&daemon, "web"), address);
    assert!(lan.said("DHCPRELEASE", address) == 1, "{}", lan.log());
    daemon.rnet("rm -f web asker");
    wait_until("it was given back", || lan.said("DHCPRELEASE", address) == 2);
    daemon.rnet("network rm lan");
    assert_eq!(lan.lab.host.addresses("br-lan"), bridge, "the bridge is as it was");
}

#[test]
fn a_container_on_macvlan_is_lent_an_address_by_its_lan_and_gives_it_back() {
    let mut lan = Lan::without_bridge();
    lan.serve("10.77.1.50,10.77.1.99");
    let mut daemon = Daemon::start(&lan.lab.host, &[]);
    daemon.rnet(ON_MACVLAN);
    let web = daemon.run("web", "--network lan");
    let address = own(&daemon, "web");
    assert!(address.to_string().starts_with("10.77.1."), "{address}");
    assert_eq!(daemon.rnet("inspect -f {{.NetworkSettings.Networks.lan.Gateway}} web"), ROUTER);
    let _servers = [web.serve(PORT), lan.router.serve(PORT)];
    assert_eq!(web.tcp(router(), PORT).unwrap(), address);
    assert_eq!(lan.router.tcp(address, PORT).unwrap(), router());
    let asker = daemon.run("asker", "--network lan");
    assert_eq!(addresses(&asker, "web"), [address]);
    wait_until("more time was asked for", || lan.said("DHCPACK", address) >= 2);
    daemon.kill();
    assert_eq!(lan.router.tcp(address, PORT).unwrap(), router());
    let before = lan.said("DHCPACK", address);
    daemon.restart();
    wait_until("the next one asks for more time", || lan.said("DHCPACK", address) > before);
    daemon.rnet("restart -t 0 web");
    assert_eq!(own(&daemon, "web"), address);
    daemon.rnet("rm -f web asker");
    wait_until("it was given back", || lan.said("DHCPRELEASE", address) == 2);
    daemon.rnet("network rm lan");
}

#[test]
fn an_endpoint_follows_when_the_server_lends_it_another_address() {
    let mut lan = Lan::new();
    lan.serve("10.77.1.50,10.77.1.99");
    let daemon = Daemon::start(&lan.lab.host, &[]);
    daemon.rnet(CREATE);
    let web = daemon.run("web", "--network lan");
    let asker = daemon.run("asker", "--network lan");
    let before = own(&daemon, "web");
    lan.serve("10.77.2.50,10.77.2.99");
    wait_until("it has another address", || own(&daemon, "web") != before);
    let after = own(&daemon, "web");
    assert!(after.to_string().starts_with("10.77.2."), "{after}");
    wait_until("its name follows", || addresses(&asker, "web") == [after]);
    let inside = web.addresses("eth0");
    assert!(inside.iter().all(|own| own.ip() == after || own.is_ipv6()), "{inside:?}");
    let _server = lan.router.serve(PORT);
    assert_eq!(web.tcp(router(), PORT).unwrap(), after);
    let hosts = daemon.rnet("exec web cat /etc/hosts");
    assert!(hosts.contains(&after.to_string()) && !hosts.contains(&before.to_string()), "{hosts}");
    let events = daemon.rnet("events --since 1m --until 0s --filter event=renumber");
    assert!(events.contains("network renumber"), "{events}");
}

#[test]
fn a_daemon_that_was_killed_keeps_what_was_lent() {
    let mut lan = Lan::new();
    lan.serve("10.77.1.50,10.77.1.99");
    let mut daemon = Daemon::start(&lan.lab.host, &[]);
    daemon.rnet(CREATE);
    let web = daemon.run("web", "--network lan");
    let address = own(&daemon, "web");
    daemon.kill();
    let _server = lan.router.serve(PORT);
    assert_eq!(web.tcp(router(), PORT).unwrap(), address);
    let before = lan.said("DHCPACK", address);
    daemon.restart();
    wait_until("the next one asks for more time", || lan.said("DHCPACK", address) > before);
    assert_eq!(own(&daemon, "web"), address);
    // What belongs to nobody is given back, also if nobody was there when it ended.
    let pid = daemon.rnet("inspect -f {{.State.Pid}} web");
    daemon.kill();
    daemon.signal(&pid, "-KILL");
    daemon.restart();
    wait_until("it is given back", || lan.said("DHCPRELEASE", address) == 1);
}

#[test]
fn several_containers_are_lent_addresses_at_once() {
    let mut lan = Lan::new();
    lan.serve("10.77.1.50,10.77.1.99");
    let daemon = Daemon::start(&lan.lab.host, &[]);
    daemon.rnet(CREATE);
    let names = ["c1", "c2", "c3", "c4", "c5", "c6"];
    let begun = names.map(|name| {
        daemon.begin(&format!("run -d --name {name} --network lan rnet/toolbox sleep 1000"))
    });
    for mut run in begun {
        assert!(run.wait().unwrap().success(), "{}", daemon.log());
    }
    let all: BTreeSet<_> = names.iter().map(|name| own(&daemon, name)).collect();
    assert_eq!(all.len(), names.len(), "{all:?}");
    let asked: Vec<_> =
        all.iter().map(|address| (*address, lan.said("DHCPACK", *address))).collect();
    wait_until("all of them ask for more time", || {
        asked.iter().all(|(address, before)| lan.said("DHCPACK", *address) > *before)
    });
    // A running container joins and leaves, with an address that it chose: one that the server did
    // not happen to lend to the others.
    daemon.run("late", "");
    let mut free = (50..100).map(|last| IpAddr::from([10, 77, 1, last]));
    let chosen = free.find(|address| !all.contains(address)).unwrap();
    daemon.rnet(&format!("network connect --ip {chosen} lan late"));
    assert_eq!(daemon.addresses("late")["lan"], [chosen]);
    daemon.rnet("network disconnect lan late");
    wait_until("it is given back", || lan.said("DHCPRELEASE", chosen) == 1);
}

#[test]
fn a_start_says_that_no_server_answers() {
    let lan = Lan::new();
    let daemon = Daemon::start(&lan.lab.host, &[]);
    daemon.rnet(CREATE);
    let refusal = daemon.refusal("run --network lan rnet/toolbox true");
    let said = "cannot get an address on network lan: no DHCP server answered within 10 s";
    assert!(refusal.contains(said), "{refusal}");
    let refusal = daemon.refusal(
        "network create --subnet 10.9.0.0/24 -o com.docker.network.bridge.name=br-lan two",
    );
    assert!(refusal.contains("bridge br-lan is there already and is not rnet's"), "{refusal}");
    for (words, said) in [
        ("--ipam-driver dhcp --subnet 10.9.0.0/24 two", "takes no subnets"),
        ("--ipam-driver dhcp --ipv6 two", "gives IPv4 addresses only"),
        ("--ipam-driver dhcp -d host two", "only one instance of \"host\" network is allowed"),
    ] {
        let refusal = daemon.refusal(&format!("network create {words}"));
        assert!(refusal.contains(said), "{words}: {refusal}");
    }
}
