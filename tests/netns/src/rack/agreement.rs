//! Whether all machines of a cluster say, do and have the same: the store, what `rnet` tells, the kernels, and
//! packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use drivers::kernel::Netns;
use serde_json::Value;

use super::records::{Records, addresses, text};
use super::{Machine, Rack};
use crate::{Daemon, Host, lookup, patient};

/// What listens in every container while it is asked who reaches whom.
const PORT: u16 = 7007;

/// How a complaint of something that is missing ends.
const ONLY_IN_THE_STORE: &str = " is only in the store";

/// A container on an overlay network.
struct Member {
    network: String,
    endpoint: String,
    name: String,
    mac: String,
    addresses: BTreeSet<String>,
    pid: String,
}

impl Rack {
    /// Waits until nobody contradicts anybody; fails with what is contradicted after a time.
    pub fn agrees(&self) {
        self.agrees_within(Duration::from_secs(10));
    }

    /// The same with another time. Returns how long it took.
    pub fn agrees_within(&self, limit: Duration) -> Duration {
        let start = Instant::now();
        loop {
            let taken = start.elapsed();
            let wrong = self.contradictions();
            if wrong.is_empty() {
                return taken;
            }
            assert!(taken < patient(limit), "after {limit:?}:\n{}", wrong.join("\n"));
        }
    }

    /// What is contradicted now.
    pub fn contradictions(&self) -> Vec<String> {
        let records = Records::read(&self.etcd);
        let mut wrong = records.contradictions();
        let mut all = Vec::new();
        for (number, machine) in self.machines.iter().enumerate() {
            let Some(daemon) = &machine.daemon else { continue };
            let node = records.nodes.iter().find(|(_, node)| machine.has(&node["address"]));
            let Some((id, _)) = node else {
                wrong.push(format!("machine {number} is no node"));
                continue;
            };
            let members = members(daemon, &records);
            let told = told(daemon, &members, &records, id);
            let made = made(machine, &members, &records, id);
            let held = held(daemon, &records, id);
            let named = told.into_iter().chain(made).chain(held);
            wrong.extend(named.map(|complaint| format!("machine {number}: {complaint}")));
            all.extend(members.into_iter().map(|member| (machine, member)));
        }
        if wrong.is_empty() { unreached(&all) } else { wrong }
    }
}

impl Machine {
    pub(super) fn has(&self, address: &Value) -> bool {
        self.addresses.iter().any(|own| own == address)
    }
}

/// The running containers of a daemon on the networks of the cluster.
fn members(daemon: &Daemon, records: &Records) -> Vec<Member> {
    let ids = daemon.rnet("ps -q --no-trunc");
    if ids.is_empty() {
        return Vec::new();
    }
    let all =
        daemon.rnet(&format!("inspect {}", ids.split_whitespace().collect::<Vec<_>>().join(" ")));
    let all: Vec<Value> = serde_json::from_str(&all).unwrap();
    let mut members = Vec::new();
    for container in &all {
        let networks = container["NetworkSettings"]["Networks"].as_object().unwrap();
        for endpoint in networks.values() {
            let network = text(&endpoint["NetworkID"]);
            if !records.networks.contains_key(&network) {
                continue;
            }
            let given = ["IPAddress", "GlobalIPv6Address"].map(|family| text(&endpoint[family]));
            members.push(Member {
                network,
                endpoint: text(&endpoint["EndpointID"]),
                name: text(&container["Name"]).trim_start_matches('/').to_owned(),
                mac: text(&endpoint["MacAddress"]),
                addresses: given.into_iter().filter(|address| !address.is_empty()).collect(),
                pid: text(&container["State"]["Pid"]),
            });
        }
    }
    members
}

