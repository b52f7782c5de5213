//! The end of a container: seen by its shim, told to this task, and all that follows.

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use chrono::{DateTime, Utc};
use cnm::store::{Batch, Durability};

use super::Containers;
use super::live::Live;
use super::start::By;
use super::state::{Exit, Next};
use super::{Container, Status};
use engine_error::Result;
use shim::client::{self, ShimClient, ShimError, Watch};
use shim::protocol;

/// How long to wait before a shim is connected to again.
const RECONNECT: Duration = Duration::from_millis(50);

impl Containers {
    /// Watches a running container until it ends, in a task of its own.
    pub(crate) fn monitor(&self, live: Arc<Live>, shim: Arc<ShimClient>) {
        let engine = self.weak();
        self.tasks.spawn(async move {
            let (exit, watch) = loop {
                if let Ok(mut watch) = shim.watch().await
                    && let Some(exit) = Self::watch(&engine, &live, &mut watch).await
                {
                    break (Some(exit), Some(watch));
                }
                // Only a shim that is gone for sure is given up: its container is killed then.
                match shim.status().await {
                    Err(ShimError::Gone { source, .. }) if is_gone(&source) => break (None, None),
                    _ => tokio::time::sleep(RECONNECT).await,
                }
            };
            let Some(engine) = engine.upgrade() else { return };
            engine.ended(&live, exit, watch).await;
        });
    }

    /// Follows the shim's events until the container's process ends, or the shim itself.
    async fn watch(engine: &Weak<Self>, live: &Live, watch: &mut Watch) -> Option<protocol::Exit> {
        while let Some(event) = watch.next().await {
            let engine = engine.upgrade()?;
            match event {
                protocol::Event::Oom => engine.tell(&live.get(), "oom", &[]),
                protocol::Event::Exit(exit) => match &exit.exec {
                    None => return Some(exit),
                    Some(id) => engine.exec_ended(&live.get(), id, exit.code),
                },
            }
        }
        None
    }

    /// Does what follows the end of a container's process.
    async fn ended(
        self: &Arc<Self>,
        live: &Arc<Live>,
        exit: Option<protocol::Exit>,
        watch: Option<Watch>,
    ) {
        live.progress.send_modify(|progress| progress.leaving = true);
        let turn = live.lifecycle.lock().await;
        let directory = self.settings.shim_dir(&live.get().id);
        let lost = exit.is_none();
        let exit = exit.or_else(|| client::exit(&directory));
        let exit = exit.map_or_else(|| Exit::unseen(Utc::now()), |exit| of_protocol(&exit));
        let (engine, its) = (self.clone(), live.clone());
        let runtime = tokio::runtime::Handle::current();
        let work = tokio::task::spawn_blocking(move || {
            let next = engine.record_end(&its, exit);
            // The runtime removes the container meanwhile; its mounts are free when that is done.
            if let Some(watch) = watch {
                runtime.block_on(watch.end());
            }
            engine.clean_up(&its.get(), lost);
            engine.settle_end(&its, next);
        });
        if let Err(error) = work.await {
            tracing::error!(%error, "the end of a container was not handled");
        }
        drop(turn);
    }

    /// Notes the end durably, together with the removal of the sandbox.
    pub(crate) fn record_end(&self, live: &Live, exit: Exit) -> Next {
        live.clear_shim();
        self.end_execs(&live.get().id);
        let before = live.get();
        let mut after = Container::clone(&before);
        // Who lives in its sandbox stays, and so does that.
        let kept = before.sandbox.as_ref().is_some_and(|id| self.has_lodgers(id));
        end(&mut after, exit, kept);
        // The networks first: whoever sees it exited may remove them at once.
        let left = self.leave_networks(&before, &after);
        let (container, next) = live.change(|container| end(container, exit, kept));
        if let Some(lodging) = &before.joined {
            self.leave_lodging(lodging);
        }
        if container.state != after.state {
            // Its health changed meanwhile: it ended otherwise than was written down.
            self.note(&container, Durability::Immediate);
        }
        let code = exit.code.to_string();
        let ran = before.state.started.map_or(0, |started| (exit.time - started).num_seconds());
        self.tell(&container, "die", &[("exitCode", &code), ("execDuration", &ran.to_string())]);
        if let Err(error) = left {
            tracing::error!(
                container = container.short_id(),
                error = error.chain(),
                "cannot take a container off its networks"
            );
            self.note(&container, Durability::Immediate);
        }
        self.tell_linking(&container);
        for endpoint in &before.endpoints {
            self.tell_network("disconnect", endpoint, &container);
        }
        self.tell_unmounted(&container);
        self.unmount_volumes(&container.id);
        next
    }

