//! What endpoints on other hosts are called here.

use std::collections::{BTreeMap, BTreeSet};

use cluster::record::EndpointRecord;
use cnm::EndpointId;
use dns::protocol::EndpointNames;

/// A host as far as names go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// This one: it answers for its own.
    Own,
    /// Another one that is there.
    Live,
    /// Another one that has not been heard of for a while.
    Away,
}

/// The names that are answered for endpoints on other hosts of one network. Those on a host that is
/// away are not found, so that nobody is sent there; but a name that nobody else has is: it may be
/// only the way to the store that is cut.
pub(super) fn of_others<'a>(
    endpoints: impl Iterator<Item = (&'a EndpointId, &'a EndpointRecord)> + Clone,
    presence: impl Fn(&str) -> Presence,
) -> BTreeMap<EndpointId, EndpointNames> {
    let away = |record: &EndpointRecord| presence(&record.node) == Presence::Away;
    let mut answered = BTreeSet::new();
    if endpoints.clone().any(|(_, record)| away(record)) {
        for (_, record) in endpoints.clone().filter(|(_, record)| !away(record)) {
            answered.extend(names(record).map(str::to_ascii_lowercase));
        }
    }
    let mut all = BTreeMap::new();
    for (id, record) in endpoints {
        let wanted = |name: &&str| match presence(&record.node) {
            Presence::Own => false,
            Presence::Live => true,
            Presence::Away => !answered.contains(&name.to_ascii_lowercase()),
        };
        let names: Vec<_> = names(record).filter(wanted).map(str::to_owned).collect();
        if !names.is_empty() {
            let addresses = record.addresses.iter().map(ipnetwork::IpNetwork::ip).collect();
            let services = Vec::new();
            let of = EndpointNames { endpoint: id.clone(), names, addresses, services };
            all.insert(id.clone(), of);
        }
    }
    all
}

fn names(record: &EndpointRecord) -> impl Iterator<Item = &str> {
    let aliases = record.aliases.iter().map(String::as_str);
    std::iter::once(record.name.as_str()).chain(aliases).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use cnm::Mac;

    use super::*;

    fn endpoint(digit: u8, node: &str, names: &[&str]) -> (EndpointId, EndpointRecord) {
        let record = EndpointRecord {
            version: 1,
            node: node.to_owned(),
            epoch: 1,
            mac: Mac::from_random([digit; 6]),
            addresses: vec![format!("10.1.0.{digit}/24").parse().unwrap()],
            name: names[0].to_owned(),
            container: String::new(),
            aliases: names[1..].iter().map(|name| (*name).to_owned()).collect(),
        };
        (EndpointId::from_random([digit; 32]), record)
    }

    fn found(all: &[(EndpointId, EndpointRecord)]) -> Vec<String> {
        let presence = |node: &str| match node {
            "here" => Presence::Own,
            "away" => Presence::Away,
            _ => Presence::Live,
        };
        let names = of_others(all.iter().map(|(id, record)| (id, record)), presence);
        names
            .into_values()
            .map(|of| format!("{} {}", of.addresses[0], of.names.join(" ")))
            .collect()
    }

    #[test]
    fn endpoints_of_this_host_are_left_to_itself() {
        let all = [endpoint(1, "here", &["a"]), endpoint(2, "there", &["b", "db"])];
        assert_eq!(found(&all), ["10.1.0.2 b db"]);
    }

    #[test]
    fn a_host_that_is_away_hides_behind_others_with_the_same_name() {
        let all = [
            endpoint(1, "away", &["a", "web"]),
            endpoint(2, "there", &["b", "Web"]),
            endpoint(3, "away", &["c", "own"]),
            endpoint(4, "here", &["own"]),
        ];
        assert_eq!(found(&all), ["10.1.0.1 a", "10.1.0.2 b Web", "10.1.0.3 c"]);
    }

    #[test]
    fn a_name_that_only_hosts_have_that_are_away_is_answered() {
        let all = [endpoint(1, "away", &["a", "web"]), endpoint(2, "away", &["b", "web"])];
        assert_eq!(found(&all), ["10.1.0.1 a web", "10.1.0.2 b web"]);
    }
}
