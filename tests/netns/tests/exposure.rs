//! Who reaches a published port, from everywhere there is: only where the plan leads it.
//!
//! What the kernel does not translate arrives at the socket that reserves the port. Whoever carries
//! it must not know a way of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::thread;

use netns_tests::{Daemon, Host, Lab, SILENCE, wait_until};

const LOCALHOST: [&str; 2] = ["127.0.0.1", "::1"];

/// A host whose daemon has a public network and two internal ones, one without a gateway.
struct Scene {
    lab: Lab,
    daemon: Daemon,
    /// On a public network of its own.
    foreigner: Host,
    /// On the internal network.
    insider: Host,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new();
        let daemon = Daemon::start(&lab.host, &[]);
        daemon.rnet("network create --ipv6 public");
        daemon.rnet("network create --ipv6 elsewhere");
        daemon.rnet("network create --ipv6 --internal internal");
        let mode = |family| format!("-o com.docker.network.bridge.gateway_mode_{family}=isolated");
        let modes = ["ipv4", "ipv6"].map(mode).join(" ");
        daemon.rnet(&format!("network create --ipv6 --internal {modes} isolated"));
        let foreigner = daemon.run("foreigner", "--network elsewhere");
        let insider = daemon.run("insider", "--network internal");
        Self { lab, daemon, foreigner, insider }
    }

    /// A container with a port of both protocols on all addresses, and one of the localhost.
    fn publish(&self, words: &str) -> Host {
        let ports = "-p 8080:80 -p 8080:80/udp -p 127.0.0.1:8081:80 -p 127.0.0.1:8081:80/udp \
                     -p [::1]:8081:80 -p [::1]:8081:80/udp";
        self.daemon.run("web", &format!("{words} {ports}"))
    }

    /// All who could ask at an address of the host's, with the addresses that they know, IPv4 first.
    fn askers(&self) -> [(&'static str, &Host, [IpAddr; 2]); 5] {
        let (near, far) = (Lab::both(Lab::HOST), Lab::both(Lab::HOST_TO_OTHER));
        [
            ("another machine", &self.lab.client, near),
            ("a machine that routes by the host", &self.lab.other, far),
            ("the host", &self.lab.host, near),
            ("the host by its localhost", &self.lab.host, Lab::both(LOCALHOST)),
            ("a container of another network", &self.foreigner, near),
        ]
    }

    /// Everybody is refused at once, or in datagrams not answered.
    fn is_closed(&self, when: &str) {
        self.everywhere(|who, from, address| {
            let server = SocketAddr::new(address, 8080);
            let refused = from.tcp_to(server, SILENCE).unwrap_err().kind();
            assert_eq!(refused, ErrorKind::ConnectionRefused, "{when}: {who} at {server}");
            assert!(from.udp_to(server, SILENCE).is_err(), "{when}: {who} at {server}/udp");
            let own = SocketAddr::new(address, 8081);
            assert!(from.is_cut_off_from(own), "{when}: {who} at {own}");
        });
        self.is_closed_to_insiders(when);
    }

    fn is_closed_to_insiders(&self, when: &str) {
        for address in Lab::both(Lab::HOST) {
            let server = SocketAddr::new(address, 8080);
            assert!(self.insider.is_cut_off_from(server), "{when}: an insider at {server}");
        }
    }

    /// Everybody is answered, at the localhost's own port too, which is nobody else's.
    fn is_open(&self, when: &str) {
        self.everywhere(|who, from, address| {
            let answered = |port| from.tcp(address, port).and(from.udp(address, port));
            answered(8080).unwrap_or_else(|error| panic!("{when}: {who} at {address}: {error}"));
            let own = SocketAddr::new(address, 8081);
            if address.is_loopback() {
                answered(8081).unwrap_or_else(|error| panic!("{when}: {who} at {own}: {error}"));
            } else {
                assert!(from.is_cut_off_from(own), "{when}: {who} at {own}");
            }
        });
        self.is_closed_to_insiders(when);
    }

    /// Checks it for all askers and all that they ask, beside each other.
    fn everywhere(&self, check: impl Fn(&str, &Host, IpAddr) + Sync) {
        thread::scope(|scope| {
            for (who, from, addresses) in self.askers() {
                let check = &check;
                for address in addresses {
                    scope.spawn(move || check(who, from, address));
                }
            }
        });
    }
}

