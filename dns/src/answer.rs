//! What a sandbox is told: a pure function of the query, the sandbox's view and the names.
//!
//! Local names are answered here, also the question for a type that they do not have, so that no
//! upstream hears of them. Everything else is the forwarder's, if the sandbox may ask outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cnm::Protocol;
use hickory_proto::op::{self, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::names::{Match, Names};
use crate::protocol::SandboxView;
use crate::services;
use crate::wire::{HEADER, OUR_PAYLOAD, Query, Rejection};

/// How a query came, and its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram: as much as the client said it takes.
    Udp,
    /// In a stream.
    Tcp,
}

/// What to do with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Send this.
    Reply(Vec<u8>),
    /// Ask upstream.
    Forward,
    /// Nothing: it is no query.
    Ignore,
}

/// What the local names say to a question.
enum Local {
    Records {
        answers: Vec<RData>,
        additionals: Vec<(Name, RData)>,
    },
    /// The name is known, and has nothing of this type.
    NoData,
    /// The name is ours and does not exist.
    NoName,
    /// Not a local name.
    Unknown,
}

/// Answers a query. `entropy` decides the order of the addresses.
pub fn answer(
    packet: &[u8],
    transport: Transport,
    view: &SandboxView,
    names: &Names,
    entropy: u64,
) -> Answer {
    let query = match Query::parse(packet) {
        Ok(query) => query,
        Err(Rejection::Ignore) => return Answer::Ignore,
        Err(Rejection::Code(code)) => return Answer::Reply(bare(packet, code)),
    };
    let reply = Reply { query, transport, ttl: view.ttl };
    if query.edns.is_some_and(|edns| edns.version > 0) {
        return reply.code(ResponseCode::BADVERS);
    }
    let kind = RecordType::from(query.kind);
    let transfer = matches!(kind, RecordType::AXFR | RecordType::IXFR);
    if transfer || !matches!(DNSClass::from(query.class), DNSClass::IN | DNSClass::ANY) {
        return reply.code(ResponseCode::Refused);
    }
    let local = match text_of(query.name) {
        Some(name) => Lookup { view, names, entropy }.resolve(&name, kind),
        None => Local::Unknown,
    };
    match local {
        Local::Records { answers, additionals } => reply.records(answers, additionals),
        Local::NoData => reply.negative(ResponseCode::NoError),
        Local::Unknown if view.forward => Answer::Forward,
        // The root exists everywhere.
        Local::Unknown if query.name == [0] => reply.negative(ResponseCode::NoError),
        Local::NoName | Local::Unknown => reply.negative(ResponseCode::NXDomain),
    }
}

/// The answer to a query that cannot be answered, such as one whose upstreams all failed.
pub(crate) fn failure(packet: &[u8], code: ResponseCode) -> Vec<u8> {
    let Ok(query) = Query::parse(packet) else { return bare(packet, code) };
    let reply = Reply { query, transport: Transport::Tcp, ttl: 0 };
    match reply.code(code) {
        Answer::Reply(bytes) => bytes,
        Answer::Forward | Answer::Ignore => bare(packet, code),
    }
}

// === Lookup ===

struct Lookup<'a> {
    view: &'a SandboxView,
    names: &'a Names,
    entropy: u64,
}

