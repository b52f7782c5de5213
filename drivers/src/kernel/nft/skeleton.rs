//! The constant part of the table: sets, chains and rules. `docs/nftables/ruleset.md` shows it as
//! `nft` prints it.
//!
//! Nothing here depends on what is published or which networks there are: that is in the sets.
//! A packet meets the same few rules, and a lookup each, with one network or a thousand.

use super::super::conntrack::CUT;
use super::expression::{Family, Verdict};
use super::rule::{ESTABLISHED, INVALID, NEW, RELATED, Rule, UNTRACKED};
use super::sets::{
    APART, BEHIND4, BEHIND6, BRIDGES, CLOSED_LOOPS, CLOSED4, CLOSED6, DIRECT4, DIRECT6, ENCRYPTED,
    ENCRYPTING, ENDS, GATEWAYS4, GATEWAYS6, INTERNAL, LOOPS, MASQUERADE4, MASQUERADE4_24,
    MASQUERADE6, MASQUERADE6_64, OPEN4, OPEN6, OUTBOUND4, OUTBOUND4_24, OUTBOUND6, OUTBOUND6_64,
    PASSAGES4, PASSAGES6, PUBLISHED4, PUBLISHED4_ANY, PUBLISHED6, PUBLISHED6_ANY, RANGES4, RANGES6,
    TOGETHER4, TOGETHER4_24, TOGETHER6, TOGETHER6_64, TRUSTED, TUNNEL_SOURCES4, TUNNEL_SOURCES6,
    TUNNELS, UNPROTECTED4, UNPROTECTED6,
};

/// A chain. Only chains with a hook see packets by themselves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    /// Its name.
    pub(super) name: &'static str,
    /// Where it is called from.
    pub(super) hook: Option<Hook>,
}

/// Where the kernel calls a chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hook {
    /// `filter` or `nat`.
    pub(super) kind: &'static str,
    /// `NF_INET_…`
    pub(super) number: libc::c_int,
    /// The order among the chains of all tables; low ones come first.
    pub(super) priority: i32,
}

/// Chains in an order in which they can be made.
pub(super) const CHAINS: [Chain; 14] = [
    Chain { name: "behind", hook: None },
    Chain { name: "tunnelled", hook: None },
    Chain { name: "published", hook: None },
    Chain { name: "between", hook: None },
    Chain { name: "into", hook: None },
    Chain { name: "out-of", hook: None },
    base("guard", "filter", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_RAW),
    base("sending", "filter", libc::NF_INET_LOCAL_OUT, libc::NF_IP_PRI_RAW),
    base("prerouting", "nat", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_NAT_DST),
    base("output", "nat", libc::NF_INET_LOCAL_OUT, libc::NF_IP_PRI_NAT_DST),
    base("input", "filter", libc::NF_INET_LOCAL_IN, libc::NF_IP_PRI_FILTER),
    base("forward", "filter", libc::NF_INET_FORWARD, libc::NF_IP_PRI_FILTER),
    base("leaving", "filter", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_RAW),
    base("postrouting", "nat", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_NAT_SRC),
];

/// Chains of the users' own table: right before and right after ours at every hook.
pub(super) const USER_CHAINS: [Chain; 6] = [
    around("before-prerouting", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_NAT_DST - 10),
    around("after-prerouting", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_NAT_DST + 10),
    around("before-forward", libc::NF_INET_FORWARD, libc::NF_IP_PRI_FILTER - 10),
    around("after-forward", libc::NF_INET_FORWARD, libc::NF_IP_PRI_FILTER + 10),
    around("before-postrouting", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_NAT_SRC - 10),
    around("after-postrouting", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_NAT_SRC + 10),
];

/// All rules, in order.
pub(super) fn rules() -> Vec<Rule> {
    let arriving = [guard(), behind(), tunnelled(), publish(), input()];
    arriving
        .into_iter()
        .chain([forward(), between(), into_bridges(), out_of_bridges()])
        .chain([sending(), leaving(), postrouting()])
        .flatten()
        .collect()
}

