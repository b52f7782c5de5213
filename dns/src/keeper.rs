//! What the daemon's requests do: the state that outlives the daemon.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLockWriteGuard};

use cnm::{EndpointId, NetworkId, PortBinding, SandboxId};

use crate::connections::Connections;
use crate::names::Names;
use crate::protocol::{HeldPort, Reply, Request, SandboxView, VERSION};
use crate::proxy::{Held, Places, Targets};
use crate::resolv_conf::Following;
use crate::serve::{SandboxService, Shared};

/// The sandboxes served, the ports held, the owner socket.
#[derive(Debug)]
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    following: Following,
    served: BTreeMap<SandboxId, SandboxService>,
    /// A socket of both families is there twice.
    held: BTreeMap<PortBinding, Arc<Held>>,
    /// The connections of ports that are closed.
    draining: Vec<(PortBinding, Connections)>,
    places: Places,
    owner: Option<OwnedFd>,
}

/// What is sent back.
pub(crate) struct Outcome {
    /// The reply.
    pub(crate) reply: Reply,
    /// A descriptor beside it.
    pub(crate) descriptor: Option<OwnedFd>,
    /// Whether this was the last request.
    pub(crate) last: bool,
}

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("protocol {theirs} is not spoken here, only {VERSION}: restart rnet-dns")]
    Version { theirs: u32 },
    #[error("{wanted} descriptors are needed, {given} came")]
    Descriptors { wanted: usize, given: usize },
    #[error("sandbox {} is not served: serve it first", .0.short())]
    NotServed(SandboxId),
    #[error("cannot use the sockets of sandbox {}: {source}", sandbox.short())]
    Sockets { sandbox: SandboxId, source: io::Error },
    #[error("cannot hold port {}/{:?}: {source}", binding.host_port, binding.protocol)]
    Port { binding: Box<PortBinding>, source: io::Error },
    #[error("cannot duplicate the owner socket: {0}")]
    Owner(io::Error),
}

impl Keeper {
    /// Nothing is kept yet; the host's resolvers are in this file.
    pub(crate) fn new(shared: Arc<Shared>, resolv_conf: PathBuf, places: Places) -> Self {
        let following = shared.host.follow(resolv_conf);
        let (served, held, draining) = Default::default();
        Self { shared, following, served, held, draining, places, owner: None }
    }

    /// Does what is asked; when this returns, it holds.
    pub(crate) async fn handle(&mut self, request: Request, sockets: Vec<OwnedFd>) -> Outcome {
        let last = request == Request::Shutdown;
        let done = self.dispatch(request, sockets).await;
        let (reply, descriptor) = done.unwrap_or_else(|refusal| {
            tracing::warn!(%refusal, "request refused");
            (Reply::Failed { message: refusal.to_string() }, None)
        });
        Outcome { reply, descriptor, last }
    }

    async fn dispatch(
        &mut self,
        request: Request,
        sockets: Vec<OwnedFd>,
    ) -> Result<(Reply, Option<OwnedFd>), Refusal> {
        match request {
            Request::Hello { version: VERSION } | Request::Shutdown => {}
            Request::Hello { version } => return Err(Refusal::Version { theirs: version }),
            Request::Serve(view) => self.serve(*view, exactly(sockets)?).await?,
            Request::Release { sandbox } => self.release(&sandbox).await,
            Request::Update(view) => self.update(*view)?,
            Request::Publish { network, name, endpoints } => {
                self.names().publish(network, name, endpoints);
            }
            Request::Withdraw { network, endpoints } => {
                self.names().withdraw(&network, &endpoints);
            }
            Request::Retain { endpoints } => self.retain(endpoints),
            Request::FollowHost { path } => self.following = self.shared.host.follow(path.into()),
            Request::Hold(ports) => self.hold(ports, sockets).await?,
            Request::Lead(ports) => self.lead(&ports).await,
            Request::Drop(ports) => self.drop_ports(&ports).await,
            Request::Drain(ports) => self.drain_ports(&ports).await,
            Request::Cut(ports) => self.cut(&ports).await,
            Request::CutTo(addresses) => self.cut_to(&addresses).await,
            Request::KeepOwner => {
                let [owner] = exactly(sockets)?;
                self.owner = Some(owner);
            }
            Request::TakeOwner => {
                let owner = self.owner.as_ref().map(OwnedFd::try_clone).transpose();
                return Ok((Reply::Done, owner.map_err(Refusal::Owner)?));
            }
            Request::Status => return Ok((self.status(), None)),
        }
        Ok((Reply::Done, None))
    }