impl Lookup<'_> {
    fn resolve(&self, name: &str, kind: RecordType) -> Local {
        if name == "localhost" || name.ends_with(".localhost") {
            let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            return of_addresses(kind, |ipv6| of_family(loopback, ipv6));
        }
        if let Some(address) = reverse(name) {
            return self.resolve_reverse(address, kind);
        }
        if let Some((service, protocol, host)) = service(name) {
            return self.resolve_service(service, protocol, host, kind);
        }
        let private = self.view.private.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        if let Some((_, addresses)) = private {
            return of_addresses(kind, |ipv6| {
                self.shuffled(of_family(addresses.iter().copied(), ipv6))
            });
        }
        let matches = self.names.find(self.view, name);
        if matches.is_empty() {
            return Local::Unknown;
        }
        of_addresses(kind, |ipv6| self.shuffled(addresses(&matches, ipv6)))
    }

    fn resolve_reverse(&self, address: IpAddr, kind: RecordType) -> Local {
        let target = if address.is_loopback() {
            domain(["localhost"])
        } else {
            let Some((name, network)) = self.names.owner(self.view, address) else {
                return Local::Unknown;
            };
            domain([name, network])
        };
        let wanted = matches!(kind, RecordType::PTR | RecordType::ANY);
        match target.filter(|_| wanted) {
            Some(target) => {
                Local::Records { answers: vec![RData::PTR(PTR(target))], additionals: vec![] }
            }
            None => Local::NoData,
        }
    }

    fn resolve_service(
        &self,
        service: &str,
        protocol: Protocol,
        host: &str,
        kind: RecordType,
    ) -> Local {
        let matches = self.names.find(self.view, host);
        if matches.is_empty() {
            return Local::Unknown;
        }
        let Some(port) = services::port(service) else { return Local::NoName };
        let mut answers = Vec::new();
        let mut additionals = Vec::new();
        for found in &matches {
            let offering =
                found.endpoints.iter().filter(|e| e.services.contains(&(protocol, port)));
            for endpoint in offering {
                let name = endpoint.names.first().map_or(host, String::as_str);
                let Some(target) = domain([name, found.network]) else { continue };
                let addresses = endpoint.addresses.iter();
                additionals.extend(addresses.map(|ip| (target.clone(), address_data(*ip))));
                answers.push(RData::SRV(SRV::new(0, 1, port, target)));
            }
        }
        match kind {
            _ if answers.is_empty() => Local::NoName,
            RecordType::SRV | RecordType::ANY => {
                Local::Records { answers: self.shuffled(answers), additionals }
            }
            _ => Local::NoData,
        }
    }

    /// Fisher and Yates', over xorshift.
    fn shuffled<T>(&self, mut items: Vec<T>) -> Vec<T> {
        let mut state = self.entropy | 1;
        for last in (1..items.len()).rev() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let below = u64::try_from(last + 1).unwrap_or(u64::MAX);
            let chosen = usize::try_from((state >> 16) % below).unwrap_or_default();
            items.swap(chosen, last);
        }
        items
    }
}

/// An answer with addresses. To ANY, one family is enough (RFC 8482).
fn of_addresses(kind: RecordType, of_family: impl Fn(bool) -> Vec<IpAddr>) -> Local {
    let addresses = match kind {
        RecordType::A => of_family(false),
        RecordType::AAAA => of_family(true),
        RecordType::ANY => {
            let ipv4 = of_family(false);
            if ipv4.is_empty() { of_family(true) } else { ipv4 }
        }
        _ => vec![],
    };
    if addresses.is_empty() {
        return Local::NoData;
    }
    let answers = addresses.into_iter().map(address_data).collect();
    Local::Records { answers, additionals: vec![] }
}

/// The addresses of the first network that has some of the family.
fn addresses(matches: &[Match<'_>], ipv6: bool) -> Vec<IpAddr> {
    let of_network = |found: &Match<'_>| {
        let all = found.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied());
        of_family(all, ipv6)
    };
    matches.iter().map(of_network).find(|found| !found.is_empty()).unwrap_or_default()
}

fn of_family(addresses: impl IntoIterator<Item = IpAddr>, ipv6: bool) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> =
        addresses.into_iter().filter(|address| address.is_ipv6() == ipv6).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(ipv4) => RData::A(A(ipv4)),
        IpAddr::V6(ipv6) => RData::AAAA(AAAA(ipv6)),
    }
}

/// The parts of `_port._proto.name`.
fn service(name: &str) -> Option<(&str, Protocol, &str)> {
    let (service, rest) = name.strip_prefix('_')?.split_once('.')?;
    let (protocol, host) = rest.strip_prefix('_')?.split_once('.')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    Some((service, protocol, host))
}

/// The address that a name of a reverse zone stands for.
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<&str> = labels.rsplit('.').collect();
        let address: Ipv4Addr = octets.join(".").parse().ok()?;
        return Some(address.into());
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    let nibbles: Vec<&str> = labels.rsplit('.').collect();
    if nibbles.len() != 32 || nibbles.iter().any(|nibble| nibble.len() != 1) {
        return None;
    }
    let bits = u128::from_str_radix(&nibbles.concat(), 16).ok()?;
    Some(Ipv6Addr::from(bits).into())
}

