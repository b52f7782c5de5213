//! Addresses that are held for an endpoint while somebody is asked to make it.
//!
//! Who makes a link must be told its addresses, and is asked before the change is decided and outside
//! of the controller's lock. Nobody else is to be given them meanwhile. A hold is in memory only: who
//! is asked writes down that he was.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::draft::Draft;
use super::intent::Previous;
use super::sandbox::Wanted;
use super::{Controller, ControllerError};
use crate::ipam::Holder;
use crate::{Mac, NetworkId};

/// Addresses that nobody else gets.
#[derive(Debug)]
#[must_use = "what is held is to be let go of"]
pub struct Hold {
    addresses: Vec<IpNetwork>,
    previous: Vec<Previous>,
}

impl Hold {
    /// The addresses, IPv4 first.
    pub fn addresses(&self) -> &[IpNetwork] {
        &self.addresses
    }
}

/// Whose addresses are to be held.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The owner of the sandbox.
    pub owner: &'a str,
    /// The addresses that are wanted.
    pub addresses: &'a [IpAddr],
    /// Whether there may be one of IPv6.
    pub ipv6: bool,
    /// The hardware address, if it is known.
    pub mac: Option<Mac>,
    /// Nanoseconds since the Unix epoch.
    pub now: u64,
}

impl Controller {
    /// Takes addresses for an endpoint on a network, to be let go of when it is decided.
    pub fn hold(&mut self, id: &NetworkId, asker: &Asker<'_>) -> Result<Hold, ControllerError> {
        let network = std::sync::Arc::clone(self.joinable(id)?);
        let mut draft = Draft::new(self);
        let wanted = Wanted { addresses: asker.addresses, ipv6: asker.ipv6 };
        let holder = Holder { owner: asker.owner, mac: asker.mac, now: asker.now };
        let addresses = draft.addresses(&network, &wanted, &holder)?;
        let previous = std::mem::take(&mut draft.previous);
        Ok(Hold { addresses, previous })
    }

    /// Gives held addresses back. Who wants them for the endpoint takes them before the controller's
    /// lock is let go of.
    pub fn let_go(&mut self, hold: Hold) {
        self.give_back(hold.previous, &[], &[]);
    }
}
