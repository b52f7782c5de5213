//! Load: connections and questions as fast as they are answered, and how fast that was.
//!
//! The figures come as one line of `name=value`, times in microseconds.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::names::{self, Config, Family};
use crate::sockets::dual_stack;
use crate::{Outcome, number, options, print, seconds, usage};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

struct Figures {
    taken: Vec<Duration>,
    failed: usize,
    over: Duration,
}

impl Figures {
    fn collect(parts: impl Iterator<Item = (Vec<Duration>, usize)>, over: Duration) -> Self {
        let mut figures = Self { taken: Vec::new(), failed: 0, over };
        for (taken, failed) in parts {
            figures.taken.extend(taken);
            figures.failed += failed;
        }
        figures.taken.sort_unstable();
        figures
    }

    fn report(&self) -> Outcome {
        let at = |percent: usize| {
            let place = (self.taken.len() * percent / 100).min(self.taken.len() - 1);
            self.taken[place].as_secs_f64() * 1e6
        };
        if self.taken.is_empty() {
            return Err(format!("no answer; {} attempts failed", self.failed));
        }
        print(&format!(
            "rate={:.0} p50={:.1} p99={:.1} count={} failed={}\n",
            self.taken.len() as f64 / self.over.as_secs_f64(),
            at(50),
            at(99),
            self.taken.len(),
            self.failed,
        ));
        Ok(u8::from(self.failed > 0))
    }
}

/// `load [-c CLIENTS] [-t SECONDS] HOST PORT[-LAST]`: a connection for each HTTP request, the
/// ports in turn.
pub fn load(args: &[String]) -> Outcome {
    let (flags, rest) = options("load", args, "c:t:");
    let [host, ports] = rest.as_slice() else { usage("load") };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let ports: RangeInclusive<u16> = number("load", first)..=number("load", last);
    if ports.is_empty() {
        usage("load");
    }
    let address = names::resolve(host, Family::Any)?[0];
    let value = |letter| flags.iter().rfind(|(flag, _)| *flag == letter).map(|(_, value)| value);
    let clients = value('c').map_or(4, |text| number("load", text));
    let time = value('t').map_or(Duration::from_secs(3), |text| seconds("load", text));
    let turn = AtomicUsize::new(0);
    let started = Instant::now();
    let parts: Vec<_> = thread::scope(|scope| {
        let client = || requests(address, &ports, &turn, started + time);
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        clients.into_iter().filter_map(|client| client.join().ok()).collect()
    });
    Figures::collect(parts.into_iter(), started.elapsed()).report()
}

fn requests(
    address: IpAddr,
    ports: &RangeInclusive<u16>,
    turn: &AtomicUsize,
    end: Instant,
) -> (Vec<Duration>, usize) {
    let mut taken = Vec::new();
    let mut failed = 0;
    while Instant::now() < end {
        let turn = turn.fetch_add(1, Ordering::Relaxed) % ports.len();
        let Some(port) = ports.clone().nth(turn) else { continue };
        let begun = Instant::now();
        match request(SocketAddr::new(address, port)) {
            Ok(()) => taken.push(begun.elapsed()),
            Err(_) => failed += 1,
        }
    }
    (taken, failed)
}

/// One request over a connection that this side closes: the state that lingers after a close is
/// here then, and cannot meet a later connection whose address translation is the same there.
fn request(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: load\r\n\r\n")?;
    let mut answer = Vec::with_capacity(512);
    let mut buffer = [0; 512];
    while !whole(&answer) {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
    if answer.starts_with(b"HTTP/1.1 200") {
        return Ok(());
    }
    Err(std::io::ErrorKind::InvalidData.into())
}

/// Whether an answer is as long as it says.
fn whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    length.and_then(|length| length.parse().ok()).is_none_or(|length: usize| body.len() >= length)
}

