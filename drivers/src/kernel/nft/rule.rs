//! Rules written as sentences; each method is one match or one action.

use cnm::Protocol;

use super::expression::{Base, Connection, End, Expression, Family, Meta, Verdict};
use super::set::{Field, SetDefinition, usual_prefix};

/// A rule under construction, or done.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Its chain.
    pub(super) chain: &'static str,
    /// What it is for; printed by `nft list table`.
    pub(super) comment: &'static str,
    /// What it does.
    pub(super) expressions: Vec<Expression>,
}

/// Connection states, `NF_STATE_BIT`.
pub(super) const ESTABLISHED: u32 = 2;
/// A connection that another one brought about, or an error that concerns one.
pub(super) const RELATED: u32 = 4;
/// A packet of no connection that could be.
pub(super) const INVALID: u32 = 1;
/// The first packet of a connection.
pub(super) const NEW: u32 = 8;
/// A packet that conntrack was told not to look at.
pub(super) const UNTRACKED: u32 = 64;

/// `IPS_DST_NAT`: the connection's destination was replaced.
const DESTINATION_NAT: u32 = 1 << 5;
const ICMPV6: u8 = 58;
/// `RTN_LOCAL`
const LOCAL: u32 = 2;
const TCP_FLAGS_OFFSET: u32 = 13;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
/// Where TCP, UDP and SCTP have the ports.
const SOURCE_PORT_OFFSET: u32 = 0;
const DESTINATION_PORT_OFFSET: u32 = 2;

impl Rule {
    /// An empty rule, which matches everything and does nothing.
    pub(super) fn new(chain: &'static str, comment: &'static str) -> Self {
        Self { chain, comment, expressions: Vec::new() }
    }

    /// Packets of one family.
    pub(super) fn family(self, family: Family) -> Self {
        self.with(Expression::Meta { key: Meta::Family, word: 0 }).equals(vec![family as u8])
    }

    /// Packets that came in by any other link than this one.
    pub(super) fn not_entering_by(self, link: &str) -> Self {
        self.with(Expression::Meta { key: Meta::InputName, word: 0 }).differs(interface(link))
    }

    /// Packets that came in by no link: the host's own, and frames of a bridge that `br_netfilter`
    /// shows when they leave it.
    pub(super) fn entering_by_none(self) -> Self {
        self.with(Expression::Meta { key: Meta::InputName, word: 0 }).equals(interface(""))
    }

    /// Packets that leave by this link.
    pub(super) fn leaving_by(self, link: &str) -> Self {
        self.with(Expression::Meta { key: Meta::OutputName, word: 0 }).equals(interface(link))
    }

    /// Packets that came in by a link of a set.
    pub(super) fn entering_by_any(self, set: &SetDefinition) -> Self {
        let load = Expression::Meta { key: Meta::InputName, word: 0 };
        self.with(load).member(set, true)
    }

    /// Packets that came in by a link that is not in a set.
    pub(super) fn entering_by_none_of(self, set: &SetDefinition) -> Self {
        let load = Expression::Meta { key: Meta::InputName, word: 0 };
        self.with(load).member(set, false)
    }

    /// Packets that leave by a link of a set.
    pub(super) fn leaving_by_any(self, set: &SetDefinition) -> Self {
        let load = Expression::Meta { key: Meta::OutputName, word: 0 };
        self.with(load).member(set, true)
    }

    /// Packets that leave by a link that is not in a set.
    pub(super) fn leaving_by_none(self, set: &SetDefinition) -> Self {
        let load = Expression::Meta { key: Meta::OutputName, word: 0 };
        self.with(load).member(set, false)
    }

    /// Packets whose pair of links, in and out, is in a set.
    pub(super) fn crossing(self, set: &SetDefinition) -> Self {
        self.with(Expression::Meta { key: Meta::InputName, word: 0 })
            .with(Expression::Meta { key: Meta::OutputName, word: Field::Interface.words() })
            .member(set, true)
    }

    /// Packets from 127.0.0.0/8.
    pub(super) fn source_is_loopback4(self) -> Self {
        self.family(Family::Ipv4).with(network(12, 1)).equals(vec![127])
    }

