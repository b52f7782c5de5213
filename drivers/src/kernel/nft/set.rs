//! Sets and maps: what their keys and values consist of.

use super::expression::Family;

/// A named set, or a map where it has `data`.
#[derive(Debug)]
pub(super) struct SetDefinition {
    /// Its name.
    pub(super) name: &'static str,
    /// What it is for; printed by `nft list table`.
    pub(super) comment: &'static str,
    /// The fields of its keys.
    pub(super) key: &'static [Field],
    /// The fields of what the keys are mapped to.
    pub(super) data: &'static [Field],
    /// What each of its keys stands for.
    pub(super) holds: Holds,
    /// The family of its table.
    pub(super) family: Family,
}

/// What the keys of a set stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// Themselves.
    Keys,
    /// All keys up to another one; of several fields each has a range of its own.
    Ranges,
    /// Subnets of the usual size, by their first addresses. The kernel goes through all ranges of a set
    /// to change one of them (Linux 6.18); these are looked up.
    Subnets,
}

impl SetDefinition {
    /// Whether its keys have several fields.
    pub(super) fn is_concatenation(&self) -> bool {
        self.key.len() > 1
    }
}

/// The size of nearly all subnets: what the default pools are cut into, a whole number of bytes.
pub(super) const fn usual_prefix(ipv6: bool) -> u8 {
    if ipv6 { 64 } else { 24 }
}

/// A field of a key or a value. Every field takes whole words of 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Ipv4,
    Ipv6,
    Protocol,
    Port,
    Interface,
    Mac,
    /// The number of a tunnel's network (VXLAN).
    Vni,
}

impl Field {
    /// Its bytes before rounding up.
    pub(super) const fn length(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Vni => 3,
            Self::Ipv4 => 4,
            Self::Mac => 6,
            Self::Ipv6 | Self::Interface => 16,
        }
    }

    /// The words it takes.
    pub(super) const fn words(self) -> u32 {
        self.length().div_ceil(4)
    }

    /// The number by which `nft` knows the type; the kernel only keeps it.
    const fn type_number(self) -> u32 {
        match self {
            // `nft` has no type for them; so it shows them as addresses, 4096 as 0.16.0.0.
            Self::Ipv4 | Self::Vni => 7,
            Self::Ipv6 => 8,
            Self::Mac => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Interface => 41,
        }
    }
}

/// The number of a type of several fields, as `nft` makes it up.
pub(super) fn type_number(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |number, field| number << 6 | field.type_number())
}

/// The bytes of a key or a value.
pub(super) fn length(fields: &[Field]) -> u32 {
    match fields {
        // The last word of a single field is not filled up.
        [single] => single.length(),
        several => several.iter().map(|field| field.words() * 4).sum(),
    }
}
