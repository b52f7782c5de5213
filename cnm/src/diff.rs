//! The difference between the kernel we have and the kernel we want.

use std::fmt;

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
pub fn diff(observed: &State, desired: &State) -> Plan {
    let stale = observed
        .iter()
        .rev()
        .filter(|(key, value)| match desired.get(key) {
            None => true,
            Some(wanted) => wanted != *value && !changes_in_place(value, wanted),
        })
        .map(|(key, value)| Step::Remove(key.clone(), value.clone()));
    let missing = desired.iter().filter_map(|(key, wanted)| match observed.get(key) {
        Some(found) if found == wanted => None,
        Some(found) if changes_in_place(found, wanted) => {
            Some(Step::Change { key: key.clone(), from: found.clone(), to: wanted.clone() })
        }
        _ => Some(Step::Add(key.clone(), wanted.clone())),
    });
    Plan(stale.chain(missing).collect())
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
        for step in &self.0 {
            match step {
                Step::Add(key, value) => writeln!(f, "+ {key}{value}")?,
                Step::Change { key, to, .. } => writeln!(f, "~ {key}{to}")?,
                Step::Remove(key, _) => writeln!(f, "- {key}")?,
            }
        }
        Ok(())
    }
}
