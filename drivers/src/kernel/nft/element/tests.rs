//! Elements that are written are read again, whatever they are.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::encoder::TableBatch;
use super::super::expression::Family;
use super::super::guard;
use super::super::sets::SETS;
use super::*;

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
}

fn link() -> impl Strategy<Value = LinkName> {
    "[a-z][a-z0-9.-]{0,14}".prop_map(|name| name.parse().unwrap())
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<Ipv4Addr>().prop_map(IpAddr::from),
        any::<Ipv6Addr>().prop_map(IpAddr::from),
        Just(Ipv4Addr::UNSPECIFIED.into()),
        Just(Ipv6Addr::UNSPECIFIED.into()),
    ]
}

fn subnet() -> impl Strategy<Value = IpNetwork> {
    let prefix = prop_oneof![Just(24_u8), Just(64), 0..=128_u8];
    (address(), prefix).prop_map(|(address, prefix)| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let network = IpNetwork::new(address, prefix.min(longest)).unwrap();
        IpNetwork::new(network.network(), network.prefix()).unwrap()
    })
}

fn target(host: IpAddr) -> impl Strategy<Value = Value> {
    let address = match host {
        IpAddr::V4(_) => any::<Ipv4Addr>().prop_map(IpAddr::from).boxed(),
        IpAddr::V6(_) => any::<Ipv6Addr>().prop_map(IpAddr::from).boxed(),
    };
    (address, any::<u16>()).prop_map(|(address, port)| Value::Target { address, port })
}

fn element() -> impl Strategy<Value = (Element, Value)> {
    let present = |element| (element, Value::Present);
    prop_oneof![
        link().prop_map(move |link| present(Element::Bridge { link })),
        link().prop_map(move |link| present(Element::Internal { link })),
        (any::<u16>(), 0..1_u32 << 24)
            .prop_map(move |(port, vni)| present(Element::Tunnel { port, vni })),
        link().prop_map(move |link| present(Element::Encrypting { link })),
        (any::<u16>(), 0..1_u32 << 24)
            .prop_map(move |(port, vni)| present(Element::Encrypted { port, vni })),
        address().prop_map(move |address| present(Element::TunnelSource { address })),
        address().prop_map(move |address| present(Element::Gateway { address })),
        (link(), any::<bool>())
            .prop_map(move |(link, ipv6)| present(Element::Unprotected { link, ipv6 })),
        subnet().prop_map(move |subnet| present(Element::Masquerade { subnet })),
        link().prop_map(move |link| present(Element::End { link })),
        (link(), address())
            .prop_map(move |(link, address)| present(Element::Behind { link, address })),
        (subnet(), subnet())
            .prop_filter("of one family", |(from, to)| from.is_ipv4() == to.is_ipv4())
            .prop_map(move |(from, to)| present(Element::Together { from, to })),
        (link(), link()).prop_map(move |(from, to)| present(Element::Trusted { from, to })),
        (subnet(), any::<Ipv4Addr>(), any::<Ipv6Addr>()).prop_map(|(subnet, v4, v6)| {
            let address = if subnet.is_ipv4() { v4.into() } else { v6.into() };
            (Element::Outbound { subnet }, Value::Source { address })
        }),
        (address(), protocol(), any::<u16>()).prop_map(move |(address, protocol, port)| {
            present(Element::Direct { address, protocol, port })
        }),
        (link(), any::<[u8; 6]>())
            .prop_map(move |(link, mac)| present(Element::Guarded { link, mac: mac.into() })),
        (link(), address())
            .prop_map(move |(link, address)| present(Element::Source { link, address })),
        (address(), protocol(), any::<u16>()).prop_map(move |(address, protocol, port)| {
            present(Element::Open { address, protocol, port })
        }),
        (address(), protocol(), any::<u16>()).prop_flat_map(|(host, protocol, port)| {
            let key = Element::Published { host, protocol, port };
            target(host).prop_map(move |value| (key.clone(), value))
        }),
        (address(), protocol(), any::<u16>(), any::<u16>()).prop_flat_map(
            |(host, protocol, one, other)| {
                let (first, last) = (one.min(other), one.max(other));
                let key = Element::PublishedRange { host, protocol, first, last };
                target(host).prop_map(move |value| {
                    let Value::Target { address, .. } = value else { unreachable!("a target") };
                    (key.clone(), Value::Target { address, port: first })
                })
            }
        ),
    ]
}

