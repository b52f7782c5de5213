//! The difference between the kernel we have and the kernel we want.

use std::collections::BTreeSet;
use std::fmt;

use crate::{Key, LinkName, Ns, State, Value};

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
    let removed = observed.iter().rev().filter(|(key, _)| stale.contains(key));
    let removed = removed.map(|(key, value)| Step::Remove(key.clone(), value.clone()));
    let missing = desired.iter().filter_map(|(key, wanted)| match observed.get(key) {
        Some(_) if stale.contains(key) => Some(Step::Add(key.clone(), wanted.clone())),
        None => Some(Step::Add(key.clone(), wanted.clone())),
        Some(found) if found == wanted => None,
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
    for (key, value) in observed.iter() {
        let stays = desired.get(key).is_some_and(|to| value == to || changes_in_place(value, to));
        if !stays || lost.takes_along(key, value) {
            lost.add(key);
            stale.insert(key);
        }
    }
    stale
}

/// What goes away and takes other things along.
#[derive(Debug, Default)]
struct Lost {
    namespaces: BTreeSet<Ns>,
    links: BTreeSet<(Ns, LinkName)>,
    /// Links that lose an address of a family; the last field tells whether it is IPv6.
    addresses: BTreeSet<(Ns, LinkName, bool)>,
}

impl Lost {
    fn add(&mut self, key: &Key) {
        match key {
            Key::Namespace { sandbox } => {
                self.namespaces.insert(Ns::Sandbox(sandbox.clone()));
            }
            Key::Bridge { name } => {
                self.links.insert((Ns::Host, name.clone()));
            }
            Key::Veth { name, sandbox, interface } => {
                self.links.insert((Ns::Host, name.clone()));
                self.links.insert((Ns::Sandbox(sandbox.clone()), interface.clone()));
            }
            Key::Address { ns, link, address } => {
                self.addresses.insert((ns.clone(), link.clone(), address.is_ipv6()));
            }
            Key::Port { .. }
            | Key::Sysctl { .. }
            | Key::Route { .. }
            | Key::Resolver { .. }
            | Key::Element(_) => {}
        }
    }

    fn takes_along(&self, key: &Key, value: &Value) -> bool {
        let link = |ns: &Ns, link: &LinkName| self.links.contains(&(ns.clone(), link.clone()));
        match key {
            Key::Veth { sandbox, .. } | Key::Resolver { sandbox } => {
                self.namespaces.contains(&Ns::Sandbox(sandbox.clone()))
            }
            Key::Port { link: port } => link(&Ns::Host, port),
            Key::Sysctl { ns, path } => {
                let named = |part: &str| part.parse().is_ok_and(|name| link(ns, &name));
                self.namespaces.contains(ns) || path.split('/').any(named)
            }
            Key::Address { ns, link: of, .. } => self.namespaces.contains(ns) || link(ns, of),
            Key::Route { ns, destination } => match value {
                Value::Route { link: by, .. } => {
                    let address = (ns.clone(), by.clone(), destination.is_ipv6());
                    self.namespaces.contains(ns)
                        || link(ns, by)
                        || self.addresses.contains(&address)
                }
                _ => false,
            },
            // Elements name links, and wait for them.
            Key::Namespace { .. } | Key::Bridge { .. } | Key::Element(_) => false,
        }
    }
}

/// Whether the kernel can turn one value into the other without making a new object.
fn changes_in_place(from: &Value, to: &Value) -> bool {
    match (from, to) {
        // The far end's hardware address and the owner belong to the pair's identity.
        (Value::Veth { mac: a, tag: s, .. }, Value::Veth { mac: b, tag: t, .. }) => {
            a == b && s == t
        }
        (Value::Bridge { .. }, Value::Bridge { .. })
        | (Value::Port { .. }, Value::Port { .. })
        | (Value::Text(_), Value::Text(_))
        | (Value::Route { .. }, Value::Route { .. }) => true,
        // A map element has no update: it is removed and added in one transaction.
        _ => false,
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
