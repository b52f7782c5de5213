//! Published ports that the kernel does not translate.
//!
//! The kernel's maps carry nearly all traffic. What they cannot carry arrives at the socket that
//! reserves the port: from `::1`, whose packets do not leave the loopback, and from IPv6 clients of
//! a sandbox that has no IPv6 address. It is copied from here, so it survives the daemon as well.
//!
//! Where a port leads is the daemon's word. One that leads nowhere is refused to everybody, and
//! stays reserved: its socket is bound and does not listen.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cnm::Protocol;
use nix::sys::socket::{Shutdown, getsockopt, setsockopt, shutdown, sockopt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::connections::Connections;
use crate::pktinfo::{self, Arrival};
use crate::protocol::HeldPort;
use crate::serve::{tcp_listener, udp_socket};
use crate::stream;

/// How many connections or UDP sessions one port carries at once.
const SESSIONS_MAX: usize = 1024;

/// How many connections and UDP sessions all ports carry together: each needs one or two files, and
/// what is left of those is for names, and for ports that are still to come.
const PLACES_MAX: usize = 8192;

/// After what silence a UDP session ends.
const UDP_IDLE: Duration = Duration::from_secs(60);

/// How long to wait for the target.
const CONNECT: Duration = Duration::from_secs(10);

/// How long to stay away from a socket that fails.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// The longest datagram.
const DATAGRAM_MAX: usize = 65_535;

/// Room for connections and UDP sessions of all ports. Whoever finds none is turned away.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Semaphore>);

impl Places {
    /// A quarter of the files that the process may have open.
    pub(crate) fn of_limit(files: u64) -> Self {
        let places = usize::try_from(files / 4).unwrap_or(PLACES_MAX).clamp(1, PLACES_MAX);
        Self(Arc::new(Semaphore::new(places)))
    }

    fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}

/// A host port that is reserved: the socket alone, or someone who carries what arrives there.
#[derive(Debug)]
pub(crate) enum Held {
    /// Nobody listens.
    Reserved(OwnedFd),
    /// What arrives is carried to the target.
    Carried {
        /// Dropped to stop.
        targets: watch::Sender<Targets>,
        /// What is carried of TCP.
        connections: Families,
        /// Owns the socket.
        task: JoinHandle<()>,
    },
}

/// Where a client's data goes, by its family. A socket of one family has the other one's empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Targets {
    v4: Option<SocketAddr>,
    v6: Option<SocketAddr>,
}

/// The connections of a port, by the family of their clients.
#[derive(Clone, Debug, Default)]
pub(crate) struct Families {
    v4: Connections,
    v6: Connections,
}

impl Families {
    /// Those of clients like this one. One of IPv4 has an IPv6 address at a socket of both families.
    fn of(&self, client: IpAddr) -> &Connections {
        match client.to_canonical() {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        }
    }
}

impl Targets {
    /// Those of a held port.
    pub(crate) fn of(port: &HeldPort) -> Self {
        let mut targets = Self::default();
        let twin = port.twin.as_ref().map(|twin| (twin.host, twin.target));
        for (host, target) in [Some((port.binding.host, port.target)), twin].into_iter().flatten() {
            *targets.of_family(host) = target;
        }
        targets
    }

    fn are_none(self) -> bool {
        self == Self::default()
    }

    fn of_family(&mut self, host: IpAddr) -> &mut Option<SocketAddr> {
        match host {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        }
    }

    /// The target of a client. One of IPv4 has an IPv6 address at a socket of both families.
    fn for_client(self, client: SocketAddr) -> Option<SocketAddr> {
        match client.ip().to_canonical() {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(_) => self.v6,
        }
    }
}

impl Held {
    /// Keeps a socket, and serves it from now on if it is one that can be.
    pub(crate) fn start(
        socket: OwnedFd,
        protocol: Protocol,
        targets: Targets,
        places: Places,
    ) -> io::Result<Self> {
        if protocol == Protocol::Tcp && targets.are_none() {
            // Not only when the task comes to it: who is told that a port is held may ask there.
            refuse(&socket);
        }
        let (targets, told) = watch::channel(targets);
        let connections = Families::default();
        let task = match protocol {
            Protocol::Tcp => tokio::spawn(carry_tcp(socket, told, connections.clone(), places)),
            Protocol::Udp => {
                pktinfo::enable(&socket)?;
                tokio::spawn(carry_udp(udp_socket(socket)?, told, places))
            }
            Protocol::Sctp => return Ok(Self::Reserved(socket)),
        };
        Ok(Self::Carried { targets, connections, task })
    }

