//! What a container finds when it starts: its root file system, its files, its specification.

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Containers;
use super::create::rootfs_dir;
use super::files::{self, Asked, Hosts, Resolver};
use super::join::Place;
use super::logs::rotation::Rotation;
use super::spec::Mount;
use super::{Container, ContainerId, MountPoint, Paths, Sharing, Spec};
use crate::runner::sources::check_propagation;
use engine_error::{Error, Result};
use image::rootfs::{Root, RootFs};
use runtime::spec::{BundleInput, Namespace, Namespaces, Recursion, Seccomp, build};
use runtime::{self, Runtime, Stage, stage, user};
use shim::protocol::{Config, Log, Stdin, View};

/// What the network part has decided for the other parts.
#[derive(Clone, Debug)]
pub(crate) struct Wiring {
    /// Where the interfaces are.
    pub(crate) place: Place,
    /// The network namespace.
    pub(crate) namespace: Namespace,
    /// The container's addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether a resolver answers in the namespace.
    pub(crate) resolver: bool,
}

/// What a shim needs to run a container.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// What it is told.
    pub(crate) config: Config,
    /// The root file system, if it is a mount.
    pub(crate) root: Option<OwnedFd>,
    /// The mounts that the runtime is called with, if so.
    pub(crate) stage: Arc<Stage>,
}

impl Containers {
    /// The runtime a container asked for.
    pub(crate) fn runtime(&self, spec: &Spec) -> Result<Arc<dyn Runtime>> {
        let name = spec.runtime.as_deref().unwrap_or_default();
        let name = if name.is_empty() { &self.settings.default_runtime } else { name };
        Ok(runtime::find(name, &self.settings.runtimes)?)
    }

    /// Makes the root file system, writes the files and the bundle, and says how the shim is to
    /// run it.
    pub(crate) fn prepare(&self, container: &Container, wiring: &Wiring) -> Result<Prepared> {
        let settings = &self.settings;
        let runtime = self.runtime(&container.spec)?;
        let command = runtime.command(&settings.runtime_root());
        let unstaged = |error| Error::internal("cannot make a mount namespace", error);
        let wanted =
            stage::Wanted { hide_hybrid: command.hide_hybrid, spreads: spreads(container) };
        let staging = self.runner.stages.begin(wanted).map_err(unstaged)?;
        let (data, directory) = (&container.graph_data, rootfs_dir(&container.paths.dir));
        let rootfs = RootFs::again(&self.images, data, &directory)?;
        let (root, view, here) = match rootfs.open()? {
            Root::Directory(path) => (None, None, path),
            Root::Mount(mount) => {
                let here = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
                let pin = match &wiring.namespace {
                    Namespace::Path(path) => Some(path.clone()),
                    _ => None,
                };
                let view = View {
                    root: settings.view_of_root(),
                    network: settings.view_of_network(),
                    pin,
                };
                (Some(mount), Some(view), here)
            }
        };
        let paths = self.write_files(container, wiring)?;
        let mut input = self.bundle_input(container, wiring, &here, &paths)?;
        if let Some(view) = &view {
            input.rootfs.clone_from(&view.root);
            if view.pin.is_some() {
                input.namespaces.network = Namespace::Path(view.network.clone());
            }
        }
        let bundle = build(&input, &self.runner.host, runtime.as_ref())?;
        for warning in &bundle.warnings {
            tracing::warn!(container = container.short_id(), warning);
        }
        let directory = settings.shim_dir(&container.id);
        bundle.write(&directory)?;
        let spec = &container.spec;
        let config = Config {
            id: container.id.to_string(),
            runtime: command,
            bundle: directory.clone(),
            directory,
            view,
            tty: spec.tty,
            console_size: spec.console_size,
            stdin: stdin(spec),
            log: self.log(container)?,
            oom_events: self.runner.host.cgroups.oom_events(&input.cgroups_path),
            attached: Vec::new(),
            held: wiring.place == Place::Own,
        };
        let stage = self.runner.stages.finish(staging).map_err(unstaged)?;
        Ok(Prepared { config, root, stage })
    }

