//! Questions to a resolver, and a resolver of the outside world.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use nix::sys::socket::{Shutdown, shutdown};

use crate::{Host, TIMEOUT, patient};

/// Where every sandbox has its resolver.
pub const RESOLVER: &str = "127.0.0.11:53";

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The code, in words: `No Error`, `Non-Existent Domain`.
    pub code: String,
    /// The data of the answers, sorted.
    pub records: Vec<String>,
    /// The types of the records of authority.
    pub authority: Vec<String>,
}

impl Answer {
    fn of(message: &Message) -> Self {
        let mut records: Vec<_> =
            message.answers.iter().map(|record| record.data.to_string()).collect();
        records.sort();
        let authority = message.authorities.iter().map(|r| r.record_type().to_string()).collect();
        Self { code: message.metadata.response_code.to_string(), records, authority }
    }

    /// The addresses among the answers.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.records.iter().filter_map(|record| record.parse().ok()).collect()
    }
}

/// Asks once over UDP and once over TCP, which must be answered alike.
pub fn ask(host: &Host, name: &str, kind: &str) -> Answer {
    let udp = over_udp(host, RESOLVER, name, kind).unwrap_or_else(|| panic!("{name}: no answer"));
    assert_eq!(udp, over_tcp(host, name, kind), "{name}: UDP and TCP differ");
    udp
}

/// The addresses of a name in both families, IPv4 first.
pub fn addresses(host: &Host, name: &str) -> Vec<IpAddr> {
    let mut all = ask(host, name, "A").addresses();
    all.extend(ask(host, name, "AAAA").addresses());
    all
}

/// Asks over UDP, and again if nothing comes; `None` if nothing came at all.
pub fn over_udp(host: &Host, server: &str, name: &str, kind: &str) -> Option<Answer> {
    within(TIMEOUT / 4, host, server, name, kind)
}

/// The same, with another time to wait for each answer.
pub fn within(
    patience: Duration,
    host: &Host,
    server: &str,
    name: &str,
    kind: &str,
) -> Option<Answer> {
    let query = query(name, kind);
    let any = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = host.run(|| UdpSocket::bind(any)).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(patient(patience))).unwrap();
    (0..4).find_map(|_| {
        socket.send(&query.to_vec().unwrap()).ok()?;
        let mut buffer = [0; 4096];
        let size = socket.recv(&mut buffer).ok()?;
        let message = Message::from_vec(&buffer[..size]).unwrap();
        (message.metadata.id == query.metadata.id).then(|| Answer::of(&message))
    })
}

fn over_tcp(host: &Host, name: &str, kind: &str) -> Answer {
    let query = query(name, kind).to_vec().unwrap();
    let mut stream = host.run(|| TcpStream::connect(RESOLVER)).unwrap();
    stream.set_read_timeout(Some(patient(TIMEOUT))).unwrap();
    let length = u16::try_from(query.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &query].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Answer::of(&Message::from_vec(&answer).unwrap())
}

fn query(name: &str, kind: &str) -> Message {
    let kind: RecordType = kind.parse().unwrap();
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    message
}

/// The name that a PTR query for an address asks for.
pub fn reverse(address: IpAddr) -> String {
    Name::from(address).to_string().trim_end_matches('.').to_owned()
}

/// A resolver on a host's UDP port 53 in both families, which knows one address of every name and
/// remembers what it was asked. It ends with the value.
#[derive(Debug)]
pub struct Upstream {
    socket: UdpSocket,
    asked: Arc<Mutex<Vec<(IpAddr, String)>>>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Starts a resolver; one that only listens if it has no answer.
    pub fn start(host: &Host, answer: Option<[&str; 2]>) -> Self {
        Self::start_at(host, "::", answer)
    }

    /// The same at one address, from which it answers.
    pub fn start_at(host: &Host, address: &str, answer: Option<[&str; 2]>) -> Self {
        let socket = host.run(|| UdpSocket::bind((address, 53))).unwrap();
        let asked = Arc::default();
        let data = answer.map(|pair| pair.map(|address| address.parse::<IpAddr>().unwrap()));
        let (own, heard) = (socket.try_clone().unwrap(), Arc::clone(&asked));
        let thread = thread::spawn(move || listen(&own, &heard, data));
        Self { socket, asked, thread: Some(thread) }
    }

    /// Who asked for which name.
    pub fn asked(&self) -> Vec<(IpAddr, String)> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // An error for a socket that is not connected, which wakes its reader all the same.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(socket: &UdpSocket, asked: &Mutex<Vec<(IpAddr, String)>>, data: Option<[IpAddr; 2]>) {
    let mut buffer = [0; 4096];
    while let Ok((size @ 1.., peer)) = socket.recv_from(&mut buffer) {
        let Ok(query) = Message::from_vec(&buffer[..size]) else { continue };
        let Some(question) = query.queries.first() else { continue };
        let name = question.name().to_string().trim_end_matches('.').to_owned();
        asked.lock().unwrap_or_else(PoisonError::into_inner).push((peer.ip().to_canonical(), name));
        let Some([ipv4, ipv6]) = data else { continue };
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.metadata.recursion_desired = true;
        reply.metadata.recursion_available = true;
        reply.metadata.response_code = ResponseCode::NoError;
        reply.add_query(question.clone());
        let data = match (question.query_type(), ipv4, ipv6) {
            (RecordType::A, IpAddr::V4(address), _) => Some(RData::A(address.into())),
            (RecordType::AAAA, _, IpAddr::V6(address)) => Some(RData::AAAA(address.into())),
            _ => None,
        };
        let record = data.map(|data| Record::from_rdata(question.name().clone(), 1, data));
        reply.add_answers(record);
        let _ = socket.send_to(&reply.to_vec().unwrap(), peer);
    }
}
