//! The names half: what is answered in sandboxes, said to `rnet-dns`.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::AsFd;

use cnm::{EndpointId, NetworkId, SandboxId};
use dns::client::{Client, ClientError};
use dns::protocol::{EndpointNames, SandboxView};
use drivers::kernel::Host;

use super::desired::{Remote, SandboxNames, Services};
use engine_error::Error;

/// Says what changed for one sandbox.
pub(super) fn change(
    kernel: &dyn Host,
    client: &Client,
    old: Option<&SandboxNames>,
    new: &SandboxNames,
) -> Result<(), ClientError> {
    let known = old.map_or(&[][..], |old| &old.endpoints);
    for gone in known.iter().filter(|names| !new.has(names)) {
        client.withdraw(&gone.network, std::slice::from_ref(&gone.names.endpoint))?;
    }
    match (old.is_some_and(|old| old.resolver), new.resolver) {
        (true, true) => client.update(new.view.clone())?,
        (false, true) => serve(kernel, client, &new.view)?,
        (true, false) => client.release(&new.view.sandbox)?,
        (false, false) => {}
    }
    new.endpoints.iter().try_for_each(|endpoint| {
        let names = std::slice::from_ref(&endpoint.names);
        client.publish(&endpoint.network, &endpoint.network_name, names)
    })
}

/// Says that nothing is answered any more.
pub(super) fn withdraw(client: &Client, old: &SandboxNames) -> Result<(), ClientError> {
    for endpoint in &old.endpoints {
        client.withdraw(&endpoint.network, std::slice::from_ref(&endpoint.names.endpoint))?;
    }
    if old.resolver { client.release(&old.view.sandbox) } else { Ok(()) }
}

/// Says everything to a process that may know some of it, of these sandboxes already.
pub(super) fn synchronise(
    kernel: &dyn Host,
    client: &Client,
    (services, remote): (&Services, &Remote),
    known: &[SandboxId],
) -> Result<(), ClientError> {
    let served: HashSet<&SandboxId> = known.iter().collect();
    for (id, service) in services {
        let names = &service.names;
        match (names.resolver, served.contains(id)) {
            (true, true) => client.update(names.view.clone())?,
            (true, false) => serve(kernel, client, &names.view)?,
            (false, _) => {}
        }
    }
    publish_all(client, services, remote)?;
    let wanted = |id: &SandboxId| services.get(id).is_some_and(|service| service.names.resolver);
    known.iter().filter(|id| !wanted(id)).try_for_each(|id| client.release(id))
}

fn publish_all(client: &Client, services: &Services, remote: &Remote) -> Result<(), ClientError> {
    let mut networks: BTreeMap<&NetworkId, (&str, Vec<EndpointNames>)> = BTreeMap::new();
    for endpoint in services.values().flat_map(|service| &service.names.endpoints) {
        let (_, names) = networks
            .entry(&endpoint.network)
            .or_insert_with(|| (&endpoint.network_name, Vec::new()));
        names.push(endpoint.names.clone());
    }
    for (network, zone) in remote {
        let (_, names) = networks.entry(network).or_insert_with(|| (&zone.name, Vec::new()));
        names.extend(zone.endpoints.values().cloned());
    }
    let mut kept: BTreeMap<NetworkId, Vec<EndpointId>> = BTreeMap::new();
    for (network, (name, endpoints)) in networks {
        client.publish(network, name, &endpoints)?;
        let ids = endpoints.into_iter().map(|names| names.endpoint).collect();
        kept.insert(network.clone(), ids);
    }
    client.retain(kept)
}

/// Opens a sandbox's sockets and has them served. A sandbox that is broken is left out: the others
/// are not to suffer for it.
fn serve(kernel: &dyn Host, client: &Client, view: &SandboxView) -> Result<(), ClientError> {
    match kernel.resolver_sockets(&view.sandbox) {
        Ok(sockets) => client.serve(view.clone(), sockets.udp.as_fd(), sockets.tcp.as_fd()),
        Err(error) => {
            let (sandbox, error) = (view.sandbox.short(), Error::from(error).chain());
            tracing::error!(sandbox, error, "cannot open the resolver's sockets");
            Ok(())
        }
    }
}