/// The localhost of the host is nobody else's: bridges route 127.0.0.0/8 (`route_localnet`), so
/// that the host reaches published ports at 127.0.0.1; what comes from outside must not.
///
/// Whoever can send a datagram to the host could send a frame into one of its tunnels. Other people's
/// tunnels, to the same port, have other numbers. Frames that are to be encrypted come by the link that does
/// that, and nothing else does.
fn guard() -> Vec<Rule> {
    let rule = Rule::new("guard", "127.0.0.0/8 only from the host itself");
    let tunnel = Rule::new("guard", "into a tunnel of ours").tunnelled_in(&TUNNELS);
    let encrypted =
        Rule::new("guard", "into an encrypted tunnel of ours, from a host of the cluster");
    let other = Rule::new("guard", "anything else of theirs");
    let clear = Rule::new("guard", "into an encrypted tunnel of ours, in the clear");
    vec![
        rule.not_entering_by("lo").destination_is_loopback4().verdict(Verdict::Drop),
        tunnel.verdict(Verdict::Jump("tunnelled")),
        encrypted
            .entering_by_any(&ENCRYPTING)
            .tunnelled_in(&ENCRYPTED)
            .untracked()
            .verdict(Verdict::Accept),
        other.entering_by_any(&ENCRYPTING).verdict(Verdict::Drop),
        clear.tunnelled_in(&ENCRYPTED).verdict(Verdict::Drop),
        from_an_end("guard"),
    ]
}

/// A datagram of a tunnel has no answer: what comes back is from another port to another. Conntrack
/// would keep an entry for each way of each connection, and learn nothing by it. It is accepted here, past
/// what else is asked of packets: so who is on no bridge is asked for his address here, too.
fn tunnelled() -> Vec<Rule> {
    let strange = |family, hosts| {
        let rule = Rule::new("tunnelled", "from none of its hosts");
        rule.source_not_in(family, hosts).verdict(Verdict::Drop)
    };
    vec![
        strange(Family::Ipv4, &TUNNEL_SOURCES4),
        strange(Family::Ipv6, &TUNNEL_SOURCES6),
        from_an_end("tunnelled"),
        Rule::new("tunnelled", "no connection").untracked().verdict(Verdict::Accept),
    ]
}

/// Who is on no bridge may not send from whatever address he likes.
fn from_an_end(chain: &'static str) -> Rule {
    let rule = Rule::new(chain, "from an endpoint that is on no bridge");
    rule.entering_by_any(&ENDS).verdict(Verdict::Jump("behind"))
}

/// What leaves by a tunnel is no connection either, encrypted or not.
fn sending() -> Vec<Rule> {
    [&TUNNELS, &ENCRYPTED]
        .map(|tunnels| Rule::new("sending", "no connection").tunnelled_in(tunnels).untracked())
        .into()
}

/// What is to be encrypted leaves by the link that does that, or not at all: when that link is gone, others
/// lead everywhere.
fn leaving() -> Vec<Rule> {
    let rule = Rule::new("leaving", "out of an encrypted tunnel of ours, in the clear");
    vec![rule.tunnelled_in(&ENCRYPTED).leaving_by_none(&ENCRYPTING).verdict(Verdict::Drop)]
}

/// What comes by a link to one endpoint comes from that one. Endpoints on bridges are guarded before
/// their frames get here.
fn behind() -> Vec<Rule> {
    let rule = |comment| Rule::new("behind", comment);
    let own = "from its own address";
    vec![
        rule(own)
            .family(Family::Ipv4)
            .port_and_source(Family::Ipv4)
            .known_to(&BEHIND4)
            .verdict(Verdict::Accept),
        rule(own)
            .family(Family::Ipv6)
            .port_and_source(Family::Ipv6)
            .known_to(&BEHIND6)
            .verdict(Verdict::Accept),
        rule("to its neighbour, the host").source_is_link_local6().verdict(Verdict::Accept),
        rule("has no address yet")
            .family(Family::Ipv6)
            .source_is_unspecified(Family::Ipv6)
            .icmp6()
            .verdict(Verdict::Accept),
        rule("from another").verdict(Verdict::Drop),
    ]
}

/// Only the first packet of a connection gets here; conntrack knows the others. Packets on their
/// way through the host, to somebody else's port, are none of our business.
///
/// The kernel refuses answers to `::1` from a bridge, whatever their connection, and forwards
/// nothing that has a link-local source: what is sent to such addresses goes to the socket that
/// reserves the port, and on from there (`rnet-dns`).
fn publish() -> Vec<Rule> {
    let address = "to this address of the host";
    let any = "to any address of the host";
    let range = "one of many ports";
    let left = "left to the socket that reserves the port";
    vec![
        Rule::new("prerouting", "from outside")
            .destination_is_local()
            .verdict(Verdict::Jump("published")),
        Rule::new("output", "from the host")
            .destination_is_local()
            .verdict(Verdict::Jump("published")),
        Rule::new("published", address).translate_by_address(Family::Ipv4, &PUBLISHED4),
        Rule::new("published", any).translate_by_port(Family::Ipv4, &PUBLISHED4_ANY),
        Rule::new("published", range).translate_address(Family::Ipv4, &RANGES4),
        Rule::new("published", left).destination_is_loopback6().verdict(Verdict::Accept),
        Rule::new("published", left).destination_is_link_local6().verdict(Verdict::Accept),
        Rule::new("published", address).translate_by_address(Family::Ipv6, &PUBLISHED6),
        Rule::new("published", any).translate_by_port(Family::Ipv6, &PUBLISHED6_ANY),
        Rule::new("published", range).translate_address(Family::Ipv6, &RANGES6),
    ]
}

