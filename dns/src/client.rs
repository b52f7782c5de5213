//! The daemon's side of the control socket.
//!
//! Calls block for as long as `rnet-dns` needs, some ten microseconds, and never longer than two
//! seconds for each reply: asynchronous callers make them inside `spawn_blocking` or bear with
//! them. When the connection breaks, every further call fails with [`ClientError::Disconnected`], and the daemon connects anew; what `rnet-dns` keeps
//! does not depend on the connection.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cnm::{EndpointId, HasKind, Kind, NetworkId, PortBinding, SandboxId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::geteuid;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::packet::{self, PacketError};
use crate::protocol::{EndpointNames, HeldPort, Reply, Request, SandboxView, VERSION};

/// How long `rnet-dns` may take to answer one request before it is taken for hung, in seconds.
const LIMIT: i64 = 2;

/// How many endpoints go into one request, so that queries are answered in between.
const ENDPOINTS_PER_REQUEST: usize = 200;

/// How many requests may wait for their replies: less than a socket holds packets, so that neither
/// side waits for the other.
const UNANSWERED_MAX: usize = 4;

/// Why a request to `rnet-dns` came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error("cannot connect to rnet-dns at {path}")]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The request was not sent, or no reply came.
    #[error("cannot {what} in rnet-dns")]
    Packet {
        /// The request, in words.
        what: &'static str,
        /// Why.
        #[source]
        source: PacketError,
    },
    /// `rnet-dns` says no.
    #[error("cannot {what} in rnet-dns: {message}")]
    Refused {
        /// The request, in words.
        what: &'static str,
        /// Its own words.
        message: String,
    },
    /// A request before this one broke the connection.
    #[error("the connection to rnet-dns is broken: connect anew")]
    Disconnected,
}

impl HasKind for ClientError {
    fn kind(&self) -> Kind {
        match self {
            Self::Refused { .. } => Kind::Internal,
            Self::Connect { .. } | Self::Packet { .. } | Self::Disconnected => Kind::Unavailable,
        }
    }
}

/// What `rnet-dns` serves and holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The sandboxes served.
    pub sandboxes: Vec<SandboxId>,
    /// The ports held.
    pub ports: Vec<PortBinding>,
    /// Whether the owner socket is kept.
    pub owner: bool,
    /// The process.
    pub pid: u32,
}

/// A connection to `rnet-dns`, for any number of threads.
#[derive(Debug)]
pub struct Client {
    socket: Mutex<Option<OwnedFd>>,
}

