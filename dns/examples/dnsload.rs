//! Asks a resolver as fast as it answers, and tells how fast that was.
//!
//! `dnsload ADDRESS NAME [SECONDS] [OUTSTANDING]`: questions for A, each as soon as the one before
//! it in its place is answered. Without arguments it starts an `rnet-dns` beside itself and
//! measures both ways: a name of its own, and one from an upstream that is asked anew every time.

#![expect(clippy::print_stdout, reason = "the figures are what this program is for")]

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dns::client::Client;
use dns::protocol::{EndpointNames, SandboxView};
use hickory_proto::op::{Message, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

struct Figures {
    per_second: f64,
    latencies: Vec<Duration>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [address, name, rest @ ..] = arguments.as_slice() {
        let seconds = rest.first().map_or(Ok(3), |text| text.parse())?;
        let outstanding = rest.get(1).map_or(Ok(32), |text| text.parse())?;
        let name = name.clone();
        let figures = load(address.parse()?, seconds, outstanding, |_| name.clone())?;
        print("load", &figures);
        return Ok(());
    }
    compare()
}

/// Local names, kept answers and forwarded questions, of a process started for this.
fn compare() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("dnsload-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let upstream = UdpSocket::bind("127.0.0.1:0")?;
    let port = upstream.local_addr()?.port();
    std::fs::write(dir.join("resolv.conf"), "nameserver 127.0.0.1\n")?;
    thread::spawn(move || answer_all(&upstream));
    let started = Instant::now();
    let mut child = start(&dir, port)?;
    let client = connect(&dir.join("dns.sock"))?;
    println!("{:12} {:>9.2} ms", "ready after", started.elapsed().as_secs_f64() * 1e3);
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    let tcp = TcpListener::bind("127.0.0.1:0")?;
    client.serve(view()?, udp.as_fd(), tcp.as_fd())?;
    let names = EndpointNames {
        endpoint: "1".repeat(64).parse()?,
        names: vec!["web".into()],
        addresses: vec!["10.0.0.1".parse()?],
        services: vec![],
    };
    client.publish(&"a".repeat(64).parse()?, "app", &[names])?;
    let address = udp.local_addr()?;
    print("local", &load(address, 3, 32, |_| "web".into())?);
    print("cached", &load(address, 3, 32, |_| "example.org".into())?);
    print("forwarded", &load(address, 3, 32, |number| format!("{number}.example.org"))?);
    println!("{:12} {:>9}", "memory", memory(&child)?);
    client.shutdown()?;
    child.wait()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn start(dir: &Path, port: u16) -> Result<Child> {
    let own = std::env::current_exe()?;
    let beside = own.parent().and_then(Path::parent).context("no directory")?.join("rnet-dns");
    Command::new(beside)
        .arg("--socket")
        .arg(dir.join("dns.sock"))
        .arg("--resolv-conf")
        .arg(dir.join("resolv.conf"))
        .args(["--log-level", "warn", "--upstream-port", &port.to_string()])
        .spawn()
        .context("cannot start rnet-dns: build it first")
}

fn connect(socket: &Path) -> Result<Client> {
    let start = Instant::now();
    loop {
        match Client::connect(socket) {
            Ok(client) => return Ok(client),
            Err(_) if start.elapsed() < Duration::from_secs(5) => thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
    }
}

fn view() -> Result<SandboxView> {
    Ok(SandboxView {
        sandbox: "b".repeat(64).parse()?,
        networks: vec!["a".repeat(64).parse()?],
        private: std::collections::BTreeMap::new(),
        upstreams: vec![],
        forward: true,
        ttl: 1,
    })
}

fn answer_all(socket: &UdpSocket) {
    let mut buffer = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let Ok(query) = Message::from_vec(&buffer[..length]) else { continue };
        let mut reply = Message::response(query.metadata.id, OpCode::Query);
        let Some(question) = query.queries.first() else { continue };
        reply.add_query(question.clone());
        let data = RData::A(A::new(192, 0, 2, 1));
        reply.add_answer(Record::from_rdata(question.name.clone(), 300, data));
        if let Ok(bytes) = reply.to_vec() {
            let _ = socket.send_to(&bytes, from);
        }
    }
}

fn load(
    address: SocketAddr,
    seconds: u64,
    outstanding: u16,
    name: impl Fn(u64) -> String,
) -> Result<Figures> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut sent = vec![Instant::now(); outstanding.into()];
    let mut number = 0;
    let mut ask = |place: u16, sent: &mut Vec<Instant>| -> Result<()> {
        number += 1;
        let mut query = Message::query();
        query.metadata.id = place;
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(name(number) + ".")?, RecordType::A));
        sent[usize::from(place)] = Instant::now();
        socket.send(&query.to_vec()?)?;
        Ok(())
    };
    for place in 0..outstanding {
        ask(place, &mut sent)?;
    }
    let start = Instant::now();
    let mut latencies = Vec::new();
    let mut buffer = [0; 4096];
    while start.elapsed() < Duration::from_secs(seconds) {
        let length = socket.recv(&mut buffer).context("no answer for 5 seconds")?;
        ensure!(length >= 12 && buffer[3] % 16 == 0 && buffer[7] > 0, "not the answer expected");
        let place = u16::from_be_bytes([buffer[0], buffer[1]]);
        latencies.push(sent[usize::from(place)].elapsed());
        ask(place, &mut sent)?;
    }
    let answered = f64::from(u32::try_from(latencies.len())?);
    Ok(Figures { per_second: answered / start.elapsed().as_secs_f64(), latencies })
}

fn print(what: &str, figures: &Figures) {
    let mut latencies = figures.latencies.clone();
    latencies.sort_unstable();
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100).copied();
    let [half, most] = [50, 99].map(|percent| at(percent).unwrap_or_default());
    println!("{what:12} {:>9.0} q/s  median {half:.1?}  99 % {most:.1?}", figures.per_second);
}

fn memory(child: &Child) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    Ok(line.context("no VmRSS")?.trim().to_owned())
}