/// Where a daemon tells something else than the store has.
fn told(daemon: &Daemon, members: &[Member], records: &Records, node: &str) -> Vec<String> {
    let ids = daemon.rnet("network ls -q --no-trunc --filter driver=overlay");
    let networks: BTreeSet<_> = ids.split_whitespace().map(str::to_owned).collect();
    let mut wrong = differences("network", &networks, &records.networks.keys().cloned().collect());
    let describe = |network: &str, id: &str, name: &str, mac: &str, addresses: &BTreeSet<_>| {
        format!("{id} of {name} on {network}: {mac} {addresses:?}")
    };
    let told: BTreeSet<_> = members
        .iter()
        .map(|m| describe(&m.network, &m.endpoint, &m.name, &m.mac, &m.addresses))
        .collect();
    let own = records.endpoints.iter().filter(|(_, record)| record["node"] == node);
    let kept: BTreeSet<_> = own
        .map(|((network, id), r)| {
            describe(network, id, &text(&r["name"]), &text(&r["mac"]), &addresses(r))
        })
        .collect();
    wrong.extend(differences("endpoint", &told, &kept));
    wrong
}

/// Addresses that a daemon's machine has in the store for somebody who is not there.
fn held(daemon: &Daemon, records: &Records, node: &str) -> Vec<String> {
    let ids = daemon.rnet("ps -aq --no-trunc");
    let there: BTreeSet<_> = ids.split_whitespace().collect();
    let own = records.addresses.iter().filter(|(_, record)| record["node"] == node);
    let held = own.filter_map(|((_, address), record)| Some((address, record["holder"].as_str()?)));
    let gone = held.filter(|(_, holder)| !there.contains(holder));
    gone.map(|(address, holder)| format!("{address} is held for {holder:.12}, who is gone"))
        .collect()
}

/// Where a kernel has something else than the store wants it to have.
fn made(machine: &Machine, members: &[Member], records: &Records, node: &str) -> Vec<String> {
    let kernel = Observed::new(&machine.host);
    let mut wrong = Vec::new();
    for (id, network) in &records.networks {
        let (bridge, tunnel) = (format!("br-{}", &id[..12]), format!("vx-{}", &id[..12]));
        let here: Vec<_> = members.iter().filter(|member| member.network == *id).collect();
        let ports = kernel.ports(&bridge);
        if ports.len() != here.len() + 1 || !ports.contains(&tunnel) {
            wrong.push(format!("{bridge} has {ports:?} for {} endpoints", here.len()));
        }
        if let Some(complaint) = kernel.tunnel_is_not(&tunnel, network, &records.nodes[node]) {
            wrong.push(complaint);
        }
        let remote = records.endpoints.iter().filter(|((network, _), _)| network == id);
        let remote = remote.map(|(_, record)| record).filter(|record| record["node"] != node);
        let (mut forwards, mut neighbours) = (BTreeSet::new(), BTreeSet::new());
        for record in remote {
            let mac = text(&record["mac"]);
            let number = records.nodes[&text(&record["node"])]["number"].as_u64().unwrap();
            let group = group(number, is_encrypted(network));
            forwards.insert(format!("{mac} by {tunnel} to group {group}"));
            forwards.insert(format!("{mac} by {bridge} to {tunnel}"));
            neighbours.extend(addresses(record).into_iter().map(|ip| format!("{ip} at {mac}")));
        }
        let pairs = [
            ("forward", kernel.forwards(&bridge, &tunnel), forwards),
            ("neighbour", kernel.neighbours(&bridge), neighbours),
        ];
        for (what, found, wanted) in pairs {
            let wrongs = differences(what, &found, &wanted);
            // Who has nobody on a network may know who else is there, or not; but nothing else.
            let lacks = |text: &String| text.ends_with(ONLY_IN_THE_STORE);
            wrong.extend(wrongs.into_iter().filter(|text| !here.is_empty() || !lacks(text)));
        }
    }
    let known: BTreeSet<_> =
        records.networks.keys().map(|id| format!("vx-{}", &id[..12])).collect();
    wrong.extend(differences("tunnel", &kernel.tunnels(), &known));
    wrong.extend(ways(&kernel, records, node));
    wrong.extend(admitted(machine, records, node));
    wrong
}

