//! Sysctls, and which of them an observation reports.
//!
//! An observation cannot report every sysctl there is, and a desired state names only some. Both
//! sides keep to the same lists: all that [`super::link::sysctls`] has for the kind of each link of ours on the host, all of
//! [`of_end`] for each pair's end on the host that is no port of a bridge, all of [`of_interface`] for each interface of ours in a sandbox, [`FORWARDING`] as [`forwarding`]
//! says, and those of a sandbox that its specification asked for, which are noted beside the
//! namespace's file when they are written. A planner therefore gives each sysctl of the lists a
//! value, whether it is the kernel's default or not.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use cnm::{Key, LinkKind, LinkName, Ns, State, Value};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

/// Forwarding between interfaces, by family.
pub const FORWARDING: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];

/// The sysctls of a bridge.
pub fn of_bridge(bridge: &LinkName) -> [String; 8] {
    [
        format!("net/ipv4/conf/{bridge}/route_localnet"),
        format!("net/ipv4/conf/{bridge}/proxy_arp_pvlan"),
        format!("net/ipv4/neigh/{bridge}/proxy_delay"),
        format!("net/ipv6/conf/{bridge}/accept_dad"),
        format!("net/ipv6/conf/{bridge}/accept_ra"),
        disable_ipv6(bridge),
        format!("net/ipv6/conf/{bridge}/proxy_ndp"),
        format!("net/ipv6/neigh/{bridge}/proxy_delay"),
    ]
}

/// The sysctls of the end on the host of a pair that is no port of a bridge.
pub fn of_end(link: &LinkName) -> [String; 6] {
    [
        format!("net/ipv4/conf/{link}/route_localnet"),
        format!("net/ipv6/conf/{link}/accept_dad"),
        format!("net/ipv6/conf/{link}/accept_ra"),
        disable_ipv6(link),
        format!("net/ipv6/conf/{link}/proxy_ndp"),
        format!("net/ipv6/neigh/{link}/proxy_delay"),
    ]
}

/// The sysctls of an interface in a sandbox.
pub fn of_interface(interface: &LinkName) -> [String; 5] {
    [
        format!("net/ipv4/conf/{interface}/arp_notify"),
        format!("net/ipv6/conf/{interface}/ndisc_notify"),
        format!("net/ipv6/conf/{interface}/accept_dad"),
        format!("net/ipv6/conf/{interface}/accept_ra"),
        disable_ipv6(interface),
    ]
}

/// The sysctls of a tunnel, which is a port of a bridge and nothing else.
pub fn of_tunnel(link: &LinkName) -> [String; 1] {
    [disable_ipv6(link)]
}

/// The sysctls of a link that encrypts: IPv6 is what it is for.
pub fn of_wireguard(link: &LinkName) -> [String; 1] {
    [disable_ipv6(link)]
}

/// The sysctls of the host's own link on the parent of a network.
pub fn of_host_end(link: &LinkName) -> [String; 5] {
    [
        format!("net/ipv4/conf/{link}/arp_filter"),
        format!("net/ipv6/conf/{link}/accept_dad"),
        format!("net/ipv6/conf/{link}/accept_ra"),
        format!("net/ipv6/conf/{link}/autoconf"),
        disable_ipv6(link),
    ]
}

/// Whether IPv6 is off on a link.
pub fn disable_ipv6(link: &LinkName) -> String {
    format!("net/ipv6/conf/{link}/disable_ipv6")
}

/// The directory of the IPv6 sysctls of a namespace's links.
///
/// The kernel keeps the names below `/proc/sys/net` of all namespaces in one hash chain, the oldest
/// last: with 500 namespaces a path from the top takes the host 0.15 ms.
#[derive(Debug)]
pub struct Links(Option<OwnedFd>);

