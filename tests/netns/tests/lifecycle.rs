//! Networks, containers and daemons that come and go under load: nobody waits for somebody else's.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use netns_tests::{Daemon, Host, Lab, TIMEOUT};

/// The time between two questions: a thousand are asked in a second.
const PACE: Duration = Duration::from_millis(1);

/// The longest that one of a hundred questions may take.
const PATIENCE: Duration = Duration::from_millis(5);

/// Asks for a name again and again until it is over; how long each answer took. Every question is
/// answered with an address.
fn ask(from: &Host, name: &str, over: &AtomicBool) -> Vec<Duration> {
    let socket = from.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.connect("127.0.0.11:53").unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut taken = Vec::new();
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), RecordType::A));
    while !over.load(Ordering::Relaxed) {
        question.metadata.id = u16::try_from(taken.len() % 65_536).unwrap();
        let mut buffer = [0; 512];
        let begun = Instant::now();
        socket.send(&question.to_vec().unwrap()).unwrap();
        let size = socket.recv(&mut buffer).unwrap();
        taken.push(begun.elapsed());
        let answer = Message::from_vec(&buffer[..size]).unwrap();
        assert_eq!((answer.metadata.id, answer.answers.len()), (question.metadata.id, 1));
        let next = begun + PACE;
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            thread::park_timeout(left);
        }
    }
    taken
}

/// Moby 27323, 12606: one lock for names and networks.
#[test]
fn names_are_answered_in_milliseconds_while_a_hundred_networks_are_made() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 shop");
    daemon.run("db", "--network shop");
    let web = daemon.run("web", "--network shop");
    // A busy machine may stop anybody for longer: one of five times counts.
    let slowest = (0..5).map(|round| {
        let over = AtomicBool::new(false);
        let mut taken = thread::scope(|scope| {
            let asked = scope.spawn(|| ask(&web, "db", &over));
            for number in 0..20 {
                daemon.rnet(&format!("network create --ipv6 n{round}-{number}"));
            }
            over.store(true, Ordering::Relaxed);
            asked.join().unwrap()
        });
        taken.sort();
        assert!(taken.len() >= 100, "only {} questions were asked", taken.len());
        taken[taken.len() * 99 / 100]
    });
    let slowest: Vec<_> = slowest.collect();
    assert!(slowest.iter().min().unwrap() <= &PATIENCE, "of each hundred: {slowest:?}");
}

/// Moby 34660, 38160, 45646: who serves names and ports is gone with the daemon.
#[test]
fn a_daemon_that_is_killed_again_and_again_is_missed_by_nobody() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 shop");
    let db = daemon.run("db", "--network shop -p 8080:80 -p 127.0.0.1:8081:80 -p [::1]:8081:80");
    let web = daemon.run("web", "--network shop");
    let _server = db.serve(80);
    let (over, reached) = (AtomicBool::new(false), AtomicUsize::new(0));
    let visitors = [
        (&lab.client, Lab::HOST[0], 8080),
        (&lab.client, Lab::HOST[1], 8080),
        (&lab.host, "127.0.0.1", 8081),
        (&lab.host, "::1", 8081),
    ];
    thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&web, "db", &over));
        for (from, address, port) in visitors {
            let (over, reached) = (&over, &reached);
            scope.spawn(move || {
                let server = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
                while !over.load(Ordering::Relaxed) {
                    from.tcp_to(server, TIMEOUT).unwrap_or_else(|e| panic!("{server}: {e}"));
                    reached.fetch_add(1, Ordering::Relaxed);
                    thread::park_timeout(PACE);
                }
            });
        }
        for _ in 0..10 {
            let before = reached.load(Ordering::Relaxed);
            daemon.kill();
            // They go on for a while without one.
            while reached.load(Ordering::Relaxed) < before + 20 && !asked.is_finished() {
                thread::park_timeout(PACE);
            }
            daemon.restart();
        }
        over.store(true, Ordering::Relaxed);
        assert!(!asked.join().unwrap().is_empty());
    });
}

/// Moby 20179, 35221, netavark 1146: which interface is which was a matter of luck.
#[test]
fn interfaces_and_the_default_route_are_the_same_at_every_start() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    for network in ["shop", "admin", "backup"] {
        daemon.rnet(&format!("network create --ipv6 {network}"));
    }
    daemon.rnet("create --name web --network shop rnet/toolbox sleep 1000");
    daemon.rnet("network connect backup web");
    daemon.rnet("network connect admin web");
    let started = || {
        daemon.rnet("start web");
        let inside = daemon.inside("web");
        let addresses = ["eth0", "eth1", "eth2"].map(|name| inside.addresses(name));
        let routes = inside.run(|| std::fs::read_to_string("/proc/thread-self/net/route").unwrap());
        daemon.rnet("kill web");
        daemon.rnet("wait web");
        (addresses, routes)
    };
    let first = started();
    assert!(first.0.iter().all(|addresses| addresses.len() == 3), "{first:?}");
    for _ in 0..20 {
        assert_eq!(started(), first);
    }
}

/// Connections from outside to a port of a container, one of each family, that were answered once.
fn connections(lab: &Lab, inside: &Host) -> Vec<TcpStream> {
    let listener = inside.run(|| TcpListener::bind("[::]:80").unwrap());
    thread::spawn(move || {
        for mut connection in listener.incoming().take(2).map_while(Result::ok) {
            thread::spawn(move || {
                let mut echo = connection.try_clone().unwrap();
                std::io::copy(&mut connection, &mut echo)
            });
        }
    });
    let mut all = Vec::new();
    for address in Lab::both(Lab::HOST) {
        let server = SocketAddr::new(address, 8080);
        let mut connection = lab.client.run(|| TcpStream::connect(server).unwrap());
        connection.set_read_timeout(Some(TIMEOUT)).unwrap();
        assert_eq!(echo(&mut connection).unwrap(), *b"hello");
        all.push(connection);
    }
    all
}

fn echo(connection: &mut TcpStream) -> std::io::Result<[u8; 5]> {
    let mut buffer = [0; 5];
    connection.write_all(b"hello")?;
    connection.read_exact(&mut buffer)?;
    Ok(buffer)
}

/// Moby 44137, docker/cli 2909: whoever was connected was cut off by another network.
#[test]
fn a_connection_lives_through_its_containers_other_networks() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 shop");
    daemon.rnet("network create --ipv6 admin");
    let web = daemon.run("web", "--network shop -p 8080:80");
    let mut connections = connections(&lab, &web);
    for _ in 0..3 {
        daemon.rnet("network connect admin web");
        for connection in &mut connections {
            assert_eq!(echo(connection).unwrap(), *b"hello");
        }
        daemon.rnet("network disconnect admin web");
        for connection in &mut connections {
            assert_eq!(echo(connection).unwrap(), *b"hello");
        }
    }
}

/// For-linux 349: a client of a container that is gone was left hanging.
#[test]
fn a_connection_to_a_container_that_is_gone_is_reset_when_something_is_sent() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 shop");
    let web = daemon.run("web", "--network shop -p 8080:80");
    let mut connections = connections(&lab, &web);
    daemon.rnet("rm -f web");
    for connection in &mut connections {
        let error = echo(connection).unwrap_err().kind();
        assert_eq!(error, ErrorKind::ConnectionReset);
    }
}
