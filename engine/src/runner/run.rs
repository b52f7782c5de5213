//! A run: from its specification to a program that runs, and to its end.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::{RunRoot, RunSpec, Runner, StreamClient};
use engine_error::{Error, Result};
use image::rootfs::Root;
use runtime::mount_namespace::{Pending, Wanted};
use runtime::spec::{BundleInput, Namespace, build};
use runtime::{MountNamespace, root, user};
use shim::client::{self, ShimClient, ShimError, Starting};
use shim::protocol::{Config, Event, Exit, RuntimeCommand, View};

/// What a shim needs to make a run.
#[derive(Debug)]
pub struct Prepared {
    config: Config,
    /// The runtime, as it was asked for.
    runtime: Option<String>,
    /// The root file system, if it is a mount, and the mounts that the runtime is called with then.
    mounts: Option<(OwnedFd, Arc<MountNamespace>)>,
    /// Further mounts for it, in the order of the view's.
    parts: Vec<OwnedFd>,
}

/// A run that its shim makes, and holds back if that is wanted.
#[derive(Debug)]
#[must_use = "it runs when it is told to"]
pub struct Made {
    starting: Starting,
    directory: PathBuf,
    id: String,
    runtime: Option<String>,
}

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    /// Its process, as the host sees it.
    pub pid: i32,
    /// Its shim.
    pub shim: ShimClient,
    /// Its id.
    pub id: String,
    runtime: Option<String>,
}

/// Why a run came to nothing, with the exit code that stands for it.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// 126 (cannot be executed), 127 (not found) or 128 (anything else).
    pub code: i32,
}

impl Runner {
    /// Opens the root, writes the specification, and says how a shim is to run it. Blocks.
    pub fn prepare(&self, spec: RunSpec) -> Result<Prepared> {
        let runtime = self.runtime(spec.runtime.as_deref())?;
        let command = runtime.command(&self.settings.runtime_root());
        let unmade = |error| Error::internal("cannot make a mount namespace", error);
        let namespace = self.begin_namespace(&spec, &command).map_err(unmade)?;
        let RunSpec { id, runtime: wanted, root, parts, stdin, log, held, mut bundle, .. } = spec;
        let (here, mount) = root.open(!parts.is_empty())?;
        root::check(&here, bundle.mounts.iter().map(|mount| &*mount.target))?;
        bundle.user = user::resolve(&here, &spec.user, &spec.groups)?;
        bundle.rootfs = here;
        bundle.cgroups_path = self.cgroup(&spec.cgroup_parent, &id);
        let mut view = mount.is_some().then(|| self.view(&mut bundle));
        let parts = match &mut view {
            Some(view) => self.place_parts(parts, &mut bundle, view)?,
            None => Vec::new(),
        };
        let built = build(&bundle, &self.host, runtime.as_ref())?;
        for warning in &built.warnings {
            tracing::warn!(run = id, warning);
        }
        let directory = self.settings.shim_dir(&id);
        built.write(&directory)?;
        let config = Config {
            runtime: command,
            bundle: directory.clone(),
            directory,
            view,
            tty: bundle.tty,
            console_size: bundle.console_size,
            stdin,
            log,
            oom_events: self.host.cgroups.oom_events(&bundle.cgroups_path),
            attached: Vec::new(),
            held,
            id,
        };
        let namespace = namespace.map(|pending| self.mount_namespaces.finish(pending));
        let namespace = namespace.transpose().map_err(unmade)?;
        Ok(Prepared { config, runtime: wanted, mounts: mount.zip(namespace), parts })
    }

    /// Has the mount namespace made meanwhile that the runtime is called in, if it is to be.
    fn begin_namespace(
        &self,
        spec: &RunSpec,
        command: &RuntimeCommand,
    ) -> io::Result<Option<Pending>> {
        if matches!(spec.root, RunRoot::Directory(_)) && spec.parts.is_empty() {
            return Ok(None);
        }
        let spreads = spec.bundle.mounts.iter().any(|mount| mount.propagation.is_shared());
        let wanted = Wanted { hide_hybrid: command.hide_hybrid, spreads };
        self.mount_namespaces.begin(wanted).map(Some)
    }

    /// The runtime's own view of the host's mounts, where a root that is a mount is attached, and the
    /// network namespace of the run. The specification is to name what is to be seen there.
    fn view(&self, bundle: &mut BundleInput) -> View {
        let mut view = View {
            root: self.settings.view_of_root(),
            network: self.settings.view_of_network(),
            pin: match &bundle.namespaces.network {
                Namespace::Path(path) => Some(path.clone()),
                _ => None,
            },
            user: None,
            mounts: Vec::new(),
        };
        if let Some(user) = &mut bundle.namespaces.user {
            let place = self.settings.view_of_user();
            view.user = Some((place.clone(), std::mem::replace(&mut user.path, place)));
        }
        bundle.rootfs.clone_from(&view.root);
        if view.pin.is_some() {
            bundle.namespaces.network = Namespace::Path(view.network.clone());
        }
        view
    }

