//! The mounts of a container that is being made, and the volumes that it holds by them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::spec::Mount;
use super::{Container, ContainerId, Containers, MountKind, MountPoint, Propagation, Spec, names};
use engine_error::{Error, Kind, Result};
use image::rootfs::RootFs;
use volume::{New, Want};

/// The volumes of a container that is being made. Unless they are [kept](Self::keep) they are given
/// back, and those that were made for it go.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    containers: &'a Containers,
    user: ContainerId,
    pub(super) points: Vec<MountPoint>,
    kept: bool,
}

impl Taken<'_> {
    /// The container is made.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // What came by `--volumes-from` is used by the container it came from.
            self.containers.release_volumes(self.user.as_str(), &self.points, true);
        }
    }
}

impl Containers {
    /// Takes the volumes of a container's mounts, making those that are not there: those of
    /// `--volumes-from` first, over them the user's own, and a volume of its own for each further
    /// path that the request or the image wants kept.
    pub(super) fn take_mounts(&self, container: &Container) -> Result<Taken<'_>> {
        let mut points = Vec::new();
        for text in &container.spec.volumes_from {
            for point in self.mounts_from(text)? {
                replace(&mut points, point);
            }
        }
        for mount in &container.spec.mounts {
            let mut point = of_mount(mount);
            if mount.kind == MountKind::Bind {
                point.propagation = propagation(mount, &self.settings.data_root)?;
            }
            replace(&mut points, point);
        }
        let driver = container.spec.wire_host_config.get("VolumeDriver");
        let driver = driver.and_then(|driver| driver.as_str()).unwrap_or_default();
        for target in container.spec.volumes.iter().chain(&container.resolved.volumes) {
            if !points.iter().any(|point: &MountPoint| same(&point.target, target)) {
                let target = target.trim_end_matches('/').to_owned();
                let (kind, driver) = (MountKind::Volume, driver.to_owned());
                points.push(of_mount(&Mount { kind, target, driver, ..Mount::default() }));
            }
        }
        let (user, kept) = (container.id.clone(), false);
        let mut taken = Taken { containers: self, user, points: Vec::new(), kept };
        for mut point in points {
            match point.kind {
                MountKind::Volume => self.hold(container, &mut point)?,
                MountKind::Image => self.hold_image(container, &mut point, taken.points.len())?,
                MountKind::Bind | MountKind::Tmpfs => {}
            }
            taken.points.push(point);
        }
        Ok(taken)
    }

    /// Refuses binds whose source is missing, or does not answer.
    pub(super) fn check_sources(&self, spec: &Spec) -> Result<()> {
        for mount in spec.mounts.iter().filter(|mount| mount.kind == MountKind::Bind) {
            if !mount.create_source && !self.file_systems.exists(Path::new(&mount.source))? {
                return Err(Error::invalid(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    mount.source
                )));
            }
        }
        Ok(())
    }

    /// Makes a container a user of the volume of a mount.
    fn hold(&self, container: &Container, point: &mut MountPoint) -> Result<()> {
        let inherited = !point.source.as_os_str().is_empty();
        let want = match &point.name {
            Some(name) if inherited => Want::Existing(name),
            Some(name) => Want::Named(names::check(name)?),
            None => Want::Anonymous,
        };
        let mut own = container.spec.mounts.iter();
        let wanted = own.find(|mount| same(&mount.target, &point.target));
        let new = match wanted.filter(|_| !inherited) {
            Some(wanted) => New {
                driver: wanted.driver.clone(),
                labels: wanted.labels.clone(),
                options: wanted.driver_options.clone(),
            },
            None => New { driver: point.driver.clone(), ..New::default() },
        };
        let (volume, is_new) = self.volumes.hold(&container.id, want, &new)?;
        if is_new {
            let driver = [("driver", volume.driver_name())];
            self.events.volume("create", &volume.name, &driver);
        }
        volume.driver_name().clone_into(&mut point.driver);
        point.source = volume.mountpoint;
        point.name = Some(volume.name);
        Ok(())
    }

    /// What `--volumes-from` brings: the mounts of another container, `ro` if that is the mode.
    fn mounts_from(&self, text: &str) -> Result<Vec<MountPoint>> {
        let (key, mode) = text.split_once(':').unwrap_or((text, "rw"));
        let known = |option: &str| matches!(option, "ro" | "rw" | "z" | "Z" | "nocopy");
        if !mode.split(',').all(known) {
            return Err(Error::invalid(format!("invalid mode: {mode}")));
        }
        let readonly = mode.split(',').any(|option| option == "ro");
        let other = self.find(key)?;
        let points = other.mounts.iter().filter(|point| point.kind != MountKind::Tmpfs);
        Ok(points
            .map(|point| MountPoint { writable: point.writable && !readonly, ..point.clone() })
            .collect())
    }

    /// Gives volumes that are empty what the image has at their place, with its owners and modes.
    pub(super) fn fill_volumes(&self, container: &Container, rootfs: &RootFs) -> Result<()> {
        let fills = |point: &&MountPoint| {
            let mut own = container.spec.mounts.iter();
            let no_copy = own.any(|mount| mount.target == point.target && mount.no_copy);
            point.kind == MountKind::Volume && !no_copy
        };
        for point in container.mounts.iter().filter(fills) {
            let Some(name) = &point.name else { continue };
            if let Some(content) = rootfs.directory(&point.target)? {
                let place = self.mount_volume(&container.id, point)?;
                // It may be where somebody has mounted what does not answer.
                let filled = self.file_systems.exists(&place);
                let below = Path::new(&point.subpath);
                let fill = || self.volumes.fill(name, below, |volume| volume.copy_from(&content));
                let filled = filled.and_then(|_| fill());
                self.unmount_volumes(&container.id);
                filled?;
            }
        }
        Ok(())
    }

    /// Has mounted what belongs to a volume, until the user lets go; says where what is to be mounted
    /// is on the host.
    pub(super) fn mount_volume(&self, user: &str, point: &MountPoint) -> Result<PathBuf> {
        let Some(name) = point.name.clone().filter(|_| point.kind == MountKind::Volume) else {
            return Ok(point.source.clone());
        };
        if point.is_of_plugin() {
            let (driver, volume) = (&point.driver, self.volumes.find(&name)?);
            if volume.is_local() {
                // Its record is damaged: what is here is not what the container had.
                let text = format!("volume {name} is not known any more to be of driver {driver}");
                return Err(Error::new(Kind::Internal, text));
            }
            // It has a limit of its own for its answer.
            self.volumes.attach(user, &name)?;
            return Ok(self.volumes.find(&name)?.mountpoint);
        }
        let (volumes, its, user) = (self.volumes.clone(), name.clone(), user.to_owned());
        let (again, late) = (self.volumes.clone(), user.clone());
        let attach = move |_: &Path| volumes.attach(&user, &its);
        // A mount that is made after all has no user any more.
        let take_back = move |attached: Result<()>| {
            if attached.is_ok() {
                again.detach_one(&late, &name);
            }
        };
        self.file_systems.ask_or(&point.source, attach, take_back)??;
        Ok(point.source.clone())
    }

    /// Lets go of what was mounted for a user. A volume that does not answer holds up no other, and goes
    /// when it does.
    pub(super) fn unmount_volumes(&self, user: &str) {
        self.volumes.detach_from_drivers(user);
        for (name, place) in self.volumes.detach(user) {
            let volumes = self.volumes.clone();
            let unmount = move |_: &Path| volumes.unmount_unused(&name);
            if let Err(error) = self.file_systems.have_done(&place, unmount) {
                tracing::warn!(user, error = error.chain(), "a volume stays mounted");
            }
        }
    }

    /// Takes up what an earlier daemon had mounted for containers that run, and unmounts the rest.
    pub(super) fn take_up_volumes<'a>(&self, alive: impl Iterator<Item = &'a ContainerId>) {
        for live in alive.filter_map(|id| self.registry.find(id).ok()) {
            let container = live.get();
            for point in &container.mounts {
                let taken = match &point.name {
                    Some(name) if point.is_of_plugin() => self.volumes.take_up(&container.id, name),
                    _ => self.mount_volume(&container.id, point).map(drop),
                };
                if let Err(error) = taken {
                    tracing::warn!(error = error.chain(), "a volume is not mounted any more");
                }
            }
        }
        self.unmount_unused_volumes();
        // A plugin that does not answer is no reason to wait with anything.
        let volumes = self.volumes.clone();
        self.tasks.handle().spawn_blocking(move || volumes.settle_with_drivers());
    }

    /// Unmounts the devices of volumes that nobody uses.
    pub(crate) fn unmount_unused_volumes(&self) {
        let (volumes, root) = (self.volumes.clone(), self.settings.data_root.join("volumes"));
        if let Err(error) = self.file_systems.ask(&root, move |_| volumes.unmount_all_unused()) {
            tracing::warn!(error = error.chain(), "volumes that nobody uses stay mounted");
        }
    }

    /// Notes what a container uses that an earlier daemon made.
    pub(super) fn keep_mounts(&self, key: &str, container: &Container) {
        for point in &container.mounts {
            match (point.kind, &point.name) {
                (MountKind::Volume, Some(name)) => self.volumes.keep(&container.id, name),
                (MountKind::Image, _) => {
                    if let Err(error) = self.keep_image(&container.id, point) {
                        self.images.doubt(format!("{key}: {error}"));
                    }
                }
                _ => {}
            }
        }
    }

    /// Ends a container's use of its volumes; with `remove`, those that nobody named and nobody
    /// else uses go.
    pub(super) fn release_volumes(&self, id: &str, points: &[MountPoint], remove: bool) {
        let own = points.iter().filter(|point| remove && point.anonymous);
        let own: Vec<&str> = own.filter_map(|point| point.name.as_deref()).collect();
        for name in self.volumes.release(id, &own) {
            self.events.volume("destroy", &name, &[]);
        }
    }
}

