//! `rm` and `rename`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cnm::Controller;
use cnm::store::{Batch, Durability};

use super::Containers;
use super::join::{Place, host_names};
use super::live::Live;
use super::{Container, Remove, Status};
use engine_error::{Error, Result};

impl Containers {
    /// Removes a container.
    pub async fn remove(&self, key: &str, how: Remove) -> Result<()> {
        if how.link {
            let (containers, name) = (self.strong()?, key.to_owned());
            let work = tokio::task::spawn_blocking(move || containers.unlink(&name));
            return work.await.map_err(|error| Error::internal("cannot remove a link", error))?;
        }
        let live = self.registry.find(key)?;
        let container = live.get();
        if container.state.is_running() {
            if !how.force {
                let hint = match container.state.status {
                    Status::Paused => "paused and must be unpaused first".to_owned(),
                    status => {
                        let hint = "stop the container before removing or force remove";
                        format!("{}: {hint}", status.as_str())
                    }
                };
                return Err(Error::conflict(format!(
                    "cannot remove container \"{key}\": container is {hint}"
                )));
            }
            self.kill_for_removal(&live).await?;
        }
        let engine = self.strong()?;
        let work = tokio::task::spawn_blocking(move || {
            let _turn = live.lifecycle.blocking_lock();
            if live.progress.borrow().removed {
                // `--rm` was quicker.
                return Ok(());
            }
            if live.get().state.is_running() {
                return Err(Error::conflict(format!(
                    "container {} was started meanwhile: stop it before removing",
                    live.get().id
                )));
            }
            engine.remove_locked(&live, how.volumes);
            Ok(())
        });
        work.await.map_err(|error| Error::internal("cannot remove", error))?
    }

    /// Removes a container that does not run and whose lifecycle is locked by the caller.
    pub(crate) fn remove_locked(&self, live: &Arc<Live>, volumes: bool) {
        let (container, ()) = live.change(|container| container.state.status = Status::Removing);
        self.forget_execs(&container.id);
        self.leave_to_lodgers(&container);
        // The record first: directories that no record speaks of are swept at the next start.
        let mut records = Batch::default();
        records.delete(record_key(&container.id));
        let forget = |model: &mut Controller| Ok(model.forget_owner(&container.id));
        match self.networks.write(forget, records.clone(), Durability::Immediate) {
            Ok(()) => self.remove_files(&container, volumes),
            Err(error) => {
                tracing::warn!(
                    container = container.short_id(),
                    error = error.chain(),
                    "remove the files before the record"
                );
                self.remove_unrecorded(&container, volumes, records);
            }
        }
        for endpoint in &container.endpoints {
            if let Ok(network) = self.network_of(endpoint) {
                self.networks.forget_on(&network, &container.id, endpoint.spec.mac);
            }
        }
        self.end_links_to(&container);
        self.registry.remove(&container.id);
        self.tell(&container, "destroy", &[]);
        live.progress.send_modify(|progress| {
            progress.removed = true;
            progress.running = false;
        });
    }

    /// Removes the files while the record cannot be: that may make the space that it lacks. A mark
    /// tells the next start of the removal, should it be told by nothing else.
    fn remove_unrecorded(&self, container: &Container, volumes: bool, records: Batch) {
        let mark = mark(container);
        let marked = fs::create_dir(&mark);
        self.remove_files(container, volumes);
        // There may be space for it only now.
        if let Err(error) = marked.or_else(|_| fs::create_dir(&mark)) {
            tracing::warn!(%error, dir = %mark.display(), "cannot make");
        }
        if self.networks.note(|_| Batch::default(), records, Durability::Immediate) {
            remove(&mark);
        }
    }

    fn remove_files(&self, container: &Container, volumes: bool) {
        remove(&container.paths.dir);
        self.release_volumes(&container.id, &container.mounts, volumes);
        self.images.release(&container.id);
    }

    /// Gives a container another name. Blocks.
    pub fn rename(&self, key: &str, name: &str) -> Result<()> {
        if key.is_empty() || name.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        let live = self.registry.find(key)?;
        let _turn = live.lifecycle.blocking_lock();
        let old = live.get();
        self.registry.rename(&live, name, |name| {
            let (container, ()) = live.change(|container| name.clone_into(&mut container.name));
            let renamed = self
                .save(&container, Durability::Immediate)
                .and_then(|()| self.republish(&container));
            if renamed.is_err() {
                live.change(|container| container.name.clone_from(&old.name));
            }
            renamed
        })?;
        self.tell_linking(&live.get());
        let before = format!("/{}", old.name);
        self.tell(&live.get(), "rename", &[("oldName", &before)]);
        Ok(())
    }

    /// Tells the resolver what a running container is called now.
    pub(super) fn republish(&self, container: &Container) -> Result<()> {
        let Some(id) = &container.sandbox else {
            return match self.place(container)? {
                Place::Host if container.state.has_process() => {
                    self.networks.serve_on_host(host_names(container))
                }
                _ => Ok(()),
            };
        };
        let (sandbox, endpoints) = self.networks.sandbox(id)?;
        self.networks.publish(&self.sandbox_names(container, &sandbox, &endpoints)?)
    }
}

fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, dir = %dir.display(), "cannot remove");
    }
}

/// Whether a container was removed, and only its record could not be.
pub(crate) fn is_removed(container: &Container) -> bool {
    mark(container).is_dir()
}

/// A directory beside the container's own, which no container has: the next start sweeps it.
fn mark(container: &Container) -> PathBuf {
    container.paths.dir.with_extension("removed")
}

/// The key of a container's record.
pub(crate) fn record_key(id: &str) -> String {
    format!("container/{id}")
}