    fn leave_networks(&self, before: &Container, after: &Container) -> Result<()> {
        let records = Self::record(after);
        if let Some(sandbox) = before.sandbox.as_ref().filter(|_| after.sandbox.is_none()) {
            return self.networks.close(sandbox, records);
        }
        self.networks.release_on_host(&before.id);
        self.networks.note(|_| Batch::default(), records, Durability::Immediate);
        Ok(())
    }

    /// Removes what a run leaves on the host. `lost` says that the shim did not do its part.
    pub(crate) fn clean_up(&self, container: &Container, lost: bool) {
        self.runner.clear(&container.id, container.spec.runtime.as_deref(), lost);
        self.release_shared_memory(&container.spec, &container.id);
    }

    /// Tells those who wait, and starts the container again or removes it, as it was wanted.
    pub(crate) fn settle_end(&self, live: &Arc<Live>, next: Next) {
        let container = live.get();
        live.progress.send_modify(|progress| {
            progress.ends += 1;
            progress.leaving = false;
            progress.code = i64::from(container.state.exit_code);
            progress.error = None;
            progress.running = next != Next::Rest;
        });
        match next {
            Next::RestartAfter(pause) => self.restart_after(live.clone(), pause),
            Next::Rest => self.remove_if_wanted(live),
        }
    }

    /// Removes a container that has ended if that is how it was wanted, and nobody is about to start
    /// it again. Its lifecycle is locked by the caller.
    pub(crate) fn remove_if_wanted(&self, live: &Arc<Live>) {
        let over = live.get().state.status == Status::Exited && !live.progress.borrow().removed;
        if over && live.get().spec.auto_remove && !live.restarts() {
            self.remove_locked(live, true);
        }
    }

    /// Starts a container again after a pause, unless somebody decides otherwise meanwhile.
    pub(crate) fn restart_after(&self, live: Arc<Live>, pause: Duration) {
        let engine = self.weak();
        let finished = live.get().state.finished;
        self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            let Some(engine) = engine.upgrade() else { return };
            engine.await_links(&live.get()).await;
            let Ok(turn) = engine.starts.take_at_last().await else { return };
            let work = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                let _alone = live.lifecycle.blocking_lock();
                let state = &live.get().state;
                if state.status != Status::Restarting || state.finished != finished {
                    return;
                }
                if let Err(error) = engine.start_locked(&live, By::Policy) {
                    let container = live.get();
                    let (container, error) = (container.short_id(), error.chain());
                    tracing::error!(container, error, "cannot start a container again");
                }
            });
            let _ = work.await;
        });
    }
}

/// A container's process has ended, and nothing of its networks is there any more, unless they are kept.
fn end(container: &mut Container, exit: Exit, kept: bool) -> Next {
    let next = container.state.end(exit, container.spec.restart);
    container.joined = None;
    if !kept {
        forget_networks(container);
    }
    next
}

/// Nothing of a container's networks is there any more.
pub(super) fn forget_networks(container: &mut Container) {
    container.sandbox = None;
    container.sandbox_key.clear();
    container.ports.clear();
    container.draining.clear();
    for endpoint in &mut container.endpoints {
        endpoint.id.clear();
        endpoint.addresses.clear();
        endpoint.gateways.clear();
        endpoint.names.clear();
    }
}

/// Whether nobody listens at a shim's socket any more.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// A shim's report in the engine's words.
pub(crate) fn of_protocol(exit: &protocol::Exit) -> Exit {
    let time = DateTime::parse_from_rfc3339(&exit.time);
    Exit {
        code: exit.code,
        oom_killed: exit.oom,
        time: time.map_or_else(|_| Utc::now(), |time| time.with_timezone(&Utc)),
    }
}
