//! What the networks of a daemon need of a host beside its objects: ports, flows, places.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use cnm::controller::HostFacts;
use cnm::driver::Probe;
use cnm::wireguard::PublicKey;
use cnm::{LinkKind, LinkName, Mac, Plan, PortBinding, Protocol, SandboxId, State};

use super::conntrack::Way;
use super::nft::Foreign;
use super::{
    Announcements, HostPorts, Kernel, KernelError, Linux, Listeners, Memory, PrivateKey,
    ResolverSockets, UserNamespace,
};
use crate::dhcp::Port;

/// What a host says that has no packets.
const NO_DHCP: KernelError = KernelError::Unsupported {
    what: "DHCP",
    hint: "choose addresses with --subnet instead of --ipam-driver dhcp",
};

/// A kernel together with the host it runs.
pub trait Host: Kernel {
    /// As [`Kernel::observe`], but of the sandboxes only some.
    fn observe_only(&self, sandboxes: &BTreeSet<SandboxId>) -> Result<State, KernelError>;

    /// As [`Kernel::apply`], but leaves it to the caller to tell neighbours of new addresses, and
    /// calls `made` when all new namespaces are there, before anything is in them. An address that
    /// somebody answers a probe for is not used.
    fn apply_ahead(
        &self,
        plan: &Plan,
        probes: &[Probe],
        made: &(dyn Fn() + Sync),
    ) -> Result<Announcements, KernelError>;

    /// What the host uses already.
    fn host_facts(&self) -> Result<HostFacts, KernelError>;

    /// Whether it has some kinds of links.
    fn supports(&self, _kinds: &[LinkKind]) -> Result<(), KernelError> {
        Ok(())
    }

    /// Has links that encrypt use this key from now on; the public half of it.
    fn hold_key(&self, key: PrivateKey) -> Result<PublicKey, KernelError>;

    /// Tells when what the host uses has changed.
    fn fact_changes(&self) -> Result<Receiver<()>, KernelError>;

    /// What binds host ports, on the calling thread.
    fn host_ports(&self) -> Box<dyn BindPorts + '_>;

    /// Forgets connections to these host ports.
    fn flush_ports(&self, bindings: &[PortBinding]) -> Result<(), KernelError>;

    /// Ends connections by ways that are closed.
    fn cut(&self, ways: &[Way]) -> Result<(), KernelError>;

    /// Forgets connections from and to these addresses.
    fn flush_addresses(&self, addresses: &[IpAddr]) -> Result<(), KernelError>;

    /// The namespace of a sandbox, as a path for a runtime.
    fn namespace_path(&self, sandbox: &SandboxId) -> PathBuf;

    /// The user namespace that the one of a sandbox belongs to, as a path for a runtime.
    fn user_namespace_path(&self, sandbox: &SandboxId) -> PathBuf {
        self.namespace_path(sandbox)
    }

    /// Has the namespace of a sandbox, when it is made, be this one; or a new one of the host's after all.
    fn offer(&self, _sandbox: &SandboxId, _namespace: Option<UserNamespace>) {}

    /// What others have in nf_tables beside us.
    fn foreign_rules(&self) -> Result<Foreign, KernelError> {
        Ok(Foreign::default())
    }

    /// The hardware address of a link of the host; nothing if it is not there, or has none.
    fn hardware_address(&self, _link: &LinkName) -> Result<Option<Mac>, KernelError> {
        Ok(None)
    }

    /// Pins the namespace of a sandbox again, where that is lost, by a process that lives in it. Says
    /// whether that was necessary.
    fn pin_again(&self, _sandbox: &SandboxId, _process: i32) -> Result<bool, KernelError> {
        Ok(false)
    }

    /// A way to the DHCP servers of a network by a link as it is planned for an endpoint.
    fn visit(&self, _endpoint: &State) -> Result<Box<dyn Port>, KernelError> {
        Err(NO_DHCP)
    }

    /// A way to the DHCP servers of a network by an interface of a sandbox.
    fn messenger(
        &self,
        _sandbox: &SandboxId,
        _interface: &LinkName,
        _mac: Mac,
    ) -> Result<Box<dyn Port>, KernelError> {
        Err(NO_DHCP)
    }

