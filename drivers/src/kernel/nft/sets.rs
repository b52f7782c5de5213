//! The sets and maps of the table.

use super::expression::Family;
use super::set::{Field, Holds, SetDefinition};

use Field::{Interface, Ipv4, Ipv6, Port, Protocol, Vni};

pub(super) const BRIDGES: SetDefinition = set("bridges", "our bridges", &[Interface]);
pub(super) const LOOPS: SetDefinition =
    set("loops", "our bridges, as way in and way out", &[Interface, Interface]);
pub(super) const INTERNAL: SetDefinition =
    set("internal", "bridges that nothing passes into or out of", &[Interface]);
pub(super) const GATEWAYS4: SetDefinition =
    set("gateways4", "the host's addresses on our bridges", &[Ipv4]);
pub(super) const GATEWAYS6: SetDefinition =
    set("gateways6", "the host's addresses on our bridges", &[Ipv6]);
pub(super) const UNPROTECTED4: SetDefinition =
    set("unprotected4", "bridges that anybody outside may reach into", &[Interface]);
pub(super) const UNPROTECTED6: SetDefinition =
    set("unprotected6", "bridges that anybody outside may reach into", &[Interface]);
pub(super) const OPEN4: SetDefinition =
    set("open4", "ports that anybody may reach directly", &[Ipv4, Protocol, Port]);
pub(super) const OPEN6: SetDefinition =
    set("open6", "ports that anybody may reach directly", &[Ipv6, Protocol, Port]);
pub(super) const MASQUERADE4: SetDefinition =
    ranges("masquerade4", "subnets that leave by the host's address", &[Ipv4]);
pub(super) const MASQUERADE6: SetDefinition =
    ranges("masquerade6", "subnets that leave by the host's address", &[Ipv6]);
pub(super) const MASQUERADE4_24: SetDefinition =
    subnets("masquerade4-24", "/24 subnets that leave by the host's address", &[Ipv4]);
pub(super) const MASQUERADE6_64: SetDefinition =
    subnets("masquerade6-64", "/64 subnets that leave by the host's address", &[Ipv6]);
pub(super) const OUTBOUND4: SetDefinition = SetDefinition {
    holds: Holds::Ranges,
    ..map("outbound4", "subnets that leave by a certain address", &[Ipv4], &[Ipv4])
};
pub(super) const OUTBOUND6: SetDefinition = SetDefinition {
    holds: Holds::Ranges,
    ..map("outbound6", "subnets that leave by a certain address", &[Ipv6], &[Ipv6])
};
pub(super) const OUTBOUND4_24: SetDefinition = SetDefinition {
    holds: Holds::Subnets,
    ..map("outbound4-24", "/24 subnets that leave by a certain address", &[Ipv4], &[Ipv4])
};
pub(super) const OUTBOUND6_64: SetDefinition = SetDefinition {
    holds: Holds::Subnets,
    ..map("outbound6-64", "/64 subnets that leave by a certain address", &[Ipv6], &[Ipv6])
};
pub(super) const TRUSTED: SetDefinition = set(
    "trusted",
    "links, and bridges whose published ports they reach directly",
    &[Interface, Interface],
);
pub(super) const DIRECT4: SetDefinition =
    set("direct4", "ports that trusted links may reach directly", &[Ipv4, Protocol, Port]);
pub(super) const DIRECT6: SetDefinition =
    set("direct6", "ports that trusted links may reach directly", &[Ipv6, Protocol, Port]);
pub(super) const PUBLISHED4: SetDefinition =
    map("published4", "ports of one address of the host", &[Ipv4, Protocol, Port], &[Ipv4, Port]);
pub(super) const PUBLISHED6: SetDefinition =
    map("published6", "ports of one address of the host", &[Ipv6, Protocol, Port], &[Ipv6, Port]);
pub(super) const PUBLISHED4_ANY: SetDefinition =
    map("published4-any", "ports of all addresses of the host", &[Protocol, Port], &[Ipv4, Port]);
pub(super) const PUBLISHED6_ANY: SetDefinition =
    map("published6-any", "ports of all addresses of the host", &[Protocol, Port], &[Ipv6, Port]);
pub(super) const RANGES4: SetDefinition = SetDefinition {
    holds: Holds::Ranges,
    ..map("published4-ranges", "ports that lead to the same ones", &[Ipv4, Protocol, Port], &[Ipv4])
};
pub(super) const RANGES6: SetDefinition = SetDefinition {
    holds: Holds::Ranges,
    ..map("published6-ranges", "ports that lead to the same ones", &[Ipv6, Protocol, Port], &[Ipv6])
};

pub(super) const APART: SetDefinition = set(
    "apart",
    "bridges whose endpoints do not talk, as way in and way out",
    &[Interface, Interface],
);
pub(super) const PASSAGES4: SetDefinition =
    set("passages4", "ports that one endpoint may reach at another", &[Ipv4, Ipv4, Protocol, Port]);
