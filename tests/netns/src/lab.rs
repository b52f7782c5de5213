//! A host with two neighbours.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use cnm::SandboxId;
use drivers::kernel::nft::Ownership;
use drivers::kernel::{Forwarding, Linux, LinuxConfig, Netns};
use nix::mount::{MntFlags, umount2};

use crate::Host;

/// `client` — `host` — `other`, each pair on a LAN of its own, with both families.
///
/// `other` sends everything through `host`, also what is for container subnets; `client` knows
/// nothing but its LAN.
#[derive(Debug)]
pub struct Lab {
    /// The host that containers are on.
    pub host: Host,
    /// A neighbour.
    pub client: Host,
    /// A neighbour with a default route through the host.
    pub other: Host,
    directory: PathBuf,
}

impl Lab {
    /// The host's addresses on the LAN with `client`.
    pub const HOST: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
    /// The addresses of `client`.
    pub const CLIENT: [&str; 2] = ["192.0.2.2", "2001:db8:1::2"];
    /// The host's addresses on the LAN with `other`.
    pub const HOST_TO_OTHER: [&str; 2] = ["198.51.100.1", "2001:db8:2::1"];
    /// The addresses of `other`.
    pub const OTHER: [&str; 2] = ["198.51.100.2", "2001:db8:2::2"];

    /// A new lab.
    pub fn new() -> Self {
        Self::around(Host::new())
    }

    /// Neighbours for a host that there is already.
    pub fn around(host: Host) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("rnet-lab-{}-{number}", std::process::id());
        let (client, other) = (Host::new(), Host::new());
        host.connect("lan0", &client, "eth0");
        host.connect("lan1", &other, "eth0");
        let sites = [
            (&host, "lan0", Self::HOST),
            (&client, "eth0", Self::CLIENT),
            (&host, "lan1", Self::HOST_TO_OTHER),
            (&other, "eth0", Self::OTHER),
        ];
        for (site, interface, [ipv4, ipv6]) in sites {
            site.add_address(interface, &format!("{ipv4}/24"));
            site.add_address(interface, &format!("{ipv6}/64"));
        }
        let [ipv4, ipv6] = Self::HOST_TO_OTHER;
        other.add_route("0.0.0.0/0", "eth0", ipv4);
        other.add_route("::/0", "eth0", ipv6);
        Self { host, client, other, directory: std::env::temp_dir().join(name) }
    }

    /// Opens rnet's kernel on the host. Every call is another daemon with the same directories.
    pub fn open(&self) -> Linux {
        self.open_with(Ownership::Preferred)
    }

    /// The same, with a table that it owns or does not own.
    pub fn open_with(&self, ownership: Ownership) -> Linux {
        self.open_daemon("rnet", ownership)
    }

    /// Opens the kernel of a daemon with a name of its own.
    pub fn open_as(&self, name: &str) -> Linux {
        self.open_daemon(name, Ownership::Preferred)
    }

    fn open_daemon(&self, name: &str, ownership: Ownership) -> Linux {
        let config = LinuxConfig {
            namespaces: self.directory.join(name),
            table: name.to_owned(),
            tag: name.to_owned(),
            owner: None,
            ownership,
            forwarding: Forwarding::Ours,
        };
        self.host.run(|| Linux::open(config)).unwrap()
    }

    /// A sandbox as a host.
    pub fn sandbox(&self, kernel: &Linux, id: &SandboxId) -> Host {
        Host::from_netns(Netns::open(kernel.namespace_path(id)).unwrap())
    }

    /// How many namespaces are pinned.
    pub fn pinned(&self) -> usize {
        fs::read_dir(self.directory.join("rnet")).map_or(0, Iterator::count)
    }

    /// Both addresses of a pair.
    pub fn both(pair: [&str; 2]) -> [IpAddr; 2] {
        pair.map(|address| address.parse().unwrap())
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
        for daemon in entries(&self.directory) {
            for pin in entries(&daemon.path()) {
                let _ = umount2(&pin.path(), MntFlags::MNT_DETACH);
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
