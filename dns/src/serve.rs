//! The sockets of the sandboxes: queries in, answers out.
//!
//! What is known is answered on the spot; what must be asked for waits in a task of its own. A
//! sandbox can neither hold up others, as every loop gives way after some packets, nor use up
//! memory, as its questions and connections are counted.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::answer::{self, Answer, Transport};
use crate::forward::{Asker, Forwarder};
use crate::names::Names;
use crate::protocol::SandboxView;
use crate::rate::Rate;
use crate::resolv_conf::HostResolvers;
use crate::turns::Client;

/// The longest query taken.
const QUERY_MAX: usize = 4096;

/// After how many packets a sandbox lets the others have their turn.
const PACKETS_PER_TURN: usize = 32;

/// How many questions of a sandbox may wait for answers from outside.
const PENDING_MAX: usize = 8192;

/// How many TCP connections a sandbox may have.
const CONNECTIONS_MAX: usize = 64;

/// How many questions of one TCP connection may be under way.
const PIPELINE_MAX: usize = 32;

/// How long a TCP client may take to send a whole query, or to take an answer.
const IDLE: Duration = Duration::from_secs(10);

/// How long to stay away from a socket that fails.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// What all sandboxes share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// All names.
    pub(crate) names: RwLock<Names>,
    /// The host's resolvers.
    pub(crate) host: Arc<HostResolvers>,
    forwarder: Arc<Forwarder>,
    clients: AtomicU64,
}

/// A sandbox that is served, until `stop`.
#[derive(Debug)]
pub(crate) struct SandboxService {
    sandbox: Arc<Sandbox>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Sandbox {
    shared: Arc<Shared>,
    outlook: ArcSwap<Outlook>,
    client: Client,
    rate: Rate,
    pending: AtomicUsize,
    entropy: AtomicU64,
}

/// The view, and what follows from it.
#[derive(Debug)]
struct Outlook {
    view: SandboxView,
    /// The sandbox's own upstreams; the host's if none.
    upstreams: Option<Arc<[SocketAddr]>>,
}

/// What becomes of a query.
enum Handled {
    Now(Vec<u8>),
    Later(Arc<[SocketAddr]>, Pending),
    Never,
}

/// One of the sandbox's questions that wait.
struct Pending(Arc<Sandbox>);

impl Shared {
    /// Upstreams are asked at this port.
    pub(crate) fn new(upstream_port: u16) -> Self {
        Self {
            names: RwLock::default(),
            host: Arc::new(HostResolvers::new(upstream_port)),
            forwarder: Arc::default(),
            clients: AtomicU64::new(0),
        }
    }

    fn outlook(&self, view: SandboxView) -> Outlook {
        let own = !view.upstreams.is_empty();
        let upstreams = own.then(|| self.host.upstreams(&view.upstreams));
        Outlook { view, upstreams }
    }
}

impl SandboxService {
    /// Answers on these sockets from now on.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        view: SandboxView,
        udp: OwnedFd,
        tcp: OwnedFd,
    ) -> io::Result<Self> {
        let udp = udp_socket(udp)?;
        let tcp = tcp_listener(tcp)?;
        let sandbox = Arc::new(Sandbox {
            shared: Arc::clone(shared),
            outlook: ArcSwap::from_pointee(shared.outlook(view)),
            client: shared.clients.fetch_add(1, Ordering::Relaxed),
            rate: Rate::new(std::time::Instant::now()),
            pending: AtomicUsize::new(0),
            entropy: AtomicU64::new(getrandom::u64().unwrap_or(1)),
        });
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(Arc::clone(&sandbox), udp, tcp, stopped));
        Ok(Self { sandbox, stop, task })
    }

    /// Changes the view.
    pub(crate) fn update(&self, view: SandboxView) {
        self.sandbox.outlook.store(Arc::new(self.sandbox.shared.outlook(view)));
    }

    /// Stops. The sockets are closed when this returns.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        let _ = self.task.await;
    }
}