    /// Packets to 127.0.0.0/8.
    pub(super) fn destination_is_loopback4(self) -> Self {
        self.family(Family::Ipv4).with(network(16, 1)).equals(vec![127])
    }

    /// Packets to `::1`.
    pub(super) fn destination_is_loopback6(self) -> Self {
        let loopback = std::net::Ipv6Addr::LOCALHOST.octets().to_vec();
        self.family(Family::Ipv6).with(network(24, 16)).equals(loopback)
    }

    /// Packets to `fe80::/10`.
    pub(super) fn destination_is_link_local6(self) -> Self {
        self.family(Family::Ipv6).link_local6(24)
    }

    /// Packets that have an address of `fe80::/10` at a place of the network header.
    fn link_local6(self, offset: u32) -> Self {
        let mut mask = vec![0; 16];
        mask[..2].copy_from_slice(&[0xff, 0xc0]);
        let mut prefix = vec![0; 16];
        prefix[..2].copy_from_slice(&[0xfe, 0x80]);
        self.with(network(offset, 16)).with(Expression::Mask { word: 0, mask }).equals(prefix)
    }

    /// Packets to one IPv4 address.
    pub(super) fn destination_is(self, address: std::net::Ipv4Addr) -> Self {
        self.with(network(16, 4)).equals(address.octets().to_vec())
    }

    /// Packets from one IPv4 address.
    pub(super) fn source_is(self, address: std::net::Ipv4Addr) -> Self {
        self.with(network(12, 4)).equals(address.octets().to_vec())
    }

    /// Packets whose source is in a set of addresses.
    pub(super) fn source_in(self, family: Family, set: &SetDefinition) -> Self {
        let (offset, length) = if family == Family::Ipv4 { (12, 4) } else { (8, 16) };
        self.family(family).with(network(offset, length)).member(set, true)
    }

    /// Packets whose two addresses, from and to, are in a set.
    pub(super) fn addresses_in(self, family: Family, set: &SetDefinition) -> Self {
        let (offset, field) = source(family);
        let (base, length) = (Base::Network, field.length());
        let to = Expression::Payload { base, offset: offset + length, length, word: field.words() };
        self.family(family).with(network(offset, length)).with(to).member(set, true)
    }

    /// Packets whose addresses, from and to, are in a set of pairs of subnets of the usual size.
    pub(super) fn subnets_in(self, family: Family, set: &SetDefinition) -> Self {
        let (offset, field) = source(family);
        let (base, length, word) = (Base::Network, field.length(), field.words());
        self.source_subnet(family)
            .with(Expression::Payload { base, offset: offset + length, length, word })
            .with(Expression::Mask { word, mask: usual_mask(field) })
            .member(set, true)
    }

    /// Packets whose source is in one of a set of subnets of the usual size.
    pub(super) fn source_subnet_in(self, family: Family, set: &SetDefinition) -> Self {
        self.source_subnet(family).member(set, true)
    }

    /// The first address of the subnet of the usual size that the source is in: to be looked up.
    fn source_subnet(self, family: Family) -> Self {
        let (offset, field) = source(family);
        self.family(family)
            .with(network(offset, field.length()))
            .with(Expression::Mask { word: 0, mask: usual_mask(field) })
    }

    /// Datagrams whose port, and number of a tunnel's network, are in a set.
    pub(super) fn tunnelled_in(self, set: &SetDefinition) -> Self {
        let word = Field::Port.words();
        let number = Expression::Payload { base: Base::Transport, offset: 12, length: 3, word };
        self.protocol(Protocol::Udp).with(destination_port(0)).with(number).member(set, true)
    }

    /// Packets whose source is not in a set of addresses.
    pub(super) fn source_not_in(self, family: Family, set: &SetDefinition) -> Self {
        let (offset, field) = source(family);
        self.family(family).with(network(offset, field.length())).member(set, false)
    }

    /// Packets from `fe80::/10`.
    pub(super) fn source_is_link_local6(self) -> Self {
        self.family(Family::Ipv6).link_local6(8)
    }

