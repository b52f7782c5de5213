//! `start`: the network in parallel with the root file system, the bundle and the runtime's `create`;
//! the container's first process waits for both.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;

use chrono::Utc;
use cnm::controller::{PortSpec, SandboxSpec};
use cnm::store::{Batch, Durability};
use cnm::{Kind, PortBinding, SandboxId};
use drivers::kernel::UserNamespace;

use super::Containers;
use super::join::{Place, host_names};
use super::live::Live;
use super::run_spec::Connectivity;
use super::{Container, Status};
use crate::network::{Change, SandboxNames};
use crate::runner::Failure;
use engine_error::{Error, Result};
use runtime::spec::Namespace;
use shim::client::ShimClient;

/// Who wants a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// A user: restart counts begin anew.
    User,
    /// The restart policy.
    Policy,
}

impl Containers {
    /// Starts a container.
    pub async fn start(&self, key: &str) -> Result<()> {
        let live = self.registry.find(key)?;
        let (containers, turn) = (self.strong()?, self.starts.take().await?);
        let start = move || {
            let _turn = turn;
            let _alone = live.lifecycle.blocking_lock();
            containers.start_locked(&live, By::User)
        };
        let fault = |error| Error::internal("the start ended in a fault", error);
        tokio::task::spawn_blocking(start).await.map_err(fault)?
    }

    /// Waits for the end of a start that is under way.
    pub async fn settle(&self, key: &str) -> Result<()> {
        self.registry.find(key)?.settled().await;
        Ok(())
    }

    /// Starts a container whose lifecycle is locked by the caller.
    pub(crate) fn start_locked(&self, live: &Arc<Live>, by: By) -> Result<()> {
        self.runner.count_start();
        let container = live.get();
        match container.state.status {
            Status::Running => {
                let text = format!("container {} is already running", container.id);
                return Err(Error::new(Kind::NotModified, text));
            }
            Status::Paused => {
                return Err(Error::conflict(
                    "cannot start a paused container, try unpause instead",
                ));
            }
            Status::Removing | Status::Dead => {
                return Err(Error::conflict(
                    "container is marked for removal and cannot be started",
                ));
            }
            Status::Created | Status::Restarting | Status::Exited => {}
        }
        if by == By::User {
            live.change(|container| container.state.forget_restarts());
        }
        let _starting = live.start();
        match self.run(live) {
            Ok(()) => Ok(()),
            Err(failure) => {
                self.record_failure(live, &failure);
                Err(failure.error)
            }
        }
    }

    /// Notes why a start failed, and removes the container if that is how it was wanted.
    fn record_failure(&self, live: &Arc<Live>, failure: &Failure) {
        let text = failure.error.chain();
        let (container, ()) = live.change(|c| c.state.fail_start(failure.code, &text, Utc::now()));
        self.note(&container, Durability::Eventual);
        drop(live.take_early());
        self.release_shared_memory(&container.spec, &container.id);
        self.unmount_volumes(&container.id);
        let code = i64::from(failure.code);
        // It has not run, so nothing has ended: whoever waits for that learns of the failure from
        // the answer to the start, or from the removal.
        live.progress.send_modify(|progress| {
            progress.code = code;
            progress.error = Some(text);
            progress.running = false;
        });
        if container.spec.auto_remove {
            self.remove_locked(live, true);
        }
    }

    fn run(&self, live: &Arc<Live>) -> Result<(), Failure> {
        let container = live.get();
        self.check_links(&container)?;
        match self.place(&container).map_err(networking)? {
            Place::Own => match self.kept_sandbox(&container) {
                Some(kept) => self.run_again(live, &container, &kept),
                None => self.run_in_sandbox(live, &container),
            },
            Place::Host => {
                let host = Connectivity::borrowed(Place::Host, Namespace::Host);
                self.networks.serve_on_host(host_names(&container))?;
                let run = self.run_with(live, &container, &host, None);
                run.inspect_err(|_| self.networks.release_on_host(&container.id))
            }
            Place::Shared(other) => {
                let (namespace, sandbox) = self.shared_sandbox(&other)?;
                let user = self.user_namespace(&container, &namespace, sandbox.as_ref())?;
                self.check_joined_users(&container, user.as_ref())?;
                let shared = Connectivity::borrowed(Place::Shared(other), namespace);
                let shared = Connectivity { user, ..shared };
                self.run_with(live, &container, &shared, sandbox)
            }
        }
    }

