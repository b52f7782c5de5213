//! Connection tracking: forgetting flows whose translation is no longer true, and ending those of ports that
//! are withdrawn.
//!
//! A flow keeps the translation that its first packet met. UDP has no other end of a connection
//! than silence, so a client that keeps sending would be led astray for ever: to a container that
//! is gone, or past one that has come.
//!
//! A host may have hundreds of thousands of flows, and one container's are a handful. The kernel is
//! asked for those only, where it can tell them apart; of what it sends all the same, none is kept
//! that is not wanted.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cnm::{PortBinding, Protocol};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};

use super::nfnetlink::{Attributes, Head, Received, Socket, Train};

/// `NFNL_SUBSYS_CTNETLINK`
const SUBSYSTEM: u16 = 1;
/// `IPCTNL_MSG_CT_NEW`: what is there is changed, unless it is asked to be created.
const CHANGE: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// `IPCTNL_MSG_CT_GET_STATS`
const GET_STATS: u16 = 5;

const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const FILTER_IP_SRC: u32 = 1 << 0;
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_PROTO_DST_PORT: u32 = 1 << 5;

const RTM_GETADDR: u16 = 22;
const ADDRESS_HEADER: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// The mark of connections whose port was withdrawn: "rnet". The rules refuse their packets with a reset.
pub(super) const CUT: u32 = 0x726e_6574;

/// For how many addresses the kernel is asked by address. Each time it goes through its table twice;
/// to be told of all flows once takes as long as some ten times that.
const ADDRESSES: usize = 4;

/// How many flows there are at most where all are told of at once. The kernel goes through its table in
/// 6 ms (262,144 buckets, most of them empty), and tells of a flow in a microsecond.
const FEW: u32 = 4096;

/// The connections of the network namespace of the thread that opened it.
///
/// The sockets are kept open: to close one while elements of nf_tables are being destroyed takes
/// 10 ms. What is asked for costs some milliseconds, because the kernel goes through its table.
#[derive(Debug)]
pub struct Conntrack(Mutex<Sockets>);

#[derive(Debug)]
struct Sockets {
    netfilter: Socket,
    route: Socket,
}

impl Conntrack {
    /// Opens the sockets.
    pub fn open() -> io::Result<Self> {
        let netfilter = Socket::open(NETLINK_NETFILTER)?;
        Ok(Self(Mutex::new(Sockets { netfilter, route: Socket::open(NETLINK_ROUTE)? })))
    }

    /// Forgets the flows that were made to these ports of the host; returns how many there were.
    ///
    /// To be called when a port was published, and when it was withdrawn. TCP is left alone: its
    /// connections end by themselves, or with the endpoint's address.
    pub fn flush_ports(&self, bindings: &[PortBinding]) -> io::Result<usize> {
        let bindings: Vec<_> = bindings.iter().filter(|b| b.protocol != Protocol::Tcp).collect();
        let Some(first) = bindings.first() else { return Ok(0) };
        let of_protocol = bindings.iter().all(|b| b.protocol == first.protocol);
        let of_port = bindings.iter().all(|b| b.host_port == first.host_port);
        let ask = match (of_protocol, of_port) {
            (true, true) => Ask::Port(first.protocol, first.host_port),
            (true, false) => Ask::Protocol(first.protocol),
            (false, _) => Ask::All,
        };
        let mut sockets = self.sockets();
        let number = sockets.number();
        if number == Some(0) {
            return Ok(0);
        }
        let has = |ipv6| bindings.iter().any(|b| b.host.is_ipv6() == ipv6);
        let keys: HashSet<_> =
            bindings.iter().map(|b| (b.protocol.number(), b.host_port, b.host)).collect();
        let is = |(protocol, port, _): Target, host| keys.contains(&(protocol, port, host));
        let is_wanted = |seen: &Seen<'_>| {
            let (_, _, destination) = seen.target;
            is(seen.target, destination) || is(seen.target, unspecified(destination.is_ipv6()))
        };

