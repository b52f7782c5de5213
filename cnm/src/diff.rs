//! The difference between the kernel we have and the kernel we want.

use std::collections::BTreeSet;
use std::fmt;

use crate::ground::Lost;
use crate::link::{Link, LinkKind};
use crate::{Key, State, Value};

/// Steps that turn one [`State`] into another, in an order the kernel accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan(Vec<Step>);

/// One change of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Create an object.
    Add(Key, Value),
    /// Change an object in place, without interrupting what uses it.
    Change {
        /// The object.
        key: Key,
        /// What it looks like now.
        from: Value,
        /// What it shall look like.
        to: Value,
    },
    /// Remove an object.
    Remove(Key, Value),
}

/// Computes the plan that leads from `observed` to `desired`.
///
/// The kernel removes with an object what rests on it: with a link its addresses, with the
/// addresses the routes through them. Where an object must make way for another one under the
/// same key, the plan makes all of that anew as well.
pub fn diff(observed: &State, desired: &State) -> Plan {
    let stale = stale(observed, desired);
    let removed = observed.in_order().into_iter().rev().filter(|(key, _)| stale.contains(key));
    let removed = removed.map(|(key, value)| Step::Remove(key.clone(), value.clone()));
    let missing =
        desired.in_order().into_iter().filter_map(|(key, wanted)| match observed.get(key) {
            Some(_) if stale.contains(key) => Some(Step::Add(key.clone(), wanted.clone())),
            None => Some(Step::Add(key.clone(), wanted.clone())),
            Some(found) if is_as(found, wanted) => None,
            Some(found) => {
                Some(Step::Change { key: key.clone(), from: found.clone(), to: wanted.clone() })
            }
        });
    Plan(removed.chain(missing).collect())
}

/// The observed objects that cannot stay.
fn stale<'a>(observed: &'a State, desired: &State) -> BTreeSet<&'a Key> {
    let mut stale = BTreeSet::new();
    let mut lost = Lost::default();
    // In the order of creation: what something rests on comes before it.
    for (key, value) in observed.in_order() {
        let stays =
            desired.get(key).is_some_and(|to| is_as(value, to) || changes_in_place(value, to));
        if !stays || lost.takes_along(key, value) {
            lost.add(key, value);
            stale.insert(key);
        }
    }
    stale
}

/// Whether an object is as it is wanted. Where a link is wanted with no hardware address in particular,
/// any is right.
fn is_as(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Link(found), Value::Link(wanted)) if wanted.mac.is_none() => {
            Link { mac: None, ..found.clone() } == *wanted
        }
        _ => found == wanted,
    }
}

/// Whether the kernel can turn one value into the other without making a new object.
fn changes_in_place(from: &Value, to: &Value) -> bool {
    match (from, to) {
        (Value::Link(from), Value::Link(to)) => same_link(from, to),
        (Value::Port { .. }, Value::Port { .. })
        | (Value::Neighbour { .. }, Value::Neighbour { .. })
        | (Value::Nexthop { .. }, Value::Nexthop { .. })
        | (Value::NexthopGroup { .. }, Value::NexthopGroup { .. })
        | (Value::Via { .. }, Value::Via { .. })
        | (Value::Remote(_), Value::Remote(_))
        | (Value::Text(_), Value::Text(_))
        | (Value::Route { .. }, Value::Route { .. })
        | (Value::HostRoute { .. }, Value::HostRoute { .. }) => true,
        // A map element has no update: it is removed and added in one transaction.
        _ => false,
    }
}

/// Kind, hardware address and owner are a link's identity; a bridge may get another owner, for
/// its ports stay.
fn same_link(from: &Link, to: &Link) -> bool {
    let owner = from.tag == to.tag || to.kind == LinkKind::Bridge;
    let mac = to.mac.is_none() || from.mac == to.mac;
    same_kind(&from.kind, &to.kind) && mac && owner
}

/// A tunnel may send from another address of the same family, and a link that encrypts have another key or port.
fn same_kind(from: &LinkKind, to: &LinkKind) -> bool {
    match (from, to) {
        (LinkKind::Vxlan { local: before, .. }, LinkKind::Vxlan { vni, port, local }) => {
            let as_before = LinkKind::Vxlan { vni: *vni, port: *port, local: *before };
            *from == as_before && before.is_ipv4() == local.is_ipv4()
        }
        (LinkKind::WireGuard { .. }, LinkKind::WireGuard { .. }) => true,
        _ => from == to,
    }
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The steps in order.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl Step {
    /// The object that changes.
    pub fn key(&self) -> &Key {
        match self {
            Self::Add(key, _) | Self::Change { key, .. } | Self::Remove(key, _) => key,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(key, value) => write!(f, "+ {key}{value}"),
            Self::Change { key, to, .. } => write!(f, "~ {key}{to}"),
            Self::Remove(key, _) => write!(f, "- {key}"),
        }
    }
}

#[cfg(test)]
mod tests;