/// Adds a mount, in place of one at the same target.
fn replace(points: &mut Vec<MountPoint>, point: MountPoint) {
    points.retain(|known| !same(&known.target, &point.target));
    points.push(point);
}

fn same(target: &str, other: &str) -> bool {
    target.trim_end_matches('/') == other.trim_end_matches('/')
}

fn of_mount(mount: &Mount) -> MountPoint {
    let (is_volume, is_image) = (mount.kind == MountKind::Volume, mount.kind == MountKind::Image);
    let named = is_volume || is_image;
    let name = Some(mount.source.clone()).filter(|name| named && !name.is_empty());
    MountPoint {
        kind: mount.kind,
        anonymous: is_volume && name.is_none(),
        name,
        source: if named { PathBuf::new() } else { PathBuf::from(&mount.source) },
        target: mount.target.clone(),
        writable: !mount.readonly && !is_image,
        propagation: if is_image { Propagation::RecursivePrivate } else { mount.propagation },
        options: mount.options.clone(),
        subpath: mount.subpath.clone(),
        driver: mount.driver.clone(),
        ..MountPoint::default()
    }
}

/// How mounts below a bind spread. What has the daemon's own directory in it holds the mounts of all
/// containers, which could not be unmounted if they came along for good.
fn propagation(mount: &Mount, root: &Path) -> Result<Propagation> {
    let source = Path::new(&mount.source);
    let of_daemon = source.starts_with(root) || root.starts_with(source);
    match mount.propagation {
        Propagation::Unset if of_daemon => Ok(Propagation::RecursiveSlave),
        Propagation::Unset => Ok(Propagation::RecursivePrivate),
        own @ (Propagation::RecursiveSlave | Propagation::RecursiveShared) => Ok(own),
        other if !of_daemon => Ok(other),
        other => Err(Error::invalid(format!(
            "invalid mount config: must use either propagation mode \"rslave\" or \"rshared\" when \
             mount source is within the daemon root, daemon root: \"{}\", bind mount source: \"{}\", \
             propagation: \"{}\"",
            root.display(),
            source.display(),
            other.as_str()
        ))),
    }
}