        let mut flows = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            if has(family == libc::AF_INET6) {
                flows.extend(sockets.flows(family, ask, is_wanted)?);
            }
        }
        if flows.is_empty() {
            return Ok(0);
        }
        // What passes through the host to the same port of somebody else is not ours.
        let local = sockets.local_addresses()?;
        flows.retain(|flow| {
            let (_, _, destination) = flow.target;
            is(flow.target, destination)
                || destination.is_loopback()
                || local.contains(&destination)
        });
        sockets.forget(&flows)
    }

    /// Ends the flows by these ways, of TCP too; returns how many there were.
    ///
    /// Those of TCP that pass through the host are not forgotten but marked, and whoever sends first is reset. Were
    /// they forgotten, a packet of the container's would begin a connection (`nf_conntrack_tcp_loose`), which
    /// would be given the host's address and the port that it had before, if the container's has the same number. To
    /// the host's own clients no such packet leads: it is not translated, and the host knows no such connection.
    pub fn cut(&self, ways: &[Way]) -> io::Result<usize> {
        let Some(first) = ways.first() else { return Ok(0) };
        let ask = match ways.iter().all(|way| way.protocol == first.protocol) {
            true if ways.iter().all(|way| way.host_port == first.host_port) => {
                Ask::Port(first.protocol, first.host_port)
            }
            true => Ask::Protocol(first.protocol),
            false => Ask::All,
        };
        let wanted: HashSet<_> = ways.iter().map(Way::key).collect();
        let is_wanted = |seen: &Seen<'_>| {
            let (protocol, host_port, _) = seen.target;
            let (address, port) = (seen.ends[2], seen.answering);
            address.is_some_and(|address| wanted.contains(&(protocol, host_port, address, port)))
        };
        let mut sockets = self.sockets();
        if sockets.number() == Some(0) {
            return Ok(0);
        }
        let mut flows = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            if ways.iter().any(|way| way.to.is_ipv6() == (family == libc::AF_INET6)) {
                flows.extend(sockets.flows(family, ask, is_wanted)?);
            }
        }
        if flows.is_empty() {
            return Ok(0);
        }
        let local = sockets.local_addresses()?;
        let is_local =
            |flow: &Flow| flow.source.is_none_or(|it| it.is_loopback() || local.contains(&it));
        let (passing, others): (Vec<_>, Vec<_>) = flows
            .into_iter()
            .partition(|flow| flow.target.0 == Protocol::Tcp.number() && !is_local(flow));
        Ok(sockets.mark(&passing, CUT)? + sockets.forget(&others)?)
    }

    /// Forgets the flows from and to these addresses; returns how many there were.
    pub fn flush_addresses(&self, addresses: &[IpAddr]) -> io::Result<usize> {
        if addresses.is_empty() {
            return Ok(0);
        }
        let wanted: HashSet<_> = addresses.iter().copied().collect();
        let is_wanted =
            |seen: &Seen<'_>| seen.ends.iter().flatten().any(|end| wanted.contains(end));
        let mut sockets = self.sockets();
        let number = sockets.number();
        if number == Some(0) {
            return Ok(0);
        }
        let mut flows = Vec::new();
        if wanted.len() > ADDRESSES || number.is_some_and(|number| number < FEW) {
            flows = sockets.flows(libc::AF_UNSPEC, Ask::All, is_wanted)?;
        } else {
            for address in &wanted {
                let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
                for ask in [Ask::From(*address), Ask::To(*address)] {
                    flows.extend(sockets.flows(family, ask, is_wanted)?);
                }
            }
        }
        sockets.forget(&flows)
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way from a port that clients ask for to whom it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The protocol.
    pub protocol: Protocol,
    /// The port that clients send to.
    pub host_port: u16,
    /// The address of who answers.
    pub to: IpAddr,
    /// The port of who answers.
    pub port: u16,
}

