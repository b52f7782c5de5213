//! An engine by its socket, and the machine that it is on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use drivers::kernel::Netns;

use crate::{Daemon, Host};

/// An engine that speaks Docker's API.
#[derive(Debug)]
pub struct Engine {
    url: String,
    /// The root of the file system as the engine sees it, with its `/proc`.
    root: PathBuf,
    /// The namespace of its host.
    netns: PathBuf,
    image: String,
}

impl Engine {
    /// The engine at a URL. `root` is where its file system is seen from here, `netns` its network
    /// namespace if that is not the one of the first process there.
    pub fn new(url: &str, root: &Path, netns: Option<&Path>, image: &str) -> Self {
        let netns = netns.map_or_else(|| root.join("proc/1/ns/net"), Path::to_owned);
        Self { url: url.to_owned(), root: root.to_owned(), netns, image: image.to_owned() }
    }

    /// The engine of a daemon of ours.
    pub fn of(daemon: &Daemon) -> Self {
        Self::new(&daemon.url(), &daemon.root(""), None, "rnet/toolbox")
    }

    /// Its host.
    pub fn host(&self) -> Result<Host, String> {
        open(&self.netns)
    }

    /// Runs a container that does nothing, and gives its namespace as a host.
    pub(super) fn run(&self, name: &str, words: &str) -> Result<Host, String> {
        let words = format!("run -d --name {name} {words} {} sleep 100000", self.image);
        self.docker(&words)?;
        let pid = self.docker(&format!("inspect -f {{{{.State.Pid}}}} {name}"))?;
        open(&self.root.join(format!("proc/{pid}/ns/net")))
    }

    /// What `docker` prints, given words.
    pub fn docker(&self, words: &str) -> Result<String, String> {
        let mut command = Command::new("docker");
        command.args(["-H", &self.url]).args(words.split_whitespace()).stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("cannot run docker: {error}"))?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(format!("docker {words}: {error}"));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

fn open(path: &Path) -> Result<Host, String> {
    let netns = Netns::open(path).map_err(|e| format!("cannot open {}: {e}", path.display()))?;
    Ok(Host::from_netns(netns))
}
