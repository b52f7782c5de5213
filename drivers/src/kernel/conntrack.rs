//! Connection tracking: forgetting flows whose translation is no longer true.
//!
//! A flow keeps the translation that its first packet met. UDP has no other end of a connection
//! than silence, so a client that keeps sending would be led astray for ever: to a container that
//! is gone, or past one that has come.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cnm::{PortBinding, Protocol};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};

use super::nfnetlink::{Attributes, Head, Received, Socket};

/// `NFNL_SUBSYS_CTNETLINK`
const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const FILTER_PROTO_NUM: u32 = 1 << 3;
const FILTER_PROTO_DST_PORT: u32 = 1 << 5;

const RTM_GETADDR: u16 = 22;
const ADDRESS_HEADER: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

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
        let port = |b: &PortBinding| (b.protocol, b.host_port);
        let only = bindings.iter().all(|b| port(b) == port(first)).then(|| port(first));
        let has = |ipv6| bindings.iter().any(|b| b.host.is_ipv6() == ipv6);
        let keys: HashSet<_> =
            bindings.iter().map(|b| (b.protocol.number(), b.host_port, b.host)).collect();
        let is = |flow: &Flow, host| keys.contains(&(flow.protocol, flow.port, host));
        let is_any = |flow: &Flow| is(flow, unspecified(flow.destination.is_ipv6()));

        let mut sockets = self.sockets();
        let mut flows = Vec::new();
        for (family, wanted) in [(libc::AF_INET, has(false)), (libc::AF_INET6, has(true))] {
            if wanted {
                flows.extend(sockets.flows(family, only)?);
            }
        }
        flows.retain(|flow| is(flow, flow.destination) || is_any(flow));
        if flows.is_empty() {
            return Ok(0);
        }
        // What passes through the host to the same port of somebody else is not ours.
        let local = sockets.local_addresses()?;
        flows.retain(|flow| {
            let destination = flow.destination;
            is(flow, destination) || destination.is_loopback() || local.contains(&destination)
        });
        sockets.forget(&flows)
    }

    /// Forgets the flows from and to these addresses; returns how many there were.
    pub fn flush_addresses(&self, addresses: &[IpAddr]) -> io::Result<usize> {
        if addresses.is_empty() {
            return Ok(0);
        }
        let addresses: HashSet<_> = addresses.iter().copied().collect();
        let mut sockets = self.sockets();
        let mut flows = sockets.flows(libc::AF_UNSPEC, None)?;
        flows.retain(|flow| flow.ends.iter().any(|end| addresses.contains(end)));
        sockets.forget(&flows)
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tracked connection.
#[derive(Debug)]
struct Flow {
    family: u8,
    protocol: u8,
    // Address and port that its first packet was sent to.
    destination: IpAddr,
    port: u16,
    // All addresses it has, before and after translation.
    ends: Vec<IpAddr>,
    // What names it to the kernel.
    tuple: Vec<u8>,
    id: Option<Vec<u8>>,
    zone: Option<Vec<u8>>,
}

impl Sockets {
    /// The flows of a family; those to one port only, where the kernel can tell them apart.
    fn flows(&mut self, family: i32, only: Option<(Protocol, u16)>) -> io::Result<Vec<Flow>> {
        let family = u8::try_from(family).unwrap_or_default();
        self.netfilter.dump(
            Head::new(SUBSYSTEM, GET, 0, family),
            |request| {
                let Some((protocol, port)) = only else { return };
                request.nested(CTA_TUPLE_ORIG, |tuple| {
                    tuple.nested(CTA_TUPLE_PROTO, |fields| {
                        fields.bytes(CTA_PROTO_NUM, &[protocol.number()]);
                        fields.bytes(CTA_PROTO_DST_PORT, &port.to_be_bytes());
                    });
                });
                request.nested(CTA_FILTER, |filter| {
                    let flags = FILTER_PROTO_NUM | FILTER_PROTO_DST_PORT;
                    filter.bytes(CTA_FILTER_ORIG_FLAGS, &flags.to_ne_bytes());
                });
            },
            Flow::decode,
        )
    }

    /// Deletes flows. Those that have ended meanwhile are not counted.
    fn forget(&mut self, flows: &[Flow]) -> io::Result<usize> {
        let mut forgotten = 0;
        for flow in flows {
            let outcome = self.netfilter.request(
                Head::new(SUBSYSTEM, DELETE, 0, flow.family),
                |request| {
                    request.nested(CTA_TUPLE_ORIG, |tuple| tuple.raw(&flow.tuple));
                    for (kind, value) in [(CTA_ID, &flow.id), (CTA_ZONE, &flow.zone)] {
                        if let Some(value) = value {
                            request.bytes(kind, value);
                        }
                    }
                },
                |_| {},
            );
            match outcome {
                Ok(()) => forgotten += 1,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(forgotten)
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

impl Flow {
    fn decode(message: &Received<'_>) -> Option<Self> {
        let attributes = message.attributes();
        let tuple = attributes.find(CTA_TUPLE_ORIG)?;
        let original = Attributes::new(tuple);
        let reply = attributes.within(CTA_TUPLE_REPLY);
        let ends: Vec<_> = [original, reply]
            .into_iter()
            .flat_map(|tuple| tuple.within(CTA_TUPLE_IP))
            .filter(|(kind, _)| (CTA_IP_V4_SRC..=CTA_IP_V6_DST).contains(kind))
            .filter_map(|(_, bytes)| address(bytes))
            .collect();
        let ip = original.within(CTA_TUPLE_IP);
        let fields = original.within(CTA_TUPLE_PROTO);
        let port = fields.find(CTA_PROTO_DST_PORT).and_then(|port| port.first_chunk());
        Some(Self {
            family: *message.payload().first()?,
            protocol: *fields.find(CTA_PROTO_NUM)?.first()?,
            destination: address(ip.find(CTA_IP_V4_DST).or(ip.find(CTA_IP_V6_DST))?)?,
            port: port.map_or(0, |port| u16::from_be_bytes(*port)),
            ends,
            tuple: tuple.to_vec(),
            id: attributes.find(CTA_ID).map(<[u8]>::to_vec),
            zone: attributes.find(CTA_ZONE).map(<[u8]>::to_vec),
        })
    }
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
