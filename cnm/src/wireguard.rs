//! WireGuard, by which what is encrypted goes from one host of a cluster to another.
//!
//! A host has one link of it ([`LINK`]) with an address that only the cluster's hosts know, and each other host is a
//! peer of that link, which may send from its own such address and from no other. Tunnels of encrypted networks lead from
//! address to address of these. Private keys are not here: the kernel is told of its own, and nobody else.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::LinkName;

/// The link's name. There is one in a network namespace, as there is one daemon there that is in a cluster.
pub const LINK: &str = "rnet-wg0";

/// The UDP port that hosts talk at unless told otherwise.
pub const PORT: u16 = 51_890;

/// The UDP port of tunnels inside, so that they share no socket with those that are in the clear.
pub const TUNNELS: u16 = 4790;

/// The least MTU of the link: what IPv6 needs of a network, and what a tunnel over IPv6 takes of a packet. Where a way takes
/// less than that, what is encrypted is sent in two.
const LEAST_MTU: u32 = 1280 + 70;

/// What a host is known by to the others (X25519).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PublicKey([u8; 32]);

/// A text that is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no key: 32 bytes in base64 are one")]
pub struct KeyError(String);

/// How a host takes part in what is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireGuard {
    /// Its key.
    pub key: PublicKey,
    /// The UDP port that it listens at.
    pub port: u16,
    /// Its address inside.
    pub address: Ipv6Addr,
}

/// Another host, as the link knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// Where it is sent to.
    pub endpoint: SocketAddr,
    /// What it may send from, and what leads to it.
    pub address: Ipv6Addr,
}

impl PublicKey {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for PublicKey {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Self, KeyError> {
        text.parse()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| KeyError(text.to_owned()))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The link's name, as one.
pub fn link() -> LinkName {
    LINK.parse().unwrap_or_else(|_| unreachable!("8 bytes are a link name"))
}

/// What of a packet the link takes for itself, where hosts talk to an address of this family: header, key number, counter
/// and checksum, UDP and IP.
pub fn overhead(outer: IpAddr) -> u32 {
    if outer.is_ipv6() { 80 } else { 60 }
}

/// The MTU of the link, on ways that take packets of this size.
pub fn mtu(way: u32, outer: IpAddr) -> u32 {
    way.saturating_sub(overhead(outer)).max(LEAST_MTU)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_wg_prints() {
        let text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let key: PublicKey = text.parse().unwrap();
        assert_eq!(key.bytes()[31], 31);
        assert_eq!(key.to_string(), text);
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<PublicKey>(&json).unwrap(), key);
        for wrong in ["", "AAEC", "!", &text[..43]] {
            assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_encrypted_is_60_bytes_smaller_or_80() {
        assert_eq!(mtu(1500, [192, 0, 2, 1].into()), 1440);
        assert_eq!(mtu(1500, Ipv6Addr::LOCALHOST.into()), 1420);
        assert_eq!(mtu(1280, Ipv6Addr::LOCALHOST.into()), 1350, "or networks have no IPv6");
    }
}
