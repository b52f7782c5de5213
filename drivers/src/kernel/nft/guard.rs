//! The constant part of the table of bridges: what frames may not come from a guarded port.
//!
//! A container with a raw socket can send whatever it likes. Its port lets in what comes from its own
//! addresses; a neighbour, and whoever is behind the host, believes nothing else of it. All of this
//! is before the bridge learns from a frame.

use super::expression::{Family, Verdict};
use super::rule::Rule;
use super::set::{Field, Holds, SetDefinition};
use super::skeleton::{Chain, Hook};

use Field::{Interface, Ipv4, Ipv6, Mac};

pub(super) const GUARDED: SetDefinition = set("guarded", "ports that are guarded", &[Interface]);
pub(super) const HARDWARE: SetDefinition =
    set("hardware", "the hardware address behind each of them", &[Interface, Mac]);
pub(super) const SOURCES4: SetDefinition =
    set("sources4", "the addresses behind each of them", &[Interface, Ipv4]);
pub(super) const SOURCES6: SetDefinition =
    set("sources6", "the addresses behind each of them", &[Interface, Ipv6]);

/// All sets of the table.
pub(super) const SETS: [&SetDefinition; 4] = [&GUARDED, &HARDWARE, &SOURCES4, &SOURCES6];

/// Chains in an order in which they can be made.
pub(super) const CHAINS: [Chain; 4] = [
    Chain { name: "ipv4", hook: None },
    Chain { name: "arp", hook: None },
    Chain { name: "ipv6", hook: None },
    Chain {
        name: "guard",
        // Before br_netfilter, and before bridges learn.
        hook: Some(Hook { kind: "filter", number: libc::NF_INET_PRE_ROUTING, priority: -300 }),
    },
];

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Where ARP has the sender's hardware address and its address.
const ARP_HARDWARE: u32 = 8;
const ARP_ADDRESS: u32 = 14;

/// Types of messages (RFC 4861).
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// All rules, in order.
pub(super) fn rules() -> Vec<Rule> {
    [guard(), ipv4(), arp(), ipv6()].concat()
}

fn guard() -> Vec<Rule> {
    let rule = |comment| Rule::new("guard", comment);
    let kind = |ethertype, chain| {
        rule("by what it carries").ethertype_is(ethertype).verdict(Verdict::Jump(chain))
    };
    vec![
        rule("not guarded").entering_by_none_of(&GUARDED).verdict(Verdict::Accept),
        rule("another hardware address").frame_source_not_in(&HARDWARE).verdict(Verdict::Drop),
        kind(ETHERTYPE_IPV4, "ipv4"),
        kind(ETHERTYPE_ARP, "arp"),
        kind(ETHERTYPE_IPV6, "ipv6"),
    ]
}

fn ipv4() -> Vec<Rule> {
    let rule = |comment| Rule::new("ipv4", comment);
    vec![
        rule("from its own address")
            .port_and_source(Family::Ipv4)
            .known_to(&SOURCES4)
            .verdict(Verdict::Accept),
        rule("asks for an address")
            .source_is_unspecified(Family::Ipv4)
            .destination_port_is(cnm::Protocol::Udp, 67)
            .verdict(Verdict::Accept),
        rule("from another").verdict(Verdict::Drop),
    ]
}

fn arp() -> Vec<Rule> {
    let rule = |comment| Rule::new("arp", comment);
    vec![
        rule("of another hardware address")
            .port_and_network(ARP_HARDWARE, Mac)
            .unknown_to(&HARDWARE)
            .verdict(Verdict::Drop),
        rule("of its own address")
            .port_and_network(ARP_ADDRESS, Ipv4)
            .known_to(&SOURCES4)
            .verdict(Verdict::Accept),
        rule("asks whether an address is free")
            .network_is(ARP_ADDRESS, vec![0; 4])
            .verdict(Verdict::Accept),
        rule("of another").verdict(Verdict::Drop),
    ]
}

fn ipv6() -> Vec<Rule> {
    let rule = |comment| Rule::new("ipv6", comment);
    let router = "only the host is a router";
    vec![
        rule(router).icmp6_is(ROUTER_ADVERTISEMENT).verdict(Verdict::Drop),
        rule(router).icmp6_is(REDIRECT).verdict(Verdict::Drop),
        rule("says that it has another's address")
            .icmp6_is(NEIGHBOUR_ADVERTISEMENT)
            .port_and_icmp6_target()
            .unknown_to(&SOURCES6)
            .verdict(Verdict::Drop),
        rule("from its own address")
            .port_and_source(Family::Ipv6)
            .known_to(&SOURCES6)
            .verdict(Verdict::Accept),
        rule("has no address yet")
            .source_is_unspecified(Family::Ipv6)
            .icmp6()
            .verdict(Verdict::Accept),
        rule("from another").verdict(Verdict::Drop),
    ]
}

const fn set(name: &'static str, comment: &'static str, key: &'static [Field]) -> SetDefinition {
    SetDefinition { name, comment, key, data: &[], holds: Holds::Keys, family: Family::Bridge }
}