impl Way {
    fn key(&self) -> (u8, u16, IpAddr, u16) {
        (self.protocol.number(), self.host_port, self.to, self.port)
    }
}

/// Protocol, port and address that the first packet of a flow was sent to.
type Target = (u8, u16, IpAddr);

/// A tracked connection, as the kernel tells of it.
#[derive(Debug)]
struct Seen<'a> {
    family: u8,
    target: Target,
    /// All addresses it has, before and after translation.
    ends: [Option<IpAddr>; 4],
    /// The port that answers come from.
    answering: u16,
    tuple: &'a [u8],
    id: Option<&'a [u8]>,
    zone: Option<&'a [u8]>,
}

/// A connection to be forgotten or marked.
#[derive(Debug)]
struct Flow {
    family: u8,
    target: Target,
    /// Who began it.
    source: Option<IpAddr>,
    // What names it to the kernel.
    tuple: Vec<u8>,
    id: Option<Vec<u8>>,
    zone: Option<Vec<u8>>,
}

/// Which flows the kernel is to tell of.
#[derive(Clone, Copy, Debug)]
enum Ask {
    All,
    Protocol(Protocol),
    Port(Protocol, u16),
    /// Those that this address began.
    From(IpAddr),
    /// Those that this address answers, whatever the first packet was sent to.
    To(IpAddr),
}

impl Ask {
    fn fill(self, request: &mut Train) {
        let (tuple, flags, bits) = match self {
            Self::All => return,
            Self::Protocol(_) => (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS, FILTER_PROTO_NUM),
            Self::Port(..) => {
                let bits = FILTER_PROTO_NUM | FILTER_PROTO_DST_PORT;
                (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS, bits)
            }
            Self::From(_) => (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS, FILTER_IP_SRC),
            Self::To(_) => (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS, FILTER_IP_SRC),
        };
        request.nested(tuple, |tuple| match self {
            Self::All => {}
            Self::Protocol(protocol) => tuple.nested(CTA_TUPLE_PROTO, |fields| {
                fields.bytes(CTA_PROTO_NUM, &[protocol.number()]);
            }),
            Self::Port(protocol, port) => tuple.nested(CTA_TUPLE_PROTO, |fields| {
                fields.bytes(CTA_PROTO_NUM, &[protocol.number()]);
                fields.bytes(CTA_PROTO_DST_PORT, &port.to_be_bytes());
            }),
            Self::From(address) | Self::To(address) => {
                tuple.nested(CTA_TUPLE_IP, |fields| match address {
                    IpAddr::V4(address) => fields.bytes(CTA_IP_V4_SRC, &address.octets()),
                    IpAddr::V6(address) => fields.bytes(CTA_IP_V6_SRC, &address.octets()),
                });
            }
        });
        request.nested(CTA_FILTER, |filter| filter.bytes(flags, &bits.to_ne_bytes()));
    }
}

