//! What a cluster's store holds, read with `etcdctl` and understood without rnet's help.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::Etcd;

/// The records of the one cluster that an etcd holds.
#[derive(Debug, Default)]
pub struct Records {
    /// By id.
    pub nodes: BTreeMap<String, Value>,
    /// The ids of those that are live.
    pub live: BTreeSet<String>,
    /// By id.
    pub networks: BTreeMap<String, Value>,
    /// By network and id.
    pub endpoints: BTreeMap<(String, String), Value>,
    /// By network and address.
    pub addresses: BTreeMap<(String, String), Value>,
    /// What is to be there once: `net/app`, `vni/4096`, `number/1`, with who has it.
    pub indexes: BTreeMap<String, String>,
}

impl Records {
    /// Those that are there now.
    pub fn read(etcd: &Etcd) -> Self {
        let mut records = Self::default();
        for (key, value) in etcd.keys("/rnet/v1/") {
            let words: Vec<_> = key.trim_start_matches("/rnet/v1/").split('/').collect();
            let json = || serde_json::from_str(&value).unwrap_or_default();
            let pair = |network: &str, other: &str| (network.to_owned(), other.to_owned());
            match words[1..] {
                ["nodes", id] => drop(records.nodes.insert(id.to_owned(), json())),
                ["live", id] => drop(records.live.insert(id.to_owned())),
                ["networks", id] => drop(records.networks.insert(id.to_owned(), json())),
                ["eps", n, id] => drop(records.endpoints.insert(pair(n, id), json())),
                ["ipam", n, ip] => drop(records.addresses.insert(pair(n, ip), json())),
                ["ix", "subnets"] => {}
                ["ix", ..] => drop(records.indexes.insert(words[2..].join("/"), value)),
                _ => {}
            }
        }
        records
    }

    /// The id of the network with a name.
    pub fn network(&self, name: &str) -> &str {
        let mut networks = self.networks.iter();
        let (id, _) = networks.find(|(_, record)| record["name"] == name).expect("it is there");
        id
    }

    /// The endpoints of a network with the container's names.
    pub fn names(&self, network: &str) -> BTreeSet<String> {
        let on = self.endpoints.iter().filter(|((id, _), _)| id == network);
        on.map(|(_, record)| text(&record["name"])).collect()
    }

    /// What contradicts itself: addresses that two have or that nobody may have, indexes of what is gone.
    pub fn contradictions(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut complain = |right: bool, what: String| (!right).then(|| wrong.push(what));
        for ((network, id), endpoint) in &self.endpoints {
            complain(self.networks.contains_key(network), format!("endpoint {id} of no network"));
            let node = text(&endpoint["node"]);
            complain(self.nodes.contains_key(&node), format!("endpoint {id} of no node"));
            for address in addresses(endpoint) {
                let record = self.addresses.get(&(network.clone(), address.clone()));
                let owner = record.map(|owner| text(&owner["node"]));
                let claimed = owner.as_ref() == Some(&node);
                complain(claimed, format!("endpoint {id} of {node} has {address} of {owner:?}"));
                let holder = record.map(|owner| &owner["holder"]);
                let held = holder == Some(&endpoint["container"]);
                complain(held, format!("{address} of endpoint {id} is held for {holder:?}"));
            }
        }
        for ((network, address), record) in &self.addresses {
            let known = self.networks.contains_key(network);
            complain(known, format!("address {address} of no network"));
            let known = self.nodes.contains_key(&text(&record["node"]));
            complain(known, format!("address {address} of no node"));
        }
        let mut mentioned = BTreeMap::<(&String, String), Vec<&String>>::new();
        for ((network, id), record) in &self.endpoints {
            for address in addresses(record) {
                mentioned.entry((network, address)).or_default().push(id);
            }
        }
        for ((_, address), who) in mentioned {
            complain(who.len() == 1, format!("{address} is of {who:?}"));
        }
        for (index, id) in &self.indexes {
            let known = self.networks.contains_key(id) || self.nodes.contains_key(id);
            complain(
                known || index.starts_with("mac/"),
                format!("{index} is of {id}, who is gone"),
            );
        }
        for (id, record) in &self.networks {
            for index in
                [format!("net/{}", text(&record["name"])), format!("vni/{}", record["vni"])]
            {
                complain(self.indexes.get(&index) == Some(id), format!("{index} is not of {id}"));
            }
        }
        wrong
    }
}

/// The addresses of an endpoint's record, without the lengths of their prefixes.
pub(super) fn addresses(record: &Value) -> BTreeSet<String> {
    let texts = record["addresses"].as_array().into_iter().flatten().map(text);
    texts.map(|text| text.split('/').next().unwrap_or_default().to_owned()).collect()
}

/// A value's text, without quotes.
pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
