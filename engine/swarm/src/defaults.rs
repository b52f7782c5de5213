//! What a swarm was told of its networks and its store: what networks are made of where nobody says
//! otherwise, and numbers that are kept and told, though nobody heeds them here.

use std::net::IpAddr;

use engine_error::{Error, Result};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The UDP port of tunnels, unless another one is named.
const TUNNELS: u16 = 4789;

/// The ports that tunnels may have.
const PORTS: std::ops::RangeInclusive<u32> = 1024..=49151;

/// The smallest subnet of IPv4 that networks get, as the length of its prefix.
const SMALLEST: u32 = 29;

/// How large subnets of pools are that a user names without a size.
const USUAL: u8 = 24;

/// How large subnets of IPv6 are: addresses of hosts have 64 bits there.
const USUAL_IPV6: u8 = 64;

/// What networks are made of where nobody says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkDefaults {
    /// What subnets are cut from, as it was given; every cluster's own where it is none.
    pub pools: Vec<IpNetwork>,
    /// How large the subnets of IPv4 are, if that was said.
    pub subnet_size: Option<u8>,
    /// The UDP port of tunnels, if that was said.
    pub port: Option<u16>,
}

impl NetworkDefaults {
    /// What a client asks for: zeros stand for what it does not.
    pub fn new(pools: &[String], subnet_size: u32, port: u32) -> Result<Self> {
        if subnet_size > SMALLEST {
            return Err(Error::invalid(format!("subnet size is out of range: {subnet_size}")));
        }
        if port != 0 && !PORTS.contains(&port) {
            return Err(Error::invalid(format!(
                "Datapath port number is not in valid range (1024-49151) : {port}"
            )));
        }
        let subnet_size = u8::try_from(subnet_size).ok().filter(|size| *size != 0);
        let port = u16::try_from(port).ok().filter(|port| *port != 0);
        let pools = pools.iter().map(|pool| parse(pool)).collect::<Result<_>>()?;
        let defaults = Self { pools, subnet_size, port };
        for (pool, size) in defaults.supernets() {
            if pool.prefix() > size {
                return Err(Error::invalid(format!(
                    "invalid CIDR: \"{pool}\". Subnet size is too small for pool: {size}"
                )));
            }
        }
        Ok(defaults)
    }

    /// What subnets are cut from, and how large they are; nothing of a family where that is the
    /// cluster's choice.
    pub fn supernets(&self) -> Vec<(IpNetwork, u8)> {
        let ipv4 = self.subnet_size.unwrap_or(USUAL);
        let size = |pool: &IpNetwork| if pool.is_ipv6() { USUAL_IPV6 } else { ipv4 };
        let mut all: Vec<_> = self.pools.iter().map(|pool| (whole(*pool), size(pool))).collect();
        // A size alone is that of the cluster's own pool.
        if let Some(size) = self.subnet_size
            && !self.pools.iter().any(IpNetwork::is_ipv4)
        {
            all.extend(cluster::ipv4_supernet().map(|(pool, _)| (pool, size)));
        }
        all
    }

    /// What is told of it: the pools, and how large their subnets of IPv4 are.
    pub fn told(&self) -> (Vec<String>, u8) {
        let own = cluster::ipv4_supernet();
        let mut pools: Vec<_> = self.pools.iter().map(ToString::to_string).collect();
        let mut size = self.subnet_size.unwrap_or(USUAL);
        if !self.pools.iter().any(IpNetwork::is_ipv4)
            && let Some((pool, usual)) = own
        {
            pools.insert(0, pool.to_string());
            size = self.subnet_size.unwrap_or(usual);
        }
        (pools, size)
    }

    /// The UDP port of tunnels.
    pub fn tunnels(&self) -> u16 {
        self.port.unwrap_or(TUNNELS)
    }
}

fn parse(pool: &str) -> Result<IpNetwork> {
    let parsed = pool.split_once('/').and_then(|(address, prefix)| {
        IpNetwork::new(address.parse::<IpAddr>().ok()?, prefix.parse().ok()?).ok()
    });
    parsed.ok_or_else(|| {
        Error::invalid(format!("invalid base pool {pool}: invalid CIDR address: {pool}"))
    })
}