    /// Packets whose destination is in a set of addresses.
    pub(super) fn destination_address_in(self, family: Family, set: &SetDefinition) -> Self {
        let (offset, length) = if family == Family::Ipv4 { (16, 4) } else { (24, 16) };
        self.family(family).with(network(offset, length)).member(set, true)
    }

    /// Packets to an address of the host itself.
    pub(super) fn destination_is_local(self) -> Self {
        let load = Expression::AddressType { end: End::Destination, word: 0 };
        self.with(load).equals(LOCAL.to_ne_bytes().to_vec())
    }

    /// Packets whose source is no address of the host itself.
    pub(super) fn source_is_not_local(self) -> Self {
        let load = Expression::AddressType { end: End::Source, word: 0 };
        self.with(load).differs(LOCAL.to_ne_bytes().to_vec())
    }

    /// Packets whose connection is in one of these states.
    pub(super) fn states(self, states: u32) -> Self {
        self.with(Expression::Connection { key: Connection::State, word: 0 }).any_bit(states)
    }

    /// Packets of connections that came to a published port.
    pub(super) fn translated(self) -> Self {
        let load = Expression::Connection { key: Connection::Status, word: 0 };
        self.with(load).any_bit(DESTINATION_NAT)
    }

    /// Packets of TCP connections that have this mark.
    pub(super) fn marked(self, mark: u32) -> Self {
        let load = Expression::Connection { key: Connection::Mark, word: 0 };
        self.with(load).equals(mark.to_ne_bytes().to_vec()).protocol(Protocol::Tcp)
    }

    /// Packets for a socket that reserves a port; those are marked by `IP_TRANSPARENT`.
    pub(super) fn for_reserving_socket(self) -> Self {
        self.with(Expression::Transparent { word: 0 }).equals(vec![1])
    }

    /// The first packets of TCP connections, of either direction.
    pub(super) fn first_segment(self) -> Self {
        let flags = Expression::Payload {
            base: Base::Transport,
            offset: TCP_FLAGS_OFFSET,
            length: 1,
            word: 0,
        };
        self.protocol(Protocol::Tcp)
            .with(flags)
            .with(Expression::Mask { word: 0, mask: vec![SYN | RST] })
            .equals(vec![SYN])
    }

    /// Packets of one transport protocol to one port.
    pub(super) fn destination_port_is(self, protocol: Protocol, port: u16) -> Self {
        self.protocol(protocol).with(destination_port(0)).equals(port.to_be_bytes().to_vec())
    }

    /// Packets of one transport protocol from one port.
    pub(super) fn source_port_is(self, protocol: Protocol, port: u16) -> Self {
        let offset = SOURCE_PORT_OFFSET;
        let load = Expression::Payload { base: Base::Transport, offset, length: 2, word: 0 };
        self.protocol(protocol).with(load).equals(port.to_be_bytes().to_vec())
    }

    /// Packets whose destination address, protocol and port are in a set.
    pub(super) fn destination_in(self, family: Family, set: &SetDefinition) -> Self {
        self.family(family).load_destination(family).member(set, true)
    }

    /// Packets whose addresses, from and to, protocol and port are in a set.
    pub(super) fn between_in(self, family: Family, set: &SetDefinition) -> Self {
        let (offset, field) =
            if family == Family::Ipv4 { (12, Field::Ipv4) } else { (8, Field::Ipv6) };
        self.family(family)
            .with(network(offset, field.length()))
            .load_destination_at(family, field.words())
            .member(set, true)
    }

    /// Leads to where a map maps destination address, protocol and port to.
    pub(super) fn translate_by_address(self, family: Family, map: &SetDefinition) -> Self {
        self.family(family).load_destination(family).translate(family, map)
    }

    /// Leads to the same port of where a map maps destination address, protocol and port to.
    pub(super) fn translate_address(self, family: Family, map: &SetDefinition) -> Self {
        self.family(family)
            .load_destination(family)
            .with(Expression::Map { map: map.name, word: 0, to: 0 })
            .with(Expression::DestinationNat { family, address: 0, port: None })
    }