/// A descriptor of the daemon's as a socket of the runtime.
pub(crate) fn udp_socket(descriptor: OwnedFd) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::from(descriptor);
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// A descriptor of the daemon's as a listener, which it need not be yet.
pub(crate) fn tcp_listener(descriptor: OwnedFd) -> io::Result<TcpListener> {
    nix::sys::socket::listen(&descriptor, nix::sys::socket::Backlog::new(1024)?)?;
    let listener = std::net::TcpListener::from(descriptor);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn run(
    sandbox: Arc<Sandbox>,
    udp: UdpSocket,
    tcp: TcpListener,
    stopped: oneshot::Receiver<()>,
) {
    let udp = Arc::new(udp);
    let (mut questions, mut connections) = (JoinSet::new(), JoinSet::new());
    tokio::select! {
        _ = stopped => {}
        () = serve_udp(&sandbox, &udp, &mut questions) => {}
        () = serve_tcp(&sandbox, &tcp, &mut connections) => {}
    }
    questions.shutdown().await;
    connections.shutdown().await;
}

// === Queries ===

impl Sandbox {
    fn handle(self: &Arc<Self>, packet: &[u8], transport: Transport) -> Handled {
        let outlook = self.outlook.load();
        let answer = {
            let names = self.shared.names.read().unwrap_or_else(PoisonError::into_inner);
            answer::answer(packet, transport, &outlook.view, &names, self.entropy())
        };
        match answer {
            Answer::Reply(reply) => return Handled::Now(reply),
            Answer::Ignore => return Handled::Never,
            Answer::Forward => {}
        }
        let host = || self.shared.host.servers();
        let upstreams = outlook.upstreams.as_ref().map_or_else(host, Arc::clone);
        if let Some(reply) = self.shared.forwarder.cached(packet, &upstreams, transport) {
            return Handled::Now(reply);
        }
        match self.pending() {
            Some(pending) => Handled::Later(upstreams, pending),
            None => Handled::Now(answer::failure(packet, ResponseCode::Refused)),
        }
    }

    async fn ask(
        &self,
        packet: &[u8],
        upstreams: &Arc<[SocketAddr]>,
        transport: Transport,
    ) -> Vec<u8> {
        let asker = Asker { client: self.client, rate: &self.rate };
        self.shared.forwarder.ask(asker, packet, upstreams, transport).await
    }

    fn pending(self: &Arc<Self>) -> Option<Pending> {
        let pending = Pending(Arc::clone(self));
        (self.pending.fetch_add(1, Ordering::Relaxed) < PENDING_MAX).then_some(pending)
    }

    /// A number nobody needs to be unable to guess: splitmix over a counter.
    fn entropy(&self) -> u64 {
        let mut z = self.entropy.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

// === UDP ===

async fn serve_udp(sandbox: &Arc<Sandbox>, socket: &Arc<UdpSocket>, questions: &mut JoinSet<()>) {
    loop {
        tokio::select! {
            Some(_) = questions.join_next() => continue,
            _ = socket.readable() => {}
        }
        for _ in 0..PACKETS_PER_TURN {
            match take_packet(sandbox, socket, questions) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::debug!(%error, "cannot receive a query");
                    sleep(AFTER_FAILURE).await;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Takes one packet, and answers it now or in a task. Not asynchronous, so that the buffer is on
/// the stack and not in every sandbox's future.
fn take_packet(
    sandbox: &Arc<Sandbox>,
    socket: &Arc<UdpSocket>,
    questions: &mut JoinSet<()>,
) -> io::Result<()> {
    let mut buffer = [0; QUERY_MAX];
    let (length, from) = socket.try_recv_from(&mut buffer)?;
    let packet = &buffer[..length];
    match sandbox.handle(packet, Transport::Udp) {
        Handled::Never => {}
        Handled::Now(reply) => {
            if let Err(error) = socket.try_send_to(&reply, from)
                && error.kind() == io::ErrorKind::WouldBlock
            {
                let socket = Arc::clone(socket);
                questions.spawn(async move { drop(socket.send_to(&reply, from).await) });
            }
        }
        Handled::Later(upstreams, pending) => {
            let (socket, packet) = (Arc::clone(socket), packet.to_vec());
            questions.spawn(async move {
                let reply = pending.0.ask(&packet, &upstreams, Transport::Udp).await;
                let _ = socket.send_to(&reply, from).await;
            });
        }
    }
    Ok(())
}

// === TCP ===

async fn serve_tcp(sandbox: &Arc<Sandbox>, listener: &TcpListener, connections: &mut JoinSet<()>) {
    loop {
        let accepted = tokio::select! {
            // Those that ended first, as they are counted.
            biased;
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            // One too many is closed at once.
            Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                connections.spawn(connection(Arc::clone(sandbox), stream));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                sleep(AFTER_FAILURE).await;
            }
        }
    }
}

async fn connection(sandbox: Arc<Sandbox>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let (replies, waiting) = mpsc::channel(PIPELINE_MAX);
    let mut questions = JoinSet::new();
    // The end of the queries is not the end of the answers; the end of the answers is the end.
    let reading = async {
        read_queries(&sandbox, reader, replies, &mut questions).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = reading => {}
        () = write_replies(writer, waiting) => {}
    }
}

async fn read_queries(
    sandbox: &Arc<Sandbox>,
    mut reader: OwnedReadHalf,
    replies: mpsc::Sender<Vec<u8>>,
    questions: &mut JoinSet<()>,
) {
    let places = Arc::new(Semaphore::new(PIPELINE_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok(Ok(packet)) = timeout(IDLE, read_query(&mut reader)).await else { return };
        while questions.try_join_next().is_some() {}
        match sandbox.handle(&packet, Transport::Tcp) {
            Handled::Never => return,
            Handled::Now(reply) => {
                if replies.send(reply).await.is_err() {
                    return;
                }
            }
            Handled::Later(upstreams, pending) => {
                let replies = replies.clone();
                questions.spawn(async move {
                    let reply = pending.0.ask(&packet, &upstreams, Transport::Tcp).await;
                    let _ = replies.send(reply).await;
                    drop(place);
                });
            }
        }
    }
}

async fn read_query(reader: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let length = usize::from(reader.read_u16().await?);
    if length > QUERY_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut packet = vec![0; length];
    reader.read_exact(&mut packet).await?;
    Ok(packet)
}

async fn write_replies(mut writer: OwnedWriteHalf, mut waiting: mpsc::Receiver<Vec<u8>>) {
    while let Some(reply) = waiting.recv().await {
        let Ok(length) = u16::try_from(reply.len()) else { return };
        let framed = [&length.to_be_bytes(), reply.as_slice()].concat();
        if !matches!(timeout(IDLE, writer.write_all(&framed)).await, Ok(Ok(()))) {
            return;
        }
    }
}