/// What is not translated reaches the socket that reserves the port, and whoever carries it on to
/// the sandbox does not know where it came from.
///
/// A service that the host offers at a gateway is meant for the containers there: a neighbour of
/// the host that has a route to the network is nobody to it. Answers to what the host sent from
/// such an address belong to a connection.
fn input() -> Vec<Rule> {
    let rule = Rule::new("input", "out of an internal network, by a port of the host");
    let outside = |family, gateways| {
        Rule::new("input", "a gateway of ours, from outside of our networks")
            .not_entering_by("lo")
            .entering_by_none_of(&BRIDGES)
            .destination_address_in(family, gateways)
            .states(NEW | INVALID | UNTRACKED)
            .verdict(Verdict::Drop)
    };
    vec![
        rule.entering_by_any(&INTERNAL).for_reserving_socket().verdict(Verdict::Drop),
        outside(Family::Ipv4, &GATEWAYS4),
        outside(Family::Ipv6, &GATEWAYS6),
    ]
}

/// What is from none of our networks and to none of them is none of our business, but that it would not
/// be forwarded if we were not here.
fn forward() -> Vec<Rule> {
    let closed = |family, links| {
        let rule = Rule::new("forward", "between links that did not forward before");
        let between = rule.family(family).entering_by_any(links).leaving_by_any(links);
        between.verdict(Verdict::Drop)
    };
    let clamp = || Rule::new("forward", "fit segments to the path").first_segment();
    let hosts = || Rule::new("forward", "only hosts talk by the link that encrypts");
    vec![
        hosts().entering_by_any(&ENCRYPTING).verdict(Verdict::Drop),
        hosts().leaving_by_any(&ENCRYPTING).verdict(Verdict::Drop),
        clamp().leaving_by_any(&BRIDGES).clamp_segment(),
        clamp().entering_by_any(&BRIDGES).clamp_segment(),
        Rule::new("forward", "to our bridges")
            .leaving_by_any(&BRIDGES)
            .verdict(Verdict::Jump("into")),
        Rule::new("forward", "from our bridges")
            .entering_by_any(&BRIDGES)
            .verdict(Verdict::Jump("out-of")),
        // What a bridge of somebody's hands from port to port comes by here where br_netfilter is on.
        Rule::new("forward", "not forwarded, but bridged")
            .crossing(&CLOSED_LOOPS)
            .verdict(Verdict::Accept),
        closed(Family::Ipv4, &CLOSED4),
        closed(Family::Ipv6, &CLOSED6),
    ]
}

/// Endpoints that do not talk to each other reach each other's ports by those of the host, and those
/// that they have a passage to.
fn between() -> Vec<Rule> {
    let rule = |comment| Rule::new("between", comment);
    let passage = "a passage";
    vec![
        rule("published port").translated().verdict(Verdict::Accept),
        rule(passage).between_in(Family::Ipv4, &PASSAGES4).verdict(Verdict::Accept),
        rule(passage).between_in(Family::Ipv6, &PASSAGES6).verdict(Verdict::Accept),
        rule("everything else").verdict(Verdict::Drop),
    ]
}

/// Both ends of a connection are told, each when it sends something.
const CUT_RULE: &str = "a connection to a port that was withdrawn";