    /// Where what arrives for a host address's family is carried.
    pub(crate) fn target(&self, host: IpAddr) -> Option<SocketAddr> {
        match self {
            Self::Carried { targets, .. } => targets.borrow().for_client(SocketAddr::new(host, 0)),
            Self::Reserved(_) => None,
        }
    }

    /// Carries what arrives for a host address's family elsewhere from now on. What is carried to
    /// another target than that ends.
    pub(crate) async fn lead(&self, host: IpAddr, target: Option<SocketAddr>) {
        if let Self::Carried { targets, connections, .. } = self {
            targets.send_if_modified(|targets| {
                std::mem::replace(targets.of_family(host), target) != target
            });
            connections.of(host).end(|to| Some(to) != target).await;
        }
    }

    /// Lets go of the connections of a host address's family: what becomes of the port is nothing to
    /// them any more.
    pub(crate) fn release(&self, host: IpAddr) -> Option<Connections> {
        match self {
            Self::Carried { connections, .. } => Some(connections.of(host).part(|_| true)),
            Self::Reserved(_) => None,
        }
    }

    /// Closes the socket and ends what it carried. The port is free when this returns.
    pub(crate) async fn stop(self) {
        match self {
            Self::Reserved(socket) => drop(socket),
            Self::Carried { targets, connections, task } => {
                drop(targets);
                let _ = task.await;
                connections.v4.end(|_| true).await;
                connections.v6.end(|_| true).await;
            }
        }
    }
}

/// Listens as long as the port leads somewhere, and ends with the sender of targets.
async fn carry_tcp(
    mut socket: OwnedFd,
    mut targets: watch::Receiver<Targets>,
    connections: Families,
    places: Places,
) {
    let sessions = Arc::new(Semaphore::new(SESSIONS_MAX));
    loop {
        if targets.borrow_and_update().are_none() {
            refuse(&socket);
            if targets.changed().await.is_err() {
                return;
            }
            continue;
        }
        // A listener is registered anew each time: for the runtime, one that was closed stays so.
        let listener = match set_reuse(&socket, true).and_then(|()| tcp_listener(socket)) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(?targets, %error, "cannot listen at a published port");
                return;
            }
        };
        let accepting = Accepting { listener, sessions: &sessions, places: &places };
        let Some(closed) = accepting.all(&mut targets, &connections).await else { return };
        socket = closed;
    }
}

/// Has the kernel refuse connections and nobody else listen.
fn refuse(socket: &OwnedFd) {
    // One that does not listen may be bound beside by whoever reuses addresses, as we do.
    let refused = set_reuse(socket, false).and_then(|()| {
        // What is shut down and does not listen is shut for good, also when it listens again.
        if getsockopt(socket, sockopt::AcceptConn)? {
            shutdown(socket.as_raw_fd(), Shutdown::Both)?;
        }
        Ok(())
    });
    if let Err(error) = refused {
        tracing::warn!(%error, "cannot close a port that leads nowhere");
    }
}

fn set_reuse(socket: &OwnedFd, reuse: bool) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::ReuseAddr, &reuse)?)
}

/// A port whose connections are let in as long as there is room for them.
struct Accepting<'a> {
    listener: TcpListener,
    sessions: &'a Arc<Semaphore>,
    places: &'a Places,
}

impl Accepting<'_> {
    /// Has connections carried until the port leads nowhere; `None` if it is given up.
    async fn all(
        self,
        targets: &mut watch::Receiver<Targets>,
        connections: &Families,
    ) -> Option<OwnedFd> {
        let given_up = loop {
            let accepted = tokio::select! {
                changed = targets.changed() => match changed {
                    Ok(()) if targets.borrow_and_update().are_none() => break false,
                    Ok(()) => continue,
                    Err(_) => break true,
                },
                accepted = self.accept() => accepted,
            };
            match accepted {
                Ok((client, from, session)) => connections.of(from.ip()).add(|| {
                    let target = targets.borrow().for_client(from)?;
                    let places = (session, self.places.take()?);
                    Some((target, tokio::spawn(carry(client, target, places))))
                }),
                Err(error) => {
                    tracing::debug!(?targets, %error, "cannot accept a connection");
                    sleep(AFTER_FAILURE).await;
                }
            }
        };
        let socket = self.listener.into_std().ok()?;
        (!given_up).then(|| socket.into())
    }

    /// The next connection, with its place among those of the port.
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let session = Arc::clone(self.sessions).acquire_owned().await.map_err(io::Error::other)?;
        let (client, from) = self.listener.accept().await?;
        Ok((client, from, session))
    }
}

