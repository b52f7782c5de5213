//! Frames between containers of an overlay network on different machines, which go past the bridges.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use cnm::{Damage, Key, Lead, Mac, Value};
use drivers::kernel::Kernel;
use netns_tests::machines::{Container, Machine, Machines, USUAL};
use netns_tests::{Echo, Flow, Host, SILENCE};

/// What containers serve.
const SERVED: u16 = netns_tests::lan::PORT;

/// Writes frames as they are given.
const SEND: &str = "\
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
for frame in sys.argv[1:]:
    s.send(bytes.fromhex(frame))
";

/// Counts what the bridges of a machine have to do with: packets between containers.
fn watch(machine: &Machine) {
    machine.lab.host.output_with(
        "nft -f -",
        "table bridge watch {
            chain prerouting {
                type filter hook prerouting priority -400;
                ip saddr 10.9.0.0/24 ip daddr 10.9.0.0/24 counter
                ip6 saddr fd09::/64 ip6 daddr fd09::/64 meta l4proto { tcp, udp } counter
            }
        }",
    );
}

/// How many packets between containers a bridge has had, by family.
fn bridged(machine: &Machine) -> Vec<u64> {
    let rules = machine.lab.host.output("nft list table bridge watch");
    let counters = rules.lines().filter_map(|line| line.split_once("counter packets "));
    counters.map(|(_, count)| count.split(' ').next().unwrap().parse().unwrap()).collect()
}

fn reaches(from: &Container, to: &Container) {
    let _server = to.host.serve(SERVED);
    for (at, address) in to.addresses().iter().enumerate() {
        assert_eq!(from.host.tcp(*address, SERVED).unwrap(), from.addresses()[at]);
        assert_eq!(from.host.udp(*address, SERVED).unwrap(), from.addresses()[at]);
    }
}

fn name_of(host: &Host, prefix: &str) -> String {
    host.links().into_iter().find(|link| link.name.starts_with(prefix)).unwrap().name
}

#[test]
fn frames_between_machines_do_not_pass_their_bridges() {
    for (shortcut, passes) in [("true", false), ("false", true)] {
        let mut site = Machines::with_options(2, USUAL, &[("rnet.overlay.shortcut", shortcut)]);
        let (one, two) = (site.start(0, 11), site.start(1, 12));
        site.all.iter().for_each(watch);
        reaches(&one, &two);
        reaches(&two, &one);
        for machine in &site.all {
            let bridged = bridged(machine);
            assert_eq!(bridged.len(), 2);
            assert!(bridged.iter().all(|count| (*count > 0) == passes), "{shortcut}: {bridged:?}");
            assert_eq!(machine.heal(), "");
        }
    }
}

#[test]
fn neighbours_of_one_machine_talk_by_its_bridge() {
    let mut site = Machines::new(1, USUAL);
    let (one, two) = (site.start(0, 11), site.start(0, 12));
    watch(&site.all[0]);
    reaches(&one, &two);
    assert!(bridged(&site.all[0]).iter().all(|count| *count > 0));
}

/// A datagram in a frame.
fn frame(from: (Mac, Ipv4Addr), to: (Mac, Ipv4Addr), port: u16) -> String {
    let mut packet = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from.1.octets());
    packet.extend(to.1.octets());
    let words = packet.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1]));
    let sum: u32 = words.sum();
    let sum = !u16::try_from((sum >> 16) + (sum & 0xffff)).unwrap();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0, 9]);
    packet.extend(port.to_be_bytes());
    packet.extend([0, 9, 0, 0, b'x']);
    let bytes = [&to.0.octets()[..], &from.0.octets(), &[8, 0], &packet].concat();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

#[test]
fn a_forged_frame_does_not_get_to_another_machine_by_the_shortcut() {
    let mut site = Machines::new(2, USUAL);
    let (one, neighbour, two) = (site.start(0, 11), site.start(0, 13), site.start(1, 12));
    let ipv4 = |container: &Container| match container.addresses()[0] {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address}"),
    };
    let [own, other, to] =
        [&one, &neighbour, &two].map(|container| (container.peer.mac, ipv4(container)));
    let socket = two.host.run(|| UdpSocket::bind((to.1, 9999))).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let arrives = |from: (Mac, Ipv4Addr)| {
        one.host.output_with(&format!("python3 - {}", frame(from, to, 9999)), SEND);
        let heard = socket.recv_from(&mut [0; 8]).ok();
        heard.map(|(_, from)| from.ip())
    };
    assert_eq!(arrives(own), Some(own.1.into()), "what is not forged arrives");
    for forged in [
        (own.0, other.1),
        (other.0, own.1),
        // All of a neighbour: an entry of its own is there, but for another port.
        other,
        (own.0, Ipv4Addr::new(192, 0, 2, 77)),
        (Mac::from([2, 0, 0, 0, 0, 9]), own.1),
    ] {
        assert_eq!(arrives(forged), None, "{forged:?}");
    }
}

