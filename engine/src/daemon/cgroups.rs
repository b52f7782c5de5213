//! Whether containers can have cgroups here.

use std::fs;
use std::path::Path;

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};

/// What to tell a user if the host's cgroups cannot be seen.
pub(super) fn hidden() -> Option<String> {
    hidden_below(Path::new("/sys/fs/cgroup"))
}

fn hidden_below(place: &Path) -> Option<String> {
    let is_cgroup = |path: &Path| {
        let kind = statfs(path).map(|found| found.filesystem_type());
        matches!(kind, Ok(CGROUP_SUPER_MAGIC | CGROUP2_SUPER_MAGIC))
    };
    let mut hierarchies = fs::read_dir(place).into_iter().flatten().flatten();
    if is_cgroup(place) || hierarchies.any(|entry| is_cgroup(&entry.path())) {
        return None;
    }
    Some(format!(
        "no container can be started: there are no cgroups at {}. `ip netns exec` hides them, for it \
         mounts /sys anew; start the daemon with `nsenter --net=/run/netns/NAME` instead",
        place.display()
    ))
}
