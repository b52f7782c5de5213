//! What the host uses already.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use cnm::controller::{HostFacts, HostLink};
use ipnetwork::IpNetwork;

use super::egress::Egress;
use super::netlink::Socket;
use super::tag::Tag;
use super::{link, route};

/// Reads the routes of the socket's namespace, without those of links with our tag, and the
/// resolvers.
pub(super) fn read(socket: &mut Socket, tag: &str) -> io::Result<HostFacts> {
    let (links, all) = (link::list(socket)?, route::list(socket)?);
    let egress_mtu = Egress::of(&links, &all, tag).mtu();
    let owner = |link: &link::Link| Some(Tag::parse(tag, link.alias.as_deref()?)?.owner);
    let ours: BTreeSet<_> =
        links.iter().filter(|link| owner(link).is_some()).map(|link| link.index).collect();
    let is_ours = |index: Option<u32>| index.is_some_and(|index| ours.contains(&index));
    let host_link = |link: &link::Link| {
        let own = HostLink {
            mtu: link.mtu,
            up: link.up,
            loopback: link.loopback,
            port: link.bridge.is_some(),
            tag: owner(link),
        };
        Some((link.name.parse().ok()?, own))
    };
    let routes: BTreeSet<IpNetwork> = all
        .into_iter()
        .filter(|r| r.unicast && !is_ours(r.link) && !is_everywhere(r.destination))
        .map(|r| r.destination)
        .collect();
    let resolvers = match std::fs::read_to_string("/etc/resolv.conf") {
        Ok(text) => nameservers(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let links = links.iter().filter_map(host_link).collect();
    Ok(HostFacts { routes: routes.into_iter().collect(), resolvers, links, egress_mtu })
}

/// Default routes, the halves that a VPN puts over them, and what every interface has.
fn is_everywhere(destination: IpNetwork) -> bool {
    let local = match destination {
        IpNetwork::V4(net) => net.ip().is_loopback(),
        IpNetwork::V6(net) => net.ip().is_unicast_link_local() || net.ip().is_multicast(),
    };
    destination.prefix() <= 1 || local
}

fn nameservers(text: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver") {
            // A link-local server may come with its interface: `fe80::1%eth0`.
            let word = words.next().and_then(|word| word.split('%').next());
            found.extend(word.and_then(|word| word.parse::<IpAddr>().ok()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_of_both_families_are_read() {
        let text = "# a comment\nnameserver 192.0.2.1\nsearch lan\nnameserver fe80::1%eth0\n\
                    options ndots:1\nnameserver\nnameserver x\n";
        let expected: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(nameservers(text), expected);
    }

    #[test]
    fn routes_to_everywhere_are_no_obstacle() {
        for (destination, everywhere) in [
            ("0.0.0.0/0", true),
            ("128.0.0.0/1", true),
            ("::/0", true),
            ("fe80::/64", true),
            ("10.0.0.0/8", false),
            ("fd00::/8", false),
        ] {
            assert_eq!(is_everywhere(destination.parse().unwrap()), everywhere, "{destination}");
        }
    }
}
