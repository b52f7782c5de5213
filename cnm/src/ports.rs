//! Host ports: which are taken, and which one a request gets.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::controller::{Binding, Claims};
use crate::{HasKind, Kind, PortBinding, Protocol};

/// A port that cannot be published. The texts are Docker's, which tools look for.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Another sandbox has it.
    #[error("Bind for {0} failed: port is already allocated")]
    Allocated(SocketAddr),
    /// Some other program on the host has it.
    #[error("failed to bind host port for {address}/{protocol}: address already in use")]
    InUse {
        /// The host's address and port.
        address: SocketAddr,
        /// The protocol.
        protocol: Protocol,
    },
    /// All ports of the range are taken.
    #[error(
        "Bind for {host} failed: all ports are allocated: \
         {}-{}/{protocol} are in use; stop what uses them or ask for others",
        ports.start(), ports.end()
    )]
    AllAllocated {
        /// The host's address.
        host: IpAddr,
        /// The ports that were tried.
        ports: RangeInclusive<u16>,
        /// The protocol.
        protocol: Protocol,
    },
    /// The host cannot bind it.
    #[error("failed to bind host port for {address}/{protocol}: {source}")]
    Refused {
        /// The host's address and port.
        address: SocketAddr,
        /// The protocol.
        protocol: Protocol,
        /// The kernel's reason.
        source: Arc<io::Error>,
    },
}

impl HasKind for PortError {
    fn kind(&self) -> Kind {
        Kind::Internal
    }
}

/// How many claimed ports are tried before others, for a request that takes any. It gets the first
/// one unless that was claimed for other addresses.
const OFFERS: usize = 64;

/// The host ports that are taken.
#[derive(Debug)]
pub(crate) struct Ports {
    taken: HashMap<(Protocol, Family, u16), Vec<IpAddr>>,
    ephemeral: RangeInclusive<u16>,
    /// Where to look for the next ephemeral port.
    cursor: u16,
}

/// A request for one port on some addresses of the host.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    /// The host's addresses; all get the same port.
    pub(crate) hosts: &'a [IpAddr],
    /// The ports to choose from; `0..=0` is any ephemeral one.
    pub(crate) ports: RangeInclusive<u16>,
    pub(crate) protocol: Protocol,
    /// The port inside the sandbox.
    pub(crate) port: u16,
    /// Whether an address whose family the host does not have may be left out.
    pub(crate) lenient: bool,
}

/// What a request gets. Some of it may still have to be claimed.
#[derive(Debug)]
pub(crate) struct Allocation {
    /// The ports, taken here.
    pub(crate) ports: Vec<PortBinding>,
    /// Those of them that nobody has tried to bind yet.
    pub(crate) unclaimed: Vec<PortBinding>,
}

/// The claimed ports that no request has got yet, for those that take any.
#[derive(Debug, Default)]
pub(crate) struct Offers(BTreeSet<(Protocol, u16)>);

