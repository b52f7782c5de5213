//! The cluster and its hosts, as they are shown.

use std::collections::BTreeMap;

use cnm::Network;
use serde_json::{Value, json};

use crate::cluster::{Member, NodeView};

/// `GET /rnet/cluster`.
pub fn cluster(member: &Member) -> Value {
    let status = member.status();
    let place = member.place();
    let mut pending: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (network, endpoint) in member.pending() {
        pending.entry(network.to_string()).or_default().push(endpoint.to_string());
    }
    let troubles = member.troubles().into_iter();
    let troubles =
        troubles.map(|(subject, problem)| json!({"Subject": subject, "Problem": problem}));
    json!({
        "Cluster": place.to_string(),
        "Name": place.cluster,
        "Endpoints": place.endpoints,
        "Identity": status.identity,
        "NodeID": member.id(),
        "AdvertiseAddr": member.address().to_string(),
        "MTU": member.mtu(),
        "Joined": status.joined,
        "Connected": status.connected,
        "Restored": status.restored,
        "Problem": status.problem,
        "Revision": status.revision,
        "PendingPublish": pending,
        "Encryption": {
            "Able": member.wireguard().is_ok(),
            "Problem": member.wireguard().err().map(|error| error.to_string()),
        },
        "Troubles": troubles.collect::<Vec<_>>(),
        "Nodes": member.nodes().iter().map(node).collect::<Vec<_>>(),
    })
}

/// A host.
pub fn node(node: &NodeView) -> Value {
    json!({
        "ID": node.id,
        "Name": node.name,
        "Address": node.address.to_string(),
        "State": if node.live { "ready" } else { "away" },
        "Self": node.own,
        "Number": node.number,
        "MTU": node.mtu,
        "Epoch": node.epoch,
        "Release": node.release,
        "Labels": node.labels,
        "WireGuard": node.wireguard.map(|own| json!({
            "PublicKey": own.key.to_string(), "Port": own.port, "Address": own.address.to_string(),
        })),
    })
}

/// What is shown of a network of the cluster's beside everything that Docker shows.
pub fn add_network(value: &mut Value, network: &Network, member: &Member, verbose: bool) {
    let peer = |node: &NodeView| {
        let short = node.id.get(..12).unwrap_or(&node.id);
        json!({"Name": short, "IP": node.address.to_string()})
    };
    let peers = member.peers(&network.id);
    value["Peers"] = peers.iter().map(peer).collect();
    if !verbose {
        return;
    }
    let view = member.view();
    let endpoints = view.endpoints.get(&network.id);
    let nodes: BTreeMap<&str, &NodeView> =
        peers.iter().map(|node| (node.id.as_str(), node)).collect();
    let pending = member.pending();
    let endpoint =
        |(id, record): (&cnm::EndpointId, &std::sync::Arc<cluster::record::EndpointRecord>)| {
            let node = nodes.get(record.node.as_str());
            let addresses: Vec<_> = record.addresses.iter().map(ToString::to_string).collect();
            json!({
                "EndpointID": id.to_string(),
                "Name": record.name,
                "Aliases": record.aliases,
                "Container": record.container,
                "MacAddress": record.mac.to_string(),
                "Addresses": addresses,
                "Node": record.node,
                "NodeName": node.map(|node| node.name.clone()),
                "Live": node.is_some_and(|node| node.live || node.own),
                "PendingPublish": pending.iter().any(|(_, pending)| pending == id),
            })
        };
    let shown: Vec<_> = endpoints.into_iter().flat_map(|all| all.iter()).map(endpoint).collect();
    let waiting = pending.iter().filter(|(of, _)| *of == network.id);
    value["Services"] = json!({});
    value["Cluster"] = json!({
        "VNI": network.tunnel.map(|tunnel| tunnel.vni),
        "Port": network.tunnel.map(|tunnel| tunnel.port),
        "Local": network.tunnel.map(|tunnel| tunnel.local.to_string()),
        "Encrypted": network.tunnel.map(|tunnel| tunnel.encrypted),
        "UnderlayMTU": network.tunnel.and_then(|tunnel| tunnel.mtu),
        "Endpoints": shown,
        "PendingPublish": waiting.map(|(_, endpoint)| endpoint.to_string()).collect::<Vec<_>>(),
        "Nodes": peers.iter().map(node).collect::<Vec<_>>(),
    });
}