    /// The namespace of another container, for one that shares it, and the sandbox that it is, if it
    /// is one of ours.
    pub(crate) fn shared_sandbox(&self, id: &str) -> Result<(Namespace, Option<SandboxId>)> {
        let other = self.registry.find(id).map_err(|error| {
            let text = format!("joining network namespace of container: {error}");
            Error::new(error.kind(), text)
        })?;
        let other = other.get();
        let sandbox = self.kept_sandbox(&other).or_else(|| other.joined.clone());
        if let Some(sandbox) = sandbox {
            let namespace = Namespace::Path(self.networks.kernel().namespace_path(&sandbox));
            return Ok((namespace, Some(sandbox)));
        }
        if !other.state.has_process() || other.state.pid <= 0 {
            return Err(Error::conflict(format!(
                "cannot join network namespace of a non running container: container {} is {}",
                other.name,
                other.state.status.as_str()
            )));
        }
        if matches!(self.place(&other), Ok(Place::Host)) {
            return Ok((Namespace::Host, None));
        }
        // It is in the sandbox of a third one, which may be gone: its process is where it is.
        let namespace = PathBuf::from(format!("/proc/{}/ns/net", other.state.pid));
        Ok((Namespace::Path(namespace), None))
    }

    /// Runs a container that needs no network of its own.
    fn run_with(
        &self,
        live: &Arc<Live>,
        container: &Container,
        connectivity: &Connectivity,
        joined: Option<SandboxId>,
    ) -> Result<(), Failure> {
        let prepared = self.runner.prepare(self.run_spec(container, connectivity)?)?;
        let endpoints = self.endpoint_views(container, &[])?;
        let pid = self.runner.begin(prepared, live.take_early())?.run()?.pid;
        let (container, ()) = live.change(|container| {
            container.state.start(pid, Utc::now());
            container.endpoints = endpoints;
            container.joined = joined;
            if let Namespace::Path(path) = &connectivity.namespace {
                container.sandbox_key.clone_from(path);
            }
        });
        self.note(&container, Durability::Eventual);
        self.started(live, &container);
        Ok(())
    }

    /// Runs a container with a sandbox of its own.
    fn run_in_sandbox(&self, live: &Arc<Live>, container: &Container) -> Result<(), Failure> {
        let spec = self.sandbox_spec(container).map_err(networking)?;
        let owned = self.own_namespaces(container)?;
        let change = self.begin(container, &spec, owned).map_err(networking)?;
        let begun = self.run_connected(live, container, &change);
        match begun {
            Ok(records) => {
                self.networks.finish(change, records);
                self.started(live, &live.get());
                Ok(())
            }
            Err(failure) => {
                self.networks.undo(&change);
                self.networks.abandon(change);
                Err(failure)
            }
        }
    }

    /// Decides on a container's sandbox, and takes what it needs: addresses and host ports.
    pub(crate) fn begin(
        &self,
        container: &Container,
        spec: &SandboxSpec,
        owned: Option<UserNamespace>,
    ) -> Result<Change> {
        let begun = self.networks.begin_open(spec, owned);
        begun.map_err(|error| self.explain(error, container, &spec.ports))
    }

    /// Docker's sentence about a port that is taken, with whom to ask for it.
    pub(super) fn explain(
        &self,
        error: Error,
        container: &Container,
        wanted: &[PortSpec],
    ) -> Error {
        let text = error.to_string();
        if !text.starts_with("Bind for") && !text.starts_with("failed to bind") {
            return error;
        }
        let endpoint = container.endpoints.first().map_or("", |endpoint| endpoint.id.as_str());
        let endpoint = if endpoint.is_empty() { &container.id } else { endpoint };
        let owner = if text.ends_with("port is already allocated") {
            let is_wanted = |port: &PortBinding| {
                let same = |spec: &PortSpec| {
                    spec.protocol == port.protocol && spec.host_ports.contains(&port.host_port)
                };
                wanted.iter().any(same)
            };
            let others = self.registry.all().into_iter().map(|live| live.get());
            let publisher = others
                .filter(|other| other.state.has_process())
                .find(|other| other.ports.iter().any(is_wanted));
            publisher.map(|other| {
                format!(": container {} publishes it; stop that or choose another", other.name)
            })
        } else if text.ends_with("address already in use") {
            Some(" by a program of the host; stop that or choose another port".to_owned())
        } else {
            None
        };
        Error::new(
            Kind::Internal,
            format!(
                "driver failed programming external connectivity on endpoint {} ({endpoint}): \
                 {text}{}",
                container.name,
                owner.unwrap_or_default()
            ),
        )
    }

