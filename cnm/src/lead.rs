//! What is known to the programs that lead frames past a bridge.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Mac;

/// What an entry of such a program is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lead {
    /// Frames for a hardware address go out by the tunnel. Present.
    Out {
        /// The hardware address.
        mac: Mac,
    },
    /// Frames for a hardware address that come in by the tunnel go to an endpoint of this host. Behind
    /// its port.
    In {
        /// The hardware address.
        mac: Mac,
    },
    /// An endpoint of this host may send from a hardware address and an address. Behind its port.
    From {
        /// The hardware address.
        mac: Mac,
        /// The address.
        address: IpAddr,
    },
}

impl fmt::Display for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Out { mac } => write!(f, "out to {mac}"),
            Self::In { mac } => write!(f, "in to {mac}"),
            Self::From { mac, address } => write!(f, "from {address} at {mac}"),
        }
    }
}
