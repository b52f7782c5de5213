//! Containers that send what is not theirs to send: hardware addresses, addresses, answers of
//! neighbours, words of routers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use netns_tests::{Daemon, Host, Lab, TIMEOUT, patient};

/// Writes frames as they are given.
const SEND: &str = "\
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
for frame in sys.argv[1:]:
    s.send(bytes.fromhex(frame))
";

/// Prints the marks of the frames that arrive, up to the last one, and waits so many seconds for each.
const RECEIVE: &str = "\
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(('eth0', 0))
s.settimeout(float(sys.argv[1]))
print('ready', flush=True)
mark = ''
while mark != 'last':
    frame = s.recv(4096)
    if b'MARK:' in frame:
        mark = frame.split(b'MARK:')[1].split(b';')[0].decode()
        print(mark, flush=True)
";

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// For experiments (IEEE 802).
const EXPERIMENT: u16 = 0x88b5;

/// What a container is known by.
struct Known {
    mac: [u8; 6],
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
}

impl Known {
    fn of(daemon: &Daemon, name: &str, inside: &Host) -> Self {
        let addresses = &daemon.addresses(name)["n1"];
        let [IpAddr::V4(ipv4), IpAddr::V6(ipv6)] = addresses[..] else { panic!("{addresses:?}") };
        Self { mac: inside.link("eth0").unwrap().mac.unwrap().octets(), ipv4, ipv6 }
    }

    fn link_local(&self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..2].copy_from_slice(&[0xfe, 0x80]);
        octets[8..11].copy_from_slice(&self.mac[..3]);
        octets[8] ^= 2;
        octets[11..13].copy_from_slice(&[0xff, 0xfe]);
        octets[13..].copy_from_slice(&self.mac[3..]);
        octets.into()
    }
}

/// The mark is a part of what a packet carries: `br_netfilter` cuts off what is behind it.
fn marked(payload: &[u8], mark: &str) -> Vec<u8> {
    let mark = format!("MARK:{mark};");
    [payload, mark.as_bytes(), &[0; 20]].concat()
}

fn frame(from: [u8; 6], to: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload, &[0; 20]].concat()
}

fn length(of: &[u8]) -> [u8; 2] {
    u16::try_from(of.len()).unwrap().to_be_bytes()
}

fn udp(mark: &str) -> Vec<u8> {
    let mut packet = marked(&[0, 9, 0, 9, 0, 0, 0, 0], mark);
    let length = length(&packet);
    packet[4..6].copy_from_slice(&length);
    packet
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, mark: &str) -> Vec<u8> {
    let payload = udp(mark);
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    let length = length(&packet);
    packet[2..4].copy_from_slice(&length);
    let words = packet[..20].chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1]));
    let sum: u32 = words.sum();
    let sum = !u16::try_from((sum >> 16) + (sum & 0xffff)).unwrap();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = length(payload);
    let head = [0x60, 0, 0, 0, high, low, protocol, 255];
    [&head[..], &from.octets(), &to.octets(), payload].concat()
}

fn udp6(from: Ipv6Addr, to: Ipv6Addr, mark: &str) -> Vec<u8> {
    ipv6(from, to, 17, &udp(mark))
}

fn arp(hardware: [u8; 6], address: Ipv4Addr, to: &Known, mark: &str) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 2];
    let all = [&head[..], &hardware, &address.octets(), &to.mac, &to.ipv4.octets()].concat();
    marked(&all, mark)
}

/// A message of `ICMPv6` with a target, as neighbours and routers send it.
fn icmp6(from: Ipv6Addr, to: &Known, kind: u8, target: Ipv6Addr, mark: &str) -> Vec<u8> {
    let body = [&[kind, 0, 0, 0, 0x60, 0, 0, 0], &target.octets()[..]].concat();
    ipv6(from, to.ipv6, 58, &marked(&body, mark))
}

