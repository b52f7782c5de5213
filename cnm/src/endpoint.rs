//! Endpoints: where a sandbox joins a network.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{EndpointId, LinkName, NetworkId, SandboxId};

/// One sandbox on one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its identity.
    pub id: EndpointId,
    /// The network joined.
    pub network: NetworkId,
    /// The sandbox that joined.
    pub sandbox: SandboxId,
    /// The interface inside the sandbox, such as `eth0`.
    pub interface: LinkName,
    /// The interface's hardware address.
    pub mac: Mac,
    /// Addresses with the prefix length of their subnet; at most one of each family.
    pub addresses: Vec<IpNetwork>,
    /// Link-local addresses beside those (`--link-local-ip`), which need no subnet of ours.
    pub link_local: Vec<IpAddr>,
    /// The gateways that came with lent addresses; those of other addresses are the pools'.
    pub gateways: Vec<IpAddr>,
    /// Extra names on this network only (`--network-alias`).
    pub aliases: Vec<String>,
    /// The endpoint with the highest priority provides the sandbox's default routes.
    pub gateway_priority: i32,
    /// Position among the sandbox's endpoints, in the order they joined.
    pub order: u32,
    /// Whether the sandbox's default routes may lead through it.
    pub default_route: bool,
    /// Whether it may send from any address, its own or not.
    pub any_source: bool,
    /// Routes through it to some destinations.
    pub routes: Vec<StaticRoute>,
    /// Sysctls of its interface: paths below `/proc/sys` with their values.
    pub sysctls: Vec<(String, String)>,
    /// Options as given (`--driver-opt`).
    pub given_options: BTreeMap<String, String>,
    /// What somebody else made for it, where its network's driver does not plan its link.
    pub handover: Option<Handover>,
}

/// A link that somebody else made for an endpoint, and what came with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The link, as it is called on the host; nothing where the endpoint has no link at all.
    pub link: Option<LinkName>,
    /// Its gateways, at most one of each family. The pools' are nothing to it.
    pub gateways: Vec<IpAddr>,
    /// Routes by it; directly connected where there is no gateway.
    pub routes: Vec<StaticRoute>,
}

/// A route that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticRoute {
    /// The destination.
    pub destination: IpNetwork,
    /// The gateway; that of the network if absent.
    pub via: Option<IpAddr>,
}

impl Endpoint {
    /// The host's end of the pair: `veth` and 7 digits of the id.
    pub fn host_link(&self) -> LinkName {
        Self::host_link_of(&self.id)
    }

    /// The host's end of the pair of the endpoint with this id.
    pub fn host_link_of(id: &EndpointId) -> LinkName {
        let text = format!("veth{:.7}", id.as_str());
        text.parse().unwrap_or_else(|_| unreachable!("11 hexadecimal bytes are a link name"))
    }

    /// Its link-local addresses, with the prefix lengths that all of them have.
    pub fn link_local_networks(&self) -> impl Iterator<Item = IpNetwork> {
        let network = |address: &IpAddr| {
            let length = if address.is_ipv4() { 16 } else { 64 };
            IpNetwork::new(*address, length).ok()
        };
        self.link_local.iter().filter_map(network)
    }

    /// The address of the given family.
    pub fn address(&self, ipv6: bool) -> Option<IpNetwork> {
        self.addresses.iter().copied().find(|a| a.is_ipv6() == ipv6)
    }
}

/// A port of a sandbox published on the host; what a request became after allocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortBinding {
    /// The host address; an unspecified address (`0.0.0.0`, `::`) stands for all of its family.
    pub host: IpAddr,
    /// The host port.
    pub host_port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The port inside the sandbox.
    pub port: u16,
}

/// A transport protocol that ports are published for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, 6.
    #[default]
    Tcp,
    /// UDP, 17.
    Udp,
    /// SCTP, 132.
    Sctp,
}

impl Protocol {
    /// The name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The number in the IP header (IANA protocol numbers).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a protocol: use tcp, udp or sctp")]
pub struct ProtocolError(String);

impl FromStr for Protocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(ProtocolError(text.to_owned())),
        }
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

/// A text that is no usable Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a usable MAC address: six hexadecimal bytes of a unicast address")]
pub struct MacError(String);

impl Mac {
    /// All zeros, which no interface has.
    pub const UNSPECIFIED: Self = Self([0; 6]);

    /// A locally administered unicast address from six random bytes.
    pub fn from_random(mut bytes: [u8; 6]) -> Self {
        bytes[0] = (bytes[0] | 0x02) & 0xfe;
        Self(bytes)
    }

    /// A locally administered unicast address that follows from texts, the same in all releases.
    pub fn derived(texts: &[&str]) -> Self {
        // FNV-1a: nobody is to be kept from finding another text with the same address.
        let bytes = texts.iter().flat_map(|text| text.bytes().chain([0]));
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let [_, _, bytes @ ..] = hash.to_be_bytes();
        Self::from_random(bytes)
    }

    /// The six bytes, in the order of transmission.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl From<[u8; 6]> for Mac {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(hex).ok_or_else(error)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() || bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(error());
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_is_read_and_written() {
        let mac: Mac = "02:42:AC:11:00:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:ff");
        assert_eq!("02-42-ac-11-00-ff".parse(), Ok(mac));
        assert_eq!(mac.octets(), [0x02, 0x42, 0xac, 0x11, 0x00, 0xff]);
    }

    #[test]
    fn hardware_addresses_that_no_link_can_have_are_refused() {
        for text in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "02:42:ac:11:00:2",
            "02:42:ac:11:00:zz",
            "02:42:ac:11:00:+2",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
        ] {
            let error = text.parse::<Mac>().unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("`{text}` is not a usable MAC address"))
            );
        }
    }

    #[test]
    fn random_hardware_addresses_are_local_and_unicast() {
        for first in [0x00, 0x01, 0xfe, 0xff] {
            let mac = Mac::from_random([first; 6]);
            assert_eq!(mac.octets()[0] & 0x03, 0x02);
            assert_eq!(mac.to_string().parse(), Ok(mac));
        }
    }

    #[test]
    fn protocols_are_read_in_any_case() {
        for (text, number) in [("tcp", 6), ("UDP", 17), ("Sctp", 132)] {
            let protocol: Protocol = text.parse().unwrap();
            assert_eq!((protocol.number(), protocol.to_string()), (number, text.to_lowercase()));
        }
        let error = "icmp".parse::<Protocol>().unwrap_err();
        assert_eq!(error.to_string(), "`icmp` is not a protocol: use tcp, udp or sctp");
    }

    #[test]
    fn the_host_end_is_named_after_the_endpoint() {
        let id = EndpointId::from_random([0xab; 32]);
        assert_eq!(Endpoint::host_link_of(&id).as_str(), "vethabababa");
    }
}
