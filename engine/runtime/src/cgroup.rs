//! What the daemon does about cgroups itself, before the runtime does the rest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Where the hierarchies are mounted.
const MOUNTS: &str = "/sys/fs/cgroup";

/// Has the grace period that the next move of a process between cgroups waits for begin early.
///
/// The kernel lets a process move only after an RCU grace period (the writer's side of
/// `cgroup_threadgroup_rwsem`, a per-CPU semaphore), 8 to 30 ms on a machine with little to do:
/// more than all the rest of a container's start. Who moves while another's period lasts waits
/// for the rest of it only, and who moves within a period after that does not wait. So as soon as
/// a start is in sight, the daemon moves itself to where it is already, and the runtime finds the
/// time over, or nearly (`docs/adr/0016`).
#[derive(Debug)]
pub struct GracePeriods(SyncSender<()>);

impl GracePeriods {
    /// Starts the thread that waits; it ends when this is dropped.
    pub fn new() -> io::Result<Self> {
        let (ask, asked) = sync_channel(1);
        let wait = move || serve(&asked);
        std::thread::Builder::new().name("grace periods".to_owned()).spawn(wait)?;
        Ok(Self(ask))
    }

    /// Has one begin: a process will be moved soon. Does not block.
    pub fn begin(&self) {
        // One that is asked for and not begun yet serves us, too.
        let _ = self.0.try_send(());
    }
}

fn serve(asked: &Receiver<()>) {
    while asked.recv().is_ok() {
        if let Err(error) = stay() {
            tracing::debug!(%error, "starts are slower: cannot write to the daemon's own cgroup");
            return;
        }
    }
}

/// Moves this process to the cgroup it is in.
fn stay() -> io::Result<()> {
    let own = own(&fs::read_to_string("/proc/self/cgroup")?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy"))?;
    fs::write(Path::new(MOUNTS).join(own).join("cgroup.procs"), "0")
}

/// The cgroup of a process in one of the hierarchies, below [`MOUNTS`]. The text is that of
/// `/proc/PID/cgroup` (cgroups(7)).
fn own(text: &str) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.strip_prefix('/')?);
        // Outside of what this cgroup namespace shows.
        if path.split('/').any(|part| part == "..") {
            return None;
        }
        let mount = controllers.strip_prefix("name=").unwrap_or(controllers);
        let usable = Path::new(MOUNTS).join(mount).join("cgroup.procs").exists();
        usable.then(|| Path::new(mount).join(path))
    })
}

/// Has the cgroups below this one get its processors and memory nodes when they are made
/// (cgroup v1 only). A runtime that has to write them waits some milliseconds for the scheduler's
/// domains each time.
pub fn hand_down_cpuset(parent: &str) -> io::Result<()> {
    let mount = Path::new(MOUNTS).join("cpuset");
    if !mount.join("cgroup.clone_children").exists() {
        return Ok(());
    }
    let mut directory = mount;
    for part in Path::new(parent.trim_matches('/')) {
        let above = directory.clone();
        directory.push(part);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(directory.join(file))?.trim().is_empty() {
                fs::write(directory.join(file), fs::read_to_string(above.join(file))?)?;
            }
        }
    }
    fs::write(directory.join("cgroup.clone_children"), "1")
}

/// Removes a cgroup from every hierarchy where nothing is in it or below it.
pub fn remove_empty(cgroup: &str) {
    let cgroup = cgroup.trim_matches('/');
    let hierarchies = fs::read_dir(MOUNTS).into_iter().flatten().flatten();
    let mounts = hierarchies.map(|entry| entry.path()).chain([PathBuf::from(MOUNTS)]);
    for mount in mounts.filter(|mount| mount.join("cgroup.procs").exists()) {
        // Somebody else's containers may be there.
        let _ = fs::remove_dir(mount.join(cgroup));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_outside_of_the_namespace_is_not_ours_to_write_to() {
        assert_eq!(own("0::/../../other\n"), None);
        assert_eq!(own("12:no such hierarchy:/x\n"), None);
        assert_eq!(own("rubbish"), None);
    }

    #[test]
    fn staying_leaves_the_process_where_it_is() {
        let before = fs::read_to_string("/proc/self/cgroup").unwrap();
        // Without the privilege it fails, and changes nothing either.
        let _ = stay();
        assert_eq!(fs::read_to_string("/proc/self/cgroup").unwrap(), before);
    }
}