    /// Opens the sockets of a sandbox's resolver.
    fn resolver_sockets(&self, sandbox: &SandboxId) -> Result<ResolverSockets, KernelError>;

    /// Who listens in a sandbox, to be asked as often as that is of interest.
    fn listeners(&self, sandbox: &SandboxId) -> Result<Box<dyn Listeners>, KernelError>;

    /// The socket that owns the table, to be kept by a process that outlives this one.
    fn table_owner(&self) -> Option<OwnedFd>;

    /// Tells when something of ours was changed by somebody else.
    fn changes(&self) -> Result<Receiver<()>, KernelError>;

    /// Removes what is there without any network.
    fn remove_table(&self) -> Result<(), KernelError>;
}

/// Binds ports of a host.
pub trait BindPorts {
    /// Binds a host port, so that nobody else takes it. `None` if somebody has it.
    fn reserve(&self, binding: &PortBinding) -> Result<Option<OwnedFd>, KernelError>;

    /// Binds a port of all addresses of both families by one socket; `None` if that cannot be.
    fn reserve_pair(&self, bindings: &[PortBinding]) -> Option<OwnedFd>;
}

impl Host for Linux {
    fn observe_only(&self, sandboxes: &BTreeSet<SandboxId>) -> Result<State, KernelError> {
        Self::observe_only(self, sandboxes)
    }

    fn apply_ahead(
        &self,
        plan: &Plan,
        probes: &[Probe],
        made: &(dyn Fn() + Sync),
    ) -> Result<Announcements, KernelError> {
        Self::apply_ahead(self, plan, probes, made)
    }

    fn supports(&self, kinds: &[LinkKind]) -> Result<(), KernelError> {
        Self::supports(self, kinds)
    }

    fn hold_key(&self, key: PrivateKey) -> Result<PublicKey, KernelError> {
        Self::hold_key(self, key)
    }

    fn host_facts(&self) -> Result<HostFacts, KernelError> {
        Self::host_facts(self)
    }

    fn fact_changes(&self) -> Result<Receiver<()>, KernelError> {
        Self::fact_changes(self)
    }

    fn host_ports(&self) -> Box<dyn BindPorts + '_> {
        Box::new(Self::host_ports(self))
    }

    fn flush_ports(&self, bindings: &[PortBinding]) -> Result<(), KernelError> {
        Self::flush_ports(self, bindings)
    }

    fn cut(&self, ways: &[Way]) -> Result<(), KernelError> {
        Self::cut(self, ways)
    }

    fn flush_addresses(&self, addresses: &[IpAddr]) -> Result<(), KernelError> {
        Self::flush_addresses(self, addresses)
    }

    fn namespace_path(&self, sandbox: &SandboxId) -> PathBuf {
        Self::namespace_path(self, sandbox)
    }

    fn user_namespace_path(&self, sandbox: &SandboxId) -> PathBuf {
        Self::user_namespace_path(self, sandbox)
    }

    fn offer(&self, sandbox: &SandboxId, namespace: Option<UserNamespace>) {
        Self::offer(self, sandbox, namespace);
    }

    fn foreign_rules(&self) -> Result<Foreign, KernelError> {
        Self::foreign_rules(self)
    }

    fn hardware_address(&self, link: &LinkName) -> Result<Option<Mac>, KernelError> {
        Self::hardware_address(self, link)
    }

    fn pin_again(&self, sandbox: &SandboxId, process: i32) -> Result<bool, KernelError> {
        Self::pin_again(self, sandbox, process)
    }

    fn visit(&self, endpoint: &State) -> Result<Box<dyn Port>, KernelError> {
        Self::visit(self, endpoint)
    }

    fn messenger(
        &self,
        sandbox: &SandboxId,
        interface: &LinkName,
        mac: Mac,
    ) -> Result<Box<dyn Port>, KernelError> {
        Self::messenger(self, sandbox, interface, mac)
    }

    fn resolver_sockets(&self, sandbox: &SandboxId) -> Result<ResolverSockets, KernelError> {
        Self::resolver_sockets(self, sandbox)
    }

    fn listeners(&self, sandbox: &SandboxId) -> Result<Box<dyn Listeners>, KernelError> {
        Self::listeners(self, sandbox)
    }

    fn table_owner(&self) -> Option<OwnedFd> {
        Self::table_owner(self)
    }

    fn changes(&self) -> Result<Receiver<()>, KernelError> {
        Self::changes(self)
    }

    fn remove_table(&self) -> Result<(), KernelError> {
        Self::remove_table(self)
    }
}

