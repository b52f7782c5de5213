//! The host's resolvers: read from `resolv.conf`, and followed.
//!
//! VPNs and DHCP clients replace the file by renaming, swap a symbolic link, or write in place.
//! So the directories are watched, the file's own and those of all links on the way, not the file.
//! A file that is gone or names nobody changes nothing: it is about to be written.
//!
//! All servers are asked from the host's namespace. There, 127.0.0.11 is nobody of ours: a daemon
//! that runs inside a container finds its own engine's resolver at it.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How many servers are used.
const SERVERS_MAX: usize = 8;

/// How many links are followed.
const LINKS_MAX: usize = 16;

/// After what time the file is read even if nothing was noticed.
const AT_LEAST_EVERY: Duration = Duration::from_secs(60);

/// The host's resolvers, as they are now.
#[derive(Debug)]
pub(crate) struct HostResolvers {
    servers: ArcSwap<Arc<[SocketAddr]>>,
    port: u16,
}

/// Follows a file until it is dropped.
#[derive(Debug)]
pub(crate) struct Following {
    task: JoinHandle<()>,
}

impl HostResolvers {
    /// None yet; all that come are asked at this port.
    pub(crate) fn new(port: u16) -> Self {
        let none: Arc<[SocketAddr]> = Arc::new([]);
        Self { servers: ArcSwap::from_pointee(none), port }
    }

    /// The servers in the file's order.
    pub(crate) fn servers(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.servers.load())
    }

    /// The given servers as they are asked.
    pub(crate) fn upstreams(&self, addresses: &[IpAddr]) -> Arc<[SocketAddr]> {
        let all = addresses.iter().map(|address| SocketAddr::new(*address, self.port));
        all.take(SERVERS_MAX).collect()
    }

    /// Reads the file, and reads it again whenever it changes.
    pub(crate) fn follow(self: &Arc<Self>, path: PathBuf) -> Following {
        self.read(&path);
        let this = Arc::clone(self);
        Following { task: tokio::spawn(async move { this.watch(&path).await }) }
    }

    fn read(&self, path: &Path) {
        let text = match std::fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "cannot read the host's resolvers");
                return;
            }
        };
        let servers = parse(&text, self.port);
        if servers.is_empty() || servers[..] == self.servers()[..] {
            return;
        }
        tracing::info!(?servers, "host resolvers");
        self.servers.store(Arc::new(servers.into()));
    }

    async fn watch(&self, path: &Path) {
        loop {
            // First the watch, then the file: no change falls in between.
            let changed = watch(path);
            self.read(path);
            match changed {
                Ok(changed) => {
                    let _ = timeout(AT_LEAST_EVERY, changed.readable()).await;
                }
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "cannot watch");
                    tokio::time::sleep(AT_LEAST_EVERY).await;
                }
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Readable as soon as something changed. One change is enough: after it the links may lead
/// elsewhere, so all is watched anew.
fn watch(path: &Path) -> io::Result<Receiver> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let changes = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    let mut watched = Err(nix::Error::ENOENT);
    for directory in directories(path) {
        let one = inotify.add_watch(&directory, changes);
        watched = watched.or(one);
    }
    watched?;
    // Only its being readable matters, and that is the same for a pipe.
    Receiver::from_owned_fd_unchecked(inotify.into())
}

/// The directories of a file and of all links that lead to it.
fn directories(path: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let target = std::fs::read_link(&path);
        found.insert(directory.clone());
        let Ok(target) = target else { break };
        path = directory.join(target);
    }
    found
}

/// The servers that a `resolv.conf` names, as they are asked at a port.
pub fn parse(text: &str, port: u16) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let server = words.next().and_then(|word| server(word, port));
        if let Some(server) = server.filter(|server| !servers.contains(server)) {
            servers.push(server);
        }
    }
    servers.truncate(SERVERS_MAX);
    servers
}

fn server(word: &str, port: u16) -> Option<SocketAddr> {
    if let Some((address, interface)) = word.split_once('%') {
        let index = nix::net::if_::if_nametoindex(interface).ok()?;
        return Some(SocketAddrV6::new(address.parse().ok()?, port, 0, index).into());
    }
    Some(SocketAddr::new(word.parse().ok()?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let servers: Vec<String> = parse(text, 53).iter().map(ToString::to_string).collect();
        assert_eq!(servers.join(" "), expected);
    }

    #[test]
    fn servers_come_in_the_order_of_the_file() {
        check("nameserver 10.0.0.2\nnameserver\t10.0.0.1 \n", "10.0.0.2:53 10.0.0.1:53");
    }

    #[test]
    fn comments_options_and_rubbish_are_passed_over() {
        check("# nameserver 1.1.1.1\nsearch a b\nnameserver x\nnameserver\noptions ndots:1", "");
    }

    #[test]
    fn a_resolver_on_the_hosts_loopback_is_used_also_at_the_address_that_sandboxes_see_us_at() {
        check("nameserver 127.0.0.53\nnameserver 127.0.0.11\n", "127.0.0.53:53 127.0.0.11:53");
    }

    #[test]
    fn ipv6_servers_may_have_a_scope() {
        check("nameserver 2001:db8::1\nnameserver fe80::1%lo", "[2001:db8::1]:53 [fe80::1%1]:53");
    }

    #[test]
    fn a_server_named_twice_is_asked_once() {
        check("nameserver 10.0.0.1\nnameserver 10.0.0.1\n", "10.0.0.1:53");
    }
}
