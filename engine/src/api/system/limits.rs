//! Which limits of containers this host can keep.

use std::path::Path;

/// What the kernel's cgroups and bridges can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "Docker's fields")]
pub struct Limits {
    /// Memory.
    pub memory: bool,
    /// Memory and swap together.
    pub swap: bool,
    /// The length of a period of the scheduler.
    pub cpu_period: bool,
    /// The time in each period.
    pub cpu_quota: bool,
    /// Weights.
    pub cpu_shares: bool,
    /// Which processors.
    pub cpu_set: bool,
    /// Numbers of processes.
    pub pids: bool,
    /// Whether the killer of processes that take too much memory can be kept off.
    pub oom_kill_disable: bool,
    /// Whether frames of bridges pass the rules for IPv4.
    pub bridge_ipv4: bool,
    /// The same for IPv6.
    pub bridge_ipv6: bool,
}

impl Limits {
    /// Reads them from `/sys` and `/proc`.
    pub fn probe() -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let is_on = |name: &str| {
            let path = format!("/proc/sys/net/bridge/bridge-nf-call-{name}");
            std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
        };
        Self {
            bridge_ipv4: is_on("iptables"),
            bridge_ipv6: is_on("ip6tables"),
            ..Self::of_cgroups(Path::new("/sys/fs/cgroup"), &own)
        }
    }

    /// Those of the cgroups mounted below `root`; `own` is the text of `/proc/self/cgroup`.
    fn of_cgroups(root: &Path, own: &str) -> Self {
        match std::fs::read_to_string(root.join("cgroup.controllers")) {
            Ok(controllers) => Self::of_unified(root, &controllers, own),
            Err(_) => Self::of_hierarchies(root),
        }
    }

    fn of_unified(root: &Path, controllers: &str, own: &str) -> Self {
        let has = |name| controllers.split_whitespace().any(|word| word == name);
        // The root has no such file, even where its children have it.
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        Self {
            memory: has("memory"),
            swap: root.join(own).join("memory.swap.max").exists(),
            cpu_period: has("cpu"),
            cpu_quota: has("cpu"),
            cpu_shares: has("cpu"),
            cpu_set: has("cpuset"),
            pids: has("pids"),
            ..Self::default()
        }
    }

    fn of_hierarchies(root: &Path) -> Self {
        let has = |path: &str| root.join(path).exists();
        Self {
            memory: has("memory/memory.limit_in_bytes"),
            swap: has("memory/memory.memsw.limit_in_bytes"),
            cpu_period: has("cpu/cpu.cfs_period_us"),
            cpu_quota: has("cpu/cpu.cfs_quota_us"),
            cpu_shares: has("cpu/cpu.shares"),
            cpu_set: has("cpuset/cpuset.cpus"),
            pids: has("pids/cgroup.procs"),
            oom_kill_disable: has("memory/memory.oom_control"),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn limits_are_those_that_the_host_has_files_for() {
        let root = std::env::temp_dir().join(format!("rnet-limits-{}", std::process::id()));
        fs::create_dir_all(root.join("memory")).unwrap();
        fs::write(root.join("memory/memory.limit_in_bytes"), "").unwrap();
        let one = Limits { memory: true, ..Limits::default() };
        assert_eq!(Limits::of_cgroups(&root, "4:memory:/\n"), one);
        fs::write(root.join("cgroup.controllers"), "cpu pids\n").unwrap();
        fs::create_dir_all(root.join("a.slice")).unwrap();
        fs::write(root.join("a.slice/memory.swap.max"), "max").unwrap();
        let unified = Limits::of_cgroups(&root, "0::/a.slice\n");
        fs::remove_dir_all(&root).unwrap();
        let cpu = Limits { cpu_period: true, cpu_quota: true, cpu_shares: true, ..one };
        assert_eq!(unified, Limits { memory: false, swap: true, pids: true, ..cpu });
    }
}
