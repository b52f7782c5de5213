//! Addresses of a node of a swarm, as users write them: an address or an interface, with a port.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use cnm::LinkName;
use cnm::controller::HostLink;

use crate::cluster::address::{Owned, addresses, is_of_use, of_link, source};
use engine_error::{Error, Result};
use swarm::PORT;

/// The links of the host, as the kernel tells of them.
pub(super) type Links = BTreeMap<LinkName, HostLink>;

/// Where others reach this node, and where it listens if it is a manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) advertised: IpAddr,
    pub(super) port: u16,
    pub(super) listen: SocketAddr,
}

impl Addresses {
    /// Those that a user named; where none is, the one that `managers` are reached from, or the only one.
    pub(super) fn find(
        links: &Links,
        listen: &str,
        advertise: &str,
        managers: &[String],
    ) -> Result<Self> {
        let mut all = addresses()?;
        all.retain(|owned| owned.up);
        Self::among((&all, links), (listen, advertise), || towards(managers))
    }

    fn among(
        (all, links): (&[Owned], &Links),
        (listen, advertise): (&str, &str),
        towards: impl FnOnce() -> Option<IpAddr>,
    ) -> Result<Self> {
        let wrong = "listen address must be an IP address or network interface (with optional port \
                     number)";
        let listen = match listen {
            "" => return Err(Error::invalid("invalid ListenAddr \"\": invalid empty address")),
            listen => read(listen, all, true).ok_or_else(|| Error::invalid(wrong))?,
        };
        let wrong = "advertise address must be a non-zero IP address or network interface (with \
                     optional port number)";
        let (advertised, port) = match advertise {
            "" => (towards().map_or_else(|| only(all, links, listen.ip()), Ok)?, listen.port()),
            named => match read(named, all, false) {
                Some(found) if !found.ip().is_unspecified() => (found.ip(), found.port()),
                _ => return Err(Error::invalid(wrong)),
            },
        };
        // At a loopback address a manager is a swarm of its own, as in Docker.
        if advertised.is_multicast() {
            return Err(Error::invalid(format!(
                "other hosts cannot reach this one at {advertised}: give another --advertise-addr"
            )));
        }
        if !all.iter().any(|owned| owned.address == advertised) {
            return Err(Error::invalid(format!(
                "--advertise-addr {advertised}: it is no address of this host: see `ip address`"
            )));
        }
        Ok(Self { advertised, port, listen })
    }
}

/// `address`, `interface`, or either with a port.
fn read(text: &str, all: &[Owned], any: bool) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return (any || address.port() != 0).then_some(address);
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok()?),
        None => (text, PORT),
    };
    of_link(name, all).map(|owned| SocketAddr::new(owned.address, port))
}

/// The only address that this host has, in Docker's words if it has several.
fn only(all: &[Owned], links: &Links, listen: IpAddr) -> Result<IpAddr> {
    if !listen.is_unspecified() {
        return Ok(listen);
    }
    let usable = usable(all, links);
    let [one, rest @ ..] = usable.as_slice() else {
        return Err(Error::invalid("could not find the system's IP address"));
    };
    let Some(other) = rest.first() else { return Ok(one.address) };
    let place = if one.link == other.link {
        format!("interface {} ({} and {})", one.link, one.address, other.address)
    } else {
        let on = |owned: &Owned| format!("{} on {}", owned.address, owned.link);
        format!("different interfaces ({} and {})", on(one), on(other))
    };
    Err(Error::invalid(format!(
        "could not choose an IP address to advertise since this system has multiple addresses on \
         {place}"
    )))
}

/// The addresses that others may reach this host at. Links of ours lead to containers, and so do bridges
/// where the host has links that are none; IPv4 comes first.
fn usable<'a>(all: &'a [Owned], links: &Links) -> Vec<&'a Owned> {
    let link = |owned: &Owned| links.get(&owned.link.parse().ok()?);
    let is_ours = |owned: &Owned| link(owned).is_some_and(|link| link.tag.is_some());
    let is_on_bridge = |owned: &Owned| link(owned).is_some_and(|link| link.bridge);
    let mut usable: Vec<_> = all
        .iter()
        .filter(|owned| !owned.address.is_loopback() && is_of_use(owned.address) && !is_ours(owned))
        .collect();
    if !usable.iter().all(|owned| is_on_bridge(owned)) {
        usable.retain(|owned| !is_on_bridge(owned));
    }
    if usable.iter().any(|owned| owned.address.is_ipv4()) {
        usable.retain(|owned| owned.address.is_ipv4());
    }
    usable
}