impl Client {
    /// Connects and agrees on the protocol's version.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let socket =
            open(path).map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        let client = Self { socket: Mutex::new(Some(socket)) };
        client.greet()?;
        Ok(client)
    }

    /// Asks for nothing but an answer: whoever gives none is hung.
    pub fn greet(&self) -> Result<(), ClientError> {
        self.done("greet", &Request::Hello { version: VERSION }, &[]).map(drop)
    }

    /// Sends one request and waits for its reply.
    pub fn call(
        &self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), ClientError> {
        let mut guard = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken out meanwhile: after a failure nobody knows whose reply comes next.
        let socket = guard.take().ok_or(ClientError::Disconnected)?;
        let exchanged = packet::send(socket.as_fd(), request, descriptors)
            .and_then(|()| packet::receive(socket.as_fd()))
            .map_err(|source| ClientError::Packet { what: in_words(request), source })?;
        *guard = Some(socket);
        Ok(exchanged)
    }

    /// Sends requests without waiting for the reply of each, so that the next one is made while
    /// `rnet-dns` does the one before. Returns what was refused first, once all are answered.
    fn one_after_another<'a>(
        &self,
        requests: impl Iterator<Item = (Request, Vec<BorrowedFd<'a>>)>,
    ) -> Result<(), ClientError> {
        let mut guard = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = guard.take().ok_or(ClientError::Disconnected)?;
        let mut unanswered = VecDeque::new();
        let mut outcome = Ok(());
        let mut answer = |what| {
            let (reply, _) = packet::receive(socket.as_fd())
                .map_err(|source| ClientError::Packet { what, source })?;
            if reply != Reply::Done && outcome.is_ok() {
                outcome = Err(refused(what, reply));
            }
            Ok::<_, ClientError>(())
        };
        for (request, descriptors) in requests {
            if unanswered.len() == UNANSWERED_MAX
                && let Some(what) = unanswered.pop_front()
            {
                answer(what)?;
            }
            let what = in_words(&request);
            packet::send(socket.as_fd(), &request, &descriptors)
                .map_err(|source| ClientError::Packet { what, source })?;
            unanswered.push_back(what);
        }
        unanswered.into_iter().try_for_each(answer)?;
        *guard = Some(socket);
        outcome
    }

    /// Whether a call may still succeed.
    pub fn is_connected(&self) -> bool {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Has names answered in a sandbox, on sockets bound inside it.
    pub fn serve(
        &self,
        view: SandboxView,
        udp: BorrowedFd<'_>,
        tcp: BorrowedFd<'_>,
    ) -> Result<(), ClientError> {
        self.simple(&Request::Serve(Box::new(view)), &[udp, tcp])
    }

    /// Stops answering in a sandbox. One that is not served is not an error.
    pub fn release(&self, sandbox: &SandboxId) -> Result<(), ClientError> {
        self.simple(&Request::Release { sandbox: sandbox.clone() }, &[])
    }

    /// Changes what a served sandbox sees.
    pub fn update(&self, view: SandboxView) -> Result<(), ClientError> {
        self.simple(&Request::Update(Box::new(view)), &[])
    }

    /// Adds or replaces names of a network; they are answered when this returns.
    pub fn publish(
        &self,
        network: &NetworkId,
        name: &str,
        endpoints: &[EndpointNames],
    ) -> Result<(), ClientError> {
        for some in endpoints.chunks(ENDPOINTS_PER_REQUEST) {
            let (network, name) = (network.clone(), name.to_owned());
            let endpoints = some.to_vec();
            self.simple(&Request::Publish { network, name, endpoints }, &[])?;
        }
        Ok(())
    }

    /// Removes the names of endpoints. Unknown ones are not an error.
    pub fn withdraw(
        &self,
        network: &NetworkId,
        endpoints: &[EndpointId],
    ) -> Result<(), ClientError> {
        let (network, endpoints) = (network.clone(), endpoints.to_vec());
        self.simple(&Request::Withdraw { network, endpoints }, &[])
    }

    /// Removes the names of all endpoints but these.
    pub fn retain(
        &self,
        endpoints: BTreeMap<NetworkId, Vec<EndpointId>>,
    ) -> Result<(), ClientError> {
        self.simple(&Request::Retain { endpoints }, &[])
    }

    /// Takes the host's resolvers from this file from now on.
    pub fn follow_host(&self, path: &Path) -> Result<(), ClientError> {
        self.simple(&Request::FollowHost { path: path.to_string_lossy().into_owned() }, &[])
    }

    /// Has sockets kept that reserve host ports; `rnet-dns` gets duplicates.
    pub fn hold(&self, ports: &[(HeldPort, BorrowedFd<'_>)]) -> Result<(), ClientError> {
        let requests = ports.chunks(packet::DESCRIPTORS_MAX).map(|some| {
            let (held, sockets): (Vec<_>, Vec<_>) = some.iter().cloned().unzip();
            (Request::Hold(held), sockets)
        });
        self.one_after_another(requests)
    }

    /// Has what arrives at held ports carried to the targets that they have now.
    pub fn lead(&self, ports: &[HeldPort]) -> Result<(), ClientError> {
        let some = ports.chunks(packet::DESCRIPTORS_MAX);
        self.one_after_another(some.map(|some| (Request::Lead(some.to_vec()), Vec::new())))
    }

    /// Has sockets closed that reserve host ports. Unknown ones are not an error.
    pub fn drop_ports(&self, ports: &[PortBinding]) -> Result<(), ClientError> {
        let some = ports.chunks(packet::DESCRIPTORS_MAX);
        self.one_after_another(some.map(|some| (Request::Drop(some.to_vec()), Vec::new())))
    }

    /// Has sockets closed that reserve host ports, and lets the connections go on that they carried.
    /// Unknown ones are not an error.
    pub fn drain_ports(&self, ports: &[PortBinding]) -> Result<(), ClientError> {
        let some = ports.chunks(packet::DESCRIPTORS_MAX);
        self.one_after_another(some.map(|some| (Request::Drain(some.to_vec()), Vec::new())))
    }

    /// Ends the connections that go on from closed ports to their targets. That there are none is not
    /// an error.
    pub fn cut(&self, ports: &[HeldPort]) -> Result<(), ClientError> {
        let some = ports.chunks(packet::DESCRIPTORS_MAX);
        self.one_after_another(some.map(|some| (Request::Cut(some.to_vec()), Vec::new())))
    }

    /// Ends the connections that go on from closed ports to addresses that nobody has any more.
    pub fn cut_to(&self, addresses: &[IpAddr]) -> Result<(), ClientError> {
        self.simple(&Request::CutTo(addresses.to_vec()), &[])
    }

    /// Has the socket kept that owns the `nf_tables` table; `rnet-dns` gets a duplicate.
    pub fn keep_owner(&self, socket: BorrowedFd<'_>) -> Result<(), ClientError> {
        self.simple(&Request::KeepOwner, &[socket])
    }

    /// A duplicate of the kept owner socket, if there is one.
    pub fn take_owner(&self) -> Result<Option<OwnedFd>, ClientError> {
        let mut descriptors = self.done("take the owner socket", &Request::TakeOwner, &[])?;
        Ok(descriptors.pop())
    }

    /// What is served and held.
    pub fn status(&self) -> Result<Status, ClientError> {
        let what = in_words(&Request::Status);
        match self.call(&Request::Status, &[])?.0 {
            Reply::Status { sandboxes, ports, owner, pid } => {
                Ok(Status { sandboxes, ports, owner, pid })
            }
            reply => Err(refused(what, reply)),
        }
    }

    /// Ends `rnet-dns`. Names are answered in no sandbox from then on.
    pub fn shutdown(&self) -> Result<(), ClientError> {
        self.simple(&Request::Shutdown, &[])
    }

    fn simple(&self, request: &Request, sockets: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        self.done(in_words(request), request, sockets).map(drop)
    }

    fn done(
        &self,
        what: &'static str,
        request: &Request,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<Vec<OwnedFd>, ClientError> {
        match self.call(request, sockets)? {
            (Reply::Done, descriptors) => Ok(descriptors),
            (reply, _) => Err(refused(what, reply)),
        }
    }
}

/// The process that listens at a control socket, as a descriptor that stands for no other one,
/// whether the process answers or not.
pub fn listener(path: &Path) -> Result<OwnedFd, ClientError> {
    let found = || {
        let connection = open(path)?;
        let peer = getsockopt(&connection, sockopt::PeerCredentials)?;
        if peer.uid() != geteuid().as_raw() {
            return Err(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
        }
        // 0 is one that cannot be seen from here.
        let pid = Pid::from_raw(peer.pid()).ok_or(std::io::ErrorKind::NotFound)?;
        let process = pidfd_open(pid, PidfdFlags::empty())?;
        // The connection ends with the process: as it has not, the number was not given away.
        let mut connections = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
        poll(&mut connections, PollTimeout::ZERO)?;
        let told = connections[0].revents().unwrap_or(PollFlags::empty());
        let gone = told.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        if gone { Err(std::io::ErrorKind::ConnectionReset.into()) } else { Ok(process) }
    };
    found().map_err(|source| ClientError::Connect { path: path.to_owned(), source })
}

fn open(path: &Path) -> std::io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    // Before the rest: where nobody accepts, connecting takes its time, too.
    let limit = TimeVal::seconds(LIMIT);
    setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    connect(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

fn refused(what: &'static str, reply: Reply) -> ClientError {
    let message = match reply {
        Reply::Failed { message } => message,
        other => format!("unexpected reply {other:?}"),
    };
    ClientError::Refused { what, message }
}

fn in_words(request: &Request) -> &'static str {
    match request {
        Request::Hello { .. } => "greet",
        Request::Serve(_) => "serve a sandbox",
        Request::Release { .. } => "release a sandbox",
        Request::Update(_) => "update a sandbox",
        Request::Publish { .. } => "publish names",
        Request::Withdraw { .. } => "withdraw names",
        Request::Retain { .. } => "retain names",
        Request::FollowHost { .. } => "follow the host's resolvers",
        Request::Hold(_) => "hold ports",
        Request::Lead(_) => "lead ports elsewhere",
        Request::Drop(_) => "drop ports",
        Request::Drain(_) => "drain ports",
        Request::Cut(_) | Request::CutTo(_) => "cut connections",
        Request::KeepOwner => "keep the owner socket",
        Request::TakeOwner => "take the owner socket",
        Request::Status => "read the status",
        Request::Shutdown => "shut down",
    }
}