/// The network that an address with a prefix is in.
fn whole(pool: IpNetwork) -> IpNetwork {
    IpNetwork::new(pool.network(), pool.prefix()).unwrap_or(pool)
}

/// Numbers of Docker's own store and of its services. Here the store is etcd's, which keeps its own
/// snapshots and heartbeats, and there are no services: they are what clients wrote, and are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upkeep {
    /// How many entries of the log are between snapshots.
    pub snapshot_interval: u64,
    /// How many old snapshots are kept.
    pub old_snapshots: u64,
    /// How many entries are kept for members that are behind.
    pub entries_for_slow: u64,
    /// After how many ticks a leader is elected.
    pub election_tick: i64,
    /// After how many ticks a leader tells that it is there.
    pub heartbeat_tick: i64,
    /// How often nodes tell that they are there, in nanoseconds.
    pub heartbeat: i64,
    /// How many tasks that ended are kept.
    pub task_history: i64,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            snapshot_interval: 10_000,
            old_snapshots: 0,
            entries_for_slow: 500,
            election_tick: 10,
            heartbeat_tick: 1,
            heartbeat: 5_000_000_000,
            task_history: 5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(pools: &[&str], size: u32) -> Result<NetworkDefaults> {
        let pools: Vec<_> = pools.iter().map(|pool| (*pool).to_owned()).collect();
        NetworkDefaults::new(&pools, size, 0)
    }

    fn told(pools: &[&str], size: u32) -> (Vec<String>, u8) {
        made(pools, size).unwrap().told()
    }

    #[test]
    fn pools_are_told_as_they_were_given() {
        let texts = |pools: &[&str]| pools.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        assert_eq!(told(&["2.0.0.5/16"], 0), (texts(&["2.0.0.5/16"]), 24));
        assert_eq!(told(&["2.0.0.0/16", "3.0.0.0/16"], 28).1, 28);
        assert_eq!(told(&[], 26), (texts(&["10.128.0.0/9"]), 26));
        assert_eq!(told(&[], 0), (texts(&["10.128.0.0/9"]), 20));
        assert_eq!(told(&["fd00::/48"], 0), (texts(&["10.128.0.0/9", "fd00::/48"]), 20));
    }

    #[test]
    fn subnets_are_cut_from_whole_pools_of_both_families() {
        let cut = |pools: &[&str], size| -> Vec<_> {
            let supernets = made(pools, size).unwrap().supernets();
            supernets.iter().map(|(pool, size)| format!("{pool} {size}")).collect()
        };
        assert_eq!(cut(&["2.0.0.5/16", "fd00::/48"], 0), ["2.0.0.0/16 24", "fd00::/48 64"]);
        assert_eq!(cut(&[], 26), ["10.128.0.0/9 26"]);
        assert!(cut(&[], 0).is_empty(), "the cluster's own choice");
    }

    #[test]
    fn wrong_pools_sizes_and_ports_are_refused_in_docker_s_words() {
        for (pools, size, said) in [
            (&["x"][..], 0, "invalid base pool x: invalid CIDR address: x"),
            (&["10.0.0.1"], 0, "invalid base pool 10.0.0.1: invalid CIDR address: 10.0.0.1"),
            (
                &["10.0.0.0/24"],
                20,
                "invalid CIDR: \"10.0.0.0/24\". Subnet size is too small for pool: 20",
            ),
            (
                &["fd00::/96"],
                0,
                "invalid CIDR: \"fd00::/96\". Subnet size is too small for pool: 64",
            ),
            (&[], 8, "invalid CIDR: \"10.128.0.0/9\". Subnet size is too small for pool: 8"),
            (&["10.0.0.0/16"], 30, "subnet size is out of range: 30"),
        ] {
            assert_eq!(made(pools, size).unwrap_err().to_string(), said);
        }
        for port in [1023, 49152, 70000] {
            let said = NetworkDefaults::new(&[], 0, port).unwrap_err().to_string();
            let expected =
                format!("Datapath port number is not in valid range (1024-49151) : {port}");
            assert_eq!(said, expected);
        }
    }
}