    fn bundle_input(
        &self,
        container: &Container,
        wiring: &Wiring,
        rootfs: &Path,
        paths: &Paths,
    ) -> Result<BundleInput> {
        let (spec, resolved) = (&container.spec, &container.resolved);
        let options = SecurityOptions::parse(&spec.security_options)?;
        let mut args = vec![resolved.path.clone()];
        args.extend(resolved.args.iter().cloned());
        let shared_ipc = self.process_of(&spec.namespaces.ipc, "ipc")?;
        Ok(BundleInput {
            args,
            env: resolved.env.clone(),
            cwd: resolved.working_dir.clone(),
            user: user::resolve(rootfs, &resolved.user, &spec.groups)?,
            hostname: resolved.hostname.clone(),
            domainname: resolved.domainname.clone(),
            tty: spec.tty,
            console_size: spec.console_size,
            rootfs: rootfs.to_owned(),
            readonly_rootfs: spec.readonly_rootfs,
            namespaces: self.namespaces(spec, wiring)?,
            mounts: self.mounts(container, paths)?,
            shm_size: spec.shm_size.or(Some(self.settings.default_shm_size)),
            shm_source: shared_ipc.map(|pid| PathBuf::from(format!("/proc/{pid}/root/dev/shm"))),
            no_shared_memory: spec.namespaces.ipc == Sharing::None,
            cap_add: spec.cap_add.clone(),
            cap_drop: spec.cap_drop.clone(),
            privileged: spec.privileged,
            no_new_privileges: options.no_new_privileges.unwrap_or(self.settings.no_new_privileges),
            seccomp: options.seccomp.unwrap_or_else(|| self.runner.seccomp.clone()),
            apparmor: options.apparmor,
            unconfined_paths: options.unconfined_paths,
            masked_paths: spec.masked_paths.clone(),
            readonly_paths: spec.readonly_paths.clone(),
            devices: spec.devices.clone(),
            device_rules: spec.device_rules.clone(),
            ulimits: self.ulimits(spec),
            oom_score_adj: spec.oom_score_adj,
            resources: spec.resources.clone(),
            cgroups_path: self.cgroup(spec, &container.id),
            sysctls: spec.sysctls.clone(),
            annotations: spec.annotations.clone(),
            init: self.init_program(spec)?,
        })
    }

    /// The cgroup of a container.
    pub(crate) fn cgroup(&self, spec: &Spec, id: &str) -> String {
        let parent = match spec.cgroup_parent.as_str() {
            "" => self.settings.cgroup_parent(),
            own => own.trim_matches('/'),
        };
        format!("/{parent}/{id}")
    }

    fn ulimits(&self, spec: &Spec) -> Vec<(String, i64, i64)> {
        let own = |name: &str| spec.ulimits.iter().any(|(known, ..)| known == name);
        let defaults = self.settings.default_ulimits.iter().filter(|(name, ..)| !own(name));
        defaults.chain(&spec.ulimits).cloned().collect()
    }

    fn namespaces(&self, spec: &Spec, wiring: &Wiring) -> Result<Namespaces> {
        let namespace = |wanted: &Sharing, kind: &str| -> Result<Namespace> {
            if *wanted == Sharing::Host {
                return Ok(Namespace::Host);
            }
            let process = self.process_of(wanted, kind)?;
            Ok(process.map_or(Namespace::Private, |pid| {
                Namespace::Path(PathBuf::from(format!("/proc/{pid}/ns/{kind}")))
            }))
        };
        let modes = &spec.namespaces;
        let cgroup = match modes.cgroup {
            Sharing::Host => Some(Namespace::Host),
            Sharing::Private => Some(Namespace::Private),
            _ => None,
        };
        Ok(Namespaces {
            network: wiring.namespace.clone(),
            pid: namespace(&modes.pid, "pid")?,
            ipc: namespace(&modes.ipc, "ipc")?,
            uts: namespace(&modes.uts, "uts")?,
            cgroup,
        })
    }

