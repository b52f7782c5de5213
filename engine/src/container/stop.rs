//! `stop`, `kill`, `restart`, `pause`, `unpause` and `wait`.

use std::sync::Arc;
use std::time::Duration;

use cnm::Kind;
use cnm::store::Durability;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Containers;
use super::live::{Live, Progress};
use super::start::By;
use super::{Status, WaitCondition, Waited, signal};
use engine_error::{Error, Result};
use shim::client::ShimError;

const SIGKILL: i32 = 9;

impl Containers {
    /// Stops a container: the signal, the time-out in seconds (negative: none), then SIGKILL.
    pub async fn stop(&self, key: &str, timeout: Option<i64>, signal: Option<&str>) -> Result<()> {
        let live = self.registry.find(key)?;
        live.settled().await;
        let container = live.get();
        if !container.state.is_running() {
            let text = format!("container {} is not running", container.id);
            return Err(Error::new(Kind::NotModified, text));
        }
        self.stop_live(&live, timeout, signal).await
    }

    async fn stop_live(
        &self,
        live: &Arc<Live>,
        timeout: Option<i64>,
        signal: Option<&str>,
    ) -> Result<()> {
        // Before the look at the state, so that no end is missed.
        let mut progress = live.progress.subscribe();
        let ends = progress.borrow_and_update().ends;
        let container = live.get();
        let signal = signal::parse(signal.unwrap_or(&container.resolved.stop_signal))?;
        self.mark_stopped(live).await?;
        if self.end_restarting(live).await? || !live.get().state.has_process() {
            return Ok(());
        }
        self.thaw(live).await?;
        let timeout = timeout.or(container.spec.stop_timeout).unwrap_or(self.settings.stop_timeout);
        self.send_signal(live, signal).await?;
        let patience = u64::try_from(timeout).ok().map(Duration::from_secs);
        if !has_ended(&mut progress, ends, patience).await {
            self.send_signal(live, SIGKILL).await?;
            PATIENCE.with_kill(&mut progress, ends, &container.id).await?;
        }
        PATIENCE.with_leave(&mut progress, ends, &container.id).await?;
        self.tell(&container, "stop", &[]);
        Ok(())
    }

    /// Sends a signal.
    pub async fn kill(&self, key: &str, signal: &str) -> Result<()> {
        let live = self.registry.find(key)?;
        live.settled().await;
        let mut progress = live.progress.subscribe();
        let ends = progress.borrow_and_update().ends;
        let container = live.get();
        let number = signal::parse(if signal.is_empty() { "SIGKILL" } else { signal })?;
        let restarting = container.state.status == Status::Restarting;
        if !container.state.has_process() && !restarting {
            return Err(Error::conflict(format!(
                "cannot kill container: {key}: container {} is not running",
                container.id
            )));
        }
        let stops = signal::parse(&container.resolved.stop_signal).is_ok_and(|stop| stop == number);
        if stops || number == SIGKILL {
            self.mark_stopped(&live).await?;
        }
        if self.end_restarting(&live).await? {
            return Ok(());
        }
        self.thaw(&live).await?;
        self.send_signal(&live, number).await?;
        if number == SIGKILL {
            PATIENCE.with_kill(&mut progress, ends, &container.id).await?;
            PATIENCE.with_leave(&mut progress, ends, &container.id).await?;
        }
        Ok(())
    }

    /// Stops and starts. A container that does not run is started.
    pub async fn restart(
        &self,
        key: &str,
        timeout: Option<i64>,
        signal: Option<&str>,
    ) -> Result<()> {
        let live = self.registry.find(key)?;
        live.settled().await;
        let (containers, its, restart) = (self.strong()?, live.clone(), live.restart());
        let stopped = if live.get().state.is_running() {
            self.stop_live(&live, timeout, signal).await
        } else {
            Ok(())
        };
        let turn = self.starts.take().await;
        let started = tokio::task::spawn_blocking(move || {
            let _alone = its.lifecycle.blocking_lock();
            let started = stopped.and(turn).and_then(|_turn| match its.get().state.status {
                // Somebody else was quicker.
                Status::Running => Ok(()),
                _ => containers.start_locked(&its, By::User),
            });
            drop(restart);
            // With `--rm` it goes now, if it did not come back.
            containers.remove_if_wanted(&its);
            started
        });
        let started = started.await.map_err(|error| Error::internal("cannot restart", error))?;
        started.map_err(|error| {
            let text = format!("Cannot restart container {key}: {}", error.chain());
            Error::new(error.kind(), text)
        })?;
        self.tell(&live.get(), "restart", &[]);
        Ok(())
    }

