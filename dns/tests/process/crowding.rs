//! Floods and shortages: one sandbox or one port does not use up what is everybody's.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cnm::{PortBinding, Protocol};
use dns::protocol::HeldPort;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;

use crate::lab::{
    Lab, PATIENCE, Sandbox, Upstream, eventually, named, network, own_address, query, view,
};

/// Asks as fast as can be until told to end, without waiting for answers; counts the questions.
fn flood(sandbox: &Sandbox, end: &AtomicBool) -> usize {
    let asker = sandbox.asker();
    asker.set_nonblocking(true).unwrap();
    let question = query("web", RecordType::A).to_vec().unwrap();
    let mut count = 0;
    while !end.load(Ordering::Relaxed) {
        count += usize::from(asker.send(&question).is_ok());
        let _ = asker.recv(&mut [0; 512]);
    }
    count
}

/// A packet of a sandbox waits for a turn of every other one, however many they send.
#[test]
fn a_flood_in_one_sandbox_does_not_starve_another() {
    let lab = Lab::new(&[]);
    lab.client.publish(&network('a'), "app", &[named(1, "web", "10.0.0.1")]).unwrap();
    let (loud, quiet) = (lab.sandbox(view(1)), lab.sandbox(view(2)));
    let (end, flooded) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut times = Vec::new();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| flooded.fetch_add(flood(&loud, &end), Ordering::Relaxed));
        }
        for _ in 0..300 {
            let begun = Instant::now();
            assert_eq!(quiet.addresses("web").len(), 1);
            times.push(begun.elapsed());
        }
        end.store(true, Ordering::Relaxed);
    });
    times.sort_unstable();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{flooded:?} questions flooded; answered in {median:?}, at worst in {worst:?}");
    // Of the machine's processors there are fewer than of those who want one here.
    assert!(median < Duration::from_millis(50), "{median:?}, at worst {worst:?}");
    assert!(worst < Duration::from_secs(1), "{worst:?}");
}

/// What is more than a sandbox may ask outside waits or is refused, and is never sent.
#[test]
fn a_sandbox_has_the_host_ask_outside_so_often_and_no_oftener() {
    let upstream = Upstream::answering("192.0.2.1");
    let lab = Lab::new(&[&upstream]);
    let sandbox = lab.sandbox(view(1));
    let asker = sandbox.asker();
    asker.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    let (mut number, mut refused) = (0, 0);
    // As many different names as can be, so that none is in the cache.
    while refused == 0 {
        let question = query(&format!("n{number}.example.org"), RecordType::A);
        number += usize::from(asker.send(&question.to_vec().unwrap()).is_ok());
        let mut reply = [0; 512];
        while let Ok(length) = asker.recv(&mut reply) {
            let reply = Message::from_vec(&reply[..length]).unwrap();
            refused += usize::from(reply.metadata.response_code == ResponseCode::Refused);
        }
        assert!(begun.elapsed() < PATIENCE, "{number} questions, and none was refused");
    }
    let heard = upstream.heard();
    let elapsed = begun.elapsed();
    println!("{heard} of {number} questions in {elapsed:?}");
    // Those of a burst, and 2,000 a second.
    let most = 2000 + 2 * elapsed.as_millis();
    assert!(u128::try_from(heard).unwrap() <= most, "{heard} in {elapsed:?}");
    assert_eq!(lab.sandbox(view(2)).addresses("other.example.org").len(), 1);
}

/// How long the process has been at work, in hundredths of a second.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_process_that_has_no_descriptor_left_does_not_spin_and_answers_what_it_knows() {
    let lab = Lab::with_files(&[], 40);
    lab.client.publish(&network('a'), "app", &[named(1, "web", "10.0.0.1")]).unwrap();
    let sandbox = lab.sandbox(view(1));
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = TcpListener::bind((own_address(), 8080)).unwrap();
    let address = port.local_addr().unwrap();
    let binding = PortBinding {
        host: address.ip(),
        host_port: address.port(),
        protocol: Protocol::Tcp,
        port: 80,
    };
    let held = HeldPort { binding, target: Some(target.local_addr().unwrap()), twin: None };
    lab.client.hold(&[(held, port.as_fd())]).unwrap();
    // All of its accepting sockets have somebody who waits: names, ports, and daemons.
    let waiting: Vec<_> =
        (0..10).flat_map(|_| [sandbox.connect(), TcpStream::connect(address).unwrap()]).collect();
    let _daemon = connect_packets(&lab);
    let files = format!("/proc/{}/fd", lab.child.id());
    eventually(|| std::fs::read_dir(&files).unwrap().count() >= 40);
    let (begun, before) = (Instant::now(), ticks(lab.child.id()));
    let mut asked: u64 = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        assert_eq!(sandbox.addresses("web").len(), 1);
        asked += 1;
        thread::park_timeout(Duration::from_millis(20));
    }
    let used = ticks(lab.child.id()) - before;
    println!("{used} ticks of 200, with {asked} questions");
    assert!(used < 60, "{used} of 200 ticks");
    drop(waiting);
    eventually(|| sandbox.ask_over_tcp(&query("web", RecordType::A)).answers.len() == 1);
}

/// A daemon that connects and says nothing.
fn connect_packets(lab: &Lab) -> std::os::fd::OwnedFd {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    let (kind, none) = (SockType::SeqPacket, SockFlag::empty());
    let daemon = socket(AddressFamily::Unix, kind, none, None).unwrap();
    connect(daemon.as_raw_fd(), &UnixAddr::new(&lab.socket()).unwrap()).unwrap();
    daemon
}

/// A port that is flooded by made-up clients leaves room for other ports' clients.
#[test]
fn sessions_of_one_udp_port_do_not_take_the_room_of_others() {
    let lab = Lab::new(&[]);
    let target = UdpSocket::bind("127.0.0.1:0").unwrap();
    let hold = |host_port: u16| {
        let port = UdpSocket::bind((own_address(), host_port)).unwrap();
        let address = port.local_addr().unwrap();
        let binding =
            PortBinding { host: address.ip(), host_port, protocol: Protocol::Udp, port: 80 };
        let held = HeldPort { binding, target: Some(target.local_addr().unwrap()), twin: None };
        lab.client.hold(&[(held, port.as_fd())]).unwrap();
        address
    };
    let (flooded, other) = (hold(5000), hold(5001));
    let open = || std::fs::read_dir(format!("/proc/{}/fd", lab.child.id())).unwrap().count();
    let before = open();
    let clients: Vec<_> = (0..1500).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for client in &clients {
        client.send_to(b"x", flooded).unwrap();
    }
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(other).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    target.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send(b"hello").unwrap();
    let mut buffer = [0; 10];
    let from = loop {
        let (length, from) = target.recv_from(&mut buffer).unwrap();
        if &buffer[..length] == b"hello" {
            break from;
        }
    };
    target.send_to(b"back", from).unwrap();
    assert_eq!(client.recv(&mut buffer).unwrap(), 4);
    let sessions = open() - before;
    assert!(sessions <= 1100, "{sessions}");
}
