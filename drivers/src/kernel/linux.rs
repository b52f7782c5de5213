//! The real kernel.

mod apply;
mod forwarding;
mod observe;
mod parts;
mod pin;
mod requests;
mod unlink;
mod visit;
mod wireguard;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, PipeWriter};
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use cnm::controller::HostFacts;
use cnm::driver::Probe;
use cnm::{LinkKind, LinkName, Mac, Plan, PortBinding, SandboxId, State};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};

pub use self::apply::Announcements;
use self::apply::OnFailure;
use self::observe::Scope;
use super::announce::Announcers;
use super::conntrack::{Conntrack, Way};
use super::facts::{self, Facts};
use super::listening::{Diagnosed, Listeners};
use super::netlink::Socket;
use super::netns::{Netns, Visitor};
use super::nft::{Foreign, Nft, NftError};
use super::packet::Packets;
use super::reserve::ReserveError;
use super::shortcut::Shortcuts;
use super::{Kernel, KernelError, LinuxConfig, RESOLVER_PORT, ResolverSockets, UserNamespace};
use super::{address, link, monitor, reserve, sysctl};
use crate::dhcp::Port;

/// The Linux kernel of this machine, and the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Linux {
    config: LinuxConfig,
    host: Netns,
    links: sysctl::Links,
    sockets: Arc<Sockets>,
    nft: Arc<Nft>,
    conntrack: Conntrack,
    shortcuts: Shortcuts,
    announcers: Mutex<Announcers>,
    held: wireguard::Held,
    /// Namespaces that others have made for sandboxes to come.
    offered: Mutex<BTreeMap<SandboxId, UserNamespace>>,
    shadow: Arc<monitor::Shadow>,
    facts: Arc<Mutex<Option<Facts>>>,
    /// Closed with the value, which ends the threads that watch for changes.
    watchers: Mutex<Vec<PipeWriter>>,
}

impl Linux {
    /// Opens the sockets and installs the constant part of the nf_tables table.
    pub fn open(config: LinuxConfig) -> Result<Self, KernelError> {
        let host = Netns::current().map_err(failed("open", "the host's network namespace"))?;
        let here = host.try_clone().map_err(failed("keep", "the host's network namespace"))?;
        let links = sysctl::Links::open().map_err(failed("open", "the host's sysctls"))?;
        let socket = Socket::open().map_err(failed("open", "a route netlink socket"))?;
        pin::prepare(&config.namespaces)
            .map_err(failed("prepare", &config.namespaces.display().to_string()))?;
        let owner = config.owner.as_deref().map(OwnedFd::try_clone).transpose();
        let owner = owner.map_err(failed("duplicate", "the table's owner socket"))?;
        let nft = Nft::open(&config.table, owner, config.ownership)?;
        let closed = forwarding::noted(&config.namespaces);
        nft.close(&closed.map_err(failed("read", "the links that do not forward"))?)?;
        let conntrack = Conntrack::open().map_err(failed("open", "a conntrack socket"))?;
        let shortcuts = Shortcuts::new(&config.tag);
        Ok(Self {
            config,
            host,
            links,
            conntrack,
            shortcuts,
            announcers: Mutex::default(),
            held: wireguard::Held::default(),
            offered: Mutex::default(),
            sockets: Arc::new(Sockets { host: here, free: Mutex::new(vec![socket]) }),
            nft: Arc::new(nft),
            shadow: Arc::default(),
            facts: Arc::default(),
            watchers: Mutex::default(),
        })
    }

    /// What the host uses already: routes of all tables, resolvers.
    pub fn host_facts(&self) -> Result<HostFacts, KernelError> {
        let read = self.with_facts(|facts| self.with_socket(|socket| facts.read(socket)));
        read.map_err(failed("list", "the host's routes"))
    }

    /// Tells when routes of the host have changed, or bridges that are not ours. The receiver gets one
    /// message per burst of changes.
    pub fn fact_changes(&self) -> Result<Receiver<()>, KernelError> {
        let failed = |error| failed("watch", "the host's routes")(error);
        let (stop, writer) = io::pipe().map_err(failed)?;
        let bell = self.with_facts(|facts| facts.bell()).map_err(failed)?;
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(writer);
        let facts = Arc::clone(&self.facts);
        facts::watch(bell, stop.into(), facts).map_err(failed)
    }

