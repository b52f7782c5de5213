//! All containers of an engine, by id and by name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::live::Live;
use super::{ContainerId, links, names};

use engine_error::{Error, Result};

/// How many generated names are tried before the short id is taken.
const TRIES: usize = 6;

/// The containers. A name is taken before its container exists, so that two cannot have it.
#[derive(Debug, Default)]
pub(crate) struct Registry(RwLock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    containers: BTreeMap<ContainerId, Arc<Live>>,
    names: HashMap<String, ContainerId>,
    /// Those that have links, for whoever is linked to.
    linking: BTreeSet<ContainerId>,
}

impl Registry {
    /// Takes a name for a container that is about to be made: the one given, or a generated one.
    pub(crate) fn reserve(
        &self,
        name: Option<&str>,
        id: &ContainerId,
        mut random: impl FnMut() -> [u8; 2],
    ) -> Result<String> {
        let mut inner = self.write();
        let name = match name.filter(|name| !name.is_empty()) {
            Some(name) => names::check(name)?.to_owned(),
            None => (0..TRIES)
                .map(|_| names::generate(random()))
                .find(|name| !inner.names.contains_key(name))
                .unwrap_or_else(|| id.short().to_owned()),
        };
        inner.take(&name, id)?;
        Ok(name)
    }

    /// Gives a name back whose container was not made.
    pub(crate) fn release(&self, name: &str) {
        self.write().names.remove(name);
    }

    /// Adds a container whose name is reserved.
    pub(crate) fn insert(&self, live: Arc<Live>) {
        let container = live.get();
        let mut inner = self.write();
        inner.names.insert(container.name.clone(), container.id.clone());
        if links::has_any(&container) {
            inner.linking.insert(container.id.clone());
        }
        inner.containers.insert(container.id.clone(), live);
    }

    /// Takes a container and its name out.
    pub(crate) fn remove(&self, id: &str) {
        let mut inner = self.write();
        if let Some(live) = inner.containers.remove(id) {
            inner.names.remove(&live.get().name);
            inner.linking.remove(id);
        }
    }

    /// Notes that a container has got a link.
    pub(crate) fn note_links(&self, id: &ContainerId) {
        self.write().linking.insert(id.clone());
    }

    /// The containers that have links.
    pub(crate) fn linking(&self) -> Vec<Arc<Live>> {
        let inner = self.read();
        inner.linking.iter().filter_map(|id| inner.containers.get(id)).cloned().collect()
    }

    /// Gives a container another name: takes the new one, has `change` make it true, and gives the
    /// old one back.
    pub(crate) fn rename(
        &self,
        live: &Live,
        name: &str,
        change: impl FnOnce(&str) -> Result<()>,
    ) -> Result<()> {
        let slashed = if name.starts_with('/') { name.to_owned() } else { format!("/{name}") };
        let not_allocated = |error: Error| {
            Error::new(error.kind(), format!("Error when allocating new name: {error}"))
        };
        let name = names::check(&slashed).map_err(not_allocated)?;
        let old = live.get();
        if old.name == name {
            return Err(Error::invalid(
                "Renaming a container with the same name as its current name",
            ));
        }
        self.write().take(name, &old.id).map_err(not_allocated)?;
        let result = change(name);
        self.release(if result.is_ok() { &old.name } else { name });
        result
    }

    /// The container with this full id, exact name, name by a link (`app/db`) or unique id prefix, in
    /// that order.
    pub(crate) fn find(&self, key: &str) -> Result<Arc<Live>> {
        let inner = self.read();
        let missing = || Error::not_found(format!("No such container: {key}"));
        if key.is_empty() {
            return Err(Error::invalid("invalid name or ID supplied: \"\""));
        }
        if let Some(live) = inner.containers.get(key) {
            return Ok(live.clone());
        }
        let name = key.strip_prefix('/').unwrap_or(key);
        if let Some(live) = inner.names.get(name).and_then(|id| inner.containers.get(id)) {
            return Ok(live.clone());
        }
        if let Some((parent, alias)) = name.split_once('/') {
            return inner.linked(parent, alias).ok_or_else(missing);
        }
        let range = (Bound::Included(key), Bound::Unbounded);
        let mut matches = inner.containers.range::<str, _>(range);
        let found = matches.next().filter(|(id, _)| id.starts_with(key)).ok_or_else(missing)?;
        if matches.next().is_some_and(|(id, _)| id.starts_with(key)) {
            let text = format!("multiple IDs found with provided prefix: {key}");
            return Err(Error::invalid(text));
        }
        Ok(found.1.clone())
    }

    /// All containers, in the order of their ids.
    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        self.read().containers.values().cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// What a container calls another one by a link.
    fn linked(&self, parent: &str, alias: &str) -> Option<Arc<Live>> {
        let parent = self.containers.get(self.names.get(parent)?)?.get();
        let link = parent.links.iter().flatten().find(|link| link.alias == alias)?;
        self.containers.get(&link.container).cloned()
    }

    fn take(&mut self, name: &str, id: &ContainerId) -> Result<()> {
        if let Some(owner) = self.names.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \
                 \"{owner}\". You have to remove (or rename) that container to be able to reuse \
                 that name."
            )));
        }
        self.names.insert(name.to_owned(), id.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Container;

    fn id_of(start: &str) -> ContainerId {
        format!("{start:0<64}").try_into().unwrap()
    }

    fn add(registry: &Registry, id: &str, name: &str) {
        let id = id_of(id);
        let name = registry.reserve(Some(name), &id, || [0, 0]).unwrap();
        let container = Container { id, name, ..Container::default() };
        registry.insert(Arc::new(Live::new(container)));
    }

    fn check(registry: &Registry, key: &str, expected: Result<&str, &str>) {
        let found = registry.find(key).map(|live| live.get().name.clone());
        let found = found.map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{key}");
    }

    #[test]
    fn a_name_comes_before_a_prefix_and_a_prefix_must_be_unique() {
        let registry = Registry::default();
        add(&registry, "aa1", "web");
        add(&registry, "aa2", "aa1");
        check(&registry, "web", Ok("web"));
        check(&registry, "/web", Ok("web"));
        check(&registry, "aa1", Ok("aa1"));
        check(&registry, "aa10", Ok("web"));
        check(&registry, "aa", Err("multiple IDs found with provided prefix: aa"));
        check(&registry, "b", Err("No such container: b"));
    }

    #[test]
    fn a_name_in_use_is_a_conflict_that_names_its_owner() {
        let registry = Registry::default();
        add(&registry, "aa", "web");
        let error = registry.reserve(Some("web"), &id_of("bb"), || [0, 0]).unwrap_err().to_string();
        assert!(error.starts_with("Conflict. The container name \"/web\" is already in use by"));
        registry.remove(&format!("{:0<64}", "aa"));
        assert!(registry.reserve(Some("web"), &id_of("bb"), || [0, 0]).is_ok());
    }

    #[test]
    fn a_failed_rename_changes_nothing() {
        let registry = Registry::default();
        add(&registry, "aa", "web");
        let live = registry.find("web").unwrap();
        let result = registry.rename(&live, "other", |_| Err(Error::invalid("no")));
        assert!(result.is_err());
        check(&registry, "web", Ok("web"));
        assert!(registry.reserve(Some("other"), &id_of("bb"), || [0, 0]).is_ok());
    }
}