impl BindPorts for HostPorts<'_> {
    fn reserve(&self, binding: &PortBinding) -> Result<Option<OwnedFd>, KernelError> {
        Self::reserve(self, binding)
    }

    fn reserve_pair(&self, bindings: &[PortBinding]) -> Option<OwnedFd> {
        Self::reserve_pair(self, bindings)
    }
}

/// A host with nobody else on it: every port is free, nothing flows, and nobody changes anything.
impl Host for Memory {
    fn observe_only(&self, sandboxes: &BTreeSet<SandboxId>) -> Result<State, KernelError> {
        let seen = |id: Option<&SandboxId>| id.is_none_or(|id| sandboxes.contains(id));
        Ok(self.observe()?.into_iter().filter(|(key, _)| seen(key.sandbox())).collect())
    }

    fn apply_ahead(
        &self,
        plan: &Plan,
        _probes: &[Probe],
        made: &(dyn Fn() + Sync),
    ) -> Result<Announcements, KernelError> {
        made();
        self.apply(plan).map(|()| Announcements::default())
    }

    /// Nothing is computed: any other key does.
    fn hold_key(&self, key: PrivateKey) -> Result<PublicKey, KernelError> {
        Ok(key.bytes().map(|byte| !byte).into())
    }

    fn host_facts(&self) -> Result<HostFacts, KernelError> {
        Ok(HostFacts { links: self.host_links().into(), ..HostFacts::default() })
    }

    fn fact_changes(&self) -> Result<Receiver<()>, KernelError> {
        self.changes()
    }

    fn host_ports(&self) -> Box<dyn BindPorts + '_> {
        Box::new(FreePorts)
    }

    fn flush_ports(&self, _bindings: &[PortBinding]) -> Result<(), KernelError> {
        Ok(())
    }

    fn cut(&self, _ways: &[Way]) -> Result<(), KernelError> {
        Ok(())
    }

    fn flush_addresses(&self, _addresses: &[IpAddr]) -> Result<(), KernelError> {
        Ok(())
    }

    fn namespace_path(&self, sandbox: &SandboxId) -> PathBuf {
        PathBuf::from(sandbox.as_str())
    }

    fn resolver_sockets(&self, sandbox: &SandboxId) -> Result<ResolverSockets, KernelError> {
        let open = || {
            let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
            Ok(ResolverSockets { udp: udp.into(), tcp: tcp.into() })
        };
        open().map_err(|source| KernelError::Step {
            verb: "open",
            object: format!("the resolver's sockets in {}", sandbox.short()),
            source,
        })
    }

    fn listeners(&self, _sandbox: &SandboxId) -> Result<Box<dyn Listeners>, KernelError> {
        Ok(Box::new(Nobody))
    }

    fn table_owner(&self) -> Option<OwnedFd> {
        None
    }

    fn changes(&self) -> Result<Receiver<()>, KernelError> {
        let (sender, receiver) = channel();
        self.keep_watcher(sender);
        Ok(receiver)
    }

    fn remove_table(&self) -> Result<(), KernelError> {
        Ok(())
    }
}

/// Nobody listens where nothing runs.
struct Nobody;

impl Listeners for Nobody {
    fn ports(&mut self) -> io::Result<BTreeSet<(Protocol, u16)>> {
        Ok(BTreeSet::new())
    }
}

/// Every port is free; what stands for a socket reserves nothing.
struct FreePorts;

impl BindPorts for FreePorts {
    fn reserve(&self, binding: &PortBinding) -> Result<Option<OwnedFd>, KernelError> {
        File::open("/dev/null").map(|file| Some(file.into())).map_err(|source| KernelError::Step {
            verb: "reserve",
            object: format!("port {} {}", binding.host_port, binding.protocol),
            source,
        })
    }

    fn reserve_pair(&self, _bindings: &[PortBinding]) -> Option<OwnedFd> {
        None
    }
}
