//! Links: network interfaces as plain data.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::wireguard::PublicKey;
use crate::{LinkName, Mac, Ns};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// What kind of link it is, with what only that kind has.
    pub kind: LinkKind,
    /// The hardware address; the kernel's choice if absent.
    pub mac: Option<Mac>,
    /// The MTU in bytes, where it is not 1500. That of a pair is of both its ends.
    pub mtu: Option<u32>,
    /// Whether it is switched on. What is desired always is.
    pub up: bool,
    /// Whose it is; kept in an alias.
    pub tag: String,
}

/// The kinds of links. Each has a file of its own in `drivers::kernel::link`, which knows how the
/// kernel is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// A bridge.
    Bridge,
    /// The end of a pair that is in a sandbox.
    Veth {
        /// The end on the host.
        peer: LinkName,
    },
    /// A link with a hardware address of its own on a link of the host.
    Macvlan {
        /// The host's link.
        parent: LinkName,
        /// Whom it may talk to.
        mode: MacvlanMode,
    },
    /// A link that shares the hardware address of a link of the host.
    Ipvlan {
        /// The host's link.
        parent: LinkName,
        /// What it looks at to tell whose a packet is.
        mode: IpvlanMode,
        /// Whom it may talk to.
        flag: IpvlanFlag,
    },
    /// A VLAN of a link of the host (IEEE 802.1Q).
    Vlan {
        /// The host's link.
        parent: LinkName,
        /// The VLAN, 1 to 4094.
        id: u16,
    },
    /// A tunnel for frames (RFC 7348). What it forwards to whom is in [`crate::Key::Fdb`]: it
    /// learns nothing.
    Vxlan {
        /// The network identifier, of 24 bits.
        vni: u32,
        /// The UDP port.
        port: u16,
        /// The address it sends from.
        local: IpAddr,
    },
    /// A link whose packets are encrypted ([`crate::wireguard`]). Whom it sends to is in [`crate::Key::Peer`].
    WireGuard {
        /// The public half of its key. The other one is the kernel's, and no part of any state.
        key: PublicKey,
        /// The UDP port that it listens at.
        port: u16,
    },
    /// A link of the host's that somebody else made, and has back when it is removed here. Its MTU
    /// is for them to say.
    Moved {
        /// What it is called on the host.
        from: LinkName,
    },
}

/// Whom a macvlan link may talk to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MacvlanMode {
    /// All others of the same parent.
    #[default]
    Bridge,
    /// None of them.
    Private,
    /// Those that the switch sends its frames back to.
    Vepa,
    /// There is one of the parent, which hands everything on to it.
    Passthru,
}

/// What an ipvlan link looks at to tell whose a packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanMode {
    /// The address, with neighbours being asked for.
    #[default]
    L2,
    /// The address; the host routes.
    L3,
    /// As `L3`, and packets pass the host's netfilter.
    L3s,
}

/// Whom an ipvlan link may talk to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpvlanFlag {
    /// All others of the same parent.
    #[default]
    Bridge,
    /// None of them.
    Private,
    /// Those that the switch sends its frames back to.
    Vepa,
}

/// What is left of a link that is not what it was made as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// What is wrong with it, as in `eth0 in 1a2b …`.
    pub what: String,
    /// The links that are there, all to be removed.
    pub remains: Vec<(Ns, LinkName)>,
}

impl LinkKind {
    /// The link of the host that it is on.
    pub fn parent(&self) -> Option<&LinkName> {
        match self {
            Self::Macvlan { parent, .. }
            | Self::Ipvlan { parent, .. }
            | Self::Vlan { parent, .. } => Some(parent),
            Self::Bridge
            | Self::Veth { .. }
            | Self::Vxlan { .. }
            | Self::WireGuard { .. }
            | Self::Moved { .. } => None,
        }
    }

    /// Its other end, on the host. With either end the other one goes.
    pub fn peer(&self) -> Option<&LinkName> {
        match self {
            Self::Veth { peer } => Some(peer),
            _ => None,
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}", self.kind)?;
        self.mac.map_or(Ok(()), |mac| write!(f, " mac {mac}"))?;
        self.mtu.map_or(Ok(()), |mtu| write!(f, " mtu {mtu}"))?;
        f.write_str(if self.up { "" } else { " down" })
    }
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge => f.write_str("bridge"),
            Self::Veth { peer } => write!(f, "veth {peer}"),
            Self::Macvlan { parent, mode } => write!(f, "macvlan of {parent} mode {mode}"),
            Self::Ipvlan { parent, mode, flag } => {
                write!(f, "ipvlan of {parent} mode {mode} {flag}")
            }
            Self::Vlan { parent, id } => write!(f, "vlan {id} of {parent}"),
            Self::Vxlan { vni, port, local } => write!(f, "vxlan {vni} from {local} port {port}"),
            Self::WireGuard { key, port } => write!(f, "wireguard {key} port {port}"),
            Self::Moved { from } => write!(f, "moved from {from}"),
        }
    }
}

impl fmt::Display for MacvlanMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Passthru => "passthru",
        })
    }
}

impl fmt::Display for IpvlanMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::L2 => "l2",
            Self::L3 => "l3",
            Self::L3s => "l3s",
        })
    }
}

impl fmt::Display for IpvlanFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
        })
    }
}