/// What the kernel would list of these entries.
fn listed(entries: &[Entry], set: &SetDefinition) -> Vec<Listed> {
    let mut listed = Vec::new();
    for entry in entries.iter().filter(|entry| entry.set == set.name) {
        let (mut last, mut behind) = (None, None);
        match entry.end.clone() {
            Some(End::With(key)) => last = Some(key),
            Some(End::Before(key)) => behind = Some(key),
            None => {}
        }
        let (key, data) = (entry.key.clone(), entry.data.clone());
        listed.push(Listed { key, last, data, is_end: false });
        listed.extend(behind.map(|key| Listed { key, is_end: true, ..Listed::default() }));
    }
    listed
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_read(elements in prop::collection::vec(element(), 0..20)) {
        // Subnets do not overlap, or it would be impossible to tell them apart.
        let mut expected = BTreeMap::<Element, Value>::new();
        for (element, value) in elements {
            let overlaps = |other: &Element| match (other, &element) {
                (Element::Masquerade { subnet: a }, Element::Masquerade { subnet: b })
                | (Element::Outbound { subnet: a }, Element::Outbound { subnet: b }) => {
                    a.contains(b.network()) || b.contains(a.network())
                }
                _ => false,
            };
            if !expected.keys().any(overlaps) {
                expected.insert(element, value);
            }
        }
        let entries: Vec<_> =
            expected.iter().flat_map(|(key, value)| entries(key, value).unwrap()).collect();
        let mut found = BTreeMap::new();
        for set in SETS.into_iter().chain(guard::SETS) {
            found.extend(decode(set, &listed(&entries, set)));
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn what_nobody_of_us_wrote_is_left_out(key in any::<Vec<u8>>(), data in any::<Vec<u8>>()) {
        for set in SETS.into_iter().chain(guard::SETS) {
            let last = Some(data.clone());
            let one = Listed { key: key.clone(), last, data: Some(data.clone()), is_end: false };
            let end = Listed { key: key.clone(), is_end: true, ..Listed::default() };
            decode(set, &[one]);
            decode(set, &[end]);
        }
    }
}

/// The kernel goes through all ranges of a set when one of them changes: with two thousand networks that
/// took as long as a third of a network's creation.
#[test]
fn subnets_of_the_default_pools_are_not_among_ranges() {
    let config = cnm::controller::ControllerConfig::default();
    let default = |(pool, prefix): &(IpNetwork, u8)| IpNetwork::new(pool.ip(), *prefix).unwrap();
    // What a host makes up for itself in IPv6 has 64 bits, too.
    let unique = "fd00:1:2:3::/64".parse().unwrap();
    for subnet in config.default_pools.iter().map(default).chain([unique]) {
        let address = subnet.ip();
        for (element, value) in [
            (Element::Masquerade { subnet }, Value::Present),
            (Element::Outbound { subnet }, Value::Source { address }),
            (Element::Together { from: subnet, to: subnet }, Value::Present),
        ] {
            for entry in entries(&element, &value).unwrap() {
                let set = SETS.into_iter().find(|set| set.name == entry.set).unwrap();
                assert_eq!((set.holds, entry.end), (Holds::Subnets, None), "{element}");
            }
        }
    }
}

#[test]
fn neighbouring_subnets_stay_two() {
    let subnets = ["10.1.0.0/24", "10.1.1.0/24", "255.255.255.0/24", "0.0.0.0/8"];
    let entry = |subnet: &str| range(subnet.parse().unwrap(), &MASQUERADE4, None);
    let entries: Vec<_> = subnets.map(entry).into();
    let listed = listed(&entries, &MASQUERADE4);
    let mut found: Vec<_> = super::subnets(&listed).into_iter().map(|(subnet, _)| subnet).collect();
    found.sort();
    let mut expected: Vec<IpNetwork> = subnets.map(|subnet| subnet.parse().unwrap()).into();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_value_of_another_kind_is_refused() {
    let host: IpAddr = "0.0.0.0".parse().unwrap();
    let port = Element::Published { host, protocol: Protocol::Tcp, port: 80 };
    let other = Value::Target { address: "::1".parse().unwrap(), port: 80 };
    assert_eq!(entries(&port, &Value::Present), None);
    assert_eq!(entries(&port, &other), None, "of the other family");
    let bridge = Element::Bridge { link: "br-a".parse().unwrap() };
    assert_eq!(entries(&bridge, &other), None);
}

#[test]
fn an_element_is_one_message_of_the_batch() {
    let bridge = Element::Bridge { link: "br-a".parse().unwrap() };
    let mut batch = TableBatch::new(Family::Inet, "rnet");
    let entries = entries(&bridge, &Value::Present).unwrap();
    let positions: Vec<_> = entries.iter().map(|entry| batch.add_entry(entry)).collect();
    assert_eq!(positions, [0, 1]);
}
