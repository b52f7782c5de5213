//! What CHECK looks at: whether all that an attachment needs is there. Pure.
//!
//! Plugins after us in a chain may have changed what we made (the hardware address, the MTU,
//! sysctls), and that is no damage.

use cnm::{Endpoint, Key, Link, State, Value};

use crate::result::Attached;

/// What is missing or broken, one sentence each.
pub(crate) fn differences(desired: &State, observed: &State) -> Vec<String> {
    let difference = |(key, wanted): (&Key, &Value)| match observed.get(key) {
        None => Some(format!("{key}{wanted} is missing")),
        Some(found) if is_acceptable(found, wanted) => None,
        Some(Value::Damaged(damage)) => Some(format!("{key}: {}", damage.what)),
        Some(Value::Link(Link { up: false, .. })) => Some(format!("{key} is down")),
        Some(found) => Some(format!("{key} is{found} and not{wanted}")),
    };
    desired.iter().filter_map(difference).collect()
}

fn is_acceptable(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Link(found), Value::Link(wanted)) => {
            found.up && found.kind == wanted.kind && found.tag == wanted.tag
        }
        (Value::Text(_), Value::Text(_)) => true,
        (found, wanted) => found == wanted,
    }
}

/// What the runtime remembers of an attachment and is not so.
pub(crate) fn forgotten(endpoint: &Endpoint, previous: &Attached) -> Vec<String> {
    let name = endpoint.interface.as_str();
    let is_it = |index: usize| {
        let interface = previous.interfaces.get(index);
        interface.is_some_and(|i| i.name == name && !i.sandbox.is_empty())
    };
    if !(0..previous.interfaces.len()).any(is_it) {
        return vec![format!("prevResult has no interface {name} in a sandbox")];
    }
    let has = |address| {
        previous.ips.iter().any(|ip| ip.address == address && ip.interface.is_some_and(is_it))
    };
    let missing = endpoint.addresses.iter().filter(|address| !has(**address));
    missing.map(|address| format!("prevResult has no address {address} of {name}")).collect()
}

#[cfg(test)]
mod tests;
