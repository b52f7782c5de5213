//! A small DNS client: queries over UDP, over TCP where the answer was truncated.

use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::names::{self, Config};
use crate::{Outcome, options, print, usage};

/// Record types this client knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    A,
    Aaaa,
    Ptr,
    Srv,
    Cname,
}

/// One record of an answer.
pub struct Record {
    name: String,
    seconds: u32,
    value: Value,
}

enum Value {
    Address(IpAddr),
    Name(&'static str, String),
    Service { priority: u16, weight: u16, port: u16, target: String },
    Other(u16),
}

/// What a server answered.
pub struct Answer {
    pub records: Vec<Record>,
    server: SocketAddr,
    transport: &'static str,
}

/// Why there is no answer.
pub enum Failure {
    NoName,
    Refused(u8),
    Malformed,
    Silent(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName => f.write_str("no such name (NXDOMAIN)"),
            Self::Refused(2) => f.write_str("the server failed (SERVFAIL)"),
            Self::Refused(5) => f.write_str("the server refused (REFUSED)"),
            Self::Refused(code) => write!(f, "the server answered with code {code}"),
            Self::Malformed => f.write_str("the answer is malformed"),
            Self::Silent(error) => write!(f, "no answer: {error}"),
        }
    }
}

impl Kind {
    fn code(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Cname => 5,
            Self::Ptr => 12,
            Self::Aaaa => 28,
            Self::Srv => 33,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_uppercase().as_str() {
            "A" => Some(Self::A),
            "AAAA" => Some(Self::Aaaa),
            "PTR" => Some(Self::Ptr),
            "SRV" => Some(Self::Srv),
            "CNAME" => Some(Self::Cname),
            _ => None,
        }
    }
}

impl Record {
    /// The address of an A or AAAA record.
    pub fn address(&self) -> Option<IpAddr> {
        match self.value {
            Value::Address(address) => Some(address),
            _ => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(_, name) => f.write_str(name),
            Self::Service { priority, weight, port, target } => {
                write!(f, "{priority} {weight} {port} {target}")
            }
            Self::Other(code) => write!(f, "(record of type {code})"),
        }
    }
}

impl Value {
    fn kind(&self) -> String {
        match self {
            Self::Address(IpAddr::V4(_)) => "A".into(),
            Self::Address(IpAddr::V6(_)) => "AAAA".into(),
            Self::Name(kind, _) => (*kind).into(),
            Self::Service { .. } => "SRV".into(),
            Self::Other(code) => format!("TYPE{code}"),
        }
    }
}

/// `lookup [-v] [-t TYPE] NAME [SERVER]`: one value per line.
pub fn lookup(args: &[String]) -> Outcome {
    let (flags, rest) = options("lookup", args, "vt:");
    let verbose = flags.iter().any(|(flag, _)| *flag == 'v');
    let wanted = flags.iter().find(|(flag, _)| *flag == 't').map(|(_, kind)| kind);
    let wanted = wanted.map(|kind| Kind::parse(kind).unwrap_or_else(|| usage("lookup")));
    let (name, server) = match rest.as_slice() {
        [name] => (name, None),
        [name, server] => (name, Some(server)),
        _ => usage("lookup"),
    };
    let mut config = Config::read();
    if let Some(server) = server {
        let address = names::address(server, 53).ok_or(format!("{server} is not an address"))?;
        config.servers = vec![address];
    }
    let (names, kinds) = questions(&config, name, wanted);
    let mut failure = None;
    for name in &names {
        let mut count = 0;
        for &kind in &kinds {
            match ask(&config, name, kind) {
                Ok(answer) => count += show(&answer, verbose, kinds.len() == 1),
                Err(error) => failure = Some(error),
            }
        }
        if count > 0 {
            return Ok(0);
        }
    }
    Err(failure.map_or_else(
        || format!("{name}: the name exists and has no such record"),
        |failure| format!("{name}: {failure}"),
    ))
}

fn questions(config: &Config, name: &str, wanted: Option<Kind>) -> (Vec<String>, Vec<Kind>) {
    if let Ok(address) = name.parse::<IpAddr>()
        && wanted.is_none_or(|kind| kind == Kind::Ptr)
    {
        return (vec![reverse(address)], vec![Kind::Ptr]);
    }
    (config.candidates(name), wanted.map_or(vec![Kind::A, Kind::Aaaa], |kind| vec![kind]))
}

fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(v6) => {
            let nibbles = v6.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
            nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

fn show(answer: &Answer, verbose: bool, aliases: bool) -> usize {
    if verbose {
        print(&format!("; from {} over {}\n", answer.server, answer.transport));
    }
    let mut count = 0;
    for record in &answer.records {
        let alias = matches!(record.value, Value::Name("CNAME", _)) && !aliases;
        if verbose {
            let (name, kind) = (&record.name, record.value.kind());
            print(&format!("{name} {} {kind} {}\n", record.seconds, record.value));
        } else if !alias {
            print(&format!("{}\n", record.value));
        }
        count += 1;
    }
    count
}

/// Asks the servers in turn. An answer without records is an answer.
pub fn ask(config: &Config, name: &str, kind: Kind) -> Result<Answer, Failure> {
    let id = query_id();
    let query = encode(id, name, kind).ok_or(Failure::NoName)?;
    let mut failure = Failure::Silent("no server".into());
    for _ in 0..config.attempts {
        for &server in &config.servers {
            match exchange(server, &query, config.timeout) {
                Ok(answer) => return Ok(answer),
                Err(Failure::NoName) => return Err(Failure::NoName),
                Err(other) => failure = other,
            }
        }
    }
    Err(failure)
}

fn query_id() -> u16 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let mixed = time ^ (u128::from(std::process::id()) << 7);
    (mixed ^ mixed >> 16) as u16
}

fn encode(id: u16, name: &str, kind: Kind) -> Option<Vec<u8>> {
    let mut query = Vec::with_capacity(64);
    // One question, recursion desired.
    for word in [id, 0x0100, 1, 0, 0, 0] {
        query.extend(word.to_be_bytes());
    }
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        query.push(length);
        query.extend(label.bytes());
    }
    query.push(0);
    query.extend(kind.code().to_be_bytes());
    query.extend(1_u16.to_be_bytes());
    (query.len() < 272).then_some(query)
}

fn exchange(server: SocketAddr, query: &[u8], timeout: Duration) -> Result<Answer, Failure> {
    let silent = |error: std::io::Error| Failure::Silent(format!("{server}: {error}"));
    let reply = over_udp(server, query, timeout).map_err(silent)?;
    let truncated = reply.get(2).is_some_and(|flags| flags & 2 != 0);
    let (reply, transport) = if truncated {
        (over_tcp(server, query, timeout).map_err(silent)?, "tcp")
    } else {
        (reply, "udp")
    };
    match reply.get(3).map(|flags| flags & 15) {
        Some(0) => {}
        Some(3) => return Err(Failure::NoName),
        Some(code) => return Err(Failure::Refused(code)),
        None => return Err(Failure::Malformed),
    }
    let records = decode(&reply).ok_or(Failure::Malformed)?;
    Ok(Answer { records, server, transport })
}

fn over_udp(server: SocketAddr, query: &[u8], timeout: Duration) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.send(query)?;
    let end = Instant::now() + timeout;
    let mut reply = vec![0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut reply) {
            Ok(length) if length >= 12 && reply[..2] == query[..2] && reply[2] & 0x80 != 0 => {
                reply.truncate(length);
                return Ok(reply);
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
}

fn over_tcp(server: SocketAddr, query: &[u8], timeout: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    let mut message = (query.len() as u16).to_be_bytes().to_vec();
    message.extend(query);
    stream.write_all(&message)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut reply)?;
    Ok(reply)
}

fn decode(reply: &[u8]) -> Option<Vec<Record>> {
    let questions = short(reply, 4)?;
    let answers = short(reply, 6)?;
    let mut at = 12;
    for _ in 0..questions {
        at = name(reply, at)?.1 + 4;
    }
    let mut records = Vec::new();
    for _ in 0..answers {
        let (owner, next) = name(reply, at)?;
        let kind = short(reply, next)?;
        let seconds = u32::from(short(reply, next + 4)?) << 16 | u32::from(short(reply, next + 6)?);
        let length = usize::from(short(reply, next + 8)?);
        let start = next + 10;
        let data = reply.get(start..start + length)?;
        records.push(Record { name: owner, seconds, value: value(reply, kind, start, data)? });
        at = start + length;
    }
    Some(records)
}

fn value(reply: &[u8], kind: u16, start: usize, data: &[u8]) -> Option<Value> {
    Some(match kind {
        1 => Value::Address(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
        28 => Value::Address(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
        5 => Value::Name("CNAME", name(reply, start)?.0),
        12 => Value::Name("PTR", name(reply, start)?.0),
        33 => Value::Service {
            priority: short(data, 0)?,
            weight: short(data, 2)?,
            port: short(data, 4)?,
            target: name(reply, start + 6)?.0,
        },
        other => Value::Other(other),
    })
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// A name and where the bytes after it start. Pointers go backwards a limited number of times.
fn name(reply: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut end = None;
    for _ in 0..128 {
        let length = usize::from(*reply.get(at)?);
        match length {
            0 => return Some((labels.join("."), end.unwrap_or(at + 1))),
            1..64 => {
                let label = reply.get(at + 1..at + 1 + length)?;
                labels.push(String::from_utf8_lossy(label).into_owned());
                at += 1 + length;
            }
            192.. => {
                end = end.or(Some(at + 2));
                at = (length & 63) << 8 | usize::from(*reply.get(at + 1)?);
            }
            _ => return None,
        }
    }
    None
}
