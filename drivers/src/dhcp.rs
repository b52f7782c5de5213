//! DHCP for IPv4 as a client speaks it (RFC 2131): an address is asked for, kept, and given back.
//!
//! A [`Client`] talks through a [`Port`], which is an interface of the kernel's or a test's, and waits
//! no longer than it is told to. It remembers nothing: what it was lent is a [`Lease`], and when that
//! is to be renewed is for whoever holds it to know.

mod message;
#[cfg(test)]
mod tests;

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use cnm::Mac;
use ipnetwork::Ipv4Network;

use message::Answer;

/// How long the first answer is waited for before the question is put again; twice as long each time.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest that one answer is waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// Sends and receives the messages of one interface.
pub trait Port: Send {
    /// Sends a message to the servers' port.
    fn send(&mut self, message: &[u8], to: Destination) -> io::Result<()>;

    /// The next message that arrives at the clients' port, with the hardware address that it came from;
    /// nothing if none does until then.
    fn receive(&mut self, until: Instant) -> io::Result<Option<(Mac, Vec<u8>)>>;
}

/// Where a message goes, and what it says to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The sender's address; unspecified while it has none.
    pub source: Ipv4Addr,
    /// The server's address, or everybody's.
    pub address: Ipv4Addr,
    /// The hardware address that leads there.
    pub mac: Mac,
}

/// An address for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address, with the prefix length of its subnet.
    pub address: Ipv4Network,
    /// The router to everywhere else.
    pub gateway: Option<Ipv4Addr>,
    /// Who lent it.
    pub server: Ipv4Addr,
    /// The hardware address that leads to whoever lent it.
    pub via: Mac,
    /// For how long.
    pub terms: Terms,
}

/// For how long an address is lent, in seconds from when it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// When its server is to be asked for more time (T1).
    pub renew: u32,
    /// When every server is to be asked (T2).
    pub rebind: u32,
    /// When it is not lent any more.
    pub total: u32,
}

/// Whom a holder asks for more time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The server that lent the address.
    Lender,
    /// Any server.
    Anybody,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum DhcpError {
    /// Nobody answered.
    #[error("no DHCP server answered within {} s", limit.as_secs())]
    Silence {
        /// How long it was waited.
        limit: Duration,
    },
    /// A server says that the address is not to be used.
    #[error("the DHCP server {server} does not lend {address} any more")]
    Refused {
        /// The address.
        address: Ipv4Addr,
        /// The server.
        server: Ipv4Addr,
    },
    /// The interface does not carry messages.
    #[error("cannot talk to DHCP servers: {0}")]
    Port(#[from] io::Error),
}

/// One interface's side of the protocol.
pub struct Client<'a> {
    port: &'a mut dyn Port,
    mac: Mac,
    /// The number of the transaction, which answers repeat.
    transaction: u32,
}

impl std::fmt::Debug for Client<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("mac", &self.mac).finish_non_exhaustive()
    }
}

impl<'a> Client<'a> {
    /// A client with this hardware address. The transaction is a random number.
    pub fn new(port: &'a mut dyn Port, mac: Mac, transaction: u32) -> Self {
        Self { port, mac, transaction }
    }

    /// Asks for an address, for this one if it can be had.
    pub fn acquire(
        &mut self,
        wanted: Option<Ipv4Addr>,
        limit: Duration,
    ) -> Result<Lease, DhcpError> {
        let deadline = Instant::now() + limit;
        let mut wait = FIRST_WAIT;
        while Instant::now() < deadline {
            let round = deadline.min(Instant::now() + wait);
            wait = (wait * 2).min(LONGEST_WAIT);
            let discover = message::discover(self.mac, self.transaction, wanted);
            self.port.send(&discover, Destination::everybody(Ipv4Addr::UNSPECIFIED))?;
            let Some(Answer::Offer { address, server }) =
                self.answer(round, |answer| matches!(answer, Answer::Offer { .. }))?
            else {
                continue;
            };
            let request = message::request(self.mac, self.transaction, address, server);
            self.port.send(&request, Destination::everybody(Ipv4Addr::UNSPECIFIED))?;
            let round = deadline.min(Instant::now() + LONGEST_WAIT / 2);
            // A server that thinks better of it is asked again from the beginning.
            if let Some(Answer::Lent(lease)) = self.answer(round, Answer::is_final)? {
                return Ok(lease);
            }
        }
        Err(DhcpError::Silence { limit })
    }

    /// Asks for more time.
    pub fn extend(
        &mut self,
        lease: &Lease,
        whom: Whom,
        limit: Duration,
    ) -> Result<Lease, DhcpError> {
        let address = lease.address.ip();
        let to = match whom {
            Whom::Lender => Destination { source: address, address: lease.server, mac: lease.via },
            Whom::Anybody => Destination::everybody(address),
        };
        self.port.send(&message::extend(self.mac, self.transaction, address), to)?;
        match self.answer(Instant::now() + limit, Answer::is_final)? {
            Some(Answer::Lent(lease)) => Ok(lease),
            Some(Answer::Refused { server }) => Err(DhcpError::Refused { address, server }),
            _ => Err(DhcpError::Silence { limit }),
        }
    }

    /// Gives an address back. Nobody answers to that.
    pub fn release(&mut self, lease: &Lease) -> Result<(), DhcpError> {
        let (address, server) = (lease.address.ip(), lease.server);
        let to = Destination { source: address, address: server, mac: lease.via };
        let release = message::release(self.mac, self.transaction, address, server);
        Ok(self.port.send(&release, to)?)
    }

    /// The next answer to us of a kind, if one comes until then.
    fn answer(
        &mut self,
        until: Instant,
        of_kind: impl Fn(&Answer) -> bool,
    ) -> Result<Option<Answer>, DhcpError> {
        while let Some((via, bytes)) = self.port.receive(until)? {
            let answer = message::read(&bytes, self.mac, self.transaction, via);
            if let Some(answer) = answer.filter(&of_kind) {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }
}

impl Destination {
    fn everybody(source: Ipv4Addr) -> Self {
        Self { source, address: Ipv4Addr::BROADCAST, mac: Mac::from([0xff; 6]) }
    }
}
