//! Ways to the ends of tunnels, and groups of them (nexthop objects).
//!
//! The crate that reads and writes the other messages does not know these: they are put together
//! here.

use std::io;
use std::net::IpAddr;

use cnm::Value;

use super::address::PROTOCOL;
use super::netlink::{Message, Request, Socket};

/// `RTM_NEWNEXTHOP` and its neighbours.
pub const NEW: u16 = 104;
/// That one is gone.
pub const GONE: u16 = 105;
const GET: u16 = 106;

/// A way, or a group of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nexthop {
    /// Its number.
    pub id: u32,
    /// Whether it is ours.
    pub ours: bool,
    /// What it is; nothing if it is nothing that we would make.
    pub value: Option<Value>,
}

/// `NHA_…`
const ID: u16 = 1;
const GROUP: u16 = 2;
const GATEWAY: u16 = 6;
/// For forwarding databases, and not for routes.
const FDB: u16 = 11;

/// `struct nhmsg`: family, scope, protocol, a byte in reserve, flags.
const HEADER: usize = 8;
/// `struct nexthop_grp`: number, weight, and bytes in reserve.
const MEMBER: usize = 8;

/// Makes a way, or changes it in place.
pub fn set(id: u32, via: IpAddr) -> Request {
    let (family, gateway) = match via {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    Request::replace(message(
        NEW,
        family,
        &[(ID, &id.to_ne_bytes()), (GATEWAY, &gateway), (FDB, &[])],
    ))
}

/// Makes a group of one way, or changes it in place.
pub fn set_group(id: u32, of: u32) -> Request {
    let mut member = of.to_ne_bytes().to_vec();
    member.resize(MEMBER, 0);
    let attributes: [(u16, &[u8]); 3] = [(ID, &id.to_ne_bytes()), (GROUP, &member), (FDB, &[])];
    Request::replace(message(NEW, libc::AF_UNSPEC, &attributes))
}

/// Removes a way or a group, with all entries of forwarding databases that lead by it.
pub fn remove(id: u32) -> Request {
    Request::remove(message(GONE, libc::AF_UNSPEC, &[(ID, &id.to_ne_bytes())]))
}

/// All ways and groups of the socket's namespace that are ours.
pub fn list(socket: &mut Socket) -> io::Result<Vec<Nexthop>> {
    let bytes = vec![0; HEADER];
    let listed = socket.dump_raw(&Message::Raw { kind: GET, bytes });
    match listed {
        Ok(found) => {
            let all = found.iter().filter_map(|body| read(body));
            Ok(all.filter(|nexthop| nexthop.ours).collect())
        }
        // Kernels before 5.3 have none.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The way or group that a message tells of.
pub fn read(body: &[u8]) -> Option<Nexthop> {
    let [family, _, protocol, ..] = *body else { return None };
    let ours = protocol == PROTOCOL;
    let (mut id, mut value, mut fdb) = (None, None, false);
    let mut rest = body.get(HEADER..)?;
    while let [a, b, c, d, ..] = *rest {
        let size = usize::from(u16::from_ne_bytes([a, b]));
        let kind = u16::from_ne_bytes([c, d]);
        let content = rest.get(4..size)?;
        match kind {
            ID => id = Some(u32::from_ne_bytes(content.try_into().ok()?)),
            GATEWAY => value = gateway(family, content).map(|via| Value::Nexthop { via }),
            GROUP if content.len() == MEMBER => {
                value = content
                    .first_chunk()
                    .map(|of| Value::NexthopGroup { of: u32::from_ne_bytes(*of) });
            }
            FDB => fdb = true,
            _ => {}
        }
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Nexthop { id: id?, ours, value: value.filter(|_| fdb) })
}

fn gateway(family: u8, content: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => <[u8; 4]>::try_from(content).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(content).ok().map(IpAddr::from),
    }
}

fn message(kind: u16, family: i32, attributes: &[(u16, &[u8])]) -> Message {
    let protocol = if kind == NEW { PROTOCOL } else { 0 };
    let mut bytes = vec![u8::try_from(family).unwrap_or_default(), 0, protocol, 0, 0, 0, 0, 0];
    for (kind, content) in attributes {
        let size = u16::try_from(content.len() + 4).unwrap_or_default();
        bytes.extend(size.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    Message::Raw { kind, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(request: Message) -> Vec<u8> {
        match request {
            Message::Raw { bytes, .. } => bytes,
            Message::Route(_) => panic!("not one of these"),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let id = 7_u32.to_ne_bytes();
        for via in ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().unwrap()) {
            let gateway = match via {
                IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
                IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
            };
            let attributes: [(u16, &[u8]); 3] = [(ID, &id), (GATEWAY, &gateway.1), (FDB, &[])];
            let read = read(&body(message(NEW, gateway.0, &attributes)));
            let value = Some(Value::Nexthop { via });
            assert_eq!(read, Some(Nexthop { id: 7, ours: true, value }));
        }
    }

    #[test]
    fn one_that_is_not_for_forwarding_databases_is_nothing_of_ours() {
        let (id, gateway) = (7_u32.to_ne_bytes(), [192, 0, 2, 1]);
        let read = read(&body(message(NEW, libc::AF_INET, &[(ID, &id), (GATEWAY, &gateway)])));
        assert_eq!(read, Some(Nexthop { id: 7, ours: true, value: None }));
    }

    #[test]
    fn one_of_somebody_elses_is_known_as_such() {
        let id = 7_u32.to_ne_bytes();
        let mut bytes = body(message(NEW, libc::AF_INET, &[(ID, &id)]));
        bytes[2] = 4;
        assert_eq!(read(&bytes), Some(Nexthop { id: 7, ours: false, value: None }));
    }
}
