//! The file system of a container as the container finds it: that of its process while it runs, else
//! its root with its volumes and binds in their places, put together for the moment.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};

use super::create::rootfs_dir;
use super::live::Live;
use super::{Container, Containers, MountKind, MountPoint};
use engine_error::{Error, Kind, Result};
use image::rootfs::{Assembly, Piece, RootFs, Source};

/// The root of a container with all that is mounted in it.
#[derive(Debug)]
pub(super) enum View {
    /// That of its process, which may end meanwhile.
    Process(OwnedFd),
    /// That of a container that does not run.
    Assembly(Assembly),
}

impl AsFd for View {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Process(root) => root.as_fd(),
            Self::Assembly(assembly) => assembly.as_fd(),
        }
    }
}

impl Containers {
    /// Looks into the file system of a container. One that does not run is neither started nor removed
    /// meanwhile. Blocks.
    pub(super) fn viewed<T>(
        &self,
        key: &str,
        look: impl FnOnce(&Container, &View) -> Result<T>,
    ) -> Result<T> {
        let live = self.registry.find(key)?;
        if let Some((container, view)) = of_process(&live)? {
            return look(&container, &view);
        }
        let _turn = live.lifecycle.blocking_lock();
        if live.progress.borrow().removed {
            return Err(Error::not_found(format!("No such container: {key}")));
        }
        // It may have been started while its turn was waited for.
        if let Some((container, view)) = of_process(&live)? {
            return look(&container, &view);
        }
        let container = live.get();
        let root =
            RootFs::again(&self.images, &container.graph_data, &rootfs_dir(&container.paths.dir))?;
        let root = self.seen_by(&container.spec, root);
        // Not the container itself, which may have begun to start when this lets go.
        let user = format!("copy of {}", container.id);
        let mounted = container.mounts.iter().map(|point| {
            let source = self.mount_volume(&user, point)?;
            Ok(MountPoint { source, ..point.clone() })
        });
        let mounted: Result<Vec<_>> = mounted.collect();
        let looked = mounted.and_then(|points| {
            let view = View::Assembly(Assembly::new(&root, self.pieces(&container, &points)?)?);
            look(&container, &view)
        });
        self.unmount_volumes(&user);
        looked
    }

    /// What the host has for a container, in the order in which it is mounted.
    fn pieces(&self, container: &Container, points: &[MountPoint]) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        for point in points.iter().filter(|point| point.kind != MountKind::Tmpfs) {
            let source = match self.part(&container.spec, point) {
                Ok(Some(part)) => Source::Mount(part),
                // It may be gone, or not answer.
                Ok(None) if self.file_systems.exists(&point.source)? => {
                    Source::Path(point.source.clone())
                }
                Ok(None) => continue,
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => continue,
                Err(error) => return Err(error),
            };
            let target = point.target.clone();
            pieces.push(Piece { source, target, writable: point.writable });
        }
        let paths = &container.paths;
        for (source, target) in [
            (&paths.hostname, "/etc/hostname"),
            (&paths.hosts, "/etc/hosts"),
            (&paths.resolv_conf, "/etc/resolv.conf"),
        ] {
            if source.exists() && pieces.iter().all(|piece| piece.target != target) {
                let writable = !container.spec.readonly_rootfs;
                let (source, target) = (Source::Path(source.clone()), target.to_owned());
                pieces.push(Piece { source, target, writable });
            }
        }
        pieces.sort_by(|a, b| Path::new(&a.target).cmp(Path::new(&b.target)));
        Ok(pieces)
    }
}

/// The root of a container's process, if it has one.
fn of_process(live: &Live) -> Result<Option<(Arc<Container>, View)>> {
    let container = live.get();
    if !container.state.has_process() {
        return Ok(None);
    }
    match root_of(&container) {
        Ok(root) => Ok(Some((container, View::Process(root)))),
        // It has ended just now.
        Err(error) if gone(&error) => Ok(None),
        Err(error) => {
            let text = format!("cannot open the root of container {}", container.id);
            Err(Error::caused(Kind::Internal, text, error))
        }
    }
}

fn gone(error: &io::Error) -> bool {
    let gone = [rustix::io::Errno::NOENT, rustix::io::Errno::SRCH];
    gone.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Opens what is `/` to the process of a container. Its number may have gone to another process: the
/// descriptor of its directory stays with the one, and its cgroup says whose it is.
fn root_of(container: &Container) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = format!("/proc/{}", container.state.pid);
    let process = rustix::fs::openat(CWD, process, flags, Mode::empty())?;
    let groups = rustix::fs::openat(&process, "cgroup", OFlags::RDONLY, Mode::empty())?;
    let groups = io::read_to_string(fs::File::from(groups))?;
    if !groups.contains(container.id.as_str()) {
        return Err(rustix::io::Errno::SRCH.into());
    }
    Ok(rustix::fs::openat(&process, "root", flags, Mode::empty())?)
}
