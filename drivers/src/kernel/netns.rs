//! Network namespaces, and the threads that enter them.
//!
//! No thread of a caller ever changes namespace. What has to happen inside one happens on a
//! thread that is made for it and ends; the sockets it opens stay in the namespace, whatever
//! thread uses them later.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// An open network namespace. It lives as long as anything holds it: this value, a socket in it,
/// a process, or the file it is pinned to.
#[derive(Debug)]
pub struct Netns(File);

/// A thread of its own, which may move between namespaces.
#[derive(Debug)]
pub struct Visitor {
    inside: Option<(u64, u64)>,
}

impl Netns {
    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        File::open("/proc/thread-self/ns/net").map(Self)
    }

    /// A namespace that is pinned to a file.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// A new namespace, which nothing pins yet and whose loopback is down.
    pub fn create() -> io::Result<Self> {
        Visitor::send(Visitor::create)
    }

    /// Another handle of the same namespace.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Runs `f` inside the namespace: at once if the calling thread is there, otherwise on a
    /// thread of its own that then ends.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        if self.is_current()? {
            return Ok(f());
        }
        Visitor::send(|visitor| {
            visitor.enter(self)?;
            Ok(f())
        })
    }

    /// Whether the calling thread is in this namespace.
    pub fn is_current(&self) -> io::Result<bool> {
        Ok(self.identity()? == identity(&std::fs::metadata("/proc/thread-self/ns/net")?))
    }

    /// Whether this is another handle of the same namespace.
    pub fn is_same(&self, other: &Self) -> io::Result<bool> {
        Ok(self.identity()? == other.identity()?)
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        Ok(identity(&self.0.metadata()?))
    }
}

impl From<OwnedFd> for Netns {
    fn from(namespace: OwnedFd) -> Self {
        Self(namespace.into())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Visitor {
    /// Runs `f` on a new thread and waits for it.
    pub fn send<T: Send>(f: impl FnOnce(&mut Self) -> T + Send) -> T {
        thread::scope(|scope| {
            let visit = scope.spawn(|| f(&mut Self { inside: None }));
            visit.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Goes into a namespace, unless the thread is there already.
    #[expect(clippy::disallowed_methods, reason = "the thread is its own and ends soon")]
    pub fn enter(&mut self, netns: &Netns) -> io::Result<()> {
        let target = netns.identity()?;
        if self.inside != Some(target) {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            self.inside = Some(target);
        }
        Ok(())
    }

    /// Makes a new namespace and stays in it.
    pub fn create(&mut self) -> io::Result<Netns> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let netns = Netns::current()?;
        self.inside = Some(netns.identity()?);
        Ok(netns)
    }
}

fn identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
