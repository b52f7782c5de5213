//! The process `rnet-dns`: its socket, its privileges, its end.
//!
//! It is started by the daemon and outlives it. It has a session of its own, so no terminal ends
//! it; it is ended by [`Request::Shutdown`] or `SIGTERM`. All
//! sockets it works with are handed to it, so it needs no privilege at all once its own is bound.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, listen as listen_at, socket,
};
use nix::unistd::{Gid, Uid, getuid, setgroups, setresgid, setresuid, setsid};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, mpsc};

use crate::keeper::{Keeper, Outcome};
use crate::packet::{self, PacketError};
use crate::protocol::{Reply, Request};
use crate::proxy::Places;
use crate::serve::Shared;

/// How the process is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The control socket.
    pub socket: PathBuf,
    /// The file with the host's resolvers.
    pub resolv_conf: PathBuf,
    /// The port that upstreams are asked at, 53 but in tests.
    pub upstream_port: u16,
    /// The user to become, if started as root: one that owns nothing.
    pub user: u32,
}

/// Why the process does not start or ends.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// Two would answer in turn.
    #[error("another rnet-dns serves {0}: end it first, or choose another --socket")]
    Running(PathBuf),
    /// The control socket cannot be had.
    #[error("cannot listen at {path}")]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refuses what a process needs.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Serves until told to end.
pub fn run(options: Options) -> Result<(), ProcessError> {
    let (listener, _lock) = listen(&options.socket)?;
    // Refused to the leader of a session: then there is one already.
    let _ = setsid();
    raise_descriptor_limit();
    if let Err(error) = give_up_privileges(options.user) {
        // In a user namespace there may be no such user.
        tracing::warn!(%error, user = options.user, "cannot give up privileges");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ProcessError::System { what: "start the runtime", source })?;
    let path = options.socket.clone();
    let ended = runtime.block_on(serve(listener, options));
    // Without privileges the directory may refuse; then the next start removes it.
    let _ = std::fs::remove_file(path);
    ended.map_err(|source| ProcessError::System { what: "serve", source })
}

/// Binds the control socket. The lock says whether a socket file belongs to someone alive; it is
/// held as long as the process lives, however that ends.
fn listen(path: &Path) -> Result<(OwnedFd, File), ProcessError> {
    let failed = |source| ProcessError::Listen { path: path.to_owned(), source };
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(ProcessError::Running(path.to_owned())),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    bind(path).map(|listener| (listener, lock)).map_err(failed)
}

fn bind(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    nix::sys::socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    // Nobody connects before `listen`.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listen_at(&socket, Backlog::new(16)?)?;
    Ok(socket)
}

/// Three descriptors for every sandbox, one for every port.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Becomes a user who owns nothing, if root, which takes all capabilities; keeps everybody out.
fn give_up_privileges(user: u32) -> io::Result<()> {
    if getuid().is_root() && user != 0 {
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
    }
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    Ok(())
}

async fn serve(listener: OwnedFd, options: Options) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    // Listened to and not heeded: the terminal's business is the daemon's.
    let _hangup = signal(SignalKind::hangup())?;
    let _interrupt = signal(SignalKind::interrupt())?;
    let shared = Arc::new(Shared::new(options.upstream_port));
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(files, _)| files);
    let keeper = Keeper::new(shared, options.resolv_conf, Places::of_limit(files));
    let keeper = Arc::new(Mutex::new(keeper));
    // Of another kind than its type says; only `accept` is called, which knows no difference.
    let listener = UnixListener::from_std(listener.into())?;
    let (shutdown, mut ending) = mpsc::channel(1);
    tracing::info!(socket = %options.socket.display(), "ready");
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = ending.recv() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    tokio::spawn(converse(socket, Arc::clone(&keeper), shutdown.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a daemon");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
        }
    }
}

/// Does what one daemon asks, until it goes away. What it asked for stays. The socket is one of
/// packets, whatever its type says: it is only waited for, and read and written by `packet`.
async fn converse(socket: UnixStream, keeper: Arc<Mutex<Keeper>>, shutdown: mpsc::Sender<()>) {
    if !is_trusted(&socket) {
        tracing::warn!("a process of another user was turned away");
        return;
    }
    loop {
        let (request, sockets) = match receive(&socket).await {
            Ok(received) => received,
            Err(PacketError::Closed) => return,
            Err(error @ (PacketError::Malformed(_) | PacketError::Truncated)) => {
                let message = not_understood(&error);
                tracing::warn!(message, "request refused");
                let outcome =
                    Outcome { reply: Reply::Failed { message }, descriptor: None, last: false };
                if send(&socket, &outcome).await.is_err() {
                    return;
                }
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "the daemon is not understood");
                return;
            }
        };
        let outcome = keeper.lock().await.handle(request, sockets).await;
        let sent = send(&socket, &outcome).await;
        if outcome.last {
            let _ = shutdown.send(()).await;
        }
        if sent.is_err() {
            return;
        }
    }
}

/// Descriptors that the process has no room for are lost on the way.
fn not_understood(error: &PacketError) -> String {
    match (error, getrlimit(Resource::RLIMIT_NOFILE)) {
        (PacketError::Truncated, Ok((limit, _))) => format!(
            "{error}: rnet-dns may have {limit} files open (RLIMIT_NOFILE), one for each published \
             port; raise the limit or publish fewer ports"
        ),
        (PacketError::Malformed(error), _) => format!("request not understood: {error}"),
        _ => error.to_string(),
    }
}

/// The socket's mode says who may connect; this says it once more.
fn is_trusted(socket: &UnixStream) -> bool {
    socket.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == getuid().as_raw())
}

async fn receive(socket: &UnixStream) -> Result<(Request, Vec<OwnedFd>), PacketError> {
    let mut received = Err(PacketError::Closed);
    let attempt = || {
        received = packet::receive(socket.as_fd());
        received.as_ref().err().map_or(Ok(()), PacketError::as_would_block)
    };
    match socket.async_io(Interest::READABLE, attempt).await {
        Ok(()) => received,
        Err(source) => Err(PacketError::Socket { verb: "receive", source }),
    }
}

async fn send(socket: &UnixStream, outcome: &Outcome) -> Result<(), PacketError> {
    let descriptors: Vec<_> = outcome.descriptor.iter().map(AsFd::as_fd).collect();
    let mut sent = Err(PacketError::Closed);
    let attempt = || {
        sent = packet::send(socket.as_fd(), &outcome.reply, &descriptors);
        sent.as_ref().err().map_or(Ok(()), PacketError::as_would_block)
    };
    match socket.async_io(Interest::WRITABLE, attempt).await {
        Ok(()) => sent,
        Err(source) => Err(PacketError::Socket { verb: "send", source }),
    }
}
