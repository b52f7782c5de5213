//! Sockets to listen on: made, or taken over from systemd.

use std::fmt;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;

use nix::unistd::{Gid, Group, chown};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::server::TlsStream;

use super::tls::Acceptor;
use crate::config::{Config, Host};

/// A socket that clients connect to.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket; one that we made is removed with the listener.
    Unix {
        /// The socket.
        socket: UnixListener,
        /// Its path, if it is ours.
        path: Option<PathBuf>,
    },
    /// A TCP socket; every connection proves who it is.
    Tcp {
        /// The socket.
        socket: TcpListener,
        /// The certificates.
        acceptor: Acceptor,
    },
}

/// An accepted connection.
pub enum Stream {
    /// Over a unix socket.
    Unix(UnixStream),
    /// Over TCP; the handshake is still to be done, in the connection's own time.
    Tls(Pin<Box<dyn Future<Output = io::Result<TlsStream<TcpStream>>> + Send>>),
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unix(_) => "Unix",
            Self::Tls(_) => "Tls",
        })
    }
}

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else has it.
    #[error("cannot listen on {0}: another daemon answers there; stop it or choose another --host")]
    Taken(Host),
    /// The system refuses.
    #[error("cannot listen on {host}")]
    System {
        /// Where.
        host: Host,
        /// Why.
        source: io::Error,
    },
    /// The certificates cannot be used.
    #[error("cannot serve TLS on {host}: {reason}")]
    Tls {
        /// Where.
        host: Host,
        /// Why.
        reason: String,
    },
    /// systemd handed over nothing.
    #[error(
        "no sockets found by {0}: socket activation needs a .socket unit that starts the daemon"
    )]
    NotActivated(Host),
}

/// Makes all listeners of a configuration.
pub fn bind_all(config: &Config) -> Result<Vec<Listener>, ListenError> {
    let mut listeners = Vec::new();
    for host in &config.hosts {
        match host {
            Host::Unix(path) => listeners.push(unix(host, path, &config.group)?),
            Host::Tcp(address) => {
                let system = |source| ListenError::System { host: host.clone(), source };
                let socket = std::net::TcpListener::bind(address).map_err(system)?;
                listeners.push(tcp(config, host, socket)?);
            }
            Host::Activated(name) => listeners.extend(activated(config, host, name.as_deref())?),
        }
    }
    Ok(listeners)
}

fn unix(host: &Host, path: &Path, group: &str) -> Result<Listener, ListenError> {
    let system = |source| ListenError::System { host: host.clone(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(system)?;
    }
    remove_stale(host, path)?;
    let socket = std::os::unix::net::UnixListener::bind(path).map_err(system)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(system)?;
    chown(path, None, Some(owner(group).map_err(system)?)).map_err(|e| system(e.into()))?;
    socket.set_nonblocking(true).map_err(system)?;
    let socket = UnixListener::from_std(socket).map_err(system)?;
    Ok(Listener::Unix { socket, path: Some(path.to_owned()) })
}

/// A socket that nobody answers on is what a dead daemon left.
fn remove_stale(host: &Host, path: &Path) -> Result<(), ListenError> {
    let system = |source| ListenError::System { host: host.clone(), source };
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        let error = io::Error::new(ErrorKind::AlreadyExists, "the path exists and is no socket");
        return Err(system(error));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(system)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        _ => Err(ListenError::Taken(host.clone())),
    }
}

/// The named group, or else docker's, ours, root's, whichever there is.
fn owner(group: &str) -> io::Result<Gid> {
    let find = |name: &str| Group::from_name(name).ok().flatten().map(|group| group.gid);
    if group.is_empty() {
        let found = find("docker").or_else(|| find("rnet"));
        return Ok(found.unwrap_or_else(|| Gid::from_raw(0)));
    }
    find(group).or_else(|| group.parse().ok().map(Gid::from_raw)).ok_or_else(|| {
        io::Error::new(
            ErrorKind::NotFound,
            format!("group {group} not found: create it or set --group"),
        )
    })
}

fn tcp(
    config: &Config,
    host: &Host,
    socket: std::net::TcpListener,
) -> Result<Listener, ListenError> {
    let system = |source| ListenError::System { host: host.clone(), source };
    let refused = |reason: String| ListenError::Tls { host: host.clone(), reason };
    let tls = config.tls.as_ref().ok_or_else(|| {
        refused("TCP needs --tlsverify with --tlscacert, --tlscert and --tlskey".to_owned())
    })?;
    let acceptor = Acceptor::new(tls).map_err(|error| refused(error.to_string()))?;
    socket.set_nonblocking(true).map_err(system)?;
    let socket = TcpListener::from_std(socket).map_err(system)?;
    Ok(Listener::Tcp { socket, acceptor })
}

/// The sockets that systemd made for us, all or the one with that name or number.
fn activated(
    config: &Config,
    host: &Host,
    wanted: Option<&str>,
) -> Result<Vec<Listener>, ListenError> {
    const FIRST: usize = 3;
    let system = |source| ListenError::System { host: host.clone(), source };
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let mut inherited = listenfd::ListenFd::from_env();
    let mut listeners = Vec::new();
    for at in 0..inherited.len() {
        let chosen = wanted.is_none_or(|wanted| {
            wanted == (FIRST + at).to_string() || names.get(at).is_some_and(|name| *name == wanted)
        });
        if !chosen {
            continue;
        }
        if let Ok(Some(socket)) = inherited.take_unix_listener(at) {
            socket.set_nonblocking(true).map_err(system)?;
            let socket = UnixListener::from_std(socket).map_err(system)?;
            listeners.push(Listener::Unix { socket, path: None });
        } else if let Some(socket) = inherited.take_tcp_listener(at).map_err(system)? {
            listeners.push(tcp(config, host, socket)?);
        }
    }
    if listeners.is_empty() { Err(ListenError::NotActivated(host.clone())) } else { Ok(listeners) }
}

impl Listener {
    /// The next connection, and whose it is: the process at the other end, or its address.
    pub async fn accept(&self) -> io::Result<(Stream, String)> {
        match self {
            Self::Unix { socket, .. } => {
                let (stream, _) = socket.accept().await?;
                let peer = stream.peer_cred().map_or_else(
                    |_| "nobody known".to_owned(),
                    |peer| format!("uid {} pid {}", peer.uid(), peer.pid().unwrap_or_default()),
                );
                Ok((Stream::Unix(stream), peer))
            }
            Self::Tcp { socket, acceptor } => {
                let (stream, address) = socket.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Stream::Tls(Box::pin(acceptor.accept(stream))), address.to_string()))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix { path: Some(path), .. } = self {
            // A path that is gone already is as good.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path: Some(path), .. } => write!(f, "unix://{}", path.display()),
            Self::Unix { path: None, .. } => f.write_str("fd://"),
            Self::Tcp { socket, .. } => match socket.local_addr() {
                Ok(address) => write!(f, "tcp://{address}"),
                Err(_) => f.write_str("tcp://"),
            },
        }
    }
}
