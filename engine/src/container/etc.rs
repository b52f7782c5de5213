//! The files of ours that a container finds in `/etc`: `hostname`, `hosts` and `resolv.conf`.

pub(super) mod text;

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::join::Place;
use super::links::Named;
use super::run_spec::Connectivity;
use super::{Container, ContainerId, Containers, Paths};
use engine_error::{Error, Result};
use text::{Asked, Hosts, Resolver};

impl Containers {
    /// Writes `hostname`, `hosts` and `resolv.conf`; a container in another's sandbox has the
    /// other's.
    pub(super) fn write_files(
        &self,
        container: &Container,
        connectivity: &Connectivity,
    ) -> Result<Paths> {
        if let Place::Shared(other) = &connectivity.place {
            return self.shared_files(other);
        }
        let paths = &container.paths;
        self.write(container, &paths.hostname, &format!("{}\n", container.resolved.hostname))?;
        self.write_resolv_conf(container, connectivity)?;
        self.write_hosts(container, connectivity)?;
        Ok(paths.clone())
    }

    /// The files of the container whose sandbox it is: the end of the chain of those who share it.
    fn shared_files(&self, id: &ContainerId) -> Result<Paths> {
        let mut other = self.registry.find(id)?.get();
        while let Some(next) = other.spec.network_mode().container() {
            other = self.registry.find(next)?.get();
        }
        Ok(other.paths.clone())
    }

    /// Writes `/etc/hosts`, in place: it is bind mounted.
    pub(crate) fn write_hosts(
        &self,
        container: &Container,
        connectivity: &Connectivity,
    ) -> Result<()> {
        let host_file = match connectivity.place {
            Place::Host => fs::read_to_string("/etc/hosts").ok(),
            _ => None,
        };
        let mut extra = self.extra_hosts(container)?;
        for Named { names, addresses } in self.linked(container) {
            extra.extend(addresses.into_iter().map(|address| (address, names.join(" "))));
        }
        let text = text::hosts(&Hosts {
            hostname: &container.resolved.hostname,
            domainname: &container.resolved.domainname,
            addresses: &connectivity.addresses,
            extra: &extra,
            host_file: host_file.as_deref(),
        });
        self.write(container, &container.paths.hosts, &text)
    }

    /// Writes `resolv.conf` alone: with its first network a running container gets a resolver.
    pub(crate) fn write_resolv_conf(
        &self,
        container: &Container,
        connectivity: &Connectivity,
    ) -> Result<()> {
        let text = self.resolv_conf(container, connectivity);
        self.write(container, &container.paths.resolv_conf, &text)
    }

    /// Writes without making the file anew, for it may be mounted. It belongs to the container's root.
    fn write(&self, container: &Container, path: &Path, text: &str) -> Result<()> {
        let write = || {
            fs::write(path, text)?;
            let Some(map) = self.map_of(&container.spec) else { return Ok(()) };
            let (uid, gid) = map.root();
            std::os::unix::fs::lchown(path, Some(uid), Some(gid))
        };
        write().map_err(|error| Error::internal(format!("cannot write {}", path.display()), error))
    }

    fn extra_hosts(&self, container: &Container) -> Result<Vec<(IpAddr, String)>> {
        let mut hosts = Vec::new();
        for entry in &container.spec.extra_hosts {
            let (name, address) = entry
                .split_once([':', '='])
                .ok_or_else(|| Error::invalid(format!("bad format for add-host: \"{entry}\"")))?;
            if address == "host-gateway" {
                let gateways = self.host_gateways();
                hosts.extend(gateways.into_iter().map(|address| (address, name.to_owned())));
                continue;
            }
            let bare = address.trim_start_matches('[').trim_end_matches(']');
            let address = bare.parse().map_err(|_| {
                Error::invalid(format!("invalid IP address in add-host: \"{address}\""))
            })?;
            hosts.push((address, name.to_owned()));
        }
        Ok(hosts)
    }

    fn host_gateways(&self) -> Vec<IpAddr> {
        if !self.settings.host_gateway.is_empty() {
            return self.settings.host_gateway.clone();
        }
        let bridge = self.networks.network("bridge");
        bridge.map_or_else(|_| Vec::new(), |b| b.pools.iter().filter_map(|p| p.gateway).collect())
    }

    fn resolv_conf(&self, container: &Container, connectivity: &Connectivity) -> String {
        let (spec, settings) = (&container.spec, &self.settings);
        let text = fs::read_to_string(&settings.resolv_conf).unwrap_or_default();
        let host = Resolver::parse(&text);
        let own = [IpAddr::from([127, 0, 0, 11])];
        let given = or(&spec.dns, &settings.dns);
        let asked = if given.is_empty() {
            Asked::Host(host.servers.clone())
        } else {
            Asked::Given(given.to_vec())
        };
        let servers: &[IpAddr] = if connectivity.resolver { &own } else { given };
        let mut options = or(&spec.dns_options, &settings.dns_options).to_vec();
        if connectivity.resolver && !options.iter().any(|option| option.starts_with("ndots:")) {
            options.push("ndots:0".to_owned());
        }
        let search = or(&spec.dns_search, &settings.dns_search);
        let given_options = or(&spec.dns_options, &settings.dns_options);
        let parts = [
            ("nameservers", given.is_empty()),
            ("search", search.is_empty()),
            ("options", given_options.is_empty()),
        ];
        let overrides: Vec<_> =
            parts.into_iter().filter(|(_, absent)| !absent).map(|(part, _)| part).collect();
        let text = host.with(servers, search, &options).render();
        if connectivity.resolver { text + &asked.explain(&overrides) } else { text }
    }
}

/// What was asked for, or else what is configured.
fn or<'a, T>(own: &'a [T], default: &'a [T]) -> &'a [T] {
    if own.is_empty() { default } else { own }
}
