//! Messages: what a client says, and what it understands of the answers.
//!
//! Whoever is on the LAN may answer anything, so nothing is taken for granted of what arrives.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use cnm::Mac;
use ipnetwork::Ipv4Network;

use super::{Lease, Terms};

/// The directions of a message.
const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// Ethernet, as a kind of hardware and of a client identifier (RFC 2132, 9.14).
const ETHERNET: u8 = 1;

/// What options begin with, behind the fixed fields.
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Where the fixed fields of an answer are that matter.
const TRANSACTION: usize = 4;
const YOURS: usize = 16;
const HARDWARE: usize = 28;
const SERVER_NAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
const FIXED: usize = 236;

/// The shortest message that all servers understand.
const SHORTEST: usize = 300;

/// The largest message that is received.
const LARGEST: u16 = 1472;

/// For how long an address is lent by a server that does not say.
const HOUR: u32 = 3600;

/// The options (RFC 2132, RFC 3442).
mod option {
    pub(super) const PAD: u8 = 0;
    pub(super) const MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const WANTED: u8 = 50;
    pub(super) const TIME: u8 = 51;
    pub(super) const OVERLOAD: u8 = 52;
    pub(super) const KIND: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const ASKED: u8 = 55;
    pub(super) const LARGEST: u8 = 57;
    pub(super) const RENEW: u8 = 58;
    pub(super) const REBIND: u8 = 59;
    pub(super) const CLIENT: u8 = 61;
    pub(super) const ROUTES: u8 = 121;
    pub(super) const END: u8 = 255;
}

/// The kinds of messages.
mod kind {
    pub(super) const DISCOVER: u8 = 1;
    pub(super) const OFFER: u8 = 2;
    pub(super) const REQUEST: u8 = 3;
    pub(super) const ACK: u8 = 5;
    pub(super) const NAK: u8 = 6;
    pub(super) const RELEASE: u8 = 7;
}

/// What a server says.
#[derive(Debug)]
pub(super) enum Answer {
    /// The address can be had.
    Offer { address: Ipv4Addr, server: Ipv4Addr },
    /// It is lent.
    Lent(Lease),
    /// It is not.
    Refused { server: Ipv4Addr },
}

impl Answer {
    /// Whether it ends a transaction.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self, Self::Offer { .. })
    }
}

// === What is said ===

pub(super) fn discover(mac: Mac, transaction: u32, wanted: Option<Ipv4Addr>) -> Vec<u8> {
    let mut message = Writer::new(kind::DISCOVER, mac, transaction, Ipv4Addr::UNSPECIFIED);
    if let Some(wanted) = wanted {
        message.option(option::WANTED, &wanted.octets());
    }
    message.asking()
}

/// Takes what a server offered.
pub(super) fn request(mac: Mac, transaction: u32, wanted: Ipv4Addr, server: Ipv4Addr) -> Vec<u8> {
    let mut message = Writer::new(kind::REQUEST, mac, transaction, Ipv4Addr::UNSPECIFIED);
    message.option(option::WANTED, &wanted.octets());
    message.option(option::SERVER, &server.octets());
    message.asking()
}

/// Asks for more time for an address in use.
pub(super) fn extend(mac: Mac, transaction: u32, address: Ipv4Addr) -> Vec<u8> {
    Writer::new(kind::REQUEST, mac, transaction, address).asking()
}

pub(super) fn release(mac: Mac, transaction: u32, address: Ipv4Addr, server: Ipv4Addr) -> Vec<u8> {
    let mut message = Writer::new(kind::RELEASE, mac, transaction, address);
    message.option(option::SERVER, &server.octets());
    message.end()
}

/// A message in the making.
struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u8, mac: Mac, transaction: u32, own: Ipv4Addr) -> Self {
        let mut bytes = vec![0; FIXED];
        bytes[..3].copy_from_slice(&[REQUEST, ETHERNET, 6]);
        bytes[TRANSACTION..TRANSACTION + 4].copy_from_slice(&transaction.to_be_bytes());
        bytes[12..16].copy_from_slice(&own.octets());
        bytes[HARDWARE..HARDWARE + 6].copy_from_slice(&mac.octets());
        bytes.extend(COOKIE);
        let mut message = Self(bytes);
        message.option(option::KIND, &[kind]);
        message.option(option::CLIENT, &[&[ETHERNET][..], &mac.octets()].concat());
        message
    }

    fn option(&mut self, code: u8, value: &[u8]) {
        // Ours are a few bytes long.
        let length = u8::try_from(value.len()).unwrap_or_default();
        self.0.extend([code, length]);
        self.0.extend(&value[..usize::from(length)]);
    }

    /// With what we would like to know along with an address.
    fn asking(mut self) -> Vec<u8> {
        use option::{ASKED, MASK, REBIND, RENEW, ROUTER, ROUTES, TIME};
        self.option(option::LARGEST, &LARGEST.to_be_bytes());
        self.option(ASKED, &[MASK, ROUTES, ROUTER, TIME, RENEW, REBIND]);
        self.end()
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(option::END);
        let length = self.0.len().max(SHORTEST);
        self.0.resize(length, option::PAD);
        self.0
    }
}