    /// Leads to where a map maps protocol and port to.
    pub(super) fn translate_by_port(self, family: Family, map: &SetDefinition) -> Self {
        self.family(family)
            .with(Expression::Meta { key: Meta::Protocol, word: 0 })
            .with(destination_port(1))
            .translate(family, map)
    }

    /// Has the packet go to another port, whatever its connection.
    pub(super) fn write_destination_port(self, protocol: Protocol, port: u16) -> Self {
        self.write_port(DESTINATION_PORT_OFFSET, protocol, port)
    }

    /// Has the packet come from another port, whatever its connection.
    pub(super) fn write_source_port(self, protocol: Protocol, port: u16) -> Self {
        self.write_port(SOURCE_PORT_OFFSET, protocol, port)
    }

    fn write_port(self, offset: u32, protocol: Protocol, port: u16) -> Self {
        let checksum = if protocol == Protocol::Tcp { 16 } else { 6 };
        self.with(Expression::Load { word: 0, data: port.to_be_bytes().to_vec() })
            .with(Expression::WritePort { offset, checksum, word: 0 })
    }

    /// Gives the packet's connection the source address of the link it leaves by.
    pub(super) fn masquerade(self) -> Self {
        self.with(Expression::Masquerade)
    }

    /// Gives the packet's connection the source address that a map maps its source to.
    pub(super) fn translate_source(self, family: Family, map: &SetDefinition) -> Self {
        let (offset, field) = source(family);
        self.family(family).with(network(offset, field.length())).snat(family, map)
    }

    /// Gives the packet's connection the source address that a map maps the source's subnet to.
    pub(super) fn translate_source_of_subnet(self, family: Family, map: &SetDefinition) -> Self {
        self.source_subnet(family).snat(family, map)
    }

    fn snat(self, family: Family, map: &SetDefinition) -> Self {
        self.with(Expression::Map { map: map.name, word: 0, to: 0 })
            .with(Expression::SourceNat { family, address: 0 })
    }

    /// Lowers the announced segment size to what the route can carry.
    pub(super) fn clamp_segment(self) -> Self {
        self.with(Expression::ClampSegment { word: 0 })
    }

    /// Tells who sent the packet that the connection has ended, and lets it go no further.
    pub(super) fn reset(self) -> Self {
        self.with(Expression::Reset)
    }

    /// Has conntrack leave the packet alone; the rule goes on.
    pub(super) fn untracked(self) -> Self {
        self.with(Expression::Untracked)
    }

    /// Decides.
    pub(super) fn verdict(self, verdict: Verdict) -> Self {
        self.with(Expression::Verdict(verdict))
    }

    // === Frames ===

    /// Frames that carry something.
    pub(super) fn ethertype_is(self, ethertype: u16) -> Self {
        let load = Expression::Meta { key: Meta::EtherType, word: 0 };
        self.with(load).equals(ethertype.to_be_bytes().to_vec())
    }

    /// Frames whose port and hardware address are not in a set.
    pub(super) fn frame_source_not_in(self, set: &SetDefinition) -> Self {
        let word = Field::Interface.words();
        let source = Expression::Payload { base: Base::Link, offset: 6, length: 6, word };
        self.port().with(source).unknown_to(set)
    }

    /// The port that a frame came in by, and the source of what it carries: to be looked up.
    pub(super) fn port_and_source(self, family: Family) -> Self {
        let (offset, field) = source(family);
        self.port_and_network(offset, field)
    }

    /// The port that a frame came in by, and a field of what it carries: to be looked up.
    pub(super) fn port_and_network(self, offset: u32, field: Field) -> Self {
        let (length, word) = (field.length(), Field::Interface.words());
        self.port().with(Expression::Payload { base: Base::Network, offset, length, word })
    }

    /// The port that a frame came in by, and the target of a message of `ICMPv6`: to be looked up.
    pub(super) fn port_and_icmp6_target(self) -> Self {
        let (length, word) = (Field::Ipv6.length(), Field::Interface.words());
        self.port().with(Expression::Payload { base: Base::Transport, offset: 8, length, word })
    }

    /// Goes on if what is to be looked up is in a set.
    pub(super) fn known_to(self, set: &SetDefinition) -> Self {
        self.member(set, true)
    }