/// Refuses mounts that can be known to be wrong.
pub(super) fn check(spec: &Spec) -> Result<()> {
    let mut targets = BTreeSet::new();
    for mount in &spec.mounts {
        check_mount(mount)?;
        if !targets.insert(mount.target.trim_end_matches('/')) {
            return Err(Error::invalid(format!("Duplicate mount point: {}", mount.target)));
        }
    }
    for target in &spec.volumes {
        check_target(MountKind::Volume, target)?;
    }
    Ok(())
}

fn check_mount(mount: &Mount) -> Result<()> {
    check_target(mount.kind, &mount.target)?;
    match mount.kind {
        MountKind::Bind => check_bind(mount),
        MountKind::Tmpfs | MountKind::Volume | MountKind::Image => Ok(()),
    }
}

fn check_target(kind: MountKind, target: &str) -> Result<()> {
    let wrong = |reason: &str| {
        Err(Error::invalid(format!("invalid mount config for type \"{kind}\": {reason}")))
    };
    if !target.starts_with('/') {
        return wrong(&format!("invalid mount path: '{target}' mount path must be absolute"));
    }
    if target.trim_end_matches('/').is_empty() {
        return wrong("invalid specification: destination can't be '/'");
    }
    Ok(())
}

fn check_bind(mount: &Mount) -> Result<()> {
    if !mount.source.starts_with('/') {
        return Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": invalid mount path: '{}' mount path must be \
             absolute",
            mount.source
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spreads(source: &str, wanted: &str) -> Result<&'static str> {
        let (source, wanted) = (source.to_owned(), Propagation::named(wanted).unwrap());
        let mount = Mount { source, propagation: wanted, ..Mount::default() };
        propagation(&mount, Path::new("/var/lib/rnet")).map(Propagation::as_str)
    }

    #[test]
    fn a_bind_of_the_daemon_s_own_directory_is_a_slave() {
        for source in ["/", "/var/lib", "/var/lib/rnet", "/var/lib/rnet/volumes"] {
            assert_eq!(spreads(source, "").unwrap(), "rslave", "{source}");
            assert_eq!(spreads(source, "rshared").unwrap(), "rshared", "{source}");
            let error = spreads(source, "rprivate").unwrap_err().to_string();
            assert!(error.contains("must use either propagation mode"), "{error}");
        }
        for source in ["/var/lib/rnetx", "/srv"] {
            assert_eq!(spreads(source, "").unwrap(), "rprivate", "{source}");
            assert_eq!(spreads(source, "shared").unwrap(), "shared", "{source}");
        }
    }
}
