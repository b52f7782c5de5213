//! What it brings that frames between machines go past their bridges: a round trip, and half a megabyte
//! with an answer, between two containers, with and without, between the machines themselves, and over
//! a bridge and a tunnel that somebody made by hand, on machines without any rule, in turns.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends where it stands")]
#![expect(clippy::print_stdout, reason = "the measurement is the output")]

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Instant;

use netns_tests::machines::{Machines, USUAL};
use netns_tests::{Host, Lan, SILENCE};

const TURNS: usize = 21;
const BLOCK: usize = 1 << 19;

fn main() {
    let ways = ["true", "false"].map(|shortcut| {
        let mut site = Machines::with_options(2, USUAL, &[("rnet.overlay.shortcut", shortcut)]);
        let ends = (site.start(0, 11), site.start(1, 12));
        (site, ends)
    });
    let machines = [0, 1].map(|at| &ways[0].0.all[at].lab.host);
    let outer = (machines[0], machines[1], ways[0].0.all[1].node.address);
    let [with, without] =
        ways.each_ref().map(|(_, (one, two))| (&one.host, &two.host, two.addresses()[0]));
    let by_hand = by_hand(&ways[0].0.lan);
    let bare = (&by_hand[0].machine, &by_hand[1].machine, "203.0.113.22".parse().unwrap());
    let hand = (&by_hand[0].inside, &by_hand[1].inside, "10.8.0.2".parse().unwrap());
    let ways = [
        ("the machines", 0, outer),
        ("with", 0, with),
        ("without", 0, without),
        ("machines without a rule", 3, bare),
        ("by hand", 3, hand),
    ];
    let mut results = ways.map(|_| [Vec::new(), Vec::new()]);
    for _ in 0..TURNS {
        for (results, (_, _, way)) in results.iter_mut().zip(ways) {
            results[0].push(round_trip(way));
            results[1].push(block(way));
        }
    }
    let figures = results.map(|of| of.map(median));
    for ((name, beside, _), [trip, block]) in ways.iter().zip(figures) {
        let bits = f64::from(u32::try_from(8 * BLOCK).unwrap());
        let [trip_beside, block_beside] = figures[*beside];
        println!(
            "{name}: a round trip {trip:.1} us ({:+.1}), {:.1} Gbit/s (×{:.2})",
            trip - trip_beside,
            bits / block / 1000.0,
            block_beside / block,
        );
    }
}

/// A machine, and a container on it.
struct ByHand {
    machine: Host,
    inside: Host,
}

/// What people type: a bridge, and a tunnel that does not learn. The host's firewall does not see the frames.
fn by_hand(lan: &Lan) -> [ByHand; 2] {
    [1, 2].map(|number: u8| {
        let (other, outer) = (3 - number, |number| format!("203.0.113.{}", 20 + number));
        let mac = |number| format!("02:00:00:00:08:0{number}");
        let machine = lan.host(&[&format!("{}/24", outer(number))]);
        let inside = Host::new();
        machine.output("sysctl -qew net.bridge.bridge-nf-call-iptables=0");
        machine.add_bridge("br0");
        machine.connect("port", &inside, "eth0");
        let tunnel = "type vxlan id 8 dstport 4789 nolearning local";
        for words in [
            format!("ip link add vx0 {tunnel} {}", outer(number)),
            "ip link set br0 up".to_owned(),
            "ip link set vx0 master br0 up".to_owned(),
            "ip link set port master br0 up".to_owned(),
            format!("bridge fdb append {} dev vx0 dst {}", mac(other), outer(other)),
        ] {
            machine.output(&words);
        }
        for words in [
            format!("ip link set eth0 address {} mtu 1450", mac(number)),
            format!("ip neigh replace 10.8.0.{other} lladdr {} dev eth0", mac(other)),
        ] {
            inside.output(&words);
        }
        inside.add_address("eth0", &format!("10.8.0.{number}/24"));
        ByHand { machine, inside }
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Microseconds: the median of many.
fn many(count: usize, mut once: impl FnMut()) -> f64 {
    let time = |()| {
        let begun = Instant::now();
        once();
        begun.elapsed().as_secs_f64() * 1e6
    };
    median(std::iter::repeat_n((), count).map(time).collect())
}

fn round_trip((from, at, to): (&Host, &Host, IpAddr)) -> f64 {
    let server = at.run(|| UdpSocket::bind((to, 5000)).unwrap());
    let answering = thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((1.., client)) = server.recv_from(&mut buffer) {
            server.send_to(&buffer, client).unwrap();
        }
    });
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.connect((to, 5000)).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let trip = many(2000, || {
        socket.send(&[0; 64]).unwrap();
        socket.recv(&mut [0; 64]).unwrap();
    });
    socket.send(&[]).unwrap();
    answering.join().unwrap();
    trip
}

fn block((from, at, to): (&Host, &Host, IpAddr)) -> f64 {
    let listener = at.run(|| TcpListener::bind((to, 5001)).unwrap());
    let taking = thread::spawn(move || {
        let (mut stream, mut buffer) = (listener.accept().unwrap().0, vec![0; BLOCK]);
        while stream.read_exact(&mut buffer).is_ok() {
            stream.write_all(&[1]).unwrap();
        }
    });
    let mut stream = from.run(|| TcpStream::connect((to, 5001)).unwrap());
    stream.set_nodelay(true).unwrap();
    let block = vec![0; BLOCK];
    let time = many(500, || {
        stream.write_all(&block).unwrap();
        stream.read_exact(&mut [0]).unwrap();
    });
    drop(stream);
    taking.join().unwrap();
    time
}