    /// Uses what is known of the host, which is listened to from the first use on.
    fn with_facts<T>(&self, f: impl FnOnce(&mut Facts) -> io::Result<T>) -> io::Result<T> {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let facts = match &mut *facts {
            Some(facts) => facts,
            none => none.insert(self.host.run(|| Facts::open(&self.config.tag))??),
        };
        f(facts)
    }

    /// Opens the sockets of a sandbox's resolver.
    pub fn resolver_sockets(&self, sandbox: &SandboxId) -> Result<ResolverSockets, KernelError> {
        let object = || format!("the resolver's sockets in {}", sandbox.short());
        let netns = Netns::open(self.namespace_path(sandbox))
            .map_err(|source| step("open", object(), source))?;
        Visitor::send(|visitor| {
            visitor.enter(&netns)?;
            let udp = bind_resolver(SockType::Datagram)?;
            let tcp = bind_resolver(SockType::Stream)?;
            listen(&tcp, Backlog::MAXCONN)?;
            Ok(ResolverSockets { udp, tcp })
        })
        .map_err(|source: io::Error| step("open", object(), source))
    }

    /// Who listens in a sandbox.
    pub fn listeners(&self, sandbox: &SandboxId) -> Result<Box<dyn Listeners>, KernelError> {
        let open = || {
            let netns = Netns::open(self.namespace_path(sandbox))?;
            let listeners = netns.run(Diagnosed::open)??;
            Ok::<Box<dyn Listeners>, io::Error>(Box::new(listeners))
        };
        open().map_err(failed("open", &format!("a look at the sockets in {}", sandbox.short())))
    }

