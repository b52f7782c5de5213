//! Rules: what nf_tables evaluates for a packet, as values that can be encoded.
//!
//! The kernel has sixteen words of registers of 4 bytes each. A lookup in a set with several
//! fields takes them from neighbouring words, every field rounded up to whole words.

use super::super::nfnetlink::{Attributes, Train};

/// A step of a rule. A rule ends at the first step that does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// Loads something known about the packet that is not in it.
    Meta { key: Meta, word: u32 },
    /// Loads a part of the packet.
    Payload { base: Base, offset: u32, length: u32, word: u32 },
    /// Loads the type of an address of the packet, as the host's routes see it.
    AddressType { end: End, word: u32 },
    /// Loads whether the packet is for a socket with `IP_TRANSPARENT`.
    Transparent { word: u32 },
    /// Loads something known about the packet's connection.
    Connection { key: Connection, word: u32 },
    /// Keeps the bits of a register that are in a mask.
    Mask { word: u32, mask: Vec<u8> },
    /// Goes on if a register is, or is not, equal to the data.
    Compare { word: u32, equal: bool, data: Vec<u8> },
    /// Goes on if a set has, or has not, what the registers hold.
    Member { set: &'static str, word: u32, expected: bool },
    /// Goes on if a map has what the registers hold; loads what it is mapped to.
    Map { map: &'static str, word: u32, to: u32 },
    /// Loads a constant.
    Load { word: u32, data: Vec<u8> },
    /// Replaces the destination's address, and its port, if there is a word for that.
    DestinationNat { family: Family, address: u32, port: Option<u32> },
    /// Replaces the source address.
    SourceNat { family: Family, address: u32 },
    /// Replaces the source by an address of the link the packet leaves by.
    Masquerade,
    /// Lowers the segment size that a SYN announces to what the route can carry.
    ClampSegment { word: u32 },
    /// Refuses the packet: it is lost, and who sent it is told by a reset that the connection has ended.
    Reset,
    /// Writes two bytes of the transport header, of which those at another place are the checksum.
    WritePort { offset: u32, checksum: u32, word: u32 },
    /// Has conntrack leave the packet alone.
    Untracked,
    /// Ends the rule with a decision.
    Verdict(Verdict),
}

/// `NFT_META_…`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meta {
    EtherType = 1,
    InputName = 6,
    OutputName = 7,
    Family = 15,
    Protocol = 16,
}

/// `NFT_CT_…`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    State = 0,
    Status = 2,
    Mark = 3,
}

/// `NFT_PAYLOAD_…`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// `NFTA_FIB_F_…`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Source = 1,
    Destination = 2,
}

/// `NFPROTO_…`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Inet = 1,
    Ipv4 = 2,
    Bridge = 7,
    Ipv6 = 10,
}

/// What a rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// This table lets the packet pass.
    Accept,
    /// The packet is lost, whatever other tables say.
    Drop,
    /// A chain goes on, and comes back if it does not decide.
    Jump(&'static str),
}

/// The first word's number; the first eight numbers are those of the old registers of 16 bytes.
const FIRST_WORD: u32 = 8;

const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_EXPR_NAME: u16 = 1;
pub(super) const NFTA_EXPR_DATA: u16 = 2;
/// The bytes of a value.
pub(super) const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFT_JUMP: i32 = -3;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFT_SOCKET_TRANSPARENT: u32 = 0;
const NFT_LOOKUP_F_INV: u32 = 1;
const NFT_NAT_SNAT: u32 = 0;
const NFT_NAT_DNAT: u32 = 1;
const NFT_PAYLOAD_CSUM_INET: u32 = 1;
const NFT_RT_TCPMSS: u32 = 3;
const NFT_BYTEORDER_HTON: u32 = 1;
const NFT_EXTHDR_OP_TCPOPT: u32 = 1;
const NFT_REJECT_TCP_RST: u32 = 1;
const TCPOPT_MSS: u8 = 2;

/// Whether what an immediate loads is the decision to drop the packet.
pub(super) fn refusal(data: Attributes<'_>) -> bool {
    let verdict = data.within(2).within(NFTA_DATA_VERDICT);
    verdict.number(1) == Some(libc::NF_DROP.cast_unsigned())
}

