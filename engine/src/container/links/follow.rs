//! Links follow the containers that they lead to: to the next address, to another name, to the end.

use std::fs;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cnm::store::{Batch, Durability};

use super::super::etc::text;
use super::super::live::Live;
use super::super::{Container, Containers, Status};
use super::{Named, named_links};
use engine_error::{Error, Result};

/// How long a container waits for those that it links to, when all are started again.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest `/etc/hosts` that is looked at: a container may make of its own what it likes.
const LONGEST: u64 = 1 << 20;

impl Containers {
    /// Has those that link to a container know what has become of it.
    pub(crate) fn tell_linking(&self, container: &Container) {
        for live in self.linking_to(container) {
            self.in_turn(live, |containers, live| {
                if let Err(error) = containers.follow(live) {
                    let (container, error) = (live.get(), error.chain());
                    let container = container.short_id();
                    tracing::error!(container, error, "its links lead where they led before");
                }
            });
        }
    }

    /// Notes with the links to a container that is being removed what it was called: they lead nowhere
    /// from now on, and say so.
    pub(crate) fn end_links_to(&self, container: &Container) {
        for live in self.linking_to(container) {
            let (id, name) = (container.id.clone(), container.name.clone());
            self.in_turn(live, move |containers, live| {
                let (container, ()) = live.change(|container| {
                    let links = container.links.iter_mut().flatten();
                    let ended = links.filter(|link| link.container == id);
                    ended.for_each(|link| link.removed = Some(name.clone()));
                });
                if !live.progress.borrow().removed {
                    containers.note(&container, Durability::Eventual);
                }
            });
        }
    }

    /// Removes a link by its name, `app/db`. Blocks.
    pub fn unlink(&self, name: &str) -> Result<()> {
        let missing = || Error::not_found(format!("No such container: {name}"));
        let bare = name.trim_start_matches('/');
        let Some((parent, alias)) = bare.split_once('/') else {
            self.registry.find(name)?;
            let text = "Conflict, cannot remove the default link name of the container";
            return Err(Error::conflict(text));
        };
        let live = self.registry.find(parent).map_err(|_| missing())?;
        let _turn = live.lifecycle.blocking_lock();
        let mut after = Container::clone(&live.get());
        if !after.links.iter().flatten().any(|link| link.alias == alias) {
            return Err(missing());
        }
        after.links.iter_mut().for_each(|links| links.retain(|link| link.alias != alias));
        self.save(&after, Durability::Immediate)?;
        let (container, ()) = live.change(|container| container.links = after.links);
        self.follow(&live)?;
        write_hosts(&container, alias, &[])
    }

    /// Notes the links of containers whose record has only what was asked for.
    pub(crate) fn adopt_links(&self) {
        for live in self.registry.all() {
            let container = live.get();
            if container.links.is_some() || container.spec.links.is_empty() {
                continue;
            }
            let mut spec = container.spec.clone();
            let mut links = Vec::new();
            for link in &container.spec.links {
                spec.links = vec![link.clone()];
                match self.links_of_new(&spec) {
                    Ok(found) => links.extend(found),
                    Err(error) => {
                        let (container, error) = (container.short_id(), error.chain());
                        tracing::warn!(container, link, error, "a link leads nowhere");
                    }
                }
            }
            let (container, ()) = live.change(|container| container.links = Some(links));
            self.note(&container, Durability::Eventual);
        }
    }

    /// Has the links of running containers lead where those are that they link to.
    pub(crate) fn follow_all(&self) {
        for live in self.registry.linking() {
            if let Err(error) = self.follow(&live) {
                let (container, error) = (live.get(), error.chain());
                tracing::error!(container = container.short_id(), error, "its links lead nowhere");
            }
        }
    }

    /// Waits a while for the containers that one links to, where those are about to be started again.
    pub(crate) async fn await_links(&self, container: &Container) {
        let links = container.links.iter().flatten();
        let others: Vec<_> =
            links.filter_map(|link| self.registry.find(&link.container).ok()).collect();
        let all = async {
            for live in others {
                let mut progress = live.progress.subscribe();
                let starts = progress.borrow_and_update().starts;
                if live.get().state.status == Status::Restarting {
                    let over = progress
                        .wait_for(|now| now.starts > starts || !now.running || now.removed)
                        .await;
                    drop(over);
                }
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            tracing::info!(container = container.short_id(), "does not wait longer for its links");
        }
    }

    /// The containers that link to one, by its id or by a name of its.
    fn linking_to(&self, container: &Container) -> Vec<Arc<Live>> {
        let is_it = |key: &str| self.registry.find(key).is_ok_and(|it| it.get().id == container.id);
        let mut linking = self.registry.linking();
        linking.retain(|live| {
            let other = live.get();
            other.links.iter().flatten().any(|link| link.container == container.id)
                || named_links(&other).any(|(link, _)| is_it(link.key))
        });
        linking
    }

    /// Does something while no other operation is at work on a container: at once if none is. The
    /// caller has the turn of another container, and may not wait: they might wait for each other.
    pub(in super::super) fn in_turn(
        &self,
        live: Arc<Live>,
        work: impl FnOnce(&Self, &Arc<Live>) + Send + 'static,
    ) {
        if let Ok(_turn) = live.lifecycle.try_lock() {
            return work(self, &live);
        }
        let containers = self.weak();
        self.tasks.spawn(async move {
            let turn = live.lifecycle.lock().await;
            let Some(containers) = containers.upgrade() else { return };
            let its = live.clone();
            let _ = tokio::task::spawn_blocking(move || work(&containers, &its)).await;
            drop(turn);
        });
    }

    /// Has a running container's links lead where those are that it links to: its passages, the
    /// names that are answered in it, and its `/etc/hosts`. The caller has its turn.
    fn follow(&self, live: &Live) -> Result<()> {
        let container = live.get();
        let Some(id) = container.sandbox.as_ref().filter(|_| container.state.has_process()) else {
            return Ok(());
        };
        match self.networks.begin_change_passages(id, &self.passages(&container))? {
            Some(change) => {
                let applied = self
                    .sandbox_names(&container, &change.sandbox, &change.endpoints)
                    .and_then(|served| self.networks.apply(&change, &served, &|| ()));
                if let Err(error) = applied {
                    self.networks.undo(&change);
                    self.networks.abandon(change);
                    return Err(error);
                }
                self.networks.finish(change, Batch::default());
            }
            None => self.republish(&container)?,
        }
        for Named { names, addresses } in self.linked(&container) {
            if let Some(alias) = names.first() {
                write_hosts(&container, alias, &addresses)?;
            }
        }
        Ok(())
    }
}

/// Gives what a container calls another one other addresses in its `/etc/hosts`, in place: it is bind
/// mounted. What else the container has written there stays.
fn write_hosts(container: &Container, alias: &str, addresses: &[IpAddr]) -> Result<()> {
    let path = &container.paths.hosts;
    let failed = |error| Error::internal(format!("cannot change {}", path.display()), error);
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        // It has not been started yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if length > LONGEST {
        return Ok(());
    }
    let text = fs::read(path).map_err(failed)?;
    let text = String::from_utf8_lossy(&text);
    let changed = text::readdress(&text, alias, addresses);
    if changed == text { Ok(()) } else { fs::write(path, changed).map_err(failed) }
}
