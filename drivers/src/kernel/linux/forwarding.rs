//! Forwarding is switched on for the whole host, and only our networks need it: links that did not
//! forward before must not start to because containers are here.
//!
//! When we switch it on, the links that are there and did not forward are noted: packets from one of
//! them to another are dropped by our table. Links that come later are their makers' business, and so
//! is a host that forwarded already. The note lives as long as the switch: in the run directory.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cnm::LinkName;

use super::Linux;
use crate::kernel::nft::Closed;
use crate::kernel::tag::Tag;
use crate::kernel::{Forwarding, link, sysctl};

/// The file of the note, beside the directory of namespaces.
const NOTE: &str = "closed-links";

/// The file of the note.
fn note(linux: &Linux) -> PathBuf {
    linux.config.namespaces.with_file_name(NOTE)
}

/// What was noted earlier.
pub(super) fn noted(namespaces: &Path) -> io::Result<Closed> {
    match fs::read_to_string(namespaces.with_file_name(NOTE)) {
        Ok(text) => Ok(text.lines().filter_map(parse).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Closed::default()),
        Err(error) => Err(error),
    }
}

fn parse(line: &str) -> Option<(bool, LinkName)> {
    let (family, name) = line.split_once(' ')?;
    Some((family == "ipv6", name.parse().ok()?))
}

/// Called before a switch is turned on, in the host's namespace.
pub(super) fn close_others(linux: &Linux, path: &str) -> io::Result<()> {
    if linux.config.forwarding == Forwarding::Everybodys || sysctl::read(path)? != "0" {
        return Ok(());
    }
    let ipv6 = path == sysctl::FORWARDING[1];
    let family = if ipv6 { "ipv6" } else { "ipv4" };
    let mut closed = noted(&linux.config.namespaces)?;
    for name in others(linux)? {
        let forwards = sysctl::read(&format!("net/{family}/conf/{name}/forwarding"));
        if forwards.is_ok_and(|value| value == "0") {
            closed.insert((ipv6, name));
        }
    }
    let line = |(ipv6, name): &(bool, LinkName)| {
        format!("{} {name}\n", if *ipv6 { "ipv6" } else { "ipv4" })
    };
    let file = note(linux);
    let draft = file.with_extension("new");
    fs::write(&draft, closed.iter().map(line).collect::<String>())?;
    fs::rename(draft, file)?;
    let names: Vec<_> =
        closed.iter().filter(|(v6, _)| *v6 == ipv6).map(|(_, n)| n.as_str()).collect();
    tracing::info!(
        family,
        links = names.join(" "),
        "forwarding is switched on; between these links it stays off"
    );
    linux.nft.close(&closed).map_err(io::Error::other)
}

/// Turns the switches off again that we turned on, unless somebody else's link came since: that may
/// need them. Called when nothing of ours is left.
pub(super) fn restore(linux: &Linux) -> io::Result<()> {
    let closed = noted(&linux.config.namespaces)?;
    for (ipv6, path) in [false, true].into_iter().zip(sysctl::FORWARDING) {
        let known: BTreeSet<_> = closed.iter().filter(|(v6, _)| *v6 == ipv6).collect();
        let here = others(linux)?;
        if known.is_empty() || !here.iter().all(|name| closed.contains(&(ipv6, name.clone()))) {
            continue;
        }
        linux.host.run(|| sysctl::write(path, "0"))??;
    }
    match fs::remove_file(note(linux)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The links of the host that are not ours, but for its loopback.
fn others(linux: &Linux) -> io::Result<Vec<LinkName>> {
    let is_ours = |link: &link::Link| {
        let alias = link.alias.as_ref();
        alias.is_some_and(|alias| Tag::parse(&linux.config.tag, alias).is_some())
    };
    let links = linux.with_socket(link::list)?.into_iter();
    let others = links.filter(|link| link.name != "lo" && !is_ours(link));
    Ok(others.filter_map(|link| link.name.parse().ok()).collect())
}
