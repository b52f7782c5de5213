//! The cgroups that containers need, where the daemon was started without a sight of them.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

/// Where the hierarchies are mounted, by agreement of everybody.
const PLACE: &str = "/sys/fs/cgroup";

/// A hierarchy of cgroup version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Its controllers, or its name: what its directory is called.
    directory: String,
    options: String,
}

/// Sees to it that cgroups are mounted. Returns what to tell a user if they are not.
pub(super) fn provide() -> Option<String> {
    let place = Path::new(PLACE);
    if !are_hidden_below(place) {
        return None;
    }
    let told = format!(
        "no container can be started: there are no cgroups at {PLACE}. `ip netns exec` hides them, for \
         it mounts /sys anew; start the daemon with `nsenter --net=/run/netns/NAME` instead"
    );
    // On the host itself they are for others to mount.
    if !has_mounts_of_its_own() {
        return Some(told);
    }
    match mount_below(place) {
        Ok(()) => {
            tracing::info!("cgroups are hidden from this process, and were mounted for it");
            None
        }
        Err(error) => Some(format!("{told} ({error})")),
    }
}

fn are_hidden_below(place: &Path) -> bool {
    let is_cgroup = |path: &Path| {
        let kind = statfs(path).map(|found| found.filesystem_type());
        matches!(kind, Ok(CGROUP_SUPER_MAGIC | CGROUP2_SUPER_MAGIC))
    };
    let mut hierarchies = fs::read_dir(place).into_iter().flatten().flatten();
    !is_cgroup(place) && !hierarchies.any(|entry| is_cgroup(&entry.path()))
}

/// Whether this process has a mount namespace that the first process, or one that it comes from, is
/// not in.
fn has_mounts_of_its_own() -> bool {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let own = namespace("self");
    let above = std::iter::successors(Some("self".to_owned()), |process| parent(process));
    let others = above.skip(1).chain(["1".to_owned()]);
    // Of some it is not to be known.
    { others }.filter_map(|process| namespace(&process)).any(|other| Some(other) != own)
}

fn parent(process: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim();
    (parent != "0").then(|| parent.to_owned())
}

/// Mounts the hierarchies that there are.
fn mount_below(place: &Path) -> io::Result<()> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let hierarchies = hierarchies(&text);
    if hierarchies.is_empty() {
        return Ok(mount(Some("cgroup2"), place, Some("cgroup2"), flags, None::<&str>)?);
    }
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, Some("mode=755"))?;
    let mounted = hierarchies.iter().try_for_each(|Hierarchy { directory, options }| {
        let path = place.join(directory);
        fs::create_dir(&path)?;
        mount(Some("cgroup"), &path, Some("cgroup"), flags, Some(options.as_str()))?;
        let alone = directory.split(',').filter(|name| name != directory);
        alone.into_iter().try_for_each(|name| symlink(directory, place.join(name)))
    });
    if mounted.is_err() {
        // Half of them would be taken for all.
        let _ = umount2(place, MntFlags::MNT_DETACH);
    }
    mounted
}

/// Those of version 1. The text is that of `/proc/self/cgroup`; where it names only the unified
/// hierarchy, there are none.
fn hierarchies(text: &str) -> Vec<Hierarchy> {
    let lines = text.lines().filter_map(|line| line.split(':').nth(1));
    let of = |controllers: &str| Hierarchy {
        directory: controllers.strip_prefix("name=").unwrap_or(controllers).to_owned(),
        options: match controllers.strip_prefix("name=") {
            Some(_) => format!("none,{controllers}"),
            None => controllers.to_owned(),
        },
    };
    lines.filter(|controllers| !controllers.is_empty()).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_mounted_by_their_controllers_or_their_name() {
        let text = "9:name=systemd:/\n8:cpu,cpuacct:/a:b\n4:memory:/x\n0::/\n";
        let found: Vec<_> = hierarchies(text)
            .into_iter()
            .map(|hierarchy| (hierarchy.directory, hierarchy.options))
            .collect();
        let expected = [
            ("systemd", "none,name=systemd"),
            ("cpu,cpuacct", "cpu,cpuacct"),
            ("memory", "memory"),
        ];
        let expected = expected.map(|(name, options)| (name.to_owned(), options.to_owned()));
        assert_eq!(found, expected);
        assert_eq!(hierarchies("0::/user.slice\n"), []);
    }
}
