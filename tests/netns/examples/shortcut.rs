//! What it brings that frames between machines go past their bridges: a round trip, and half a megabyte
//! with an answer, between two containers, with and without, and between the machines themselves, in turns.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends where it stands")]
#![expect(clippy::print_stdout, reason = "the measurement is the output")]

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Instant;

use netns_tests::Host;
use netns_tests::machines::{Machines, USUAL};

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
    let mut results: [[Vec<f64>; 2]; 3] = Default::default();
    for _ in 0..TURNS {
        for (results, way) in results.iter_mut().zip([outer, with, without]) {
            results[0].push(round_trip(way));
            results[1].push(block(way));
        }
    }
    let figures = results.map(|of| of.map(median));
    for (name, [trip, block]) in ["the machines", "with", "without"].iter().zip(figures) {
        let bits = f64::from(u32::try_from(8 * BLOCK).unwrap());
        println!(
            "{name}: a round trip {trip:.1} us ({:+.1}), {:.1} Gbit/s (×{:.2})",
            trip - figures[0][0],
            bits / block / 1000.0,
            figures[0][1] / block,
        );
    }
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
