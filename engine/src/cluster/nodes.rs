//! The hosts of a cluster, as users are shown them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::encryption;
use cluster::Cluster;
use cnm::WireGuard;
use engine_error::{Error, Result};

/// A host of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its identity.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where tunnels to it end.
    pub address: IpAddr,
    /// The number that no other host has.
    pub number: u32,
    /// The largest packet that its way to the others takes.
    pub mtu: u32,
    /// How often it has booted.
    pub epoch: u64,
    /// The version of its rnet.
    pub release: String,
    /// How it takes part in what is encrypted, if it can.
    pub wireguard: Option<WireGuard>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it has been heard of.
    pub live: bool,
    /// Whether it is this one.
    pub own: bool,
}

/// All hosts, by name.
pub(super) fn all(cluster: &Cluster) -> Vec<NodeView> {
    let view = cluster.view();
    let node = |(id, node): (&String, &cluster::NodeView)| {
        let record = &node.record;
        NodeView {
            id: id.clone(),
            name: record.name.clone(),
            address: record.address,
            number: record.number,
            mtu: record.mtu,
            epoch: record.epoch,
            release: record.release.clone(),
            wireguard: encryption::part(cluster, record),
            labels: record.labels.clone(),
            live: node.live,
            own: id == cluster.id(),
        }
    };
    let mut nodes: Vec<_> = view.nodes.iter().map(node).collect();
    nodes.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    nodes
}

/// The host with this id, name or unique prefix of an id; `self` is this one.
pub(super) fn find(nodes: &[NodeView], key: &str) -> Result<NodeView> {
    let exact = nodes.iter().find(|node| node.id == key || (key == "self" && node.own));
    if let Some(node) = exact {
        return Ok(node.clone());
    }
    let named: Vec<_> = nodes.iter().filter(|node| node.name == key).collect();
    let by_prefix = || nodes.iter().filter(|n| !key.is_empty() && n.id.starts_with(key)).collect();
    let found: Vec<&NodeView> = if named.is_empty() { by_prefix() } else { named };
    match found.as_slice() {
        [node] => Ok((*node).clone()),
        [] => Err(Error::not_found(format!("node {key} not found"))),
        several => Err(Error::invalid(format!(
            "node {key} is ambiguous ({} matches found): name it by its id",
            several.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, name: &str) -> NodeView {
        NodeView {
            id: id.to_owned(),
            name: name.to_owned(),
            address: [10, 0, 0, 1].into(),
            number: 1,
            mtu: 1500,
            epoch: 1,
            release: String::new(),
            wireguard: None,
            labels: BTreeMap::new(),
            live: true,
            own: id == "ab1",
        }
    }

    #[test]
    fn a_host_is_found_by_id_name_or_prefix() {
        let nodes = [node("ab1", "h1"), node("ac2", "h2"), node("ad3", "h2")];
        let id = |key| find(&nodes, key).map(|node| node.id).map_err(|error| error.to_string());
        assert_eq!(id("ac2").as_deref(), Ok("ac2"));
        assert_eq!(id("h1").as_deref(), Ok("ab1"));
        assert_eq!(id("ad").as_deref(), Ok("ad3"));
        assert_eq!(id("self").as_deref(), Ok("ab1"));
        assert!(id("h2").unwrap_err().contains("node h2 is ambiguous (2 matches found)"));
        assert!(id("a").unwrap_err().contains("ambiguous (3 matches"));
        assert_eq!(id("x").unwrap_err(), "node x not found");
    }
}