/// A name as lower-case text without the last dot; `None` if it is none that could be local.
fn text_of(name: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in labels(name) {
        let label = std::str::from_utf8(label).ok().filter(|label| !label.contains('.'))?;
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.chars().map(|c| c.to_ascii_lowercase()));
    }
    Some(text)
}

fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let (length, tail) = rest.split_first()?;
        let (label, tail) = tail.split_at_checked(usize::from(*length))?;
        rest = tail;
        (*length > 0).then_some(label)
    })
}

/// A name from texts that may themselves have dots.
fn domain<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<Name> {
    let labels = texts.into_iter().flat_map(|text| text.split('.')).map(str::as_bytes);
    Name::from_labels(labels).ok()
}

// === Reply ===

struct Reply<'a> {
    query: Query<'a>,
    transport: Transport,
    ttl: u32,
}

impl Reply<'_> {
    fn records(&self, answers: Vec<RData>, additionals: Vec<(Name, RData)>) -> Answer {
        let mut message = self.message(ResponseCode::NoError);
        let Ok(owner) = self.name() else { return Answer::Ignore };
        let record = |data| Record::from_rdata(owner.clone(), self.ttl, data);
        message.answers = answers.into_iter().map(record).collect();
        let record = |(name, data)| Record::from_rdata(name, self.ttl, data);
        message.additionals = additionals.into_iter().map(record).collect();
        self.encode(message)
    }

    /// No such data, or no such name: with the SOA record that says how long this holds.
    fn negative(&self, code: ResponseCode) -> Answer {
        let mut message = self.message(code);
        let zone = match code {
            ResponseCode::NXDomain => Ok(Name::root()),
            _ => self.name(),
        };
        let server = domain(["rnet.internal"]).unwrap_or_default();
        let contact = domain(["hostmaster.rnet.internal"]).unwrap_or_default();
        let soa = SOA::new(server, contact, 1, 3600, 600, 86400, self.ttl);
        if let Ok(zone) = zone {
            message.add_authority(Record::from_rdata(zone, self.ttl, RData::SOA(soa)));
        }
        self.encode(message)
    }

    fn code(&self, code: ResponseCode) -> Answer {
        let mut message = self.message(code);
        message.metadata.authoritative = false;
        self.encode(message)
    }

    fn name(&self) -> Result<Name, hickory_proto::ProtoError> {
        Name::from_labels(labels(self.query.name))
    }

    fn message(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.query.id(), OpCode::Query);
        message.metadata.authoritative = true;
        message.metadata.recursion_desired = self.query.recursion_desired();
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        if let Ok(name) = self.name() {
            let mut question = op::Query::query(name, RecordType::from(self.query.kind));
            question.set_query_class(DNSClass::from(self.query.class));
            message.add_query(question);
        }
        if let Some(edns) = self.query.edns {
            let mut ours = op::Edns::new();
            ours.set_max_payload(OUR_PAYLOAD).set_dnssec_ok(edns.dnssec_ok);
            message.set_edns(ours);
        }
        message
    }

    /// Encodes as much as the client takes: first without what it did not ask for, then with fewer
    /// answers and the mark that there are more.
    fn encode(&self, mut message: Message) -> Answer {
        let limit = match self.transport {
            Transport::Udp => self.query.payload(),
            Transport::Tcp => usize::from(u16::MAX),
        };
        loop {
            let Ok(bytes) = message.to_vec() else {
                return Answer::Reply(bare(self.query.bytes, ResponseCode::ServFail));
            };
            if bytes.len() <= limit || message.answers.is_empty() && message.additionals.is_empty()
            {
                return Answer::Reply(bytes);
            }
            if message.additionals.is_empty() {
                message.metadata.truncation = true;
                let fitting = message.answers.len() * limit / bytes.len();
                message.answers.truncate(fitting.min(message.answers.len() - 1));
            } else {
                message.additionals.clear();
            }
        }
    }
}

/// An answer of nothing but the header, to what may not even have a question.
fn bare(packet: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut reply = vec![0; HEADER];
    let header = packet.get(..4).unwrap_or_default();
    reply[..header.len()].copy_from_slice(header);
    // Response; the operation and "recursion desired" as they came.
    reply[2] = 0x80 | (reply[2] & 0x79);
    reply[3] = 0x80 | code.low();
    reply
}

#[cfg(test)]
mod tests;