impl Offers {
    pub(crate) fn of(claims: &Claims) -> Self {
        Self(claims.bound())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Family {
    V4,
    V6,
}

impl Ports {
    pub(crate) fn new(ephemeral: RangeInclusive<u16>) -> Self {
        // Zero is not a port.
        let first = (*ephemeral.start()).max(1);
        Self { taken: HashMap::new(), cursor: first, ephemeral: first..=*ephemeral.end() }
    }

    /// Finds a port that is free on all addresses of the request, and takes it there.
    pub(crate) fn allocate(
        &mut self,
        request: &Request<'_>,
        claims: &Claims,
        offers: &mut Offers,
    ) -> Result<Allocation, PortError> {
        let any = request.ports == (0..=0);
        let mut last_error = None;
        for host_port in self.candidates(request, offers).into_iter().flatten() {
            match self.try_port(host_port, request, claims) {
                Ok(allocation) => {
                    offers.0.remove(&(request.protocol, host_port));
                    // Whoever comes while this one is being claimed is to try another.
                    if any && !allocation.unclaimed.is_empty() {
                        self.cursor = host_port.checked_add(1).unwrap_or(*self.ephemeral.start());
                    }
                    return Ok(allocation);
                }
                Err(error @ PortError::Refused { .. }) => return Err(error),
                Err(error) => last_error = Some(error),
            }
        }
        let single = !any && request.ports.start() == request.ports.end();
        Err(last_error.filter(|_| single).unwrap_or_else(|| self.all_allocated(request)))
    }

    /// The ports to try, in order.
    fn candidates(&self, request: &Request<'_>, offers: &Offers) -> Vec<RangeInclusive<u16>> {
        if request.ports != (0..=0) {
            return vec![request.ports.clone()];
        }
        let (first, last) = self.ephemeral.clone().into_inner();
        let cursor = self.cursor.clamp(first, last);
        let offered = offers.0.range((request.protocol, first)..=(request.protocol, last));
        let mut candidates: Vec<_> = offered.take(OFFERS).map(|(_, port)| *port..=*port).collect();
        candidates.extend([cursor..=last, first..=cursor.saturating_sub(1)]);
        candidates
    }

    fn all_allocated(&self, request: &Request<'_>) -> PortError {
        let any = request.ports == (0..=0);
        PortError::AllAllocated {
            host: request.hosts.first().copied().unwrap_or(IpAddr::from([0; 4])),
            ports: if any { self.ephemeral.clone() } else { request.ports.clone() },
            protocol: request.protocol,
        }
    }

    fn try_port(
        &mut self,
        host_port: u16,
        request: &Request<'_>,
        claims: &Claims,
    ) -> Result<Allocation, PortError> {
        let Request { hosts, protocol, port, .. } = *request;
        let binding = |host| PortBinding { host, host_port, protocol, port };
        let taken = hosts.iter().find(|host| self.is_taken(&binding(**host)));
        if let Some(host) = taken {
            return Err(PortError::Allocated(SocketAddr::new(*host, host_port)));
        }
        let mut allocation = Allocation { ports: Vec::new(), unclaimed: Vec::new() };
        for host in hosts {
            let address = SocketAddr::new(*host, host_port);
            match claims.port(protocol, host_port, *host) {
                Some(Binding::Bound) => {}
                None => allocation.unclaimed.push(binding(*host)),
                Some(Binding::InUse) => return Err(PortError::InUse { address, protocol }),
                Some(Binding::Refused(error)) if request.lenient && lacks_family(error) => continue,
                Some(Binding::Refused(source)) => {
                    let source = Arc::clone(source);
                    return Err(PortError::Refused { address, protocol, source });
                }
            }
            allocation.ports.push(binding(*host));
        }
        for binding in &allocation.ports {
            self.take(binding);
        }
        Ok(allocation)
    }

    /// Whether another binding stands in the way of this one. An unspecified address stands for
    /// all addresses of its family.
    pub(crate) fn is_taken(&self, binding: &PortBinding) -> bool {
        self.taken.get(&slot(binding)).is_some_and(|hosts| {
            binding.host.is_unspecified()
                || hosts.iter().any(|host| *host == binding.host || host.is_unspecified())
        })
    }

    /// Takes a port that is known to be free. A binding without a host port takes nothing.
    pub(crate) fn take(&mut self, binding: &PortBinding) {
        if binding.host_port != 0 {
            let hosts = self.taken.entry(slot(binding)).or_default();
            if !hosts.contains(&binding.host) {
                hosts.push(binding.host);
            }
        }
    }

    /// Gives a port back.
    pub(crate) fn release(&mut self, binding: &PortBinding) {
        if let Entry::Occupied(mut hosts) = self.taken.entry(slot(binding)) {
            hosts.get_mut().retain(|host| *host != binding.host);
            if hosts.get().is_empty() {
                hosts.remove();
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn taken(&self) -> BTreeSet<(Protocol, IpAddr, u16)> {
        let all = self.taken.iter();
        all.flat_map(|((protocol, _, port), hosts)| hosts.iter().map(|h| (*protocol, *h, *port)))
            .collect()
    }
}

fn slot(binding: &PortBinding) -> (Protocol, Family, u16) {
    let family = if binding.host.is_ipv6() { Family::V6 } else { Family::V4 };
    (binding.protocol, family, binding.host_port)
}

/// Whether the host does not speak the family of the address: `EAFNOSUPPORT`, or
/// `EADDRNOTAVAIL`, which is what binding `::` gives where IPv6 is switched off.
fn lacks_family(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

#[cfg(test)]
mod tests;
