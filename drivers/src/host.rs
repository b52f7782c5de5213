//! The `host` driver: the host's own network namespace, in which there is nothing to do.

use cnm::sandbox::Attachment;
use cnm::{DriverKind, PlanError, Sandbox, State};

/// The network is the host's.
pub(crate) fn network() -> State {
    State::default()
}

/// A sandbox on the host's network is the host's namespace: it has none of its own, so that it
/// cannot join another network either.
pub(crate) fn sandbox(
    sandbox: &Sandbox,
    attachments: &[Attachment<'_>],
) -> Result<State, PlanError> {
    let host = attachments.iter().find(|a| a.network.kind() == DriverKind::Host);
    match host {
        Some(host) if attachments.len() > 1 => Err(PlanError::HostNetwork {
            sandbox: sandbox.id.to_string(),
            network: host.network.name.clone(),
        }),
        _ => Ok(State::default()),
    }
}
