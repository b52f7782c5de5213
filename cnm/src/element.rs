//! Elements of the sets and maps of the table `inet rnet`: permissions, published ports, what is
//! translated.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{LinkName, Mac, Protocol};

/// An element of one of the sets and maps of the table `inet rnet`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Element {
    /// A bridge of ours: what arrives for it from elsewhere needs a permission. Present.
    Bridge {
        /// The device.
        link: LinkName,
    },
    /// A bridge that nothing passes into or out of. Present.
    Internal {
        /// The device.
        link: LinkName,
    },
    /// An address of the host on a bridge of ours: nobody outside of our networks may use it.
    /// Present.
    Gateway {
        /// The address.
        address: IpAddr,
    },
    /// A bridge whose endpoints may be reached directly, in one family
    /// (gateway modes `routed` and `nat-unprotected`). Present.
    Unprotected {
        /// The device.
        link: LinkName,
        /// Whether it is IPv6 that is open.
        ipv6: bool,
    },
    /// A subnet whose traffic to the outside leaves with the host's address. Present.
    Masquerade {
        /// The subnet.
        subnet: IpNetwork,
    },
    /// A subnet whose traffic to the outside leaves with a certain address of the host. Value:
    /// [`crate::Value::Source`].
    Outbound {
        /// The subnet.
        subnet: IpNetwork,
    },
    /// A link of the host's from which published ports of endpoints may be reached directly.
    /// Present.
    Trusted {
        /// The link.
        from: LinkName,
        /// The bridge that the endpoints are on.
        to: LinkName,
    },
    /// A published port of an endpoint: what comes by a trusted link may reach it directly. Present.
    Direct {
        /// The endpoint's address.
        address: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The endpoint's port.
        port: u16,
    },
    /// A host port of a host address. An unspecified address stands for all of its family.
    /// Value: [`crate::Value::Target`].
    Published {
        /// The host's address.
        host: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The host port.
        port: u16,
    },
    /// Neighbouring host ports that lead to the same ports of an endpoint, as one. An unspecified
    /// address stands for all of its family. Value: [`crate::Value::Target`], whose port is the first.
    PublishedRange {
        /// The host's address.
        host: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The first host port.
        first: u16,
        /// The last one.
        last: u16,
    },
    /// A port of a bridge that only frames with this hardware address may come in by, from the
    /// addresses that [`Element::Source`] names. Present.
    Guarded {
        /// The host link.
        link: LinkName,
        /// The hardware address.
        mac: Mac,
    },
    /// An address that packets may come from by a guarded port. Present.
    Source {
        /// The host link.
        link: LinkName,
        /// The address.
        address: IpAddr,
    },
    /// A port of an endpoint that may be reached directly (gateway mode `routed`). Present.
    Open {
        /// The endpoint's address.
        address: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The endpoint's port.
        port: u16,
    },
    /// A bridge whose endpoints do not talk to each other: what crosses it from port to port by way
    /// of the host needs a permission. Present.
    Apart {
        /// The device.
        link: LinkName,
    },
    /// A port of an endpoint that another one may talk to where endpoints do not talk. Present.
    Passage {
        /// The address of the one that may.
        from: IpAddr,
        /// The address of the other.
        to: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The other's port.
        port: u16,
    },
    /// A link of the host's to an endpoint that is no port of a bridge. What comes by it comes from
    /// the addresses that [`Element::Behind`] names. Present.
    End {
        /// The link.
        link: LinkName,
    },
    /// An address behind such a link. Present.
    Behind {
        /// The link.
        link: LinkName,
        /// The address.
        address: IpAddr,
    },
    /// What the frames of a tunnel of ours are known by: they are let in from
    /// [`Element::TunnelSource`]s only. Present.
    Tunnel {
        /// The UDP port.
        port: u16,
        /// The network's number.
        vni: u32,
    },
    /// A host of the cluster, from which frames of our tunnels are let in. Present.
    TunnelSource {
        /// Its address.
        address: IpAddr,
    },
    /// A link of the host's that encrypts: nothing but frames of [`Element::Encrypted`] tunnels comes by it.
    /// Present.
    Encrypting {
        /// The link.
        link: LinkName,
    },
    /// What the frames of an encrypted tunnel are known by: they come and leave by a link that encrypts, and
    /// by no other. Present.
    Encrypted {
        /// The UDP port.
        port: u16,
        /// The network's number.
        vni: u32,
    },
    /// Two subnets of one network whose endpoints, behind such links, may talk. Present.
    Together {
        /// The subnet of the one that begins.
        from: IpNetwork,
        /// The subnet of the other.
        to: IpNetwork,
    },
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge { link } => write!(f, "bridge {link}"),
            Self::Internal { link } => write!(f, "internal {link}"),
            Self::Gateway { address } => write!(f, "gateway {address}"),
            Self::Unprotected { link, ipv6 } => {
                write!(f, "unprotected {link} {}", if *ipv6 { "ipv6" } else { "ipv4" })
            }
            Self::Masquerade { subnet } => write!(f, "masquerade {subnet}"),
            Self::Outbound { subnet } => write!(f, "outbound {subnet}"),
            Self::Trusted { from, to } => write!(f, "trusted {from} to {to}"),
            Self::Direct { address, protocol, port } => {
                write!(f, "direct {address} {port}/{protocol}")
            }
            Self::Published { host, protocol, port } => {
                write!(f, "published {host} {port}/{protocol}")
            }
            Self::PublishedRange { host, protocol, first, last } => {
                write!(f, "published {host} {first}-{last}/{protocol}")
            }
            Self::Guarded { link, mac } => write!(f, "guarded {link} {mac}"),
            Self::Source { link, address } => write!(f, "source {link} {address}"),
            Self::End { link } => write!(f, "end {link}"),
            Self::Behind { link, address } => write!(f, "behind {link} {address}"),
            Self::Tunnel { port, vni } => write!(f, "tunnel {vni} port {port}"),
            Self::TunnelSource { address } => write!(f, "tunnel source {address}"),
            Self::Encrypting { link } => write!(f, "encrypting {link}"),
            Self::Encrypted { port, vni } => write!(f, "encrypted {vni} port {port}"),
            Self::Together { from, to } => write!(f, "together {from} to {to}"),
            Self::Open { address, protocol, port } => write!(f, "open {address} {port}/{protocol}"),
            Self::Apart { link } => write!(f, "apart {link}"),
            Self::Passage { from, to, protocol, port } => {
                write!(f, "passage {from} to {to} {port}/{protocol}")
            }
        }
    }
}