    /// The process whose namespace of a kind is shared (`container:<id>`).
    fn process_of(&self, wanted: &Sharing, kind: &str) -> Result<Option<i32>> {
        let Some(key) = wanted.container() else { return Ok(None) };
        let other = self.registry.find(key)?.get();
        if other.state.pid == 0 {
            return Err(Error::conflict(format!(
                "cannot join {kind} of a non running container: {}",
                other.id
            )));
        }
        Ok(Some(other.state.pid))
    }

    fn log(&self, container: &Container) -> Result<Log> {
        if self.log_driver(&container.spec) == "none" {
            return Ok(Log::None);
        }
        let options = &container.spec.log_options;
        let Rotation { max_size, max_files } = Rotation::of(options, &self.settings.log_options)?;
        Ok(Log::JsonFile { path: container.paths.log.clone(), max_size, max_files })
    }

    /// Writes `hostname`, `hosts` and `resolv.conf`; a container in another's sandbox has the
    /// other's.
    fn write_files(&self, container: &Container, wiring: &Wiring) -> Result<Paths> {
        if let Place::Shared(other) = &wiring.place {
            return self.shared_files(other);
        }
        let paths = &container.paths;
        write(&paths.hostname, &format!("{}\n", container.resolved.hostname))?;
        self.write_resolv_conf(container, wiring)?;
        self.write_hosts(container, wiring)?;
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
    pub(crate) fn write_hosts(&self, container: &Container, wiring: &Wiring) -> Result<()> {
        let host_file = match wiring.place {
            Place::Host => fs::read_to_string("/etc/hosts").ok(),
            _ => None,
        };
        let mut extra = self.extra_hosts(container)?;
        for (name, addresses) in self.linked(container) {
            extra.extend(addresses.into_iter().map(|address| (address, name.clone())));
        }
        let text = files::hosts(&Hosts {
            hostname: &container.resolved.hostname,
            domainname: &container.resolved.domainname,
            addresses: &wiring.addresses,
            extra: &extra,
            host_file: host_file.as_deref(),
        });
        write(&container.paths.hosts, &text)
    }

    /// Writes `resolv.conf` alone: with its first network a running container gets a resolver.
    pub(crate) fn write_resolv_conf(&self, container: &Container, wiring: &Wiring) -> Result<()> {
        write(&container.paths.resolv_conf, &self.resolv_conf(container, wiring))
    }

    /// The mounts for the runtime: the user's and the files of ours.
    fn mounts(&self, container: &Container, paths: &Paths) -> Result<Vec<Mount>> {
        let mut mounts = Vec::new();
        let mut known = None;
        for point in &container.mounts {
            let wanted = container.spec.mounts.iter().find(|mount| mount.target == point.target);
            if point.kind == "bind" {
                if wanted.is_some_and(|mount| mount.create_source) {
                    self.runner.sources.make(&point.source)?;
                }
                // What was not asked for is left out where it cannot be had.
                if let Some(asked) = wanted.filter(|mount| !mount.propagation.is_empty()) {
                    let read = || fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                    let known = known.get_or_insert_with(read);
                    check_propagation(&point.source, &asked.propagation, known)?;
                }
            }
            mounts.push(Mount {
                kind: if point.kind == "tmpfs" { "tmpfs" } else { "bind" }.to_owned(),
                source: point.source.to_string_lossy().into_owned(),
                target: point.target.clone(),
                readonly: !point.writable,
                propagation: point.propagation.clone(),
                create_source: false,
                no_copy: false,
                options: point.options.clone(),
                recursion: self.recursion(point, wanted)?,
            });
        }
        let own = own_files(container, paths).into_iter();
        let free: Vec<_> =
            own.filter(|file| mounts.iter().all(|mount| mount.target != file.target)).collect();
        mounts.extend(free);
        Ok(mounts)
    }

    /// What becomes of mounts below a bind. A file has none, and a runtime may refuse to make it
    /// read-only with all that is below it.
    fn recursion(&self, point: &MountPoint, wanted: Option<&Mount>) -> Result<Recursion> {
        let asked = wanted.map_or_else(Recursion::default, |mount| mount.recursion);
        if point.kind == "tmpfs" || point.writable || asked == Recursion::Disabled {
            return Ok(asked);
        }
        let directory = self.runner.sources.is_directory(&point.source)?;
        Ok(if directory { asked } else { Recursion::Writable })
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

    fn resolv_conf(&self, container: &Container, wiring: &Wiring) -> String {
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
        let servers: &[IpAddr] = if wiring.resolver { &own } else { given };
        let mut options = or(&spec.dns_options, &settings.dns_options).to_vec();
        if wiring.resolver && !options.iter().any(|option| option.starts_with("ndots:")) {
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
        if wiring.resolver { text + &asked.explain(&overrides) } else { text }
    }
}

fn stdin(spec: &Spec) -> Stdin {
    match (spec.open_stdin, spec.stdin_once) {
        (false, _) => Stdin::Closed,
        (true, false) => Stdin::Open,
        (true, true) => Stdin::Once,
    }
}

/// Whether what is mounted in a container is to be seen on the host.
fn spreads(container: &Container) -> bool {
    container.mounts.iter().any(|point| matches!(&*point.propagation, "shared" | "rshared"))
}

/// The files of ours that a container finds in `/etc`.
fn own_files(container: &Container, paths: &Paths) -> Vec<Mount> {
    let files = [
        (&paths.hostname, "/etc/hostname"),
        (&paths.hosts, "/etc/hosts"),
        (&paths.resolv_conf, "/etc/resolv.conf"),
    ];
    let mount = |(source, target): (&PathBuf, &str)| Mount {
        kind: "bind".to_owned(),
        source: source.to_string_lossy().into_owned(),
        target: target.to_owned(),
        readonly: container.spec.readonly_rootfs,
        recursion: Recursion::Writable,
        ..Mount::default()
    };
    files.map(mount).into()
}

/// What was asked for, or else what is configured.
fn or<'a, T>(own: &'a [T], default: &'a [T]) -> &'a [T] {
    if own.is_empty() { default } else { own }
}

/// Writes without making the file anew, for it may be mounted.
fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .map_err(|error| Error::internal(format!("cannot write {}", path.display()), error))
}

/// `--security-opt`, understood.
#[derive(Debug, Default)]
struct SecurityOptions {
    seccomp: Option<Seccomp>,
    apparmor: Option<String>,
    no_new_privileges: Option<bool>,
    unconfined_paths: bool,
}

impl SecurityOptions {
    fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        for option in options {
            let (key, value) = option.split_once(['=', ':']).unwrap_or((option, "true"));
            match (key, value) {
                ("seccomp", "unconfined") => parsed.seccomp = Some(Seccomp::Unconfined),
                ("seccomp", "builtin") => parsed.seccomp = Some(Seccomp::Default),
                ("seccomp", profile) => parsed.seccomp = Some(Seccomp::Profile(profile.to_owned())),
                ("apparmor", profile) => parsed.apparmor = Some(profile.to_owned()),
                ("no-new-privileges", flag @ ("true" | "false")) => {
                    parsed.no_new_privileges = Some(flag == "true");
                }
                ("systempaths", "unconfined") => parsed.unconfined_paths = true,
                // Without SELinux a label changes nothing.
                ("label", _) => {}
                _ => return Err(Error::invalid(format!("invalid --security-opt: \"{option}\""))),
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_security_option_is_named() {
        let error = SecurityOptions::parse(&["nope=1".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "invalid --security-opt: \"nope=1\"");
    }
}
