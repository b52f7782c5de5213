//! The claim step: what a change needs of the host is got before it is decided, outside of the
//! controller's lock, and let go of if it is not used.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use cnm::controller::{Claims, ControllerError, Decision, Unclaimed};
use cnm::{Controller, EndpointId, PortBinding, Protocol, Sandbox, SandboxId};
use drivers::kernel::{BindPorts, KernelError};

use super::Networks;
use super::leases::Holding;
use super::remote::Held;
use super::shared::{Claim, is_shared};
use super::update::PATIENCE;
use engine_error::{Error, Result};

/// A socket that is bound to a port of the host, or to the same port of both families.
#[derive(Debug)]
pub(super) struct ClaimedPort {
    pub(super) bindings: Vec<PortBinding>,
    pub(super) socket: OwnedFd,
}

/// What was claimed for a change so far. The host has it back when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    pub(super) claims: Claims,
    ports: Vec<ClaimedPort>,
    /// Addresses that DHCP servers lent.
    lent: Vec<Holding>,
    /// Addresses that the cluster gave.
    shared: Vec<Claim>,
    /// Addresses that are held while plugins are asked.
    pub(super) held: Vec<Held>,
    /// The endpoints that plugins were asked for.
    pub(super) asked: Vec<EndpointId>,
    /// The sandbox that they were told of.
    pub(super) sandbox: Option<SandboxId>,
    /// The same, if its namespace was made for that.
    pub(super) ahead: Option<SandboxId>,
}

impl Networks {
    /// Decides on a change, with what plugins were asked for and what has to be claimed for it.
    pub(super) fn decide<T>(
        &self,
        mut claimed: Claimed,
        begin: impl FnMut(&mut Controller, &Claims) -> Result<Decision<T>, ControllerError>,
    ) -> Result<(T, Claimed)> {
        match self.decide_with(&mut claimed, begin) {
            Ok(made) => {
                self.have_decided(&claimed);
                Ok((made, claimed))
            }
            Err(error) => {
                claimed.lent.iter().for_each(|holding| self.return_lease(holding));
                self.unclaim_shared(&claimed.shared);
                self.forgo(claimed);
                Err(error)
            }
        }
    }

    fn decide_with<T>(
        &self,
        claimed: &mut Claimed,
        mut begin: impl FnMut(&mut Controller, &Claims) -> Result<Decision<T>, ControllerError>,
    ) -> Result<T> {
        let start = std::time::Instant::now();
        loop {
            let mut model = self.controller();
            claimed.let_go(&mut model);
            let decision = match begin(&mut model, &claimed.claims) {
                Err(error) if error.is_passing() && start.elapsed() < PATIENCE => {
                    claimed.hold_again(&mut model)?;
                    drop(model);
                    self.update_ends.wait();
                    continue;
                }
                other => other?,
            };
            match decision {
                Decision::Made(made) => return Ok(made),
                Decision::Unclaimed(wanted) => {
                    claimed.hold_again(&mut model)?;
                    drop(model);
                    self.claim(&wanted, claimed)?;
                }
            }
        }
    }

    /// Claims what a change needs. Ports come first: they take no time.
    fn claim(&self, wanted: &Unclaimed, claimed: &mut Claimed) -> Result<()> {
        let Claimed { claims, ports, lent, shared, .. } = claimed;
        let host = self.kernel.host_ports();
        claims.claim_ports(&wanted.ports, &mut |group| bind(host.as_ref(), group, ports));
        for address in &wanted.addresses {
            if is_shared(&*self.network(address.network.as_str())?) {
                let claim = self.claim_shared(address)?;
                claim.lent().for_each(|given| claims.add_address(&address.network, given));
                shared.push(claim);
                continue;
            }
            let holding = self.borrow(address)?;
            claims.add_address(&address.network, holding.lent());
            lent.push(holding);
        }
        Ok(())
    }
}

impl Claimed {
    /// The sockets of the ports that a sandbox got, and what it was lent and given. What was bound in
    /// vain is let go of.
    pub(super) fn of(self, sandbox: &Sandbox) -> (Vec<ClaimedPort>, Vec<Holding>, Vec<Claim>) {
        let taken: BTreeMap<_, _> =
            sandbox.ports.iter().map(|port| (host_side(port), port)).collect();
        let used = |ClaimedPort { bindings, socket }: ClaimedPort| {
            let bindings =
                bindings.iter().filter_map(|bound| taken.get(&host_side(bound)).copied());
            let bindings: Vec<_> = bindings.cloned().collect();
            (!bindings.is_empty()).then_some(ClaimedPort { bindings, socket })
        };
        (self.ports.into_iter().filter_map(used).collect(), self.lent, self.shared)
    }
}

/// Where a port leads inside does not matter to its socket.
fn host_side(port: &PortBinding) -> (Protocol, u16, IpAddr) {
    (port.protocol, port.host_port, port.host)
}

/// Binds a port of the host on some addresses, by one socket where that does for all.
fn bind(
    host: &dyn BindPorts,
    bindings: &[PortBinding],
    bound: &mut Vec<ClaimedPort>,
) -> Vec<io::Result<bool>> {
    if let Some(socket) = host.reserve_pair(bindings) {
        bound.push(ClaimedPort { bindings: bindings.to_vec(), socket });
        return bindings.iter().map(|_| Ok(true)).collect();
    }
    let one = |binding: &PortBinding| match host.reserve(binding) {
        Ok(Some(socket)) => {
            bound.push(ClaimedPort { bindings: vec![binding.clone()], socket });
            Ok(true)
        }
        Ok(None) => Ok(false),
        // Its reason tells the controller whether the host merely lacks the family.
        Err(KernelError::Step { source, .. }) => Err(source),
        Err(error) => Err(io::Error::other(Error::from(error).chain())),
    };
    bindings.iter().map(one).collect()
}