// === What is understood ===

/// An answer to us, if it is one.
pub(super) fn read(bytes: &[u8], mac: Mac, transaction: u32, via: Mac) -> Option<Answer> {
    let to_us = bytes.starts_with(&[REPLY, ETHERNET, 6])
        && bytes.get(TRANSACTION..TRANSACTION + 4)? == transaction.to_be_bytes()
        && bytes.get(HARDWARE..HARDWARE + 6)? == mac.octets();
    let options = Options::of(bytes).filter(|_| to_us)?;
    let server = options.address(option::SERVER)?;
    let address = address(bytes.get(YOURS..)?)?;
    match *options.get(option::KIND)?.first()? {
        kind::OFFER if is_usable(address) => Some(Answer::Offer { address, server }),
        kind::ACK if is_usable(address) => options.lease(address, server, via).map(Answer::Lent),
        kind::NAK => Some(Answer::Refused { server }),
        _ => None,
    }
}

/// The options of a message. One that comes in several parts is put together (RFC 3396).
struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    fn of(message: &[u8]) -> Option<Self> {
        let mut options = Self(BTreeMap::new());
        options.read(message.get(FIXED..)?.strip_prefix(&COOKIE)?);
        // There may be more in fields that the server has no use for.
        let overload = options.get(option::OVERLOAD).and_then(|value| value.first().copied());
        for (bit, field) in [(1, FILE), (2, SERVER_NAME)] {
            if overload.is_some_and(|overload| overload & bit != 0) {
                options.read(message.get(field)?);
            }
        }
        Some(options)
    }

    /// Reads as far as it makes sense.
    fn read(&mut self, mut bytes: &[u8]) {
        while let Some((&code, rest)) = bytes.split_first() {
            bytes = match code {
                option::PAD => rest,
                option::END => return,
                _ => {
                    let Some((&length, rest)) = rest.split_first() else { return };
                    let Some(value) = rest.get(..usize::from(length)) else { return };
                    self.0.entry(code).or_default().extend(value);
                    &rest[usize::from(length)..]
                }
            };
        }
    }

    fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.get(&code).map(Vec::as_slice)
    }

    fn address(&self, code: u8) -> Option<Ipv4Addr> {
        address(self.get(code)?)
    }

    fn seconds(&self, code: u8) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(code)?.try_into().ok()?))
    }

    fn lease(&self, address: Ipv4Addr, server: Ipv4Addr, via: Mac) -> Option<Lease> {
        let mask = self.address(option::MASK).unwrap_or_else(|| classful_mask(address));
        let total = self.seconds(option::TIME).unwrap_or(HOUR);
        let terms = Terms::of(total, self.seconds(option::RENEW), self.seconds(option::REBIND));
        let address = Ipv4Network::with_netmask(address, mask).ok()?;
        let gateway = self.gateway().filter(|gateway| is_usable(*gateway));
        Some(Lease { address, gateway, server, via, terms })
    }

    /// Where there are routes by themselves, the router counts for nothing (RFC 3442).
    fn gateway(&self) -> Option<Ipv4Addr> {
        let Some(mut routes) = self.get(option::ROUTES) else {
            return self.address(option::ROUTER);
        };
        loop {
            // The length of the prefix, as many bytes as that takes, and the router.
            let (&prefix, rest) = routes.split_first()?;
            let via = rest.get(usize::from(prefix).div_ceil(8)..)?;
            if prefix == 0 {
                return address(via);
            }
            routes = via.get(4..)?;
        }
    }
}

/// The address that some bytes begin with.
fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    Some(octets.into())
}

fn is_usable(address: Ipv4Addr) -> bool {
    let of_nobody = address.is_unspecified() || address.is_broadcast();
    let special = of_nobody || address.is_multicast() || address.is_loopback();
    !special
}

/// What a server means that names no mask (RFC 950).
fn classful_mask(address: Ipv4Addr) -> Ipv4Addr {
    match address.octets()[0] {
        0..=127 => Ipv4Addr::new(255, 0, 0, 0),
        128..=191 => Ipv4Addr::new(255, 255, 0, 0),
        _ => Ipv4Addr::new(255, 255, 255, 0),
    }
}

impl Terms {
    /// The terms of a lease, with what RFC 2131 says of those that a server leaves open or that
    /// contradict each other.
    pub(super) fn of(total: u32, renew: Option<u32>, rebind: Option<u32>) -> Self {
        let total = total.max(1);
        let rebind = rebind.filter(|rebind| *rebind <= total).unwrap_or(total - total / 8);
        let renew = renew.filter(|renew| *renew <= rebind).unwrap_or((total / 2).min(rebind));
        Self { renew, rebind, total }
    }
}