    /// Says to the specification and to the view where the sources of mounts are found that come as
    /// mounts themselves. What they are attached on is made once, and for all containers.
    fn place_parts(
        &self,
        parts: Vec<(String, OwnedFd)>,
        bundle: &mut BundleInput,
        view: &mut View,
    ) -> Result<Vec<OwnedFd>> {
        let mut placed = Vec::with_capacity(parts.len());
        for (number, (target, part)) in parts.into_iter().enumerate() {
            let unplaced = |error: io::Error| {
                Error::internal(
                    format!("cannot make a place for what is mounted at {target}"),
                    error,
                )
            };
            let stat = rustix::fs::fstat(&part).map_err(|errno| unplaced(errno.into()))?;
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let place = self.settings.view_of_mount(number, directory);
            if directory {
                fs::create_dir_all(&place).map_err(unplaced)?;
            } else {
                let file = OpenOptions::new().create(true).append(true).open(&place);
                file.map_err(unplaced)?;
            }
            for mount in bundle.mounts.iter_mut().filter(|mount| mount.target == target) {
                mount.source = place.to_string_lossy().into_owned();
            }
            view.mounts.push(place);
            placed.push(part);
        }
        Ok(placed)
    }

    /// Has a shim make a run, with those at its streams who are there already.
    pub fn begin(&self, prepared: Prepared, clients: Vec<StreamClient>) -> Result<Made, Failure> {
        let Prepared { mut config, runtime, mounts, parts } = prepared;
        let mut descriptors = Vec::new();
        if let Some((root, namespace)) = mounts {
            let failed = |error| Error::internal("cannot pass on a mount namespace", error);
            let own = [namespace.namespace.try_clone(), namespace.root.try_clone()];
            let [namespace, top] = own.map(|made| made.map_err(failed));
            descriptors.extend([root, namespace?, top?]);
            descriptors.extend(parts);
        }
        for StreamClient { stream, streams } in clients {
            config.attached.push(streams);
            descriptors.push(stream.into());
        }
        match self.shims.begin(&config, &descriptors) {
            Ok(starting) => {
                Ok(Made { starting, directory: config.directory, id: config.id, runtime })
            }
            Err(error) => Err(Failure::of_shim(error, &config.directory)),
        }
    }

    /// Runs a program. Blocks until it runs, or has failed to.
    pub fn run(&self, spec: RunSpec, clients: Vec<StreamClient>) -> Result<Running, Failure> {
        self.begin(self.prepare(spec)?, clients)?.run()
    }

    /// Waits until a program has ended, and removes what the run leaves on the host. Blocks.
    pub fn finish(&self, running: &Running) -> Result<Exit> {
        let seen = self.tasks.block_on(running.ended());
        let exit = seen.or_else(|| client::exit(&self.settings.shim_dir(&running.id)));
        self.clear(&running.id, running.runtime.as_deref(), exit.is_none());
        exit.ok_or_else(|| {
            Error::new(cnm::Kind::Internal, format!("the shim of {} was killed", running.id))
        })
    }

    /// Removes what a run leaves on the host. `lost` says that the shim did not do its part. Blocks.
    pub(crate) fn clear(&self, id: &str, runtime: Option<&str>, lost: bool) {
        if lost {
            let root = self.settings.runtime_root();
            let deleted = self.runtime(runtime).and_then(|runtime| Ok(runtime.delete(&root, id)?));
            if let Err(error) = deleted {
                tracing::warn!(run = id, error = error.chain(), "cannot clean up");
            }
        }
        remove(&self.settings.shim_dir(id));
    }
}

impl RunRoot {
    /// The path at which this process finds it, and the root itself if it is a mount, or is to be one.
    fn open(self, as_mount: bool) -> Result<(PathBuf, Option<OwnedFd>)> {
        let root = match self {
            Self::Image(image) => image.open()?,
            Self::Directory(path) => Root::Directory(path),
        };
        Ok(match root {
            Root::Directory(path) if as_mount => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                let mount = open_tree(CWD, &path, flags).map_err(|error| {
                    Error::internal(format!("cannot mount {}", path.display()), error)
                })?;
                (path, Some(mount))
            }
            Root::Directory(path) => (path, None),
            Root::Mount(mount) => {
                (PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd())), Some(mount))
            }
        })
    }
}

impl Prepared {
    /// Takes away what was written for it.
    pub fn discard(self) {
        remove(&self.config.directory);
    }
}

impl Made {
    /// Lets it run. Blocks until it does, or has failed to.
    pub fn run(self) -> Result<Running, Failure> {
        let Self { starting, directory, id, runtime } = self;
        match starting.run() {
            Ok(pid) => Ok(Running { pid, shim: ShimClient::new(directory), id, runtime }),
            Err(error) => Err(Failure::of_shim(error, &directory)),
        }
    }

    /// Takes it away again. Blocks.
    pub fn cancel(self) {
        self.starting.cancel();
        remove(&self.directory);
    }
}

impl Running {
    /// Waits for its end; `None` if the shim did not live to see it.
    async fn ended(&self) -> Option<Exit> {
        let mut watch = self.shim.watch().await.ok()?;
        while let Some(event) = watch.next().await {
            if let Event::Exit(exit) = event
                && exit.exec.is_none()
            {
                watch.end().await;
                return Some(exit);
            }
        }
        None
    }
}

impl Failure {
    fn of_shim(error: ShimError, directory: &Path) -> Self {
        remove(directory);
        match error {
            ShimError::Start(failure) => {
                Self { code: failure.code, error: Error::invalid(failure.error) }
            }
            other => Error::from(other).into(),
        }
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        // Docker's code of what is not the program's fault.
        Self { error: error.into(), code: 128 }
    }
}

fn remove(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, dir = %directory.display(), "cannot remove");
    }
}