/// Where other ways lead to other machines than there are machines, encrypted or not.
fn ways(kernel: &Observed, records: &Records, node: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let others = records.nodes.iter().filter(|(id, _)| *id != node).map(|(_, record)| record);
    let hops = others
        .flat_map(|other| {
            let number = other["number"].as_u64().unwrap();
            let group = group(number, false);
            let hop = format!("{} by {}", group - 1, text(&other["address"]));
            [hop, format!("{group} of {}", group - 1)]
        })
        .collect();
    wrong.extend(differences("nexthop", &kernel.nexthops(false), &hops));
    let encrypts = records.networks.values().any(is_encrypted);
    let able = records
        .nodes
        .iter()
        .filter(|(id, other)| *id != node && encrypts && !other["wireguard"].is_null());
    let hops = able.map(|(_, other)| {
        let group = group(other["number"].as_u64().unwrap(), true);
        format!("{group} of {}", group - 1)
    });
    wrong.extend(differences("nexthop", &kernel.nexthops(true), &hops.collect()));
    if kernel.has_link("rnet-wg0") != encrypts {
        wrong
            .push(format!("there are encrypted networks: {encrypts}, and what encrypts is not so"));
    }
    wrong
}

/// Where a ruleset lets other tunnels in than those of the cluster's networks from its other machines.
fn admitted(machine: &Machine, records: &Records, node: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (set, encrypted) in [("tunnels", false), ("encrypted", true)] {
        let networks = records.networks.values().filter(|one| is_encrypted(one) == encrypted);
        let tunnels = networks.map(|network| {
            let number = u32::try_from(network["vni"].as_u64().unwrap()).unwrap();
            format!("{} {}", network["port"], std::net::Ipv4Addr::from(number << 8))
        });
        wrong.extend(differences("tunnel", &elements(machine, &[set]), &tunnels.collect()));
    }
    let others = records.nodes.iter().filter(|(id, _)| *id != node);
    let others = others.map(|(_, record)| text(&record["address"])).collect();
    let sources = elements(machine, &["tunnel-sources4", "tunnel-sources6"]);
    wrong.extend(differences("source of tunnels", &sources, &others));
    wrong
}

/// The elements of sets of a machine's ruleset.
fn elements(machine: &Machine, sets: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for set in sets {
        let listed = machine.host.output(&format!("nft -j list set inet rnet {set}"));
        let listed: Value = serde_json::from_str(&listed).unwrap();
        for element in listed["nftables"][1]["set"]["elem"].as_array().into_iter().flatten() {
            let words = element["concat"].as_array().map(|words| words.iter().map(text).collect());
            let words: Vec<_> = words.unwrap_or_else(|| vec![text(element)]);
            found.insert(words.join(" "));
        }
    }
    found
}

/// The nexthop group of the node with a number.
fn group(number: u64, encrypted: bool) -> u64 {
    (if encrypted { ENCRYPTED } else { 0x726e_0000 }) + 2 * number + 1
}

/// Where the numbers of encrypted ways begin.
const ENCRYPTED: u64 = 0x726f_0000;

/// Whether a network's record says that it is encrypted.
fn is_encrypted(network: &Value) -> bool {
    matches!(network["options"]["encrypted"].as_str(), Some("" | "true"))
}

/// What is there and should not be, and what is not there and should be.
fn differences(what: &str, found: &BTreeSet<String>, wanted: &BTreeSet<String>) -> Vec<String> {
    let surplus = found.difference(wanted).map(|one| format!("{what} {one} is not of the store"));
    let missing = wanted.difference(found).map(|one| format!("{what} {one}{ONLY_IN_THE_STORE}"));
    surplus.chain(missing).collect()
}

/// Who does not reach whom on the same network by address, over TCP or UDP, or does not find him by name.
fn unreached(all: &[(&Machine, Member)]) -> Vec<String> {
    let inside: Vec<_> = all
        .iter()
        .map(|(machine, member)| {
            let path = format!("proc/{}/ns/net", member.pid);
            Host::from_netns(Netns::open(machine.daemon().root(&path)).unwrap())
        })
        .collect();
    let pids: BTreeMap<_, _> =
        all.iter().zip(&inside).map(|((m, x), h)| ((&m.port, &x.pid), h)).collect();
    let _servers: Vec<_> = pids.values().map(|host| host.serve(PORT)).collect();
    let mut wrong = Vec::new();
    for (host, (_, from)) in inside.iter().zip(all) {
        for (_, to) in all.iter().filter(|(_, to)| to.network == from.network) {
            for address in to.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
                let server = (address, PORT).into();
                let quick = Duration::from_secs(2);
                if let Err(error) = host.tcp_to(server, quick).and(host.udp_to(server, quick)) {
                    wrong.push(format!("{} reaches {} at {address}: {error}", from.name, to.name));
                }
            }
            let found: BTreeSet<_> =
                lookup::addresses(host, &to.name).iter().map(ToString::to_string).collect();
            if !found.is_superset(&to.addresses) {
                let name = &to.name;
                wrong.push(format!("{} finds {name} at {found:?}: {:?}", from.name, to.addresses));
            }
        }
    }
    wrong
}

