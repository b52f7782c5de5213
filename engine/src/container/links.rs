//! `--link`: other containers by names that only this one knows.
//!
//! On the default network a link is to a container, which must be there when the link is made and
//! run when the linking container starts. On networks of the user's it is one more name, for
//! whoever has the address at the moment.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Container, Containers, NetworkMode};
use engine_error::{Error, Result};

/// A link as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link<'a> {
    /// The other container, by name or id.
    pub(crate) key: &'a str,
    /// What this one calls it.
    pub(crate) alias: &'a str,
}

impl<'a> Link<'a> {
    /// Reads `name`, `name:alias` and `/name:/own/alias`.
    pub(crate) fn parse(text: &'a str) -> Self {
        let (key, alias) = text.split_once(':').unwrap_or((text, text));
        let alias = alias.rsplit('/').next().unwrap_or(alias);
        Self { key: key.trim_start_matches('/'), alias }
    }
}

impl Containers {
    /// Refuses a start whose links lead to containers that do not run.
    pub(crate) fn check_links(&self, container: &Container) -> Result<()> {
        for link in links(container).filter(|_| is_legacy(container)) {
            let other = self.registry.find(link.key)?.get();
            if !other.state.has_process() {
                return Err(Error::conflict(format!(
                    "Cannot link to a non running container: /{} AS /{}/{}",
                    other.name, container.name, link.alias
                )));
            }
        }
        Ok(())
    }

    /// The addresses of linked containers by name. One that does not run has none: whoever links
    /// to it goes on without.
    pub(crate) fn linked(&self, container: &Container) -> BTreeMap<String, Vec<IpAddr>> {
        let mut names = BTreeMap::new();
        for (link, other) in self.linked_containers(container) {
            let addresses = addresses(&other);
            if addresses.is_empty() {
                continue;
            }
            for name in [link.alias, &other.name] {
                names.insert(name.to_owned(), addresses.clone());
            }
        }
        names
    }

    /// The links that lead somewhere, with the containers that they lead to.
    fn linked_containers<'a>(&self, container: &'a Container) -> Vec<(Link<'a>, Arc<Container>)> {
        let find = |link: Link<'a>| Some((link, self.registry.find(link.key).ok()?.get()));
        links(container).filter_map(find).collect()
    }
}

/// Whether links are of the old kind: to a container, and not to a name.
pub(crate) fn is_legacy(container: &Container) -> bool {
    matches!(container.spec.network_mode(), NetworkMode::Default | NetworkMode::Bridge)
}

/// All links of a container.
pub(crate) fn links(container: &Container) -> impl Iterator<Item = Link<'_>> {
    let own = container.endpoints.iter().flat_map(|endpoint| &endpoint.spec.links);
    container.spec.links.iter().chain(own).map(|text| Link::parse(text))
}

/// All addresses of a container.
fn addresses(container: &Container) -> Vec<IpAddr> {
    let all = container.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    all.map(ipnetwork::IpNetwork::ip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_in_every_form() {
        for (text, key, alias) in
            [("db", "db", "db"), ("db:sql", "db", "sql"), ("/db:/web/sql", "db", "sql")]
        {
            assert_eq!(Link::parse(text), Link { key, alias }, "{text}");
        }
    }
}
