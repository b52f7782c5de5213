//! What is to run, and how, as one value.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use image::rootfs::RootFs;
use runtime::spec::BundleInput;
use shim::protocol::{Log, Stdin, Streams};

/// Everything that the runtime's half of a start needs. A builder's step fills in a root, the program
/// with its environment and user, and a network namespace; a container fills in all of it.
#[derive(Debug)]
pub struct RunSpec {
    /// What no other run is called: by the runtime, for its cgroup, and in the directory of shims.
    pub id: String,
    /// The runtime, by name; the daemon's default if absent.
    pub runtime: Option<String>,
    /// What the program finds at `/`.
    pub root: RunRoot,
    /// Whom it runs as: names are those of the root, `user:group`; root if empty.
    pub user: String,
    /// Further groups of that user.
    pub groups: Vec<String>,
    /// The cgroup to be below; the daemon's choice if empty.
    pub cgroup_parent: String,
    /// The program, its mounts, namespaces, limits and security. What follows from the fields above is
    /// filled in when the root is open: `rootfs`, `user` and `cgroups_path`.
    pub bundle: BundleInput,
    /// Mounts that are attached nowhere, which are the sources of mounts of `bundle`: each with the
    /// target of that.
    pub parts: Vec<(String, OwnedFd)>,
    /// What happens to its input.
    pub stdin: Stdin,
    /// Where its output is kept.
    pub log: Log,
    /// Whether it is made and held back until it is told to [run](super::Made::run), as for a network
    /// that is not complete.
    pub held: bool,
}

/// What a run finds at `/`.
#[derive(Debug)]
pub enum RunRoot {
    /// Layers of an image, below what the run changes.
    Image(RootFs),
    /// A directory of the host.
    Directory(PathBuf),
}

/// A client of the streams of a program that is to run: it misses nothing.
#[derive(Debug)]
pub struct StreamClient {
    /// The end of a socket pair that the shim is to have.
    pub stream: UnixStream,
    /// The streams it takes part in.
    pub streams: Streams,
}

impl RunSpec {
    /// A program in a root: with a network namespace that has nothing but loopback, no input, output
    /// that nobody keeps.
    pub fn new(id: impl Into<String>, root: RunRoot, program: Vec<String>) -> Self {
        Self {
            id: id.into(),
            runtime: None,
            root,
            user: String::new(),
            groups: Vec::new(),
            cgroup_parent: String::new(),
            bundle: BundleInput { args: program, ..BundleInput::default() },
            parts: Vec::new(),
            stdin: Stdin::Closed,
            log: Log::None,
            held: false,
        }
    }
}