/// The address from which this host reaches a manager. Nothing is sent.
fn towards(managers: &[String]) -> Option<IpAddr> {
    managers.iter().find_map(|manager| {
        let manager: SocketAddr = swarm::client::with_port(manager).parse().ok()?;
        source(manager).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Vec<Owned> {
        let owned = |link: &str, address: &str| Owned {
            link: link.to_owned(),
            address: address.parse().unwrap(),
            up: true,
        };
        vec![
            owned("lo", "127.0.0.1"),
            owned("eth0", "2001:db8::1"),
            owned("eth0", "192.0.2.1"),
            owned("eth1", "198.51.100.1"),
        ]
    }

    /// What is chosen of a host with these addresses, the names of whose links tell what they are.
    fn chosen(addresses: &[(&str, &str)]) -> String {
        let owned = |(link, address): &(&str, &str)| Owned {
            link: (*link).to_owned(),
            address: address.parse().unwrap(),
            up: true,
        };
        let all: Vec<_> = addresses.iter().map(owned).collect();
        let link = |owned: &Owned| HostLink {
            bridge: owned.link.contains("br") || owned.link == "rnet0",
            tag: (owned.link == "rnet0").then(String::new),
            ..HostLink::default()
        };
        let links = all.iter().map(|owned| (owned.link.parse().unwrap(), link(owned))).collect();
        let found = Addresses::among((&all, &links), ("0.0.0.0:2377", ""), || None);
        found.map_or_else(|error| error.to_string(), |found| found.advertised.to_string())
    }

    #[test]
    fn a_host_was_told_to_be_reached_at_the_bridge_of_its_containers() {
        let (lo, ours) = (("lo", "127.0.0.1"), ("rnet0", "172.17.0.1"));
        let nothing = "could not find the system's IP address";
        let several = "could not choose an IP address to advertise since this system has multiple \
                       addresses on";
        assert_eq!(chosen(&[lo, ours]), nothing);
        assert_eq!(chosen(&[lo, ours, ("eth0", "192.0.2.1")]), "192.0.2.1");
        assert_eq!(chosen(&[ours, ("eth0", "2001:db8::1"), ("eth0", "192.0.2.1")]), "192.0.2.1");
        assert_eq!(
            chosen(&[ours, ("virbr0", "192.168.122.1"), ("eth0", "192.0.2.1")]),
            "192.0.2.1"
        );
        assert_eq!(chosen(&[ours, ("br0", "192.0.2.1")]), "192.0.2.1");
        assert_eq!(
            chosen(&[ours, ("eth0", "192.0.2.1"), ("eth0", "192.0.2.2")]),
            format!("{several} interface eth0 (192.0.2.1 and 192.0.2.2)")
        );
        assert_eq!(
            chosen(&[ours, ("eth0", "192.0.2.1"), ("eth1", "198.51.100.1")]),
            format!("{several} different interfaces (192.0.2.1 on eth0 and 198.51.100.1 on eth1)")
        );
    }

    fn find(listen: &str, advertise: &str) -> Result<String, String> {
        let links = Links::new();
        let found = Addresses::among((&host(), &links), (listen, advertise), || None);
        let found = found.map_err(|error| error.to_string())?;
        Ok(format!("{} {} {}", found.advertised, found.port, found.listen))
    }

    #[test]
    fn an_address_or_an_interface_is_found_with_its_port() {
        let any = "0.0.0.0:2377";
        for (advertise, expected) in [
            ("192.0.2.1", "192.0.2.1 2377 0.0.0.0:2377"),
            ("192.0.2.1:9", "192.0.2.1 9 0.0.0.0:2377"),
            ("eth0", "192.0.2.1 2377 0.0.0.0:2377"),
            ("eth1:9", "198.51.100.1 9 0.0.0.0:2377"),
            ("2001:db8::1", "2001:db8::1 2377 0.0.0.0:2377"),
            ("127.0.0.1", "127.0.0.1 2377 0.0.0.0:2377"),
            ("lo", "127.0.0.1 2377 0.0.0.0:2377"),
        ] {
            assert_eq!(find(any, advertise).as_deref(), Ok(expected));
        }
        assert_eq!(find("eth1", "").as_deref(), Ok("198.51.100.1 2377 198.51.100.1:2377"));
    }

    #[test]
    fn what_cannot_be_an_address_is_refused_in_docker_s_words() {
        for (listen, advertise, said) in [
            ("", "192.0.2.1", "invalid ListenAddr \"\": invalid empty address"),
            ("bogus", "192.0.2.1", "listen address must be an IP address or network interface"),
            ("0.0.0.0:2377", "nosuch0", "advertise address must be a non-zero IP address or"),
            ("0.0.0.0:2377", "0.0.0.0", "advertise address must be a non-zero IP address or"),
            ("0.0.0.0:2377", "224.0.0.1", "other hosts cannot reach this one at 224.0.0.1"),
            ("0.0.0.0:2377", "203.0.113.1", "--advertise-addr 203.0.113.1: it is no address of"),
            ("0.0.0.0:2377", "", "could not choose an IP address to advertise since this system"),
        ] {
            let error = find(listen, advertise).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