impl Expression {
    /// Appends the expression, or the few that it takes, to a list of expressions.
    pub(super) fn encode(&self, list: &mut Train) {
        match self {
            Self::Meta { key, word } => element(list, "meta", |a| {
                a.number(1, register(*word));
                a.number(2, *key as u32);
            }),
            Self::Payload { base, offset, length, word } => element(list, "payload", |a| {
                a.number(1, register(*word));
                a.number(2, *base as u32);
                a.number(3, *offset);
                a.number(4, *length);
            }),
            Self::AddressType { end, word } => encode_address_type(list, *end, *word),
            Self::Transparent { word } => element(list, "socket", |a| {
                a.number(1, NFT_SOCKET_TRANSPARENT);
                a.number(2, register(*word));
            }),
            Self::Connection { key, word } => element(list, "ct", |a| {
                a.number(1, register(*word));
                a.number(2, *key as u32);
            }),
            Self::Mask { word, mask } => encode_mask(list, *word, mask),
            Self::Compare { word, equal, data } => element(list, "cmp", |a| {
                a.number(1, register(*word));
                a.number(2, u32::from(!equal));
                a.nested(3, |value| value.bytes(NFTA_DATA_VALUE, data));
            }),
            Self::Member { set, word, expected } => element(list, "lookup", |a| {
                a.text(1, set);
                a.number(2, register(*word));
                if !expected {
                    a.number(5, NFT_LOOKUP_F_INV);
                }
            }),
            Self::Map { map, word, to } => element(list, "lookup", |a| {
                a.text(1, map);
                a.number(2, register(*word));
                a.number(3, register(*to));
            }),
            Self::Load { word, data } => element(list, "immediate", |a| {
                a.number(1, register(*word));
                a.nested(2, |value| value.bytes(NFTA_DATA_VALUE, data));
            }),
            Self::DestinationNat { family, address, port } => {
                encode_nat(list, *family, *address, *port);
            }
            Self::SourceNat { family, address } => encode_source_nat(list, *family, *address),
            Self::Masquerade => element(list, "masq", |_| {}),
            Self::ClampSegment { word } => encode_clamp(list, *word),
            Self::Reset => element(list, "reject", |a| a.number(1, NFT_REJECT_TCP_RST)),
            Self::WritePort { offset, checksum, word } => {
                encode_write_port(list, *offset, *checksum, *word);
            }
            Self::Untracked => element(list, "notrack", |_| {}),
            Self::Verdict(verdict) => element(list, "immediate", |a| {
                a.number(1, 0);
                a.nested(2, |data| data.nested(NFTA_DATA_VERDICT, |v| verdict.encode(v)));
            }),
        }
    }
}

impl Verdict {
    fn encode(self, out: &mut Train) {
        match self {
            Self::Accept => out.number(1, libc::NF_ACCEPT.cast_unsigned()),
            Self::Drop => out.number(1, libc::NF_DROP.cast_unsigned()),
            Self::Jump(chain) => {
                out.number(1, NFT_JUMP.cast_unsigned());
                out.text(2, chain);
            }
        }
    }
}

fn encode_nat(list: &mut Train, family: Family, address: u32, port: Option<u32>) {
    element(list, "nat", |a| {
        a.number(1, NFT_NAT_DNAT);
        a.number(2, family as u32);
        a.number(3, register(address));
        if let Some(port) = port {
            a.number(5, register(port));
        }
    });
}

fn encode_source_nat(list: &mut Train, family: Family, address: u32) {
    element(list, "nat", |a| {
        a.number(1, NFT_NAT_SNAT);
        a.number(2, family as u32);
        a.number(3, register(address));
    });
}

fn encode_write_port(list: &mut Train, offset: u32, checksum: u32, word: u32) {
    element(list, "payload", |a| {
        a.number(2, Base::Transport as u32);
        a.number(3, offset);
        a.number(4, 2);
        a.number(5, register(word));
        a.number(6, NFT_PAYLOAD_CSUM_INET);
        a.number(7, checksum);
    });
}

fn encode_mask(list: &mut Train, word: u32, mask: &[u8]) {
    element(list, "bitwise", |a| {
        a.number(1, register(word));
        a.number(2, register(word));
        a.number(3, u32::try_from(mask.len()).unwrap_or_default());
        a.nested(4, |value| value.bytes(NFTA_DATA_VALUE, mask));
        a.nested(5, |value| value.bytes(NFTA_DATA_VALUE, &vec![0; mask.len()]));
    });
}

fn encode_address_type(list: &mut Train, end: End, word: u32) {
    element(list, "fib", |a| {
        a.number(1, register(word));
        a.number(2, NFT_FIB_RESULT_ADDRTYPE);
        a.number(3, end as u32);
    });
}

/// The kernel never raises a segment size by this.
fn encode_clamp(list: &mut Train, word: u32) {
    element(list, "rt", |a| {
        a.number(1, register(word));
        a.number(2, NFT_RT_TCPMSS);
    });
    element(list, "byteorder", |a| {
        a.number(1, register(word));
        a.number(2, register(word));
        a.number(3, NFT_BYTEORDER_HTON);
        a.number(4, 2);
        a.number(5, 2);
    });
    element(list, "exthdr", |a| {
        a.number(7, register(word));
        a.bytes(2, &[TCPOPT_MSS]);
        a.number(3, 2);
        a.number(4, 2);
        a.number(6, NFT_EXTHDR_OP_TCPOPT);
    });
}

fn register(word: u32) -> u32 {
    FIRST_WORD + word
}

fn element(list: &mut Train, name: &str, fill: impl FnOnce(&mut Train)) {
    list.nested(NFTA_LIST_ELEM, |element| {
        element.text(NFTA_EXPR_NAME, name);
        element.nested(NFTA_EXPR_DATA, fill);
    });
}