    /// Freezes a container.
    pub async fn pause(&self, key: &str) -> Result<()> {
        let live = self.registry.find(key)?;
        let _turn = live.lifecycle.lock().await;
        let container = live.get();
        match container.state.status {
            Status::Running => {}
            Status::Paused => {
                return Err(Error::conflict(format!(
                    "Container {} is already paused",
                    container.id
                )));
            }
            Status::Restarting => {
                return Err(Error::conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            _ => {
                return Err(Error::conflict(format!("container {} is not running", container.id)));
            }
        }
        self.freeze(&live, Status::Paused).await?;
        self.tell(&live.get(), "pause", &[]);
        Ok(())
    }

    /// Lets a frozen container go on.
    pub async fn unpause(&self, key: &str) -> Result<()> {
        let live = self.registry.find(key)?;
        let _turn = live.lifecycle.lock().await;
        let container = live.get();
        if container.state.status != Status::Paused {
            return Err(Error::conflict(format!("Container {} is not paused", container.id)));
        }
        self.freeze(&live, Status::Running).await?;
        self.tell(&live.get(), "unpause", &[]);
        Ok(())
    }

    /// Has the runtime freeze or thaw a container, and notes it.
    async fn freeze(&self, live: &Arc<Live>, status: Status) -> Result<()> {
        let engine = self.strong()?;
        let its = live.clone();
        let work = tokio::task::spawn_blocking(move || {
            let container = its.get();
            let runtime = engine.runner.runtime(container.spec.runtime.as_deref())?;
            let root = engine.settings.runtime_root();
            match status {
                Status::Paused => runtime.pause(&root, &container.id)?,
                _ => runtime.resume(&root, &container.id)?,
            }
            let (container, ()) = its.change(|container| {
                if container.state.has_process() {
                    container.state.status = status;
                }
            });
            // A shim cannot tell a frozen process from one that idles.
            engine.note(&container, Durability::Immediate);
            Ok(())
        });
        work.await.map_err(|error| Error::internal("cannot pause", error))?
    }

    /// A frozen process cannot take a signal: it is thawed first.
    async fn thaw(&self, live: &Arc<Live>) -> Result<()> {
        if live.get().state.status != Status::Paused {
            return Ok(());
        }
        let _turn = live.lifecycle.lock().await;
        self.freeze(live, Status::Running).await
    }

    /// Notes that a user stopped it, so that no policy starts it again. It waits for its turn, so that
    /// what is written never undoes the record of an end.
    async fn mark_stopped(&self, live: &Arc<Live>) -> Result<()> {
        let (containers, live) = (self.strong()?, live.clone());
        let write = move || {
            let _turn = live.lifecycle.blocking_lock();
            let (container, ()) = live.change(|container| container.state.stopped_by_user = true);
            containers.note(&container, Durability::Eventual);
        };
        written(tokio::task::spawn_blocking(write)).await
    }

    /// Ends the waiting for a restart; tells whether there was one.
    async fn end_restarting(&self, live: &Live) -> Result<bool> {
        if live.get().state.status != Status::Restarting {
            return Ok(false);
        }
        let _turn = live.lifecycle.lock().await;
        let (container, ended) = live.change(|container| {
            let waits = container.state.status == Status::Restarting;
            if waits {
                container.state.status = Status::Exited;
            }
            waits
        });
        if ended {
            let containers = self.strong()?;
            let write = move || containers.note(&container, Durability::Immediate);
            written(tokio::task::spawn_blocking(write)).await?;
            live.progress.send_modify(|progress| progress.running = false);
        }
        Ok(ended)
    }

    async fn send_signal(&self, live: &Live, number: i32) -> Result<()> {
        let container = live.get();
        self.tell(&container, "kill", &[("signal", &number.to_string())]);
        let Some(shim) = live.shim() else { return Ok(()) };
        let ended = || !live.get().state.has_process() || number == SIGKILL;
        match shim.kill(number, None).await {
            // It ended in between: who waits for its end will see it.
            Ok(()) | Err(ShimError::NotRunning { .. }) => Ok(()),
            Err(_) if ended() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for a container. The waiting begins with the call, not with the first poll.
    pub fn wait(
        &self,
        key: &str,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = Waited> + Send + 'static + use<>> {
        let mut progress = self.registry.find(key)?.progress.subscribe();
        let ends = progress.borrow().ends;
        Ok(async move {
            let over = progress
                .wait_for(|now| match condition {
                    // An end is one, whether or not a policy starts it again.
                    WaitCondition::NotRunning => !now.running || now.ends > ends || now.removed,
                    WaitCondition::NextExit => now.ends > ends || now.removed,
                    WaitCondition::Removed => now.removed,
                })
                .await;
            match over {
                // Whoever waited for it to be gone has been told of a failed start as such.
                Ok(now) if condition == WaitCondition::Removed => {
                    Waited { code: now.code, error: None }
                }
                Ok(now) => Waited { code: now.code, error: now.error.clone() },
                Err(_) => Waited { code: -1, error: Some("the daemon is ending".to_owned()) },
            }
        })
    }

    /// Kills a container that runs and waits for its end: for a removal by force.
    pub(crate) async fn kill_for_removal(&self, live: &Arc<Live>) -> Result<()> {
        let mut progress = live.progress.subscribe();
        let ends = progress.borrow_and_update().ends;
        self.mark_stopped(live).await?;
        if self.end_restarting(live).await? || !live.get().state.has_process() {
            return Ok(());
        }
        self.thaw(live).await?;
        self.send_signal(live, SIGKILL).await?;
        let id = &live.get().id;
        PATIENCE.with_kill(&mut progress, ends, id).await?;
        PATIENCE.with_leave(&mut progress, ends, id).await
    }
}

/// Waits until a record is written.
async fn written(task: JoinHandle<()>) -> Result<()> {
    task.await.map_err(|error| Error::internal("cannot write a record", error))
}

/// What is waited for after a kill, and how long.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// How long the process may take to be gone.
    kill: Duration,
    /// How long what it leaves may take to be removed: its networks and mounts. The kernel has one lock for
    /// all links of a host, and whoever removes a thousand of them holds it.
    leave: Duration,
}

const PATIENCE: Patience =
    Patience { kill: Duration::from_secs(12), leave: Duration::from_secs(60) };

impl Patience {
    /// Waits for the end of a killed process.
    async fn with_kill(
        self,
        progress: &mut watch::Receiver<Progress>,
        ends: u64,
        id: &str,
    ) -> Result<()> {
        if has_ended(progress, ends, Some(self.kill)).await {
            return Ok(());
        }
        let text = format!("container {id} does not end: its process ignores SIGKILL");
        Err(Error::new(Kind::Internal, text))
    }

    /// Waits until nothing is left of a container whose process has ended.
    async fn with_leave(
        self,
        progress: &mut watch::Receiver<Progress>,
        ends: u64,
        id: &str,
    ) -> Result<()> {
        let wait = progress.wait_for(|now| now.ends > ends || now.removed);
        if matches!(tokio::time::timeout(self.leave, wait).await, Ok(Ok(_))) {
            return Ok(());
        }
        let text = format!("container {id} has ended, but its networks are not removed yet");
        Err(Error::new(Kind::Internal, text))
    }
}

/// Waits for one more end of the process than `ends`; tells whether it came in time.
async fn has_ended(
    progress: &mut watch::Receiver<Progress>,
    ends: u64,
    patience: Option<Duration>,
) -> bool {
    let wait = progress.wait_for(|now| now.leaving || now.ends > ends || now.removed);
    match patience {
        Some(patience) => matches!(tokio::time::timeout(patience, wait).await, Ok(Ok(_))),
        None => wait.await.is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Patience = Patience { kill: Duration::ZERO, leave: Duration::ZERO };

    #[tokio::test]
    async fn a_process_that_has_ended_is_not_said_to_ignore_a_kill_while_its_networks_go() {
        let (sender, mut progress) = watch::channel(Progress::default());
        let error = NONE.with_kill(&mut progress, 0, "c").await.unwrap_err();
        assert!(error.to_string().ends_with("its process ignores SIGKILL"), "{error}");
        sender.send_modify(|progress| progress.leaving = true);
        PATIENCE.with_kill(&mut progress, 0, "c").await.unwrap();
        let error = NONE.with_leave(&mut progress, 0, "c").await.unwrap_err();
        assert!(error.to_string().ends_with("has ended, but its networks are not removed yet"));
        sender.send_modify(|progress| (progress.ends, progress.leaving) = (1, false));
        PATIENCE.with_leave(&mut progress, 0, "c").await.unwrap();
    }
}
