//! Syslog: RFC 3164 and RFC 5424, over the host's socket, UDP or TCP.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use super::super::clock::{self, Precision};
use super::super::jsonfile::Stream;
use super::super::protocol::{Syslog as Wanted, SyslogFormat, SyslogTo};
use super::Taker;
use super::queue::Message;

/// How long a receiver may take for a connection or a message.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the host's own syslog listens.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

const ERROR: u8 = 3;
const INFORMATION: u8 = 6;

/// A syslog that can be reached.
pub(super) struct Syslog {
    way: Way,
    wanted: Wanted,
}

enum Way {
    Datagram(UnixDatagram),
    Udp(UdpSocket),
    Stream(Box<dyn Write + Send>),
}

impl Syslog {
    pub(super) fn connect(wanted: &Wanted) -> io::Result<Self> {
        let way = match &wanted.to {
            SyslogTo::Local => local()?,
            SyslogTo::Unix { path } => unix(&path.to_string_lossy())?,
            SyslogTo::UnixDatagram { path } => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                Way::Datagram(socket)
            }
            SyslogTo::Udp { address } => {
                let reached = reach(&resolve(address)?, |to, _| {
                    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
                    let socket = UdpSocket::bind(any)?;
                    socket.connect(to)?;
                    Ok(socket)
                });
                Way::Udp(reached.map_err(|error| dial("udp", address, &error))?)
            }
            SyslogTo::Tcp { address } => Way::Stream(Box::new(tcp(address)?)),
        };
        Ok(Self { way, wanted: wanted.clone() })
    }
}

impl Taker for Syslog {
    fn take(&mut self, message: &Message) -> io::Result<()> {
        let text = format(&self.wanted, message);
        match &mut self.way {
            Way::Datagram(socket) => socket.send(&text).map(drop),
            // Nobody may listen there, which is told after the next one.
            Way::Udp(socket) => match socket.send(&text) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                other => other.map(drop),
            },
            Way::Stream(stream) => stream.write_all(&text),
        }
    }
}

/// One of the places where a host's syslog may be.
fn local() -> io::Result<Way> {
    let found = LOCAL.into_iter().find_map(|path| {
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(path).ok()?;
        Some(Way::Datagram(socket))
    });
    let found = found.or_else(|| LOCAL.into_iter().find_map(|path| unix(path).ok()));
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "Unix syslog delivery error"))
}

fn unix(path: &str) -> io::Result<Way> {
    let stream = UnixStream::connect(path).map_err(|error| dial("unix", path, &error))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(Way::Stream(Box::new(stream)))
}

/// A connection to whoever answers first of those that a name stands for.
pub(super) fn tcp(address: &str) -> io::Result<TcpStream> {
    let reached = reach(&resolve(address)?, |to, limit| TcpStream::connect_timeout(&to, limit));
    let stream = reached.map_err(|error| dial("tcp", address, &error))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    let found = address.to_socket_addrs().map_err(|error| dial("tcp", address, &error))?;
    Ok(found.collect())
}

/// Tries one address after the other, as Go does: each has its share of the time, and the first
/// failure is the one that is told.
fn reach<T>(
    addresses: &[SocketAddr],
    connect: impl Fn(SocketAddr, Duration) -> io::Result<T>,
) -> io::Result<T> {
    let share = PATIENCE / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut failure = None;
    for address in addresses {
        match connect(*address, share) {
            Ok(reached) => return Ok(reached),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::other("no such host")))
}

/// An error in Go's words.
pub(super) fn dial(network: &str, address: &str, error: &io::Error) -> io::Error {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::NotFound => "connect: no such file or directory".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("dial {network} {address}: {why}"))
}

/// A message with its head, and the line feed that ends it.
fn format(wanted: &Wanted, message: &Message) -> Vec<u8> {
    let severity = if message.stream == Stream::Stderr { ERROR } else { INFORMATION };
    let priority = u16::from(wanted.facility) * 8 + u16::from(severity);
    let (host, tag, pid) = (&wanted.hostname, &wanted.tag, std::process::id());
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = match wanted.format {
        SyslogFormat::Local => {
            let time = clock::stamp(message.time);
            write!(text, "<{priority}>{time} {tag}[{pid}]: ")
        }
        SyslogFormat::Rfc3164 => {
            let time = clock::stamp(message.time);
            write!(text, "<{priority}>{time} {host} {tag}[{pid}]: ")
        }
        SyslogFormat::Rfc5424 | SyslogFormat::Rfc5424Micro => {
            let fine = wanted.format == SyslogFormat::Rfc5424Micro;
            let precision = if fine { Precision::Micro } else { Precision::Second };
            let time = clock::at(message.time, precision);
            write!(text, "<{priority}>1 {time} {host} {tag} {pid} {tag} - ")
        }
    };
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(&message.text);
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn check(format: SyslogFormat, stream: Stream, expected: &str) {
        let wanted = Wanted {
            to: SyslogTo::Local,
            facility: 3,
            format,
            tag: "web".to_owned(),
            hostname: "h1".to_owned(),
        };
        let time = UNIX_EPOCH + Duration::from_micros(1_735_689_600_000_005);
        let message = Message { stream, text: b"hi".to_vec(), partial: false, time };
        let text = String::from_utf8(super::format(&wanted, &message)).unwrap();
        assert_eq!(text, expected.replace("PID", &std::process::id().to_string()));
    }

    #[test]
    fn another_address_of_a_name_is_tried_where_the_first_does_not_answer() {
        let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (open, closed) = (listen(), listen());
        let addresses = [closed.local_addr().unwrap(), open.local_addr().unwrap()];
        drop(closed);
        let connect = |to: SocketAddr, limit: Duration| {
            assert_eq!(limit, PATIENCE / 2);
            TcpStream::connect_timeout(&to, limit)
        };
        let stream = reach(&addresses, connect).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addresses[1]);
        drop(open);
        let error = reach(&addresses, connect).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn heads_are_those_of_the_formats() {
        check(SyslogFormat::Local, Stream::Stdout, "<30>Jan  1 00:00:00 web[PID]: hi\n");
        check(SyslogFormat::Rfc3164, Stream::Stderr, "<27>Jan  1 00:00:00 h1 web[PID]: hi\n");
        let head = "<30>1 2025-01-01T00:00:00Z h1 web PID web - hi\n";
        check(SyslogFormat::Rfc5424, Stream::Stdout, head);
        let head = "<30>1 2025-01-01T00:00:00.000005Z h1 web PID web - hi\n";
        check(SyslogFormat::Rfc5424Micro, Stream::Stdout, head);
    }
}