#[test]
fn a_daemon_that_was_killed_finds_its_shortcuts_and_goes_on_with_them() {
    let mut site = Machines::new(2, USUAL);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    let server = SocketAddr::new(two.addresses()[0], SERVED);
    let _echo = Echo::start(&two.host, SERVED);
    let flow = Flow::tcp(&one.host, server);
    let programs = |machine: &Machine| {
        let veth = name_of(&machine.lab.host, "veth");
        machine.lab.host.output(&format!("tc filter show dev {veth} ingress"))
    };
    let before = programs(&site.all[0]);
    assert!(before.contains("bpf"), "{before}");
    site.all[0].restart();
    assert_eq!(site.all[0].heal(), "");
    assert_eq!(programs(&site.all[0]), before, "nothing was made anew");
    flow.goes_on();
    let (three, four) = (site.start(0, 13), site.start(1, 14));
    site.all.iter().for_each(watch);
    reaches(&three, &four);
    reaches(&four, &three);
    assert!(site.all.iter().all(|machine| bridged(machine) == [0, 0]));
    for machine in &site.all {
        assert_eq!(machine.heal(), "");
    }
}

#[test]
fn what_a_container_leaves_is_nothing_that_leads_to_it() {
    let mut site = Machines::new(2, USUAL);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    reaches(&one, &two);
    site.stop(0, &one);
    site.stop(1, &two);
    for machine in &site.all {
        let observed = machine.kernel.observe().unwrap();
        let left = observed.iter().filter(|(key, _)| matches!(key, Key::Lead { .. }));
        assert_eq!(left.count(), 0);
        assert_eq!(machine.heal(), "");
    }
    // The next one, on the other machine, has the address.
    let (one, two) = (site.start(1, 11), site.start(0, 12));
    reaches(&one, &two);
}

#[test]
fn a_network_that_was_made_without_shortcuts_gets_them_while_its_connections_go_on() {
    let mut site = Machines::new(2, USUAL);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    // As an earlier release made it.
    for machine in &mut site.all {
        let observed = machine.kernel.observe().unwrap();
        let is_of_it = |key: &Key| matches!(key, Key::Shortcut { .. } | Key::Lead { .. });
        let without = observed.iter().filter(|(key, _)| !is_of_it(key));
        let without = without.map(|(key, value)| (key.clone(), value.clone())).collect();
        machine.apply(&observed, &without);
        machine.restart();
        assert!(!machine.kernel.observe().unwrap().iter().any(|(key, _)| is_of_it(key)));
    }
    let _echo = Echo::start(&two.host, SERVED);
    let flow = Flow::tcp(&one.host, SocketAddr::new(two.addresses()[0], SERVED));
    site.all.iter().for_each(watch);
    flow.goes_on();
    assert!(bridged(&site.all[0])[0] > 0);
    for machine in &site.all {
        let healed = machine.heal();
        assert!(healed.contains("+ shortcut of vx-"), "{healed}");
    }
    flow.goes_on();
    let before = bridged(&site.all[0]);
    flow.goes_on();
    assert_eq!(bridged(&site.all[0]), before, "it goes past the bridge");
}

#[test]
fn a_container_whose_link_is_made_anew_is_reached_by_the_shortcut() {
    let mut site = Machines::new(2, USUAL);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    let machine = &site.all[0];
    let desired = machine.model.desired();
    let is_pair = |value: &Value| value.link().is_some_and(|link| link.kind.peer().is_some());
    let (pair, value) = desired.iter().find(|(_, value)| is_pair(value)).unwrap();
    // The port's name stays, and its number does not.
    let damage = Damage { what: "for the test".to_owned(), remains: value.remains(pair) };
    let mut damaged = desired.clone();
    damaged.insert(pair.clone(), Value::Damaged(damage));
    machine.apply(&damaged, &desired);
    assert_eq!(machine.heal(), "");
    reaches(&one, &two);
    reaches(&two, &one);
}

#[test]
fn a_shortcut_of_another_version_is_replaced() {
    let mut site = Machines::new(2, USUAL);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    let machine = &site.all[0];
    let tunnel = name_of(&machine.lab.host, "vx-");
    let mac = two.peer.mac;
    let lead = Key::Lead { tunnel: tunnel.parse().unwrap(), lead: Lead::Out { mac } };
    assert!(machine.kernel_state().get(&lead).is_some());
    let shortcut = Key::Shortcut { tunnel: tunnel.parse().unwrap(), port: None };
    // One that leaves everything alone.
    let file = std::env::temp_dir().join(format!("rnet-shortcut-{}", std::process::id()));
    std::fs::write(&file, "1,6 0 0 4294967295").unwrap();
    machine.lab.host.output(&format!(
        "tc filter replace dev {tunnel} ingress prio 29294 handle 1 bpf da bytecode-file {}",
        file.display()
    ));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(machine.kernel_state().get(&shortcut), Some(&Value::Astray));
    let healed = machine.heal();
    assert!(healed.contains("+ shortcut of vx-"), "{healed}");
    assert_eq!(machine.heal(), "");
    reaches(&one, &two);
    assert!(machine.kernel_state().get(&lead).is_some());
}
