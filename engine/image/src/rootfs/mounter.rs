//! Overlays that nobody sees until they are attached somewhere.
//!
//! A thread with a mount namespace of its own makes them. It is one thread for the life of the
//! store, because a new namespace is a copy of all mounts of the host; and whenever the process is
//! killed, the namespace ends with it, and nothing stays mounted.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use tree::{IdMap, Tree, Unreachable, identity};

/// Each directory of changes is whole by itself, so that it can be a layer.
const PLAIN: &str = "index=off,redirect_dir=off,metacopy=off";

/// Whom root file systems are for, where containers have user namespaces of their own.
#[derive(Clone, Debug)]
pub struct Remap {
    /// Whom the ids of containers are on the host.
    pub map: IdMap,
    /// A user namespace with this map.
    pub namespace: Arc<OwnedFd>,
    /// The directories that all layers and all changes of containers are in.
    pub places: Vec<PathBuf>,
}

/// What to mount.
#[derive(Debug)]
struct Job {
    /// The working directory: names of layers are relative to it.
    base: PathBuf,
    options: String,
    /// A directory to mount on for a moment.
    place: PathBuf,
    /// What of it is wanted, if it is not the whole.
    below: Option<PathBuf>,
    done: SyncSender<Result<OwnedFd, Unreachable>>,
}

/// Makes overlays.
#[derive(Debug, Default)]
pub(crate) struct Mounter {
    jobs: Mutex<Option<Sender<Job>>>,
    remap: Option<Remap>,
}

impl Mounter {
    /// One whose overlays are for a user namespace: the layers and the changes stay on disk as the
    /// container knows them, and are shown to it as they are on the host.
    ///
    /// That takes one mount for each of the places, whatever the number of layers and containers.
    pub(crate) fn remapped(remap: Remap) -> Self {
        Self { jobs: Mutex::default(), remap: Some(remap) }
    }

    /// Whom its overlays are for, if they are for a user namespace.
    pub(super) fn map(&self) -> Option<&IdMap> {
        self.remap.as_ref().map(|remap| &remap.map)
    }

    /// An overlay of `lower`, names relative to `base` with colons between them, and of `upper` and
    /// `work` in `dir`.
    ///
    /// mount(2), unlike fsconfig(2), takes names of any number of layers on every kernel.
    pub(super) fn overlay(&self, base: &Path, lower: &str, dir: &Path) -> io::Result<OwnedFd> {
        Ok(self.make(base, dir, writable(dir, lower)?, None)?)
    }

    /// What the overlay of `upper` in `dir` and of `lower` shows, for reading only.
    pub(super) fn lower(&self, base: &Path, dir: &Path, lower: &str) -> io::Result<OwnedFd> {
        Ok(self.make(base, dir, readonly(dir, lower)?, None)?)
    }

    /// What of either is at a path below: of the first, if it is to be written to.
    pub(super) fn part(
        &self,
        base: &Path,
        dir: &Path,
        lower: &str,
        below: &Path,
        to_write: bool,
    ) -> Result<OwnedFd, Unreachable> {
        let options = if to_write { writable(dir, lower)? } else { readonly(dir, lower)? };
        self.make(base, dir, options, Some(below))
    }

    fn make(
        &self,
        base: &Path,
        dir: &Path,
        options: String,
        below: Option<&Path>,
    ) -> Result<OwnedFd, Unreachable> {
        let (done, result) = sync_channel(1);
        let (base, place, below) = (base.to_owned(), dir.to_owned(), below.map(Path::to_owned));
        let job = Job { base, options, place, below, done };
        let ended = || io::Error::other("the mounting thread has ended");
        let mut sender = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let jobs = match &mut *sender {
            Some(jobs) => jobs,
            none => none.insert(start(self.remap.clone())?),
        };
        let sent = jobs.send(job);
        drop(sender);
        sent.map_err(|_| ended())?;
        result.recv().map_err(|_| ended())?
    }
}

fn start(remap: Option<Remap>) -> io::Result<Sender<Job>> {
    let (sender, jobs) = channel();
    let (ready, begun) = sync_channel(1);
    thread::Builder::new()
        .name("mount".to_owned())
        .spawn(move || work(remap.as_ref(), &ready, &jobs))?;
    begun.recv().map_err(io::Error::other)??;
    Ok(sender)
}

fn work(remap: Option<&Remap>, ready: &SyncSender<io::Result<()>>, jobs: &Receiver<Job>) {
    let enter = || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        // What the host unmounts goes from here too, and nothing from here gets there.
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?;
        remap.map_or(Ok(()), show)
    };
    let entered = enter();
    let failed = entered.is_err();
    if ready.send(entered).is_err() || failed {
        return;
    }
    for job in jobs {
        // Who asked may have gone.
        let _ = job.done.send(make(&job));
    }
}

/// Covers the places with themselves as a user namespace sees them. An overlay remembers who mounts it,
/// and makes its own files as that one, who has to be somebody there.
fn show(remap: &Remap) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    for place in &remap.places {
        let tree = open_tree(CWD, place, flags)?;
        identity::map(&tree, &remap.namespace)?;
        move_mount(&tree, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    remap.map.be_root()
}

fn make(job: &Job) -> Result<OwnedFd, Unreachable> {
    let unmade = |errno: nix::Error| io::Error::from(errno);
    nix::unistd::chdir(&job.base).map_err(unmade)?;
    mount(Some("overlay"), &job.place, Some("overlay"), MsFlags::empty(), Some(&*job.options))
        .map_err(unmade)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let made = match &job.below {
        None => open_tree(CWD, &job.place, flags).map_err(|error| io::Error::from(error).into()),
        Some(below) => {
            Tree::open(&job.place).map_err(Unreachable::from).and_then(|tree| tree.part(below))
        }
    };
    umount2(&job.place, MntFlags::MNT_DETACH).map_err(unmade)?;
    made
}

/// The options of an overlay of `lower`, and of `upper` and `work` in `dir`.
fn writable(dir: &Path, lower: &str) -> io::Result<String> {
    let (upper, work) = (escape(&dir.join("upper"))?, escape(&dir.join("work"))?);
    Ok(format!("lowerdir={lower},upperdir={upper},workdir={work},{PLAIN}"))
}

/// The options of an overlay of `upper` in `dir` and of `lower`, to which nothing can be written.
fn readonly(dir: &Path, lower: &str) -> io::Result<String> {
    let upper = escape(&dir.join("upper"))?.replace(':', "\\:");
    Ok(format!("lowerdir={upper}:{lower},{PLAIN}"))
}

/// A path as a mount option: backslashes and commas are escaped, all else is as it is.
fn escape(path: &Path) -> io::Result<String> {
    let text = path.to_str().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not text", path.display()))
    })?;
    Ok(text.replace('\\', "\\\\").replace(',', "\\,"))
}