/// What is not allowed to get into a network is lost, wherever it comes from.
fn into_bridges() -> Vec<Rule> {
    let rule = |comment| Rule::new("into", comment);
    let open = "port of a routed network";
    let anybody = |family, bridges| {
        let rule = rule("unprotected network").family(family).entering_by_none_of(&BRIDGES);
        rule.leaving_by_any(bridges)
    };
    let ends = |comment| rule(comment).entering_by_any(&ENDS).leaving_by_any(&ENDS);
    let by_host = "same network, by the host";
    let together = |family, pairs| ends(by_host).addresses_in(family, pairs);
    let usual = |family, pairs| ends(by_host).subnets_in(family, pairs);
    let passage = |family, ports| ends("a passage, by the host").between_in(family, ports);
    let trusted = "published port, from a trusted link";
    let direct = |family, ports| rule(trusted).crossing(&TRUSTED).destination_in(family, ports);
    vec![
        rule(CUT_RULE).marked(CUT).reset(),
        rule("answers, and errors that belong to a connection")
            .states(ESTABLISHED | RELATED)
            .verdict(Verdict::Accept),
        rule("endpoints that do not talk").crossing(&APART).verdict(Verdict::Jump("between")),
        rule("same network").crossing(&LOOPS).verdict(Verdict::Accept),
        usual(Family::Ipv4, &TOGETHER4_24).verdict(Verdict::Accept),
        usual(Family::Ipv6, &TOGETHER6_64).verdict(Verdict::Accept),
        together(Family::Ipv4, &TOGETHER4).verdict(Verdict::Accept),
        together(Family::Ipv6, &TOGETHER6).verdict(Verdict::Accept),
        passage(Family::Ipv4, &PASSAGES4).verdict(Verdict::Accept),
        passage(Family::Ipv6, &PASSAGES6).verdict(Verdict::Accept),
        rule("into an internal network").leaving_by_any(&INTERNAL).verdict(Verdict::Drop),
        rule("out of an internal network").entering_by_any(&INTERNAL).verdict(Verdict::Drop),
        rule("published port").translated().verdict(Verdict::Accept),
        rule(open).destination_in(Family::Ipv4, &OPEN4).verdict(Verdict::Accept),
        rule(open).destination_in(Family::Ipv6, &OPEN6).verdict(Verdict::Accept),
        direct(Family::Ipv4, &DIRECT4).verdict(Verdict::Accept),
        direct(Family::Ipv6, &DIRECT6).verdict(Verdict::Accept),
        anybody(Family::Ipv4, &UNPROTECTED4).verdict(Verdict::Accept),
        anybody(Family::Ipv6, &UNPROTECTED6).verdict(Verdict::Accept),
        rule("everything else").verdict(Verdict::Drop),
    ]
}

fn out_of_bridges() -> Vec<Rule> {
    let rule = |comment| Rule::new("out-of", comment);
    // Conntrack would let it leave with the container's own address.
    let lost = "belongs to no connection";
    vec![
        rule(CUT_RULE).marked(CUT).reset(),
        rule("out of an internal network").entering_by_any(&INTERNAL).verdict(Verdict::Drop),
        rule(lost)
            .states(INVALID)
            .source_subnet_in(Family::Ipv4, &MASQUERADE4_24)
            .verdict(Verdict::Drop),
        rule(lost)
            .states(INVALID)
            .source_subnet_in(Family::Ipv6, &MASQUERADE6_64)
            .verdict(Verdict::Drop),
        rule(lost).states(INVALID).source_in(Family::Ipv4, &MASQUERADE4).verdict(Verdict::Drop),
        rule(lost).states(INVALID).source_in(Family::Ipv6, &MASQUERADE6).verdict(Verdict::Drop),
    ]
}

fn postrouting() -> Vec<Rule> {
    let rule = |comment| Rule::new("postrouting", comment);
    let leave = "leaves our networks";
    let certain = "leaves our networks by a certain address";
    let leaving = |comment| rule(comment).leaving_by_none(&BRIDGES);
    let source = |family, subnets| rule(leave).source_in(family, subnets);
    let usual = |family, subnets| rule(leave).source_subnet_in(family, subnets);
    vec![
        rule("the host's own business").leaving_by("lo").verdict(Verdict::Accept),
        rule("a neighbour, by a port of the host").translated().crossing(&LOOPS).masquerade(),
        rule("a neighbour, on a bridge that br_netfilter watches")
            .translated()
            .entering_by_none()
            .leaving_by_any(&BRIDGES)
            .source_is_not_local()
            .masquerade(),
        rule("the host, by a port of its localhost")
            .source_is_loopback4()
            .leaving_by_any(&BRIDGES)
            .masquerade(),
        leaving(certain).translate_source_of_subnet(Family::Ipv4, &OUTBOUND4_24),
        leaving(certain).translate_source_of_subnet(Family::Ipv6, &OUTBOUND6_64),
        leaving(certain).translate_source(Family::Ipv4, &OUTBOUND4),
        leaving(certain).translate_source(Family::Ipv6, &OUTBOUND6),
        usual(Family::Ipv4, &MASQUERADE4_24).leaving_by_none(&BRIDGES).masquerade(),
        usual(Family::Ipv6, &MASQUERADE6_64).leaving_by_none(&BRIDGES).masquerade(),
        source(Family::Ipv4, &MASQUERADE4).leaving_by_none(&BRIDGES).masquerade(),
        source(Family::Ipv6, &MASQUERADE6).leaving_by_none(&BRIDGES).masquerade(),
    ]
}

const fn base(
    name: &'static str,
    kind: &'static str,
    number: libc::c_int,
    priority: libc::c_int,
) -> Chain {
    Chain { name, hook: Some(Hook { kind, number, priority }) }
}

const fn around(name: &'static str, number: libc::c_int, priority: libc::c_int) -> Chain {
    base(name, "filter", number, priority)
}
