//! The address that the other hosts know this one by, and how large a packet it takes.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};

use cluster::Place;
use cnm::LinkName;
use cnm::controller::HostFacts;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;

use engine_error::{Error, Result};

/// The MTU of a link that does not say.
const ETHERNET: u32 = 1500;

/// An address of this host, with what its link takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// The address.
    pub address: IpAddr,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// Whether a link has it now.
    pub found: bool,
}

/// An address that a link of this host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) link: String,
    pub(crate) address: IpAddr,
    /// Whether the link is switched on.
    pub(crate) up: bool,
}

/// Finds the address: the one that is named, one of the link that is named, or the one that this host
/// reaches the store by.
pub(super) fn find(
    advertise: Option<&str>,
    place: &Place,
    facts: &HostFacts,
) -> Result<Advertised> {
    let all = addresses()?;
    let owned = if let Some(alone) = advertise.and_then(|text| alone(text, place, &all)) {
        alone
    } else if let Some(text) = advertise {
        named(text, &all)?
    } else {
        let address = towards(place)?;
        all.iter().find(|owned| owned.address == address).cloned().ok_or_else(|| {
            Error::invalid(format!("{address} is no address of this host: name one"))
        })?
    };
    let link: Option<LinkName> = owned.link.parse().ok();
    let mtu = link.and_then(|link| facts.links.get(&link)).map_or(ETHERNET, |link| link.mtu);
    Ok(Advertised { address: owned.address, mtu, found: true })
}

/// A loopback address where the store is too: whoever reaches the one reaches the other.
fn alone(text: &str, place: &Place, all: &[Owned]) -> Option<Owned> {
    let address = text.parse::<IpAddr>().ok().filter(IpAddr::is_loopback)?;
    let at = |endpoint: &String| {
        endpoint.parse::<SocketAddr>().is_ok_and(|endpoint| endpoint.ip() == address)
    };
    let is_there = !place.endpoints.is_empty() && place.endpoints.iter().all(at);
    all.iter().find(|owned| is_there && owned.address == address).cloned()
}

fn named(text: &str, all: &[Owned]) -> Result<Owned> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let refuse = |why: &str| Err(Error::invalid(format!("--advertise-addr {text}: {why}")));
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return refuse("other hosts cannot reach this one there");
        }
        return match all.iter().find(|owned| owned.address == address) {
            Some(owned) => Ok(owned.clone()),
            None => refuse("it is no address of this host: see `ip address`"),
        };
    }
    of_link(text, all).cloned().ok_or_else(|| {
        Error::invalid(format!(
            "--advertise-addr {text}: no interface of this host has that name and an address; name \
             another one, or an address"
        ))
    })
}

/// The address by which others reach a link. IPv4 comes first, as in most networks below.
pub(crate) fn of_link<'a>(link: &str, all: &'a [Owned]) -> Option<&'a Owned> {
    let on = all.iter().filter(|owned| owned.link == link && is_of_use(owned.address));
    on.min_by_key(|owned| owned.address.is_ipv6())
}

/// Addresses of one link are none to others.
pub(crate) fn is_of_use(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

/// The address that this host sends from on its way to the store. Nothing is sent.
fn towards(place: &Place) -> Result<IpAddr> {
    let mut why = "it has no members".to_owned();
    for endpoint in &place.endpoints {
        let found = endpoint.to_socket_addrs().and_then(|mut all| {
            let none = || std::io::Error::other("it has no address");
            all.next().ok_or_else(none).and_then(source)
        });
        match found {
            Ok(address) if !address.is_loopback() => return Ok(address),
            Ok(address) => why = format!("{endpoint} is on this host, at {address}"),
            Err(error) => why = format!("{endpoint}: {error}"),
        }
    }
    Err(Error::invalid(format!(
        "cannot tell which address of this host the others reach it at ({why}): name it with \
         --advertise-addr"
    )))
}

/// The address that this host sends from on its way to another one. Nothing is sent.
pub(crate) fn source(to: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

/// All addresses of this host.
pub(crate) fn addresses() -> Result<Vec<Owned>> {
    let all = getifaddrs().map_err(|error| Error::internal("cannot list addresses", error))?;
    let owned = all.filter_map(|entry| {
        let address = entry.address.as_ref().and_then(ip)?;
        let up = entry.flags.contains(InterfaceFlags::IFF_UP);
        Some(Owned { link: entry.interface_name, address, up })
    });
    Ok(owned.collect())
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(link: &str, address: &str) -> Owned {
        Owned { link: link.to_owned(), address: address.parse().unwrap(), up: true }
    }

    #[test]
    fn a_host_is_at_its_loopback_only_where_its_store_is() {
        let all = [owned("lo", "127.0.0.1"), owned("eth0", "10.0.0.1")];
        let at = |endpoints: &[&str]| {
            let mut place = Place::parse("etcd://h/c", &[].into()).unwrap();
            place.endpoints = endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect();
            alone("127.0.0.1", &place, &all).is_some()
        };
        assert!(at(&["127.0.0.1:2387"]));
        assert!(!at(&[]) && !at(&["10.0.0.1:2387"]) && !at(&["127.0.0.1:1", "10.0.0.2:1"]));
    }

    #[test]
    fn an_address_is_named_by_itself_or_by_its_link() {
        let all = [
            owned("lo", "127.0.0.1"),
            owned("eth0", "fe80::1"),
            owned("eth0", "fd00::1"),
            owned("eth0", "10.0.0.1"),
            owned("eth1", "fe80::2"),
        ];
        let address = |text| named(text, &all).map(|owned| owned.address.to_string());
        assert_eq!(address("10.0.0.1").unwrap(), "10.0.0.1");
        assert_eq!(address("eth0").unwrap(), "10.0.0.1");
        assert_eq!(address("fd00::1").unwrap(), "fd00::1");
        for (text, why) in [
            ("10.0.0.2", "it is no address of this host"),
            ("127.0.0.1", "other hosts cannot reach this one there"),
            ("0.0.0.0", "other hosts cannot reach this one there"),
            ("eth1", "no interface of this host has that name and an address"),
            ("eth9", "no interface of this host has that name and an address"),
        ] {
            let error = address(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