impl Links {
    /// Those of the namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(CWD, "/proc/sys/net/ipv6/conf", flags, Mode::empty()) {
            Ok(directory) => Ok(Self(Some(directory))),
            // A kernel without IPv6.
            Err(Errno::NOENT) => Ok(Self(None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Switches IPv6 off on a link. That the link has none is a success.
    pub fn disable_ipv6(&self, link: &LinkName) -> io::Result<()> {
        let Some(directory) = &self.0 else { return Ok(()) };
        let file = format!("{link}/disable_ipv6");
        match openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => fs::File::from(file).write_all(b"1"),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Forwarding belongs to the host and not to one network: it is wanted as long as there is a
/// bridge, in IPv6 as long as there is one with IPv6, and it is switched off again with the table
/// only. So it is reported only while the bridge of a network that leads through the host needs it.
pub fn forwarding(state: &State) -> impl Iterator<Item = &'static str> {
    let bridges = state.iter().filter_map(|(key, value)| match (key, value) {
        (Key::Link { name, .. }, Value::Link(link)) if leads_through(link) => Some(name),
        _ => None,
    });
    let ipv6 = |bridge: &LinkName| {
        let key = Key::Sysctl { ns: Ns::Host, path: disable_ipv6(bridge) };
        state.get(&key) == Some(&Value::Text("0".to_owned()))
    };
    let (any, any6) = bridges.fold((false, false), |(_, v6), bridge| (true, v6 || ipv6(bridge)));
    FORWARDING.into_iter().zip([any, any6]).filter(|(_, wanted)| *wanted).map(|(path, _)| path)
}

/// The links that the host has a route to an endpoint by: ends of pairs that are ports of nothing.
pub(super) fn ends(state: &State) -> BTreeSet<LinkName> {
    let end = |value: &Value| match value {
        Value::HostRoute { link, .. } => Some(link.clone()),
        _ => None,
    };
    state.iter().filter_map(|(_, value)| end(value)).collect()
}

/// The sysctls of the host that an observation reports of what there is.
pub(super) fn observed(state: &State) -> BTreeSet<String> {
    let of_links = state.iter().filter_map(|(key, value)| match (key, value.link()) {
        (Key::Link { ns: Ns::Host, name }, Some(link)) => {
            Some(super::link::sysctls(&link.kind, name))
        }
        _ => None,
    });
    let of_ends = ends(state).into_iter().flat_map(|end| of_end(&end));
    let forwarding = forwarding(state).map(str::to_owned);
    of_links.flatten().chain(of_ends).chain(forwarding).collect()
}

/// The bridge of a network that has no parent has the host on it neither.
fn leads_through(link: &cnm::Link) -> bool {
    link.kind == LinkKind::Bridge && link.tag.starts_with("network/")
}

/// Whether a sysctl outlives the object that wanted it: nothing is done when it is removed.
pub fn is_shared(path: &str) -> bool {
    FORWARDING.contains(&path)
}

/// The value in the namespace of the calling thread.
///
/// Where there is no IPv6 (a kernel without it, a link whose MTU is too small for it) the value
/// is the one that says so.
pub fn read(path: &str) -> io::Result<String> {
    match fs::read_to_string(file(path)?) {
        Ok(text) => Ok(text.trim_end().replace('\t', " ")),
        Err(error) if gone(&error) => absent(path).map(str::to_owned).ok_or(error),
        Err(error) => Err(error),
    }
}

/// Writes a value in the namespace of the calling thread.
pub fn write(path: &str, value: &str) -> io::Result<()> {
    let opened = OpenOptions::new().write(true).open(file(path)?);
    match opened.and_then(|mut file| file.write_all(value.as_bytes())) {
        Err(error) if gone(&error) && absent(path) == Some(value) => Ok(()),
        result => result,
    }
}

/// Gives a sysctl of a link the value that new links get. That the link is gone is a success, as
/// it is that the sysctl belongs to no link: nobody remembers what it was.
pub fn reset(path: &str) -> io::Result<()> {
    let Some(default) = default_of(path) else { return Ok(()) };
    match read(&default).and_then(|value| write(path, &value)) {
        Err(error) if gone(&error) => Ok(()),
        result => result,
    }
}

/// `net/ipv4/conf/eth0/x` has its default in `net/ipv4/conf/default/x`.
fn default_of(path: &str) -> Option<String> {
    let mut parts: Vec<_> = path.split('/').collect();
    match parts[..] {
        ["net", "ipv4" | "ipv6", "conf" | "neigh", "all" | "default", _] => None,
        ["net", "ipv4" | "ipv6", "conf" | "neigh", _, _] => {
            parts[3] = "default";
            Some(parts.join("/"))
        }
        _ => None,
    }
}

/// The file of a sysctl. Only sysctls of the network are files of a namespace.
fn file(path: &str) -> io::Result<PathBuf> {
    let sound = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !sound || !path.starts_with("net/") {
        let message = format!("`{path}` is not a sysctl of the network: it must be net/...");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(Path::new("/proc/sys").join(path))
}

/// The value of a sysctl that a link does not have because it has no IPv6; `None` if it is the
/// link that is missing.
fn absent(path: &str) -> Option<&'static str> {
    let path = path.strip_prefix("net/ipv6/")?;
    let path = path.strip_prefix("conf/").or_else(|| path.strip_prefix("neigh/"))?;
    let (link, leaf) = path.split_once('/')?;
    let exists = Path::new("/proc/sys/net/ipv4/conf").join(link).exists();
    exists.then_some(if leaf == "disable_ipv6" { "1" } else { "0" })
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}
