//! What it costs that sources are checked: the time of a start's kernel part, and throughput between
//! two sandboxes, with and without, in turns.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on ends where it stands")]
#![expect(clippy::print_stdout, reason = "the measurement is the output")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use drivers::kernel::{Kernel, Linux, reconcile};
use netns_tests::{Host, Lab, Model};

const TURNS: usize = 7;
const SPAN: Duration = Duration::from_millis(700);

fn main() {
    let mut results: [Vec<[f64; 3]>; 2] = Default::default();
    for turn in 0..2 * TURNS {
        let any = turn % 2 == 1;
        results[usize::from(any)].push(measure(any));
    }
    let names = ["start, us", "TCP, MB/s", "UDP of 64 bytes, 1000/s"];
    for (at, name) in names.iter().enumerate() {
        let median = |of: &Vec<[f64; 3]>| {
            let mut values: Vec<f64> = of.iter().map(|values| values[at]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let [with, without] = [median(&results[0]), median(&results[1])];
        println!("{name}: {with:.1} with, {without:.1} without, ratio {:.3}", with / without);
    }
}

fn measure(any: bool) -> [f64; 3] {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    let option = ("rnet.bridge.any_source".to_owned(), any.to_string());
    model.network(1).given_options.extend([option]);
    model.sandbox(1, &[1]);
    model.sandbox(2, &[1]);
    let kernel = lab.open();
    reconcile(&kernel, &model.desired()).unwrap();
    let [one, two] = [1, 2].map(|n| lab.sandbox(&kernel, &model.sandboxes[&n].0.id));
    let to = model.addresses(2, 1)[0];
    [start(&kernel, &mut model), tcp(&one, &two, to), udp(&one, &two, to)]
}

/// Ten more sandboxes, one by one.
fn start(kernel: &Linux, model: &mut Model) -> f64 {
    let mut times = Vec::new();
    for n in 10..30 {
        model.sandbox(n, &[1]);
        let plan = cnm::diff(&cnm::State::default(), &model.desired_of(n));
        let begun = Instant::now();
        kernel.apply(&plan).unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn tcp(from: &Host, at: &Host, to: std::net::IpAddr) -> f64 {
    let listener = at.run(|| TcpListener::bind((to, 5000)).unwrap());
    let reader = std::thread::spawn(move || {
        let (mut stream, mut buffer) = (listener.accept().unwrap().0, vec![0; 1 << 16]);
        let mut total = 0;
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            total += count;
        }
        total
    });
    let mut stream = from.run(|| TcpStream::connect((to, 5000)).unwrap());
    let (begun, block) = (Instant::now(), vec![0; 1 << 16]);
    while begun.elapsed() < SPAN {
        stream.write_all(&block).unwrap();
    }
    drop(stream);
    let total = reader.join().unwrap();
    f64::from(u32::try_from(total / 1000).unwrap()) / 1000.0 / begun.elapsed().as_secs_f64()
}

fn udp(from: &Host, at: &Host, to: std::net::IpAddr) -> f64 {
    let _receiver = at.run(|| UdpSocket::bind((to, 5001)).unwrap());
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.connect((to, 5001)).unwrap();
    let (begun, mut sent) = (Instant::now(), 0_u32);
    while begun.elapsed() < SPAN {
        sent += u32::from(socket.send(&[0; 64]).is_ok());
    }
    f64::from(sent) / 1000.0 / begun.elapsed().as_secs_f64()
}