/// `dns-load [-c OUTSTANDING] [-t SECONDS] [-u] NAME [SERVER]`: questions for A over UDP; with
/// `-u` each for another name under NAME, so that no answer can have been kept.
pub fn dns_load(args: &[String]) -> Outcome {
    let (flags, rest) = options("dns-load", args, "c:t:u");
    let (name, server) = match rest.as_slice() {
        [name] => (name, Config::read().servers[0]),
        [name, server] => {
            let server = names::address(server, 53).ok_or(format!("{server} is no address"))?;
            (name, server)
        }
        _ => usage("dns-load"),
    };
    let value = |letter| flags.iter().rfind(|(flag, _)| *flag == letter).map(|(_, value)| value);
    let outstanding: u16 = value('c').map_or(16, |text| number("dns-load", text));
    let time = value('t').map_or(Duration::from_secs(3), |text| seconds("dns-load", text));
    let each_its_own = flags.iter().any(|(flag, _)| *flag == 'u');
    let started = Instant::now();
    let questions = Questions { name, each_its_own, asked: 0, sent: Vec::new() };
    let part = questions.ask_all(server, outstanding, started + time);
    let part = part.map_err(|error| format!("{server}: {error}"))?;
    Figures::collect(std::iter::once(part), started.elapsed()).report()
}

/// Questions under way. A question's id is the place of the time it was sent at.
struct Questions<'a> {
    name: &'a str,
    each_its_own: bool,
    asked: u64,
    sent: Vec<Instant>,
}

impl Questions<'_> {
    fn ask_all(
        mut self,
        server: SocketAddr,
        outstanding: u16,
        end: Instant,
    ) -> std::io::Result<(Vec<Duration>, usize)> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => ([0; 4], 0).into(),
            SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        self.sent = vec![Instant::now(); outstanding.into()];
        for place in 0..outstanding {
            self.ask(&socket, place)?;
        }
        let (mut taken, mut failed) = (Vec::new(), 0);
        let mut buffer = [0; 1500];
        while Instant::now() < end {
            let Ok(length) = socket.recv(&mut buffer) else {
                // Lost, all of them: each place asks again.
                failed += usize::from(outstanding);
                for place in 0..outstanding {
                    self.ask(&socket, place)?;
                }
                continue;
            };
            let place = u16::from_be_bytes([buffer[0], buffer[1]]);
            let Some(sent) = self.sent.get(usize::from(place)) else { continue };
            if length >= 12 && buffer[3] & 15 == 0 && buffer[7] > 0 {
                taken.push(sent.elapsed());
            } else {
                failed += 1;
            }
            self.ask(&socket, place)?;
        }
        Ok((taken, failed))
    }

    fn ask(&mut self, socket: &UdpSocket, place: u16) -> std::io::Result<()> {
        self.asked += 1;
        let own = format!("{}-{}", std::process::id(), self.asked);
        let mut query = place.to_be_bytes().to_vec();
        query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        let first = self.each_its_own.then_some(own.as_str());
        for label in first.into_iter().chain(self.name.split('.').filter(|l| !l.is_empty())) {
            query.push(u8::try_from(label.len()).unwrap_or(63));
            query.extend(label.bytes().take(63));
        }
        query.extend([0, 0, 1, 0, 1]);
        self.sent[usize::from(place)] = Instant::now();
        socket.send(&query).map(drop)
    }
}

/// `dns-server [-p PORT]`: answers every question with 192.0.2.1, to be forwarded to.
pub fn dns_server(args: &[String]) -> Outcome {
    let (flags, rest) = options("dns-server", args, "p:");
    if !rest.is_empty() {
        usage("dns-server");
    }
    let port = flags.last().map_or(53, |(_, port)| number("dns-server", port));
    let socket = dual_stack(port, UdpSocket::bind)?;
    print(&format!("answering on port {port}\n"));
    let mut buffer = [0; 1500];
    loop {
        let Ok((length @ 12.., from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(answer) = answer(&buffer[..length]) {
            // Whoever cannot be answered asks again.
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let mut end = 12;
    while *query.get(end)? != 0 {
        end += usize::from(query[end]) + 1;
    }
    let question = query.get(12..end + 5)?;
    let wants_address = question[question.len() - 4..] == [0, 1, 0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(wants_address), 0, 0, 0, 0]);
    answer.extend(question);
    if wants_address {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 1]);
    }
    Some(answer)
}