    /// Applies the network's part while the runtime makes the container, lets that run when both
    /// are done, and returns the records to commit.
    fn run_connected(
        &self,
        live: &Arc<Live>,
        container: &Container,
        change: &Change,
    ) -> Result<Batch, Failure> {
        let sandbox = &change.sandbox;
        let namespace = self.networks.kernel().namespace_path(&sandbox.id);
        let names = self.sandbox_names(container, sandbox, &change.endpoints)?;
        let endpoints = self.endpoint_views(container, &change.endpoints)?;
        let addresses = change.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let connectivity = Connectivity {
            place: Place::Own,
            user: self.user_namespace(
                container,
                &Namespace::Path(namespace.clone()),
                Some(&sandbox.id),
            )?,
            namespace: Namespace::Path(namespace.clone()),
            addresses: addresses.map(ipnetwork::IpNetwork::ip).collect(),
            resolver: sandbox.resolver,
        };
        let (network, made) = thread::scope(|scope| {
            let (ready, namespace) = mpsc::sync_channel(1);
            let network = scope.spawn(|| self.connect_up(change, &names, ready));
            let spec = self.run_spec(container, &connectivity);
            let prepared = spec.and_then(|spec| self.runner.prepare(spec)).map_err(Failure::from);
            let made = prepared.and_then(|prepared| {
                if namespace.recv().is_err() {
                    prepared.discard();
                    // The network's part says why.
                    return Err(Error::new(Kind::Internal, "it has no network namespace").into());
                }
                self.runner.begin(prepared, live.take_early())
            });
            let panicked = |_| Error::new(Kind::Internal, "the network's part panicked");
            (network.join().map_err(panicked).flatten(), made)
        });
        let pid = match (network, made) {
            (Ok(()), made) => made?.run()?.pid,
            (Err(error), made) => {
                if let Ok(made) = made {
                    made.cancel();
                }
                return Err(error.into());
            }
        };
        let (container, ()) = live.change(|container| {
            container.state.start(pid, Utc::now());
            container.sandbox = Some(sandbox.id.clone());
            container.sandbox_key = namespace;
            container.endpoints = endpoints;
            container.ports.clone_from(&sandbox.ports);
        });
        Ok(Self::record(&container))
    }

    /// The network's part of a start. Says when the namespace is there, long before the rest.
    fn connect_up(
        &self,
        change: &Change,
        names: &SandboxNames,
        ready: mpsc::SyncSender<()>,
    ) -> Result<()> {
        // Nobody hears it where the other part has failed.
        let made = move || ready.send(()).unwrap_or_default();
        let announcements = self.networks.apply(change, names, &made)?;
        if change.moves_address() {
            announcements.tell();
        } else {
            // The bridge copies it to every port of the network; other starts go first.
            let lull = self.runner.lull();
            self.tasks.handle().spawn(async move {
                lull.await;
                tokio::task::spawn_blocking(move || announcements.tell()).await
            });
        }
        self.networks.redirect_flows(change);
        Ok(())
    }

    /// What follows a start: those who attached meanwhile, the watch over its end, the events.
    pub(super) fn started(&self, live: &Arc<Live>, container: &Container) {
        let shim = Arc::new(ShimClient::new(self.settings.shim_dir(&container.id)));
        let late = live.set_shim(shim.clone());
        self.attach_late(&shim, late);
        live.progress.send_modify(|progress| {
            progress.starts += 1;
            progress.running = true;
            progress.error = None;
        });
        self.tell_linking(container);
        self.tell_mounted(container);
        for endpoint in &container.endpoints {
            self.tell_network("connect", endpoint, container);
        }
        self.tell(container, "start", &[]);
        self.monitor(live.clone(), shim);
        self.watch_health(live);
        self.watch_readiness(live);
        self.runner.prepare_next_shim();
        self.runner.rest();
    }
}

/// Docker's words before what is wrong with a network.
fn networking(error: Error) -> Error {
    if error.to_string().starts_with("joining network namespace") {
        return error;
    }
    Error::new(error.kind(), format!("failed to set up container networking: {error}"))
}
