//! Forwarding is switched on for containers, and for nobody else who did not have it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::net::SocketAddr;

use drivers::kernel::link;
use netns_tests::matrix::knows_br_netfilter;
use netns_tests::{Daemon, Host, Lab, SILENCE};

const PORT: u16 = 7000;
const SWITCHES: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];

/// A lab whose client knows the way to the other machine.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.client.add_route("198.51.100.0/24", "eth0", Lab::HOST[0]);
    lab.client.add_route("2001:db8:2::/64", "eth0", Lab::HOST[1]);
    lab
}

/// Whether the two machines reach each other by the host, in each family.
fn forwarded(lab: &Lab) -> [bool; 2] {
    let _server = lab.client.serve(PORT);
    Lab::both(Lab::CLIENT)
        .map(|client| lab.other.tcp_to(SocketAddr::new(client, PORT), SILENCE).is_ok())
}

/// A bridge of somebody else's with a guest behind it, which comes when a daemon is there.
fn guest(lab: &Lab) -> Host {
    let guest = Host::new();
    lab.host.connect("virbr0", &guest, "eth0");
    for (host, link, ipv4, ipv6) in [
        (&lab.host, "virbr0", "203.0.113.1/24", "2001:db8:7::1/64"),
        (&guest, "eth0", "203.0.113.2/24", "2001:db8:7::2/64"),
    ] {
        host.add_address(link, ipv4);
        host.add_address(link, ipv6);
    }
    guest.add_route("0.0.0.0/0", "eth0", "203.0.113.1");
    guest.add_route("::/0", "eth0", "2001:db8:7::1");
    lab.client.add_route("203.0.113.0/24", "eth0", Lab::HOST[0]);
    lab.client.add_route("2001:db8:7::/64", "eth0", Lab::HOST[1]);
    guest
}

fn reaches_out(lab: &Lab, from: &Host) -> [bool; 2] {
    let _server = lab.client.serve(PORT);
    Lab::both(Lab::CLIENT).map(|client| from.tcp_to(SocketAddr::new(client, PORT), SILENCE).is_ok())
}

#[test]
fn links_that_did_not_forward_do_not_start_to_and_those_that_come_later_may() {
    let lab = lab();
    let mut daemon = Daemon::start(&lab.host, &[]);
    let web = daemon.run("web", "");
    assert_eq!(SWITCHES.map(|path| lab.host.sysctl(path)), ["1", "1"]);
    assert_eq!(reaches_out(&lab, &web), [true; 2]);
    assert_eq!(forwarded(&lab), [false; 2], "eth0 and eth1 did not forward");
    let virtual_machine = guest(&lab);
    assert_eq!(
        reaches_out(&lab, &virtual_machine),
        [true; 2],
        "it forwards as if we were not here"
    );
    daemon.kill();
    assert_eq!(forwarded(&lab), [false; 2], "without a daemon");
    daemon.restart();
    assert_eq!(forwarded(&lab), [false; 2], "with another one");
    assert_eq!(reaches_out(&lab, &virtual_machine), [true; 2]);
    daemon.rnet("system reset --force");
    assert_eq!(SWITCHES.map(|path| lab.host.sysctl(path)), ["1", "1"], "virbr0 may need it");
}

#[test]
fn a_host_that_forwards_goes_on_forwarding() {
    let lab = lab();
    for path in SWITCHES {
        lab.host.set_sysctl(path, "1");
    }
    let daemon = Daemon::start(&lab.host, &[]);
    assert_eq!(forwarded(&lab), [true; 2]);
    daemon.rnet("system reset --force");
    assert_eq!(forwarded(&lab), [true; 2]);
}

#[test]
fn forwarding_goes_with_all_that_needed_it() {
    let lab = lab();
    let mut daemon = Daemon::start(&lab.host, &[]);
    assert_eq!(SWITCHES.map(|path| lab.host.sysctl(path)), ["1", "1"]);
    // Nothing runs: the daemon leaves nothing behind.
    daemon.terminate();
    assert_eq!(SWITCHES.map(|path| lab.host.sysctl(path)), ["0", "0"]);
    assert_eq!(forwarded(&lab), [false; 2]);
    daemon.restart();
    assert_eq!(SWITCHES.map(|path| lab.host.sysctl(path)), ["1", "1"]);
    assert_eq!(forwarded(&lab), [false; 2]);
}

#[test]
fn a_daemon_that_is_told_to_forwards_for_everybody() {
    let lab = lab();
    let daemon = Daemon::start(&lab.host, &["--ip-forward-no-drop"]);
    assert_eq!(forwarded(&lab), [true; 2]);
    daemon.rnet("info");
}

/// A machine of somebody's at a port of a bridge of the host's.
fn at_bridge(lab: &Lab, bridge: &str, number: u8) -> Host {
    let machine = Host::new();
    let port = format!("tap{number}");
    lab.host.connect(&port, &machine, "eth0");
    let index = lab.host.link(bridge).unwrap().index;
    lab.host.request(&[link::set_bridge(&port.parse().unwrap(), index)]);
    machine.add_address("eth0", &format!("203.0.113.{number}/24"));
    machine.add_address("eth0", &format!("2001:db8:7::{number}/64"));
    machine
}

#[test]
fn a_bridge_of_somebody_elses_hands_on_frames_whether_br_netfilter_is_on_or_off() {
    let lab = lab();
    lab.host.add_bridge("virbr0");
    lab.host.request(&[link::switch_on(&"virbr0".parse().unwrap(), None, None)]);
    let [one, two] = [1, 2].map(|number| at_bridge(&lab, "virbr0", number));
    let daemon = Daemon::start(&lab.host, &[]);
    assert_eq!(SWITCHES.map(|path| lab.host.sysctl(path)), ["1", "1"]);
    let _server = two.serve(PORT);
    let switches =
        if knows_br_netfilter(&lab.host) { vec![Some("0"), Some("1")] } else { vec![None] };
    for on in switches {
        for (family, on) in ["ip", "ip6"].into_iter().zip(on.iter().cycle()) {
            lab.host.set_sysctl(&format!("net/bridge/bridge-nf-call-{family}tables"), on);
        }
        for address in ["203.0.113.2", "2001:db8:7::2"] {
            let server = SocketAddr::new(address.parse().unwrap(), PORT);
            assert!(one.tcp_to(server, SILENCE).is_ok(), "{server}, br_netfilter {on:?}");
        }
    }
    daemon.rnet("info");
}