    /// Goes on if what is to be looked up is not in a set.
    pub(super) fn unknown_to(self, set: &SetDefinition) -> Self {
        self.member(set, false)
    }

    /// Packets that have no source.
    pub(super) fn source_is_unspecified(self, family: Family) -> Self {
        let (offset, field) = source(family);
        self.network_is(offset, vec![0; if field == Field::Ipv4 { 4 } else { 16 }])
    }

    /// Packets with this data at a place of the network header.
    pub(super) fn network_is(self, offset: u32, data: Vec<u8>) -> Self {
        let length = u32::try_from(data.len()).unwrap_or_default();
        self.with(network(offset, length)).equals(data)
    }

    /// Packets of `ICMPv6`.
    pub(super) fn icmp6(self) -> Self {
        let load = Expression::Meta { key: Meta::Protocol, word: 0 };
        self.with(load).equals(vec![ICMPV6])
    }

    /// Messages of `ICMPv6` of one type.
    pub(super) fn icmp6_is(self, kind: u8) -> Self {
        let load = Expression::Payload { base: Base::Transport, offset: 0, length: 1, word: 0 };
        self.icmp6().with(load).equals(vec![kind])
    }

    fn port(self) -> Self {
        self.with(Expression::Meta { key: Meta::InputName, word: 0 })
    }

    fn protocol(self, protocol: Protocol) -> Self {
        self.with(Expression::Meta { key: Meta::Protocol, word: 0 }).equals(vec![protocol.number()])
    }

    fn load_destination(self, family: Family) -> Self {
        self.load_destination_at(family, 0)
    }

    /// Address, protocol and port of the destination, from a word on.
    fn load_destination_at(self, family: Family, word: u32) -> Self {
        let (offset, field) =
            if family == Family::Ipv4 { (16, Field::Ipv4) } else { (24, Field::Ipv6) };
        let (base, length) = (Base::Network, field.length());
        self.with(Expression::Payload { base, offset, length, word })
            .with(Expression::Meta { key: Meta::Protocol, word: word + field.words() })
            .with(destination_port(word + field.words() + 1))
    }

    fn translate(self, family: Family, map: &SetDefinition) -> Self {
        let field = if family == Family::Ipv4 { Field::Ipv4 } else { Field::Ipv6 };
        self.with(Expression::Map { map: map.name, word: 0, to: 0 })
            .with(Expression::DestinationNat { family, address: 0, port: Some(field.words()) })
    }

    fn member(self, set: &SetDefinition, expected: bool) -> Self {
        self.with(Expression::Member { set: set.name, word: 0, expected })
    }

    fn any_bit(self, bits: u32) -> Self {
        self.with(Expression::Mask { word: 0, mask: bits.to_ne_bytes().to_vec() })
            .differs(vec![0; 4])
    }

    fn equals(self, data: Vec<u8>) -> Self {
        self.with(Expression::Compare { word: 0, equal: true, data })
    }

    fn differs(self, data: Vec<u8>) -> Self {
        self.with(Expression::Compare { word: 0, equal: false, data })
    }

    fn with(mut self, expression: Expression) -> Self {
        self.expressions.push(expression);
        self
    }
}

/// Where packets of a family have their source.
fn source(family: Family) -> (u32, Field) {
    if family == Family::Ipv4 { (12, Field::Ipv4) } else { (8, Field::Ipv6) }
}

/// What is the same in all addresses of a subnet of the usual size.
fn usual_mask(field: Field) -> Vec<u8> {
    let length = if field == Field::Ipv4 { 4 } else { 16 };
    let same = usize::from(usual_prefix(field == Field::Ipv6) / 8);
    (0..length).map(|byte| if byte < same { u8::MAX } else { 0 }).collect()
}

fn network(offset: u32, length: u32) -> Expression {
    Expression::Payload { base: Base::Network, offset, length, word: 0 }
}

fn destination_port(word: u32) -> Expression {
    Expression::Payload { base: Base::Transport, offset: DESTINATION_PORT_OFFSET, length: 2, word }
}

/// A link's name as the kernel compares it.
pub(super) fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(libc::IFNAMSIZ, 0);
    bytes
}
