//! Network drivers, which decide, and the kernel they decide about, which acts.
//!
//! A network is planned by its driver. A sandbox is planned by the drivers of the networks that it
//! joined, and by what concerns it as a whole: its default routes and its published ports.

mod bridge;
mod gateway;
mod host;
mod isolation;
pub mod kernel;
mod null;
mod portmap;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use cnm::options::DriverOptions;
use cnm::sandbox::Attachment;
use cnm::{DriverKind, Key, Network, Ns, PlanError, Planner, PortBinding, Sandbox, State, Value};

/// All drivers, behind the model's one [`Planner`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Drivers;

impl Planner for Drivers {
    fn network(&self, network: &Network) -> Result<State, PlanError> {
        Ok(match &network.driver {
            DriverOptions::Bridge(options) => bridge::network(network, options),
            DriverOptions::Host => host::network(),
            DriverOptions::Null => null::network(),
        })
    }

    fn sandbox(
        &self,
        sandbox: &Sandbox,
        attachments: &[Attachment<'_>],
    ) -> Result<State, PlanError> {
        if attachments.iter().any(|a| a.network.kind() == DriverKind::Host) {
            return host::sandbox(sandbox, attachments);
        }
        let mut state = own_namespace(sandbox);
        for attachment in attachments {
            match &attachment.network.driver {
                DriverOptions::Bridge(options) => {
                    state.extend(bridge::endpoint(sandbox, *attachment, options)?);
                }
                DriverOptions::Host => {}
                DriverOptions::Null => state.extend(null::endpoint()),
            }
        }
        state.extend(gateway::routes(sandbox, attachments));
        state.extend(portmap::elements(sandbox, attachments));
        // The sandbox's own wishes go over what its networks would like.
        state.extend(sysctls(sandbox));
        Ok(state)
    }

    fn carried(
        &self,
        sandbox: &Sandbox,
        attachments: &[Attachment<'_>],
    ) -> BTreeMap<PortBinding, SocketAddr> {
        portmap::carried(sandbox, attachments)
    }
}

fn own_namespace(sandbox: &Sandbox) -> State {
    let namespace = (Key::Namespace { sandbox: sandbox.id.clone() }, Value::Present);
    let resolver = (Key::Resolver { sandbox: sandbox.id.clone() }, Value::Present);
    [namespace].into_iter().chain(sandbox.resolver.then_some(resolver)).collect()
}

/// The kernel prints the fields of a value with single blanks between them.
fn sysctls(sandbox: &Sandbox) -> impl Iterator<Item = (Key, Value)> {
    let ns = Ns::Sandbox(sandbox.id.clone());
    sandbox.sysctls.iter().map(move |(path, value)| {
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        (Key::Sysctl { ns: ns.clone(), path: path.clone() }, Value::Text(value))
    })
}

#[cfg(test)]
mod tests;