    /// What binds host ports, on the calling thread.
    pub fn host_ports(&self) -> HostPorts<'_> {
        let here = self.host.is_current().unwrap_or_default();
        HostPorts { host: &self.host, here, thread: PhantomData }
    }

    /// Forgets connections to these host ports, so that their packets find the new owner.
    pub fn flush_ports(&self, bindings: &[PortBinding]) -> Result<(), KernelError> {
        if bindings.is_empty() {
            return Ok(());
        }
        let flushed = self.conntrack.flush_ports(bindings);
        flushed.map(|_| ()).map_err(failed("flush", "connections to published ports"))
    }

    /// Forgets connections by ways that are closed, so that they end.
    pub fn cut(&self, ways: &[Way]) -> Result<(), KernelError> {
        let cut = self.conntrack.cut(ways);
        cut.map(|_| ()).map_err(failed("cut", "connections to withdrawn ports"))
    }

    /// Forgets connections from and to these addresses.
    pub fn flush_addresses(&self, addresses: &[IpAddr]) -> Result<(), KernelError> {
        if addresses.is_empty() {
            return Ok(());
        }
        let flushed = self.conntrack.flush_addresses(addresses);
        flushed.map(|_| ()).map_err(failed("flush", "connections of released addresses"))
    }

    /// The socket that owns the table, to be kept by a process that outlives this one; `None`
    /// where the kernel has no table ownership.
    pub fn table_owner(&self) -> Option<OwnedFd> {
        self.nft.owner_socket()
    }

    /// The namespace of a sandbox, as a path for a runtime.
    pub fn namespace_path(&self, sandbox: &SandboxId) -> PathBuf {
        self.config.namespaces.join(sandbox.as_str())
    }

    /// The user namespace that the one of a sandbox belongs to, as a path for a runtime; nothing is there
    /// if it is the host's.
    pub fn user_namespace_path(&self, sandbox: &SandboxId) -> PathBuf {
        pin::user(&self.namespace_path(sandbox))
    }

    /// Has the namespace of a sandbox, when it is made, be this one, which belongs to a user namespace; or
    /// a new one of the host's after all.
    pub fn offer(&self, sandbox: &SandboxId, namespace: Option<UserNamespace>) {
        let mut offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner);
        match namespace {
            Some(namespace) => offered.insert(sandbox.clone(), namespace),
            None => offered.remove(sandbox),
        };
    }

    fn take_offered(&self, sandbox: &SandboxId) -> Option<UserNamespace> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner).remove(sandbox)
    }

    /// Makes a namespace that somebody else made the one of a sandbox, instead of a new one: it is
    /// pinned as those are, and outlives its pin if somebody else holds it.
    pub fn adopt_namespace(&self, sandbox: &SandboxId, netns: &Netns) -> Result<(), KernelError> {
        pin::pin(netns, &self.namespace_path(sandbox))
            .map_err(failed("pin", &format!("namespace {}", sandbox.short())))
    }

    /// A way to the DHCP servers of a network before an endpoint is on it, or after, by a link as it is
    /// planned for the endpoint. The link is there as long as what is returned.
    pub fn visit(&self, endpoint: &State) -> Result<Box<dyn Port>, KernelError> {
        let visit = visit::Visit::begin(self, endpoint);
        Ok(Box::new(visit.map_err(failed("make", "a link to the network's DHCP servers"))?))
    }

    /// A way to the DHCP servers of a network by an interface of a sandbox.
    pub fn messenger(
        &self,
        sandbox: &SandboxId,
        interface: &LinkName,
        mac: Mac,
    ) -> Result<Box<dyn Port>, KernelError> {
        let netns = Netns::open(self.namespace_path(sandbox));
        let packets = netns.and_then(|netns| netns.run(|| Packets::open(interface, mac))?);
        let object = format!("a packet socket of {interface} in {}", sandbox.short());
        Ok(Box::new(packets.map_err(failed("open", &object))?))
    }

    /// What others have in nf_tables beside us.
    pub fn foreign_rules(&self) -> Result<Foreign, KernelError> {
        let read = self.host.run(|| self.nft.foreign());
        Ok(read.map_err(failed("enter", "the host's network namespace"))??)
    }

    /// The hardware address of a link of the host; nothing if it is not there, or has none.
    pub fn hardware_address(&self, link: &LinkName) -> Result<Option<Mac>, KernelError> {
        match self.with_socket(|socket| link::find(socket, link)) {
            Ok(found) => Ok(found.mac),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(failed("list", &format!("link {link}"))(error)),
        }
    }

    /// Pins the namespace of a sandbox again, where that is lost, by a process that lives in it. Says
    /// whether that was necessary.
    pub fn pin_again(&self, sandbox: &SandboxId, process: i32) -> Result<bool, KernelError> {
        let path = self.namespace_path(sandbox);
        if Netns::open(&path).and_then(|netns| netns.run(|| ())).is_ok() {
            return Ok(false);
        }
        let pin = || {
            let netns = Netns::open(format!("/proc/{process}/ns/net"))?;
            // A process that is not in the sandbox would make the host's links the sandbox's.
            if netns.is_same(&self.host)? {
                return Err(io::Error::other(format!("process {process} is in the host's")));
            }
            pin::unpin(&path)?;
            let user = File::open(format!("/proc/{process}/ns/user"))?;
            let own = fs::metadata("/proc/thread-self/ns/user")?;
            if user.metadata()?.ino() != own.ino() {
                pin::pin(&user, &pin::user(&path))?;
            }
            pin::pin(&netns, &path)
        };
        let pinned = pin().map_err(failed("pin", &format!("namespace {}", sandbox.short())));
        pinned.map(|()| true)
    }

    /// As [`Kernel::observe`], but of the sandboxes only some, and none of the links to others.
    pub fn observe_only(&self, sandboxes: &BTreeSet<SandboxId>) -> Result<State, KernelError> {
        observe::observe(self, Scope::Only(sandboxes))
    }

    /// As [`Kernel::apply`], but leaves it to the caller to tell neighbours of new addresses, asks
    /// `probes` before those are used, and calls `made` when all new namespaces are there, before
    /// anything is in them: what needs no more than that can go on meanwhile.
    pub fn apply_ahead(
        &self,
        plan: &Plan,
        probes: &[Probe],
        made: &(dyn Fn() + Sync),
    ) -> Result<Announcements, KernelError> {
        self.shadow.release(plan);
        let outcome = apply::run(self, plan, probes, OnFailure::Stop, made);
        if let Some(failure) = outcome.failures.into_iter().next() {
            return Err(failure);
        }
        self.shadow.record(plan);
        Ok(outcome.announcements)
    }

    /// Tells when something of ours was changed by somebody else. The receiver gets one message
    /// per burst of changes; what changed is found by observing.
    pub fn changes(&self) -> Result<Receiver<()>, KernelError> {
        let (stop, writer) = io::pipe().map_err(failed("open", "a pipe"))?;
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).push(writer);
        let (nft, shadow) = (Arc::clone(&self.nft), Arc::clone(&self.shadow));
        monitor::start(&self.host, nft, shadow, &self.config.tag, stop.into())
            .map_err(failed("watch", "the host's links, addresses and table"))
    }

    /// Whether the kernel has some kinds of links.
    pub fn supports(&self, kinds: &[LinkKind]) -> Result<(), KernelError> {
        let lacks = |kind: &&LinkKind| {
            let known = self.with_socket(|socket| link::knows_kind(socket, kind));
            !known.unwrap_or(true)
        };
        kinds.iter().find(lacks).map_or(Ok(()), |kind| {
            let (what, hint) = link::lacking(kind);
            Err(KernelError::Unsupported { what, hint })
        })
    }

    /// Which of some addresses the host has itself.
    fn own_address(&self, addresses: &[IpAddr]) -> io::Result<Option<IpAddr>> {
        let own = self.with_socket(address::list)?;
        let has = |wanted: &&IpAddr| own.iter().any(|own| own.address.ip() == **wanted);
        Ok(addresses.iter().find(has).copied())
    }

    /// Removes the table, for `rnet system reset`.
    pub fn remove_table(&self) -> Result<(), KernelError> {
        self.nft.remove_table()?;
        forwarding::restore(self).map_err(failed("switch off", "forwarding"))
    }

    /// Uses a netlink socket in the host's namespace.
    fn with_socket<T>(&self, f: impl FnOnce(&mut Socket) -> io::Result<T>) -> io::Result<T> {
        self.sockets.with(f)
    }
}

