//! From names to addresses: `/etc/hosts`, then the DNS as `/etc/resolv.conf` says.
//!
//! The C library's own resolver loads plugins at run time, which a static program cannot.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::dns::{self, Failure, Kind, Record};

/// Which address family is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Any,
    V4,
    V6,
}

impl Family {
    pub fn admits(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }

    pub fn from_options(flags: &[(char, String)]) -> Self {
        flags.iter().fold(Self::Any, |family, (flag, _)| match flag {
            '4' => Self::V4,
            '6' => Self::V6,
            _ => family,
        })
    }
}

/// What `/etc/resolv.conf` says.
pub struct Config {
    pub servers: Vec<SocketAddr>,
    pub search: Vec<String>,
    pub ndots: usize,
    pub timeout: Duration,
    pub attempts: u32,
}

impl Config {
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut config = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    config.servers.extend(words.next().and_then(|word| address(word, 53)));
                }
                Some("search" | "domain") => config.search = words.map(str::to_owned).collect(),
                Some("options") => words.for_each(|word| config.option(word)),
                _ => {}
            }
        }
        if config.servers.is_empty() {
            config.servers.push(SocketAddr::from(([127, 0, 0, 1], 53)));
        }
        config
    }

    fn option(&mut self, word: &str) {
        let Some((key, value)) = word.split_once(':') else { return };
        let Ok(value) = value.parse::<u32>() else { return };
        match key {
            "ndots" => self.ndots = value.min(15) as usize,
            "timeout" => self.timeout = Duration::from_secs(value.clamp(1, 30).into()),
            "attempts" => self.attempts = value.clamp(1, 5),
            _ => {}
        }
    }

    /// The full names to try for a name, in order.
    pub fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let searched = self.search.iter().map(|domain| format!("{name}.{domain}"));
        if name.matches('.').count() >= self.ndots {
            std::iter::once(name.to_owned()).chain(searched).collect()
        } else {
            searched.chain(std::iter::once(name.to_owned())).collect()
        }
    }
}

/// `ADDRESS`, `ADDRESS:PORT`, `[ADDRESS]:PORT`.
pub fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.split_once('%').map_or(text, |(address, _)| address);
    match bare.parse::<IpAddr>() {
        Ok(address) => Some(SocketAddr::new(address, port)),
        Err(_) => text.parse().ok(),
    }
}

/// The addresses of a host, in the order they are to be tried.
pub fn resolve(host: &str, family: Family) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return if family.admits(address) {
            Ok(vec![address])
        } else {
            Err(format!("{host} is of the other address family"))
        };
    }
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let mut found = in_hosts(&hosts, host, family);
    if found.is_empty() && host.eq_ignore_ascii_case("localhost") {
        let loopback = [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()];
        found = loopback.into_iter().filter(|address| family.admits(*address)).collect();
    }
    if found.is_empty() {
        found = in_dns(host, family)?;
    }
    if found.is_empty() { Err(format!("{host}: no address")) } else { Ok(found) }
}

fn in_hosts(hosts: &str, host: &str, family: Family) -> Vec<IpAddr> {
    let wanted = host.trim_end_matches('.');
    let mut found = Vec::new();
    for line in hosts.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
        if family.admits(address) && words.any(|word| word.eq_ignore_ascii_case(wanted)) {
            found.push(address);
        }
    }
    found
}

fn in_dns(host: &str, family: Family) -> Result<Vec<IpAddr>, String> {
    let config = Config::read();
    let kinds: &[Kind] = match family {
        Family::V4 => &[Kind::A],
        Family::V6 => &[Kind::Aaaa],
        Family::Any => &[Kind::A, Kind::Aaaa],
    };
    let mut failure = None;
    for name in config.candidates(host) {
        let mut found = Vec::new();
        for &kind in kinds {
            match dns::ask(&config, &name, kind) {
                Ok(answer) => found.extend(answer.records.iter().filter_map(Record::address)),
                Err(Failure::NoName) => {}
                Err(other) => failure = Some(other),
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    match failure {
        Some(failure) => Err(format!("{host}: {failure}")),
        None => Err(format!("{host}: no such host")),
    }
}