    async fn serve(&mut self, view: SandboxView, sockets: [OwnedFd; 2]) -> Result<(), Refusal> {
        let sandbox = view.sandbox.clone();
        self.release(&sandbox).await;
        let [udp, tcp] = sockets;
        let served = SandboxService::start(&self.shared, view, udp, tcp)
            .map_err(|source| Refusal::Sockets { sandbox: sandbox.clone(), source })?;
        self.served.insert(sandbox, served);
        Ok(())
    }

    async fn release(&mut self, sandbox: &SandboxId) {
        if let Some(served) = self.served.remove(sandbox) {
            served.stop().await;
        }
    }

    fn update(&self, view: SandboxView) -> Result<(), Refusal> {
        let sandbox = view.sandbox.clone();
        let served = self.served.get(&sandbox).ok_or(Refusal::NotServed(sandbox))?;
        served.update(view);
        Ok(())
    }

    fn retain(&self, endpoints: BTreeMap<NetworkId, Vec<EndpointId>>) {
        let kept: HashMap<NetworkId, HashSet<EndpointId>> = endpoints
            .into_iter()
            .map(|(network, ids)| (network, ids.into_iter().collect()))
            .collect();
        self.names().retain(|network, id| {
            kept.get(network).is_some_and(|endpoints| endpoints.contains(id))
        });
    }

    async fn hold(&mut self, ports: Vec<HeldPort>, sockets: Vec<OwnedFd>) -> Result<(), Refusal> {
        if ports.len() != sockets.len() {
            return Err(Refusal::Descriptors { wanted: ports.len(), given: sockets.len() });
        }
        for (port, socket) in ports.into_iter().zip(sockets) {
            for binding in port.bindings() {
                self.drop_port(&binding).await;
            }
            let held =
                Held::start(socket, port.binding.protocol, Targets::of(&port), self.places.clone())
                    .map(Arc::new)
                    .map_err(|source| Refusal::Port {
                        binding: Box::new(port.binding.clone()),
                        source,
                    })?;
            self.held.extend(port.bindings().map(|binding| (binding, Arc::clone(&held))));
        }
        Ok(())
    }

    async fn lead(&self, ports: &[HeldPort]) {
        for port in ports.iter().flat_map(HeldPort::apart) {
            if let Some(held) = self.held.get(&port.binding) {
                held.lead(port.binding.host, port.target).await;
            }
        }
    }

    async fn drop_ports(&mut self, ports: &[PortBinding]) {
        for binding in ports {
            self.drop_port(binding).await;
        }
    }

    /// What goes on from before to the same target ends with it.
    async fn drop_port(&mut self, binding: &PortBinding) {
        let Some(held) = self.held.remove(binding) else { return };
        if let Some(target) = held.target(binding.host) {
            self.cut_one(binding, target).await;
        }
        close(held, binding.host).await;
    }

    async fn drain_ports(&mut self, ports: &[PortBinding]) {
        self.draining.retain(|(_, connections)| !connections.are_over());
        for binding in ports {
            let Some(held) = self.held.remove(binding) else { continue };
            self.draining.extend(held.release(binding.host).map(|some| (binding.clone(), some)));
            close(held, binding.host).await;
        }
    }

    async fn cut(&self, ports: &[HeldPort]) {
        for port in ports {
            if let Some(target) = port.target {
                self.cut_one(&port.binding, target).await;
            }
        }
    }

    async fn cut_to(&self, addresses: &[IpAddr]) {
        for (_, connections) in &self.draining {
            connections.end(|to| addresses.contains(&to.ip())).await;
        }
    }

    async fn cut_one(&self, binding: &PortBinding, target: SocketAddr) {
        for (_, connections) in self.draining.iter().filter(|(from, _)| from == binding) {
            connections.end(|to| to == target).await;
        }
    }

    fn status(&self) -> Reply {
        Reply::Status {
            sandboxes: self.served.keys().cloned().collect(),
            ports: self.held.keys().cloned().collect(),
            owner: self.owner.is_some(),
            pid: std::process::id(),
        }
    }

    fn names(&self) -> RwLockWriteGuard<'_, Names> {
        self.shared.names.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes the socket of a port, or leads what comes to it by one family nowhere, if the other one is
/// held by the same socket.
async fn close(held: Arc<Held>, host: IpAddr) {
    match Arc::try_unwrap(held) {
        Ok(held) => held.stop().await,
        Err(held) => held.lead(host, None).await,
    }
}

fn exactly<const N: usize>(sockets: Vec<OwnedFd>) -> Result<[OwnedFd; N], Refusal> {
    let given = sockets.len();
    sockets.try_into().map_err(|_| Refusal::Descriptors { wanted: N, given })
}