#[test]
fn a_published_port_of_an_internal_network_answers_nobody() {
    let scene = Scene::new();
    let _server = scene.publish("--network internal").serve(80);
    scene.is_closed("on an internal network");
    // Neighbours meet it where it is.
    for address in &scene.daemon.addresses("web")["internal"] {
        assert!(scene.insider.tcp(*address, 80).is_ok(), "{address}");
    }
}

#[test]
fn a_published_port_of_an_isolated_network_is_refused_and_does_not_hang() {
    let scene = Scene::new();
    let _server = scene.publish("--network isolated").serve(80);
    scene.is_closed("on an isolated network");
}

#[test]
fn a_port_is_open_as_long_as_one_of_its_networks_is_public() {
    let scene = Scene::new();
    let _server = scene.publish("--network internal").serve(80);
    scene.daemon.rnet("network connect public web");
    scene.is_open("with a public network beside the internal one");
    scene.daemon.rnet("network disconnect public web");
    scene.is_closed("with the internal network left");
    scene.daemon.rnet("network connect public web");
    scene.daemon.rnet("network disconnect internal web");
    scene.is_open("with a public network alone");
    scene.daemon.rnet("network disconnect public web");
    scene.is_closed("without a network");
}

#[test]
fn a_port_stays_closed_when_the_daemon_or_the_resolver_was_killed() {
    let mut scene = Scene::new();
    let _server = scene.publish("--network internal").serve(80);
    scene.daemon.kill();
    scene.is_closed("without a daemon");
    scene.daemon.restart();
    scene.is_closed("with the next daemon");
    let killed = scene.daemon.resolver().unwrap();
    scene.daemon.signal(&killed, "-KILL");
    // Between being bound and being held a port accepts, and whoever it accepted is cut off; before,
    // nobody has it: only the daemon knows when it is done.
    wait_until("another resolver holds the port", || {
        scene.daemon.log().contains("names are answered and ports are held again")
    });
    assert_ne!(scene.daemon.resolver().unwrap(), killed);
    scene.is_closed("with the next resolver");
}

/// An internal network has an address of the other family; only the public one is the way.
#[test]
fn a_family_without_a_gateway_is_carried_to_the_public_network_and_not_to_an_internal_one() {
    let scene = Scene::new();
    scene.daemon.rnet("network create --subnet 10.4.0.0/24 ipv4");
    let web = scene.publish("--network internal");
    scene.daemon.rnet("network connect ipv4 web");
    let _server = web.serve(80);
    scene.is_open("with a public network of IPv4");
    let gateway: IpAddr = "10.4.0.1".parse().unwrap();
    let [_, ipv6] = Lab::both(Lab::HOST);
    assert_eq!(scene.lab.client.tcp(ipv6, 8080).unwrap(), gateway);
    assert_eq!(scene.lab.client.udp(ipv6, 8080).unwrap(), gateway);
}

#[test]
fn a_port_of_a_routed_network_is_open_at_its_own_address_only() {
    let scene = Scene::new();
    let mode = |family| format!("-o com.docker.network.bridge.gateway_mode_{family}=routed");
    let modes = ["ipv4", "ipv6"].map(mode).join(" ");
    scene.daemon.rnet(&format!("network create --ipv6 {modes} routed"));
    let web = scene.daemon.run("web", "--network routed -p 8080:80 -p 8080:80/udp");
    let (_open, _other) = (web.serve(80), web.serve(90));
    scene.is_closed("by the host's addresses");
    for address in &scene.daemon.addresses("web")["routed"] {
        assert!(scene.lab.other.tcp(*address, 80).is_ok(), "{address}");
        assert!(scene.lab.other.udp(*address, 80).is_ok(), "{address}");
        assert!(scene.lab.other.is_cut_off_from(SocketAddr::new(*address, 90)), "{address}");
    }
}

#[test]
fn a_port_is_open_where_neighbours_may_not_talk() {
    let scene = Scene::new();
    let apart = "-o com.docker.network.bridge.enable_icc=false";
    scene.daemon.rnet(&format!("network create --ipv6 {apart} apart"));
    let _server = scene.publish("--network apart").serve(80);
    scene.is_open("on a network whose containers may not talk");
    let neighbour = scene.daemon.run("neighbour", "--network apart");
    for address in &scene.daemon.addresses("web")["apart"] {
        assert!(neighbour.is_cut_off_from(SocketAddr::new(*address, 80)), "{address}");
    }
}