/// What `ip` and `bridge` show of a host.
struct Observed {
    links: Vec<Value>,
    forwards: Vec<Value>,
    neighbours: Vec<Value>,
    nexthops: Vec<Value>,
}

impl Observed {
    fn new(host: &Host) -> Self {
        let read = |command: &str| match host.output(command).trim() {
            "" => Vec::new(),
            text => serde_json::from_str(text).unwrap(),
        };
        Self {
            links: read("ip -j -d link show"),
            forwards: read("bridge -j fdb show"),
            neighbours: read("ip -j neigh show nud permanent"),
            nexthops: read("ip -j nexthop show"),
        }
    }

    fn ports(&self, bridge: &str) -> BTreeSet<String> {
        let ports = self.links.iter().filter(|link| link["master"] == bridge);
        ports.map(|link| text(&link["ifname"])).collect()
    }

    fn tunnels(&self) -> BTreeSet<String> {
        let tunnels = self.links.iter().filter(|link| link["linkinfo"]["info_kind"] == "vxlan");
        tunnels.map(|link| text(&link["ifname"])).collect()
    }

    /// What is wrong about a tunnel's link.
    fn tunnel_is_not(&self, name: &str, network: &Value, node: &Value) -> Option<String> {
        let Some(link) = self.links.iter().find(|link| link["ifname"] == name) else {
            return Some(format!("there is no {name}"));
        };
        let data = &link["linkinfo"]["info_data"];
        let local = if data["local"].is_null() { &data["local6"] } else { &data["local"] };
        // Inside of what encrypts it has another address.
        let is_inside = is_encrypted(network) && text(local).starts_with("fd");
        let right = data["id"] == network["vni"]
            && data["port"] == network["port"]
            && (*local == node["address"] || is_inside)
            && data["learning"] == false;
        (!right).then(|| format!("{name} is {data} for {network} of {node}"))
    }

    fn forwards(&self, bridge: &str, tunnel: &str) -> BTreeSet<String> {
        let on = self.forwards.iter().filter(|forward| forward["ifname"] == tunnel);
        on.filter_map(|forward| {
            let mac = text(&forward["mac"]);
            if forward["master"] == bridge && forward["state"] == "static" {
                Some(format!("{mac} by {bridge} to {tunnel}"))
            } else if forward["master"].is_null() {
                let way = forward["nhid"].as_u64().map_or_else(
                    || format!("address {}", forward["dst"]),
                    |group| format!("group {group}"),
                );
                Some(format!("{mac} by {tunnel} to {way}"))
            } else {
                None
            }
        })
        .collect()
    }

    fn neighbours(&self, bridge: &str) -> BTreeSet<String> {
        let on = self.neighbours.iter().filter(|neighbour| neighbour["dev"] == bridge);
        on.map(|n| format!("{} at {}", text(&n["dst"]), text(&n["lladdr"]))).collect()
    }

    fn has_link(&self, name: &str) -> bool {
        self.links.iter().any(|link| link["ifname"] == name)
    }

    /// The ways that are encrypted, of which the groups alone can be told without rnet's help, or those that
    /// are not.
    fn nexthops(&self, encrypted: bool) -> BTreeSet<String> {
        let is_one = |hop: &&Value| {
            let is_encrypted = hop["id"].as_u64().is_some_and(|id| id >= ENCRYPTED);
            is_encrypted == encrypted && (!encrypted || hop["gateway"].is_null())
        };
        let tell = |hop: &Value| match &hop["group"][0]["id"] {
            Value::Null => format!("{} by {}", hop["id"], text(&hop["gateway"])),
            member => format!("{} of {member}", hop["id"]),
        };
        self.nexthops.iter().filter(is_one).map(tell).collect()
    }
}
