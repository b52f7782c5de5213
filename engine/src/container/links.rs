//! `--link`: other containers by names that only this one knows.
//!
//! On the default network a link is to a container, which must be there when the link is made and
//! run when the linking container starts. It gives that one variables, lines in `/etc/hosts` and
//! a way to the ports that the other one exposes, and goes with either of the two
//! (`docs/adr/0030`). On networks of the user's it is one more name, for whoever has the address at
//! the moment.

mod environment;
mod follow;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use cnm::sandbox::Passage;

use super::{Container, ContainerId, Containers, EndpointView, NetworkMode, Spec};
use engine_error::{Error, Result};

/// The network whose links are to containers.
const NETWORK: &str = "bridge";

/// A link as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link<'a> {
    /// The other container, by name or id.
    pub(crate) key: &'a str,
    /// What this one calls it.
    pub(crate) alias: &'a str,
}

/// A link to a container on the default network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkTo {
    /// The other container.
    pub container: ContainerId,
    /// What this one calls it.
    pub alias: String,
    /// What the other one was called, once it was removed.
    pub removed: Option<String>,
}

/// A line of `/etc/hosts`: the addresses that some names are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// The names, what the linking container calls it first.
    pub(crate) names: Vec<String>,
    /// The addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

impl<'a> Link<'a> {
    /// Reads `name`, `name:alias`, `name:/alias` and `/name:/own/alias`.
    pub(crate) fn parse(text: &'a str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid("empty string specified for links"));
        }
        let (key, alias) = text.split_once(':').unwrap_or((text, text));
        if alias.contains(':') {
            return Err(Error::invalid(format!("bad format for links: {text}")));
        }
        Ok(match key.strip_prefix('/') {
            // As `inspect` shows it: the names of both, and the alias below that of the second.
            Some(key) => Self { key, alias: alias.rsplit('/').next().unwrap_or(alias) },
            None => Self { key, alias: alias.trim_start_matches('/') },
        })
    }
}

impl Containers {
    /// The containers that a new one is to be linked to. A second link of a name is none.
    pub(super) fn links_of_new(&self, spec: &Spec) -> Result<Vec<LinkTo>> {
        let mut found: Vec<LinkTo> = Vec::new();
        for text in &spec.links {
            let Link { key, alias } = Link::parse(text)?;
            if !is_legacy(spec) {
                continue;
            }
            let other = self.linkable(key)?;
            if found.iter().all(|link| link.alias != alias) {
                let (container, alias) = (other.id.clone(), alias.to_owned());
                found.push(LinkTo { container, alias, removed: None });
            }
        }
        Ok(found)
    }

    /// The container that a link to a key is to: the one whose network it uses.
    fn linkable(&self, key: &str) -> Result<Arc<Container>> {
        let find = |key: &str| {
            let text = |error| format!("could not get container for {key}: {error}");
            self.registry.find(key).map_err(|error| Error::invalid(text(error)))
        };
        let mut other = find(key)?.get();
        while let Some(next) = other.spec.network_mode().container() {
            other = find(next)?.get();
        }
        if *other.spec.network_mode() == NetworkMode::Host {
            return Err(Error::invalid(
                "conflicting options: host type networking can't be used with links. This would \
                 result in undefined behavior",
            ));
        }
        Ok(other)
    }

    /// Refuses a start whose links lead to containers that do not run.
    pub(crate) fn check_links(&self, container: &Container) -> Result<()> {
        let missing = |name: &str, link: &LinkTo, hint: &str| {
            Error::conflict(format!(
                "Cannot link to a non running container: /{name} AS /{}/{}{hint}",
                container.name, link.alias
            ))
        };
        if !uses_links(container) {
            return Ok(());
        }
        for link in container.links.iter().flatten() {
            let Ok(other) = self.registry.find(&link.container) else {
                let name = link.removed.as_deref().unwrap_or(link.container.short());
                let own = format!("{}/{}", container.name, link.alias);
                let hint = format!(", which was removed: `rm --link {own}` removes the link too");
                return Err(missing(name, link, &hint));
            };
            let other = other.get();
            if !other.state.has_process() {
                return Err(missing(&other.name, link, ""));
            }
            if of_default(&other).is_none() {
                return Err(Error::invalid(format!(
                    "container {} not attached to default bridge network",
                    other.id
                )));
            }
        }
        Ok(())
    }

    /// The links of a container as `inspect` shows them, `/db:/app/db`; `None` where they are as
    /// they were asked for.
    pub fn links_shown(&self, container: &Container) -> Option<Vec<String>> {
        let links = container.links.as_deref().filter(|_| is_legacy(&container.spec))?;
        let shown = links.iter().map(|link| {
            let other = self.registry.find(&link.container).map(|live| live.get().name.clone());
            let name = other.ok().or_else(|| link.removed.clone()).unwrap_or_default();
            format!("/{name}:/{}/{}", container.name, link.alias)
        });
        Some(shown.collect())
    }