impl Sockets {
    /// The flows of a family that are wanted. The kernel leaves out what it can.
    fn flows(
        &mut self,
        family: i32,
        ask: Ask,
        is_wanted: impl Fn(&Seen<'_>) -> bool,
    ) -> io::Result<Vec<Flow>> {
        let family = u8::try_from(family).unwrap_or_default();
        self.netfilter.dump(
            Head::new(SUBSYSTEM, GET, 0, family),
            |request| ask.fill(request),
            |message| Seen::of(message).filter(&is_wanted).map(|seen| seen.keep()),
        )
    }

    /// How many flows there are; `None` if the kernel does not tell.
    fn number(&mut self) -> Option<u32> {
        let mut number = None;
        let head = Head::new(SUBSYSTEM, GET_STATS, 0, 0);
        let asked = self.netfilter.request(
            head,
            |_| {},
            |message| {
                let entries = message.attributes().find(CTA_STATS_GLOBAL_ENTRIES);
                number = entries
                    .and_then(|entries| entries.first_chunk())
                    .map(|n| u32::from_be_bytes(*n));
            },
        );
        asked.ok().and(number)
    }

    /// Deletes flows. Those that have ended meanwhile are not counted.
    fn forget(&mut self, flows: &[Flow]) -> io::Result<usize> {
        self.each(flows, DELETE, |flow, request| {
            if let Some(id) = &flow.id {
                request.bytes(CTA_ID, id);
            }
        })
    }

    /// Marks flows. Those that have ended meanwhile are not counted.
    fn mark(&mut self, flows: &[Flow], mark: u32) -> io::Result<usize> {
        self.each(flows, CHANGE, |_, request| request.number(CTA_MARK, mark))
    }

    /// Asks something of each flow; returns how many of them are still there.
    fn each(
        &mut self,
        flows: &[Flow],
        operation: u16,
        fill: impl Fn(&Flow, &mut Train),
    ) -> io::Result<usize> {
        let mut done = 0;
        for flow in flows {
            let outcome = self.netfilter.request(
                Head::new(SUBSYSTEM, operation, 0, flow.family),
                |request| {
                    request.nested(CTA_TUPLE_ORIG, |tuple| tuple.raw(&flow.tuple));
                    fill(flow, request);
                    if let Some(zone) = &flow.zone {
                        request.bytes(CTA_ZONE, zone);
                    }
                },
                |_| {},
            );
            match outcome {
                Ok(()) => done += 1,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn local_addresses(&mut self) -> io::Result<HashSet<IpAddr>> {
        let head = Head::new(0, RTM_GETADDR, 0, 0);
        let addresses = self.route.dump(
            head,
            |_| {},
            |message| {
                let attributes = Attributes::new(message.payload().get(ADDRESS_HEADER..)?);
                address(attributes.find(IFA_LOCAL).or(attributes.find(IFA_ADDRESS))?)
            },
        );
        Ok(addresses?.into_iter().collect())
    }
}

impl<'a> Seen<'a> {
    fn of(message: &Received<'a>) -> Option<Self> {
        let attributes = message.attributes();
        let tuple = attributes.find(CTA_TUPLE_ORIG)?;
        let original = Attributes::new(tuple);
        let ip = original.within(CTA_TUPLE_IP);
        let fields = original.within(CTA_TUPLE_PROTO);
        let protocol = *fields.find(CTA_PROTO_NUM)?.first()?;
        let answer = attributes.within(CTA_TUPLE_REPLY);
        let reply = answer.within(CTA_TUPLE_IP);
        Some(Self {
            family: *message.payload().first()?,
            target: (protocol, port(fields, CTA_PROTO_DST_PORT), destination(ip)?),
            ends: [source(ip), destination(ip), source(reply), destination(reply)],
            answering: port(answer.within(CTA_TUPLE_PROTO), CTA_PROTO_SRC_PORT),
            tuple,
            id: attributes.find(CTA_ID),
            zone: attributes.find(CTA_ZONE),
        })
    }

    fn keep(&self) -> Flow {
        Flow {
            family: self.family,
            target: self.target,
            source: self.ends[0],
            tuple: self.tuple.to_vec(),
            id: self.id.map(<[u8]>::to_vec),
            zone: self.zone.map(<[u8]>::to_vec),
        }
    }
}

fn port(fields: Attributes<'_>, kind: u16) -> u16 {
    let port = fields.find(kind).and_then(|port| port.first_chunk());
    port.map_or(0, |port| u16::from_be_bytes(*port))
}

fn source(ip: Attributes<'_>) -> Option<IpAddr> {
    address(ip.find(CTA_IP_V4_SRC).or(ip.find(CTA_IP_V6_SRC))?)
}

fn destination(ip: Attributes<'_>) -> Option<IpAddr> {
    address(ip.find(CTA_IP_V4_DST).or(ip.find(CTA_IP_V6_DST))?)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

fn unspecified(ipv6: bool) -> IpAddr {
    if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}
