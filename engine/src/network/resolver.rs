//! The resolver's process, `rnet-dns`, as the networks use it: has names answered and ports held.
//!
//! It outlives the daemon; the next daemon tells it only what changed. What is desired of it is
//! known here, so that the next process, whenever one is needed, can be told everything again.

mod desired;
mod names;
mod owner;
mod ports;
mod process;
mod supervision;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use cnm::{EndpointId, NetworkId, SandboxId};
use dns::protocol::{EndpointNames, HeldPort};
use drivers::kernel::Host;

use super::change::Connections;
use desired::Service;
pub(crate) use desired::{NetworkNames, SandboxNames};
use engine_error::{Error, Result};
pub(super) use owner::take_owner;
pub(super) use ports::BoundPort;
use process::Process;
use supervision::Supervisor;

/// The resolver of one daemon.
#[derive(Debug)]
pub(crate) struct Resolver {
    supervisor: Arc<Supervisor>,
    /// The thread that watches the process, and gives it back at its end.
    watch: Mutex<Option<JoinHandle<Option<Process>>>>,
}

impl Resolver {
    pub(super) fn new(
        socket: PathBuf,
        program: PathBuf,
        resolv_conf: PathBuf,
        kernel: Arc<dyn Host>,
    ) -> Result<Self> {
        let supervisor = Arc::new(Supervisor::new(socket, program, resolv_conf, kernel)?);
        Ok(Self { supervisor, watch: Mutex::default() })
    }

    /// Takes up the process that is there, or starts one, and watches it from now on.
    pub(super) fn start(&self, served: Vec<(SandboxNames, Vec<HeldPort>)>) -> Result<()> {
        let service = |(names, ports): (SandboxNames, _)| {
            (names.view.sandbox.clone(), Service { names, ports })
        };
        let process = self.supervisor.begin(served.into_iter().map(service).collect())?;
        let supervisor = Arc::clone(&self.supervisor);
        let thread = std::thread::Builder::new()
            .name("rnet-dns watch".to_owned())
            .spawn(move || supervisor.watch(process))
            .map_err(|error| Error::internal("cannot watch rnet-dns", error))?;
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Serves a sandbox, or serves it anew; it is answered when this returns. Of all its ports some
    /// come with the sockets that reserve them; the others are held already.
    pub(super) fn serve(
        &self,
        names: &SandboxNames,
        all: &[HeldPort],
        bound: &[BoundPort<'_>],
        withdrawn: Connections,
    ) -> Result<()> {
        let service = Service { names: names.clone(), ports: all.to_vec() };
        self.supervisor.change(
            |desired| desired.insert(service),
            |old, client| {
                let kernel = self.supervisor.kernel();
                names::change(kernel, client, old.as_ref().map(|old| &old.names), names)?;
                let old = old.map_or_else(Vec::new, |old| old.ports);
                client.lead(&desired::moved(&old, all))?;
                let gone = desired::gone(&old, all);
                if !gone.is_empty() {
                    ports::withdraw(client, &gone, withdrawn)?;
                }
                ports::hold(client, bound)
            },
        )
    }

    /// Nobody is told a sandbox's names any more, and nothing is answered in it.
    pub(super) fn withdraw(&self, sandbox: &SandboxId) {
        let withdrawn = self.supervisor.change(
            |desired| desired.silence(sandbox),
            |old, client| old.map_or(Ok(()), |old| names::withdraw(client, &old)),
        );
        if let Err(error) = withdrawn {
            tracing::warn!(error = error.chain(), "cannot withdraw names");
        }
    }

    /// Forgets a sandbox, its ports included.
    pub(super) fn release(&self, sandbox: &SandboxId) {
        let released = self.supervisor.change(
            |desired| desired.remove(sandbox),
            |old, client| {
                let Some(old) = old else { return Ok(()) };
                names::withdraw(client, &old.names)?;
                let ports: Vec<_> = old.ports.iter().flat_map(HeldPort::bindings).collect();
                if ports.is_empty() { Ok(()) } else { client.drop_ports(&ports) }
            },
        );
        if let Err(error) = released {
            tracing::warn!(error = error.chain(), "cannot release names and ports");
        }
    }

    /// Ends the connections that go on from withdrawn ports to their targets.
    pub(super) fn cut(&self, carried: &[HeldPort]) -> Result<()> {
        if carried.is_empty() {
            return Ok(());
        }
        self.supervisor.mention(|client| client.cut(carried))
    }

    /// The same of those to addresses that nobody has any more.
    pub(super) fn cut_to(&self, addresses: &[IpAddr]) -> Result<()> {
        if addresses.is_empty() {
            return Ok(());
        }
        self.supervisor.mention(|client| client.cut_to(addresses))
    }

    /// Answers for a sandbox on one more network. It is no matter if it is not served.
    pub(super) fn name_on(&self, sandbox: &SandboxId, on: &NetworkNames) -> Result<()> {
        self.supervisor.change(
            |desired| desired.name_on(sandbox, on),
            |served, client| {
                let names = std::slice::from_ref(&on.names);
                if served { client.publish(&on.network, &on.network_name, names) } else { Ok(()) }
            },
        )
    }

    /// Answers for a sandbox on a network no more.
    pub(super) fn unname_on(&self, sandbox: &SandboxId, network: &NetworkId) -> Result<()> {
        self.supervisor.change(
            |desired| desired.unname_on(sandbox, network),
            |gone, client| match gone {
                Some(gone) => client.withdraw(network, std::slice::from_ref(&gone.names.endpoint)),
                None => Ok(()),
            },
        )
    }

    /// What a sandbox sees and is called.
    pub(super) fn names_of(&self, sandbox: &SandboxId) -> Option<SandboxNames> {
        self.supervisor.names(sandbox)
    }

    /// Answers for endpoints on other hosts, and for some no more.
    pub(super) fn tell_remote(
        &self,
        network: &NetworkId,
        name: &str,
        named: &[EndpointNames],
        gone: &[EndpointId],
    ) -> Result<()> {
        self.supervisor.change(
            |desired| desired.tell_remote(network, name, named, gone),
            |(), client| {
                if !gone.is_empty() {
                    client.withdraw(network, gone)?;
                }
                if named.is_empty() { Ok(()) } else { client.publish(network, name, named) }
            },
        )
    }

    /// Answers for nobody of a network on other hosts any more.
    pub(super) fn forget_remote(&self, network: &NetworkId) {
        let forgotten = self.supervisor.change(
            |desired| desired.forget_remote(network),
            |gone, client| if gone.is_empty() { Ok(()) } else { client.withdraw(network, &gone) },
        );
        if let Err(error) = forgotten {
            tracing::warn!(error = error.chain(), "cannot withdraw names of other hosts");
        }
    }

    /// Ends the process.
    pub(super) fn end(&self) {
        self.supervisor.give_up();
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner).take();
        let last = watch.and_then(|thread| thread.join().ok().flatten());
        self.supervisor.end(last);
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.supervisor.give_up();
    }
}