    /// What other containers call one by their links, `/app/db`, and its own name, in order.
    pub fn names_of(&self, container: &Container) -> Vec<String> {
        let mut names = vec![format!("/{}", container.name)];
        for parent in self.registry.linking() {
            let parent = parent.get();
            let own = parent.links.iter().flatten().filter(|link| link.container == container.id);
            names.extend(own.map(|link| format!("/{}/{}", parent.name, link.alias)));
        }
        names.sort();
        names
    }

    /// What `/etc/hosts` of a container says of those that it links to. One that does not run has
    /// no address: whoever links to it goes on without.
    pub(crate) fn linked(&self, container: &Container) -> Vec<Named> {
        let named = self.link_targets(container).into_iter().map(|(link, other)| {
            let mut names = vec![link.alias.clone(), other.resolved.hostname.clone()];
            names.extend((other.name != link.alias).then(|| other.name.clone()));
            Named { names, addresses: of_default(&other).map(addresses).unwrap_or_default() }
        });
        named.filter(|named| !named.addresses.is_empty()).collect()
    }

    /// The names that are answered in a container for those that it links to.
    pub(crate) fn linked_names(&self, container: &Container) -> BTreeMap<String, Vec<IpAddr>> {
        let mut all = BTreeMap::new();
        let by_name = named_links(container).filter_map(|(link, network)| {
            let other = self.registry.find(link.key).ok()?.get();
            let there = other.endpoints.iter().filter(|there| is_on(there, network));
            let addresses: Vec<_> = there.flat_map(addresses).collect();
            let names = vec![link.alias.to_owned()];
            (!addresses.is_empty()).then_some(Named { names, addresses })
        });
        for Named { names, addresses } in by_name.chain(self.linked(container)) {
            all.extend(names.into_iter().map(|name| (name, addresses.clone())));
        }
        all
    }

    /// The ports that a container's links open to it, where containers of the default network do
    /// not talk to each other.
    pub(crate) fn passages(&self, container: &Container) -> Vec<Passage> {
        let targets = self.link_targets(container).into_iter();
        let passages = targets.flat_map(|(_, other)| {
            let to = of_default(&other).map(addresses).unwrap_or_default();
            let exposed = other.resolved.exposed.clone();
            to.into_iter().flat_map(move |to| {
                let passage = move |(port, protocol)| Passage { to, protocol, port };
                exposed.clone().into_iter().map(passage)
            })
        });
        passages.collect()
    }

    /// The links of a container on the default network, with the containers that they are to.
    fn link_targets(&self, container: &Container) -> Vec<(LinkTo, Arc<Container>)> {
        let links = container.links.iter().flatten().filter(|_| uses_links(container));
        let find =
            |link: &LinkTo| Some((link.clone(), self.registry.find(&link.container).ok()?.get()));
        links.filter_map(find).collect()
    }
}

/// Whether a container is on the network of its links.
fn uses_links(container: &Container) -> bool {
    is_legacy(&container.spec) && of_default(container).is_some()
}

/// Whether links are of the old kind: to a container, and not to a name.
fn is_legacy(spec: &Spec) -> bool {
    matches!(spec.network_mode(), NetworkMode::Default | NetworkMode::Bridge)
}

/// Whether a container has links of any kind.
pub(super) fn has_any(container: &Container) -> bool {
    let of_endpoints = container.endpoints.iter().flat_map(|endpoint| &endpoint.spec.links);
    container.links.iter().flatten().next().is_some()
        || container.spec.links.iter().chain(of_endpoints).next().is_some()
}

/// The links that are one more name each, with the container's endpoint on the network where that is
/// answered.
fn named_links(container: &Container) -> impl Iterator<Item = (Link<'_>, &EndpointView)> {
    let first = container.endpoints.first().filter(|_| !is_legacy(&container.spec));
    let own = first
        .into_iter()
        .flat_map(|first| container.spec.links.iter().map(move |text| (text, first)));
    let all = container.endpoints.iter();
    let of_endpoints = all.flat_map(|of| of.spec.links.iter().map(move |text| (text, of)));
    own.chain(of_endpoints).filter_map(|(text, of)| Some((Link::parse(text).ok()?, of)))
}

/// Whether an endpoint is on the network of another one.
fn is_on(endpoint: &EndpointView, other: &EndpointView) -> bool {
    match (&endpoint.network_id, &other.network_id) {
        (Some(one), Some(other)) => one == other,
        _ => endpoint.network == other.network,
    }
}

/// A container on the default network.
fn of_default(container: &Container) -> Option<&EndpointView> {
    container.endpoints.iter().find(|endpoint| endpoint.network == NETWORK)
}

fn addresses(endpoint: &EndpointView) -> Vec<IpAddr> {
    endpoint.addresses.iter().map(ipnetwork::IpNetwork::ip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_in_every_form() {
        for (text, key, alias) in [
            ("db", "db", "db"),
            ("db:sql", "db", "sql"),
            ("db:/sql", "db", "sql"),
            ("/db:/web/sql", "db", "sql"),
        ] {
            assert_eq!(Link::parse(text).unwrap(), Link { key, alias }, "{text}");
        }
        for text in ["", "a:b:c"] {
            assert!(Link::parse(text).is_err(), "{text}");
        }
    }
}