/// What is forged, and what is not.
fn frames(own: &Known, other: &Known, to: &Known) -> [Vec<Vec<u8>>; 2] {
    let send = |kind, payload: Vec<u8>| frame(own.mac, to.mac, kind, &payload);
    let advertise = |target, mark| icmp6(own.ipv6, to, 136, target, mark);
    let router = |kind, mark| icmp6(own.link_local(), to, kind, own.link_local(), mark);
    let forged = vec![
        frame(other.mac, to.mac, EXPERIMENT, &marked(&[], "hardware")),
        send(IPV4, ipv4(other.ipv4, to.ipv4, "ipv4")),
        send(IPV4, ipv4([192, 0, 2, 77].into(), to.ipv4, "ipv4 from outside")),
        send(IPV6, udp6(other.ipv6, to.ipv6, "ipv6")),
        send(IPV6, udp6(other.link_local(), to.ipv6, "link-local")),
        send(ARP, arp(own.mac, other.ipv4, to, "arp")),
        send(ARP, arp(other.mac, own.ipv4, to, "arp hardware")),
        send(IPV6, advertise(other.ipv6, "neighbour")),
        send(IPV6, advertise(other.link_local(), "link-local neighbour")),
        send(IPV6, router(134, "router")),
        send(IPV6, router(137, "redirect")),
    ];
    let own = vec![
        send(EXPERIMENT, marked(&[], "own hardware")),
        send(IPV4, ipv4(own.ipv4, to.ipv4, "own ipv4")),
        send(IPV6, udp6(own.ipv6, to.ipv6, "own ipv6")),
        send(IPV6, udp6(own.link_local(), to.ipv6, "own link-local")),
        send(ARP, arp(own.mac, own.ipv4, to, "own arp")),
        send(ARP, arp(own.mac, Ipv4Addr::UNSPECIFIED, to, "arp probe")),
        send(IPV6, advertise(own.ipv6, "own neighbour")),
        send(IPV6, icmp6(Ipv6Addr::UNSPECIFIED, to, 135, own.ipv6, "solicitation")),
        send(EXPERIMENT, marked(&[], "last")),
    ];
    [forged, own]
}

/// Sends frames, and gives back the marks of those that arrived.
fn arrived(from: &Host, to: &Host, frames: &[Vec<u8>]) -> BTreeSet<String> {
    let mut receive = Command::new("python3");
    let limit = patient(TIMEOUT * 2).as_secs().to_string();
    receive.args(["-c", RECEIVE, &limit]).stdout(Stdio::piped());
    let mut receiver = to.run(|| receive.spawn().unwrap());
    let mut output = BufReader::new(receiver.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let digits = |byte: &u8| format!("{byte:02x}");
    let hex = |frame: &Vec<u8>| frame.iter().map(digits).collect::<Vec<_>>().concat();
    let mut send = Command::new("python3");
    send.args(["-c", SEND]).args(frames.iter().map(hex));
    assert!(from.run(|| send.status().unwrap()).success());
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert!(receiver.wait().unwrap().success(), "the last frame arrives after {text}");
    text.lines().map(str::to_owned).collect()
}

fn marks(frames: &[Vec<u8>]) -> BTreeSet<String> {
    let mark = |frame: &Vec<u8>| {
        let text = String::from_utf8_lossy(frame).into_owned();
        text.split("MARK:").nth(1).unwrap().split(';').next().unwrap().to_owned()
    };
    frames.iter().map(mark).collect()
}

/// A container that forges, with these words in its `run`, on a network with an option or none. Gives
/// back what was forged, what was not, and what arrived at a neighbour.
fn forge(option: &str, words: &str) -> [BTreeSet<String>; 3] {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet(format!("network create --ipv6 {option} n1").replace("  ", " ").as_str());
    let on = |words: &str| format!("--network n1 {words}");
    let (forger, other) = (daemon.run("forger", &on(words)), daemon.run("other", &on("")));
    let victim = daemon.run("victim", &on(""));
    let known = |name: &str, host: &Host| Known::of(&daemon, name, host);
    let [false_ones, own] =
        frames(&known("forger", &forger), &known("other", &other), &known("victim", &victim));
    let arrived = arrived(&forger, &victim, &[false_ones.clone(), own.clone()].concat());
    [marks(&false_ones), marks(&own), arrived]
}

#[test]
fn cve_2020_13401_nothing_that_a_container_forges_reaches_a_neighbour() {
    let [_, own, arrived] = forge("", "");
    assert_eq!(arrived, own);
}

#[test]
fn a_container_that_administers_networks_may_have_any_address() {
    let [forged, own, arrived] = forge("", "--cap-add NET_ADMIN");
    assert_eq!(arrived, &forged | &own);
}

#[test]
fn a_network_may_allow_any_source() {
    let [forged, own, arrived] = forge("-o rnet.bridge.any_source=true", "");
    assert_eq!(arrived, &forged | &own);
}