/// Carries a connection that has its places.
async fn carry(
    client: TcpStream,
    target: SocketAddr,
    _places: (OwnedSemaphorePermit, OwnedSemaphorePermit),
) {
    if let Err(error) = carry_stream(client, target).await {
        tracing::debug!(%target, %error, "connection not carried");
    }
}

async fn carry_stream(client: TcpStream, target: SocketAddr) -> io::Result<()> {
    let server = timeout(CONNECT, TcpStream::connect(target)).await??;
    for socket in [&client, &server] {
        let _ = socket.set_nodelay(true);
        if let Err(errno) = probe(socket) {
            tracing::debug!(%errno, "a peer that goes away is not noticed");
        }
    }
    stream::join(client, server).await
}

/// Has the kernel ask a silent peer whether it is there, for two minutes at most.
fn probe(socket: &TcpStream) -> nix::Result<()> {
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    // Seconds.
    setsockopt(socket, sockopt::TcpKeepIdle, &60)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &15)?;
    setsockopt(socket, sockopt::TcpKeepCount, &4)
}

/// A client of a UDP port: its datagrams go to the target from a socket of its own.
#[derive(Clone, Debug)]
struct Session {
    target: SocketAddr,
    to_target: Arc<UdpSocket>,
    /// Whether the client said something since this was last looked at.
    heard: Arc<AtomicBool>,
}

/// The sessions of a port by client, each with the task that carries replies.
type Sessions = HashMap<SocketAddr, (Session, AbortHandle)>;

/// Ends the sessions whose clients have another target now.
fn end_moved(sessions: &mut Sessions, targets: Targets) {
    sessions.retain(|client, (session, replies)| {
        let stays = targets.for_client(*client) == Some(session.target);
        if !stays {
            replies.abort();
        }
        stays
    });
}

async fn carry_udp(socket: UdpSocket, mut targets: watch::Receiver<Targets>, places: Places) {
    let socket = Arc::new(socket);
    let mut sessions = Sessions::new();
    let mut replies: JoinSet<SocketAddr> = JoinSet::new();
    // Most ports never get a datagram.
    let mut buffer = Vec::new();
    loop {
        tokio::select! {
            changed = targets.changed() => {
                if changed.is_err() {
                    break;
                }
                end_moved(&mut sessions, *targets.borrow());
                continue;
            }
            Some(ended) = replies.join_next() => {
                if let Ok(client) = ended {
                    sessions.remove(&client);
                }
                continue;
            }
            _ = socket.readable() => {}
        }
        buffer.resize(DATAGRAM_MAX, 0);
        let (length, arrival) = match pktinfo::receive(&socket, &mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                tracing::debug!(?targets, %error, "cannot receive a datagram");
                sleep(AFTER_FAILURE).await;
                continue;
            }
        };
        let session = match sessions.get(&arrival.from) {
            Some((session, _)) => session.clone(),
            None if sessions.len() >= SESSIONS_MAX => continue,
            None => {
                let Some(target) = targets.borrow().for_client(arrival.from) else { continue };
                let Some(place) = places.take() else { continue };
                let Ok(session) = Session::open(target).await else { continue };
                let carried = carry_replies(session.clone(), Arc::clone(&socket), arrival, place);
                sessions.insert(arrival.from, (session.clone(), replies.spawn(carried)));
                session
            }
        };
        session.heard.store(true, Ordering::Relaxed);
        let datagram = &buffer[..length];
        if let Err(error) = session.to_target.send(datagram).await
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            // What was refused is the datagram before; this one was not sent.
            let _ = session.to_target.send(datagram).await;
        }
    }
    replies.shutdown().await;
}

/// Carries what the target says back to the client, until both are silent.
async fn carry_replies(
    session: Session,
    socket: Arc<UdpSocket>,
    client: Arrival,
    _place: OwnedSemaphorePermit,
) -> SocketAddr {
    loop {
        match timeout(UDP_IDLE, session.to_target.readable()).await {
            Ok(Ok(())) => {}
            Err(_) if session.heard.swap(false, Ordering::Relaxed) => continue,
            Ok(Err(_)) | Err(_) => return client.from,
        }
        let mut reply = Vec::with_capacity(DATAGRAM_MAX);
        // Nobody at the target's port: the client hears nothing, the next datagram may do better.
        if session.to_target.try_recv_buf(&mut reply).is_ok() {
            let _ = pktinfo::reply(&socket, &client, &reply).await;
        }
    }
}

impl Session {
    async fn open(target: SocketAddr) -> io::Result<Self> {
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(target).await?;
        Ok(Self { target, to_target: Arc::new(socket), heard: Arc::default() })
    }
}
