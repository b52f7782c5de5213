//! A container as something to run: all that its record and the engine know, as a [`RunSpec`].

use std::fs;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::FileType;

use super::create::rootfs_dir;
use super::join::Place;
use super::logs;
use super::security::SecurityOptions;
use super::spec::Mount;
use super::{Container, Containers, MountKind, MountPoint, Paths, Propagation, Sharing, Spec};
use crate::file_systems::propagation::check_propagation;
use crate::runner::{RunRoot, RunSpec};
use engine_error::Result;
use image::rootfs::RootFs;
use runtime::spec::{BundleInput, Namespace, Namespaces, Recursion, UserNamespace};
use shim::protocol::{Log, Stdin};
use tree::IdMap;

/// Mounts that are the sources of others, with the targets of those.
pub(super) type Parts = Vec<(String, OwnedFd)>;

/// How a container is connected: what the network's half of a start has decided for the other.
#[derive(Clone, Debug)]
pub(crate) struct Connectivity {
    /// Where the interfaces are.
    pub(crate) place: Place,
    /// The network namespace.
    pub(crate) namespace: Namespace,
    /// The user namespace that it belongs to, if that is not the host's.
    pub(crate) user: Option<UserNamespace>,
    /// The container's addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether a resolver answers in the namespace.
    pub(crate) resolver: bool,
}

impl Connectivity {
    /// That of a container without a sandbox of its own.
    pub(crate) fn borrowed(place: Place, namespace: Namespace) -> Self {
        Self { place, namespace, user: None, addresses: Vec::new(), resolver: false }
    }
}

impl Containers {
    /// What is to run, and how. Writes the files of ours that it finds in `/etc`.
    pub(super) fn run_spec(
        &self,
        container: &Container,
        connectivity: &Connectivity,
    ) -> Result<RunSpec> {
        let (spec, resolved) = (&container.spec, &container.resolved);
        let (data, directory) = (&container.graph_data, rootfs_dir(&container.paths.dir));
        let root = RootFs::again(&self.images, data, &directory)?;
        let root = RunRoot::Image(self.seen_by(spec, root));
        let paths = self.write_files(container, connectivity)?;
        let (mut mounts, mut parts) = self.mounts(container, &paths)?;
        let lent = self.lent_mounts(&container.id)?;
        mounts.extend(lent.0);
        parts.extend(lent.1);
        Ok(RunSpec {
            id: container.id.to_string(),
            runtime: spec.runtime.clone(),
            root,
            user: resolved.user.clone(),
            groups: spec.groups.clone(),
            cgroup_parent: spec.cgroup_parent.clone(),
            bundle: self.bundle(container, connectivity, mounts)?,
            parts,
            stdin: stdin(spec),
            log: self.log(container)?,
            held: connectivity.place == Place::Own,
        })
    }

    fn bundle(
        &self,
        container: &Container,
        connectivity: &Connectivity,
        mounts: Vec<Mount>,
    ) -> Result<BundleInput> {
        let (spec, resolved) = (&container.spec, &container.resolved);
        let options = SecurityOptions::parse(&spec.security_options)?;
        let mut args = vec![resolved.path.clone()];
        args.extend(resolved.args.iter().cloned());
        Ok(BundleInput {
            args,
            env: [
                self.link_environment(container),
                resolved.env.clone(),
                self.lent_environment(&container.id),
            ]
            .concat(),
            cwd: resolved.working_dir.clone(),
            hostname: resolved.hostname.clone(),
            domainname: resolved.domainname.clone(),
            tty: spec.tty,
            console_size: spec.console_size,
            readonly_rootfs: spec.readonly_rootfs,
            namespaces: self.namespaces(spec, connectivity)?,
            mounts,
            shm_size: spec.shm_size.or(Some(self.settings.default_shm_size)),
            shm_source: self.shared_memory(container)?,
            no_shared_memory: spec.namespaces.ipc == Sharing::None,
            cap_add: spec.cap_add.clone(),
            cap_drop: spec.cap_drop.clone(),
            privileged: spec.privileged,
            no_new_privileges: options.no_new_privileges.unwrap_or(self.settings.no_new_privileges),
            apparmor: self.apparmor(spec, &options)?,
            seccomp: options.seccomp.unwrap_or_else(|| self.runner.seccomp.clone()),
            unconfined_paths: options.unconfined_paths,
            writable_cgroups: options.writable_cgroups,
            masked_paths: spec.masked_paths.clone(),
            readonly_paths: spec.readonly_paths.clone(),
            devices: spec.devices.clone(),
            device_rules: spec.device_rules.clone(),
            ulimits: self.ulimits(spec),
            oom_score_adj: spec.oom_score_adj,
            resources: spec.resources.clone(),
            sysctls: spec.sysctls.clone(),
            annotations: spec.annotations.clone(),
            init: self.init_program(spec)?,
            ..BundleInput::default()
        })
    }

    fn ulimits(&self, spec: &Spec) -> Vec<(String, i64, i64)> {
        let own = |name: &str| spec.ulimits.iter().any(|(known, ..)| known == name);
        let defaults = self.settings.default_ulimits.iter().filter(|(name, ..)| !own(name));
        defaults.chain(&spec.ulimits).cloned().collect()
    }