pub(super) const PASSAGES6: SetDefinition =
    set("passages6", "ports that one endpoint may reach at another", &[Ipv6, Ipv6, Protocol, Port]);

pub(super) const CLOSED4: SetDefinition =
    set("closed4", "links that did not forward before we switched it on", &[Interface]);
pub(super) const CLOSED6: SetDefinition =
    set("closed6", "links that did not forward before we switched it on", &[Interface]);

pub(super) const CLOSED_LOOPS: SetDefinition =
    set("closed-loops", "those links, as way in and way out", &[Interface, Interface]);

pub(super) const ENDS: SetDefinition =
    set("ends", "links to one endpoint each, which is on no bridge", &[Interface]);
pub(super) const BEHIND4: SetDefinition =
    set("behind4", "the addresses behind each of them", &[Interface, Ipv4]);
pub(super) const BEHIND6: SetDefinition =
    set("behind6", "the addresses behind each of them", &[Interface, Ipv6]);
pub(super) const TOGETHER4: SetDefinition =
    ranges("together4", "subnets whose endpoints behind such links may talk", &[Ipv4, Ipv4]);
pub(super) const TOGETHER6: SetDefinition =
    ranges("together6", "subnets whose endpoints behind such links may talk", &[Ipv6, Ipv6]);

pub(super) const TOGETHER4_24: SetDefinition = subnets(
    "together4-24",
    "/24 subnets whose endpoints behind such links may talk",
    &[Ipv4, Ipv4],
);
pub(super) const TOGETHER6_64: SetDefinition = subnets(
    "together6-64",
    "/64 subnets whose endpoints behind such links may talk",
    &[Ipv6, Ipv6],
);

pub(super) const TUNNELS: SetDefinition =
    set("tunnels", "ports and network numbers of our tunnels", &[Port, Vni]);
pub(super) const TUNNEL_SOURCES4: SetDefinition =
    set("tunnel-sources4", "hosts whose tunnels are let in", &[Ipv4]);
pub(super) const TUNNEL_SOURCES6: SetDefinition =
    set("tunnel-sources6", "hosts whose tunnels are let in", &[Ipv6]);

pub(super) const ENCRYPTING: SetDefinition = set("encrypting", "links that encrypt", &[Interface]);
pub(super) const ENCRYPTED: SetDefinition =
    set("encrypted", "ports and network numbers of tunnels that are encrypted", &[Port, Vni]);

/// All sets and maps of the table.
pub(super) const SETS: [&SetDefinition; 44] = [
    &BRIDGES,
    &LOOPS,
    &INTERNAL,
    &GATEWAYS4,
    &GATEWAYS6,
    &UNPROTECTED4,
    &UNPROTECTED6,
    &OPEN4,
    &OPEN6,
    &MASQUERADE4,
    &MASQUERADE6,
    &MASQUERADE4_24,
    &MASQUERADE6_64,
    &OUTBOUND4,
    &OUTBOUND6,
    &OUTBOUND4_24,
    &OUTBOUND6_64,
    &TRUSTED,
    &DIRECT4,
    &DIRECT6,
    &PUBLISHED4,
    &PUBLISHED6,
    &PUBLISHED4_ANY,
    &PUBLISHED6_ANY,
    &RANGES4,
    &RANGES6,
    &APART,
    &PASSAGES4,
    &PASSAGES6,
    &CLOSED4,
    &CLOSED6,
    &CLOSED_LOOPS,
    &ENDS,
    &BEHIND4,
    &BEHIND6,
    &TOGETHER4,
    &TOGETHER6,
    &TOGETHER4_24,
    &TOGETHER6_64,
    &TUNNELS,
    &TUNNEL_SOURCES4,
    &TUNNEL_SOURCES6,
    &ENCRYPTING,
    &ENCRYPTED,
];

const fn set(name: &'static str, comment: &'static str, key: &'static [Field]) -> SetDefinition {
    SetDefinition { name, comment, key, data: &[], holds: Holds::Keys, family: Family::Inet }
}

const fn ranges(name: &'static str, comment: &'static str, key: &'static [Field]) -> SetDefinition {
    SetDefinition { name, comment, key, data: &[], holds: Holds::Ranges, family: Family::Inet }
}

const fn subnets(
    name: &'static str,
    comment: &'static str,
    key: &'static [Field],
) -> SetDefinition {
    SetDefinition { holds: Holds::Subnets, ..set(name, comment, key) }
}

const fn map(
    name: &'static str,
    comment: &'static str,
    key: &'static [Field],
    data: &'static [Field],
) -> SetDefinition {
    SetDefinition { name, comment, key, data, holds: Holds::Keys, family: Family::Inet }
}