/// Netlink sockets in the host's namespace.
#[derive(Debug)]
struct Sockets {
    host: Netns,
    /// Those that nobody uses at the moment.
    free: Mutex<Vec<Socket>>,
}

impl Sockets {
    /// Uses one.
    fn with<T>(&self, f: impl FnOnce(&mut Socket) -> io::Result<T>) -> io::Result<T> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut socket = match free {
            Some(socket) => socket,
            None => self.host.run(Socket::open)??,
        };
        let result = f(&mut socket);
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        result
    }
}

/// Binds host ports for the thread that it was made on. Ten thousand ports do not ask ten thousand
/// times whether this thread is in the host's namespace.
#[derive(Debug)]
pub struct HostPorts<'a> {
    host: &'a Netns,
    here: bool,
    /// Another thread may be elsewhere.
    thread: PhantomData<*const ()>,
}

impl HostPorts<'_> {
    /// Binds a host port, so that nobody else takes it. `None` if somebody has it.
    pub fn reserve(&self, binding: &PortBinding) -> Result<Option<OwnedFd>, KernelError> {
        let object = || format!("port {} {}", binding.host_port, binding.protocol);
        self.run(|| reserve::reserve_port(binding))
            .map_err(|source| step("reserve", object(), source))?
            .map_err(|error| match error {
                ReserveError::Refused { source, .. } => step("reserve", object(), source),
                error @ ReserveError::NoSuchAddress { .. } => {
                    let source = io::Error::new(io::ErrorKind::AddrNotAvailable, error);
                    step("reserve", object(), source)
                }
                error @ ReserveError::TooManyFiles { .. } => {
                    step("reserve", object(), io::Error::other(error))
                }
            })
    }

    /// Binds a port of all addresses of both families by one socket; see
    /// [`reserve_pair`](reserve::reserve_pair).
    pub fn reserve_pair(&self, bindings: &[PortBinding]) -> Option<OwnedFd> {
        self.run(|| reserve::reserve_pair(bindings)).ok().flatten()
    }

    fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        if self.here { Ok(f()) } else { self.host.run(f) }
    }
}

impl Kernel for Linux {
    fn observe(&self) -> Result<State, KernelError> {
        let observed = observe::observe(self, Scope::All)?;
        self.shadow.adopt(&observed);
        Ok(observed)
    }

    fn apply(&self, plan: &Plan) -> Result<(), KernelError> {
        self.apply_ahead(plan, &[], &|| ()).map(Announcements::tell)
    }

    fn dismantle(&self, plan: &Plan) -> Vec<KernelError> {
        self.shadow.release(plan);
        apply::run(self, plan, &[], OnFailure::GoOn, &|| ()).failures
    }
}

impl From<NftError> for KernelError {
    fn from(error: NftError) -> Self {
        match error {
            NftError::Step { verb, object, source, .. } => Self::Step { verb, object, source },
            other => step("use", "nf_tables".to_owned(), io::Error::other(other)),
        }
    }
}

fn bind_resolver(kind: SockType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, kind, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 11), RESOLVER_PORT));
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(fd)
}

fn step(verb: &'static str, object: String, source: io::Error) -> KernelError {
    KernelError::Step { verb, object, source }
}

/// Names what was tried with what.
fn failed(verb: &'static str, object: &str) -> impl FnOnce(io::Error) -> KernelError {
    let object = object.to_owned();
    move |source| step(verb, object, source)
}