    fn namespaces(&self, spec: &Spec, connectivity: &Connectivity) -> Result<Namespaces> {
        let namespace = |wanted: &Sharing, kind: &str| -> Result<Namespace> {
            if *wanted == Sharing::Host {
                return Ok(Namespace::Host);
            }
            let donor = self.donor(wanted, &kind.to_uppercase())?;
            Ok(donor.map_or(Namespace::Private, |donor| {
                Namespace::Path(PathBuf::from(format!("/proc/{}/ns/{kind}", donor.state.pid)))
            }))
        };
        let modes = &spec.namespaces;
        let cgroup = match modes.cgroup {
            Sharing::Host => Some(Namespace::Host),
            Sharing::Private => Some(Namespace::Private),
            _ => None,
        };
        Ok(Namespaces {
            network: connectivity.namespace.clone(),
            pid: namespace(&modes.pid, "pid")?,
            ipc: namespace(&modes.ipc, "ipc")?,
            uts: namespace(&modes.uts, "uts")?,
            cgroup,
            user: connectivity.user.clone(),
        })
    }

    fn log(&self, container: &Container) -> Result<Log> {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let (driver, daemon) = (self.log_driver(&container.spec), &self.settings.log_options);
        logs::driver::log(container, driver, daemon, &host.unwrap_or_default())
    }

    /// The mounts for the runtime: the user's and the files of ours; and the sources of those that come
    /// as mounts themselves, by their targets.
    fn mounts(&self, container: &Container, paths: &Paths) -> Result<(Vec<Mount>, Parts)> {
        let (mut mounts, mut parts) = (Vec::new(), Vec::new());
        let mut known = None;
        let owner = self.map_of(&container.spec).map(IdMap::root);
        for point in &container.mounts {
            let source = self.mount_volume(&container.id, point)?;
            let point = &MountPoint { source, ..point.clone() };
            let wanted = container.spec.mounts.iter().find(|mount| mount.target == point.target);
            let asked = wanted.filter(|mount| mount.propagation != Propagation::Unset);
            // What was not asked for is left out where it cannot be had.
            if let Some(asked) = asked.filter(|_| point.kind == MountKind::Bind) {
                let read = || fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
                let known = known.get_or_insert_with(read);
                check_propagation(&point.source, asked.propagation, known)?;
            }
            let part = self.part(&container.spec, point)?;
            mounts.push(Mount {
                kind: match point.kind {
                    // It is a directory or a file of the host by now.
                    MountKind::Volume | MountKind::Image => MountKind::Bind,
                    kind => kind,
                },
                source: point.source.to_string_lossy().into_owned(),
                target: point.target.clone(),
                readonly: !point.writable,
                propagation: point.propagation,
                options: point.options.clone(),
                recursion: self.recursion(point, part.as_ref(), wanted, owner)?,
                ..Mount::default()
            });
            parts.extend(part.map(|part| (point.target.clone(), part)));
        }
        let own = own_files(container, paths).into_iter();
        let free: Vec<_> =
            own.filter(|file| mounts.iter().all(|mount| mount.target != file.target)).collect();
        mounts.extend(free);
        Ok((mounts, parts))
    }

    /// What becomes of mounts below a bind. A file has none, and a runtime may refuse to make it
    /// read-only with all that is below it.
    ///
    /// The host's side of every mount is looked at here: a runtime would wait for a file system that
    /// does not answer as long as it is let.
    fn recursion(
        &self,
        point: &MountPoint,
        part: Option<&OwnedFd>,
        wanted: Option<&Mount>,
        owner: Option<(u32, u32)>,
    ) -> Result<Recursion> {
        let asked = wanted.map_or_else(Recursion::default, |mount| mount.recursion);
        if point.kind == MountKind::Tmpfs {
            return Ok(asked);
        }
        if point.kind == MountKind::Bind && wanted.is_some_and(|mount| mount.create_source) {
            self.file_systems.make(&point.source, owner)?;
        }
        let directory = match part {
            Some(part) => rustix::fs::fstat(part)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
            None => self.file_systems.is_directory(&point.source)?,
        };
        let plain = directory || point.writable || asked == Recursion::Disabled;
        Ok(if plain { asked } else { Recursion::Writable })
    }
}

fn stdin(spec: &Spec) -> Stdin {
    match (spec.open_stdin, spec.stdin_once) {
        (false, _) => Stdin::Closed,
        (true, false) => Stdin::Open,
        (true, true) => Stdin::Once,
    }
}

/// The files of ours that a container finds in `/etc`.
fn own_files(container: &Container, paths: &Paths) -> Vec<Mount> {
    let files = [
        (&paths.hostname, "/etc/hostname"),
        (&paths.hosts, "/etc/hosts"),
        (&paths.resolv_conf, "/etc/resolv.conf"),
    ];
    let mount = |(source, target): (&PathBuf, &str)| Mount {
        kind: MountKind::Bind,
        source: source.to_string_lossy().into_owned(),
        target: target.to_owned(),
        readonly: container.spec.readonly_rootfs,
        recursion: Recursion::Writable,
        ..Mount::default()
    };
    files.map(mount).into()
}
