//! What of other hosts has been made true on this one: the next thing told is compared with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use cnm::{EndpointId, NetworkId};
use dns::protocol::EndpointNames;

/// What has been made true.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// The numbers of the other hosts.
    pub(super) numbers: BTreeMap<String, u32>,
    /// The hosts that are away.
    pub(super) away: BTreeSet<String>,
    /// Networks of which all endpoints elsewhere are known, with what these are called.
    pub(super) names: BTreeMap<NetworkId, BTreeMap<EndpointId, EndpointNames>>,
    /// Networks that could not be made, or removed, or changed, and why.
    pub(super) troubles: BTreeMap<NetworkId, String>,
    /// Networks that are followed, and since when nobody here is on them.
    pub(super) followed: BTreeMap<NetworkId, Option<Instant>>,
    /// Networks that were here before the cluster's store had told of any.
    pub(super) inherited: BTreeSet<NetworkId>,
    /// Whether the store has answered.
    pub(super) connected: bool,
}

/// What is to be said for names to be these.
pub(super) fn difference(
    before: &BTreeMap<EndpointId, EndpointNames>,
    after: &BTreeMap<EndpointId, EndpointNames>,
) -> (Vec<EndpointNames>, Vec<EndpointId>) {
    let gone = before.keys().filter(|id| !after.contains_key(*id)).cloned().collect();
    let named = after.iter().filter(|(id, names)| before.get(*id) != Some(names));
    (named.map(|(_, names)| names.clone()).collect(), gone)
}
