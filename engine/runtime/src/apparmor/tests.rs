//! The profile as text, by the paths that it denies, and on a made-up kernel.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use super::*;

/// A kernel's directory and a parser that knows only how to fail and to add a name. Gone on drop.
struct Fake(PathBuf);

impl Fake {
    fn new(name: &str, profiles: &str, parser: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("rnet-apparmor-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let fake = Self(directory);
        fs::write(fake.0.join("profiles"), profiles).unwrap();
        let script = format!("#!/bin/sh\ncd {}\n{parser}\n", fake.0.display());
        fs::write(fake.parser(), script).unwrap();
        fs::set_permissions(fake.parser(), fs::Permissions::from_mode(0o755)).unwrap();
        fake
    }

    fn parser(&self) -> PathBuf {
        self.0.join("parser")
    }

    fn with_parser(&self) -> AppArmor {
        AppArmor::at(self.0.clone(), Some(self.parser()))
    }

    fn without_parser(&self) -> AppArmor {
        AppArmor::at(self.0.clone(), None)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const LOADS: &str = "cat >loaded; echo \"$*\" >called; echo 'rnet-default (enforce)' >>profiles";

#[test]
fn the_profile_is_loaded_before_the_first_container_that_needs_it() {
    let fake = Fake::new("loads", "nosy-daemon (enforce)\n", LOADS);
    let apparmor = fake.with_parser();
    assert!(apparmor.confines() && apparmor.warning().is_none());
    assert_eq!(apparmor.profile(Some("unconfined"), false).unwrap().unwrap(), "unconfined");
    assert_eq!(apparmor.profile(None, true).unwrap().unwrap(), "unconfined");
    assert!(!fake.0.join("loaded").exists(), "nobody needs it yet");
    assert_eq!(apparmor.profile(None, false).unwrap().unwrap(), DEFAULT);
    let loaded = fs::read_to_string(fake.0.join("loaded")).unwrap();
    assert!(loaded.starts_with("profile rnet-default flags="), "{loaded}");
    assert_eq!(fs::read_to_string(fake.0.join("called")).unwrap(), "--replace --skip-cache\n");
    fs::remove_file(fake.0.join("loaded")).unwrap();
    // Docker's name is ours; so is a privileged container that wants to be confined.
    for asked in [None, Some(""), Some("docker-default"), Some(DEFAULT)] {
        assert_eq!(apparmor.profile(asked, false).unwrap().unwrap(), DEFAULT);
    }
    assert_eq!(apparmor.profile(Some("docker-default"), true).unwrap().unwrap(), DEFAULT);
    assert!(!fake.0.join("loaded").exists(), "it is there");
}

#[test]
fn a_profile_that_the_kernel_does_not_know_is_named_before_anything_is_started() {
    let fake = Fake::new("named", "own (complain)\nwith blanks (enforce)\n", LOADS);
    let apparmor = fake.with_parser();
    for name in ["own", "with blanks", "own//&b", ":ns:profile"] {
        assert_eq!(apparmor.profile(Some(name), false).unwrap().unwrap(), name);
    }
    for name in ["nope", "own (complain)", "with", "own//hat", "/usr/bin/nope"] {
        let error = apparmor.profile(Some(name), false).unwrap_err().to_string();
        assert!(error.contains(&format!("no AppArmor profile {name:?}")), "{error}");
    }
}

#[test]
fn a_parser_that_fails_fails_the_start_and_a_missing_one_is_told_of() {
    let fake = Fake::new("fails", "", "echo 'AppArmor parser error: out of luck' >&2; exit 1");
    let error = fake.with_parser().profile(None, false).unwrap_err().to_string();
    assert_eq!(
        error,
        "AppArmor enabled on system but the rnet-default profile could not be loaded: AppArmor \
         parser error: out of luck"
    );
    let without = fake.without_parser();
    assert!(!without.confines() && without.warning().unwrap().contains("apparmor_parser"));
    assert_eq!(without.profile(None, false).unwrap(), None);
    assert_eq!(without.profile(Some("unconfined"), false).unwrap().unwrap(), "unconfined");
    // Somebody else may have loaded it.
    fs::write(fake.0.join("profiles"), "rnet-default (enforce)\n").unwrap();
    assert!(without.confines() && without.warning().is_none());
    assert_eq!(without.profile(None, false).unwrap().unwrap(), DEFAULT);
}

#[test]
fn without_apparmor_in_the_kernel_nothing_is_confined_and_nothing_is_said() {
    let nowhere = AppArmor::at("/nonexistent".into(), Some("/bin/false".into()));
    for apparmor in [AppArmor::default(), nowhere] {
        assert!(!apparmor.confines() && apparmor.warning().is_none());
        for asked in [None, Some("unconfined"), Some("docker-default")] {
            assert_eq!(apparmor.profile(asked, false).unwrap(), None);
            assert_eq!(apparmor.profile(asked, true).unwrap(), None);
        }
        apparmor.load().unwrap();
    }
}

/// Whether a path is one of a pattern's, as AppArmor has it.
fn fits(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=path.len()).any(|at| fits(rest, &path[at..])),
        [b'*', rest @ ..] => {
            let ends = path.iter().position(|byte| *byte == b'/').unwrap_or(path.len());
            (0..=ends).any(|at| fits(rest, &path[at..]))
        }
        [b'[', b'^', rest @ ..] => {
            let end = rest.iter().position(|byte| *byte == b']').unwrap();
            let (not, rest) = (&rest[..end], &rest[end + 1..]);
            let digits = not.windows(3).any(|range| range == b"1-9");
            let is_not = |byte: u8| not.contains(&byte) || (digits && byte.is_ascii_digit());
            path.split_first().is_some_and(|(byte, path)| !is_not(*byte) && fits(rest, path))
        }
        [byte, rest @ ..] => path.first() == Some(byte) && fits(rest, &path[1..]),
    }
}

/// Whether the default profile denies something of a path.
fn denies(path: &str, access: char) -> bool {
    let text = text(DEFAULT, UNCONFINED);
    let denials = text.lines().filter_map(|line| line.trim().strip_prefix("deny /"));
    denials.filter_map(|rule| rule.trim_end_matches(',').rsplit_once(' ')).any(|(pattern, what)| {
        what.contains(access) && fits(format!("/{pattern}").as_bytes(), path.as_bytes())
    })
}

#[test]
fn what_dockers_profile_denies_ours_denies_and_no_more() {
    for path in [
        "/proc/sysrq-trigger",
        "/proc/mtrr",
        "/proc/kcore",
        "/proc/irq/1/smp_affinity",
        "/proc/fs/x",
        "/proc/scsi/scsi",
        "/proc/sysvipc/x",
        "/proc/bus/pci/00",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/sysrq",
        "/proc/sys/kernel/sem",
        "/proc/sys/kernel/random/uuid",
        "/proc/sys/kernel_x/y",
        "/sys/kernel/mm/ksm/run",
        "/sys/fs/bpf/x",
        "/sys/fs/cgroupx/y",
        "/sys/fs/ext4/sda/x",
        "/sys/firmware/efi/efivars/x",
        "/sys/module/x/parameters/y",
    ] {
        assert!(denies(path, 'w'), "{path}");
    }
    for path in [
        "/proc/1/oom_score_adj",
        "/proc/87/attr/exec",
        "/proc/9/task/9/comm",
        "/proc/sys/kernel/shmmax",
        "/proc/sys/kernel/shm_rmid_forced",
        "/sys/fs/cgroup/pids/x",
        "/sys/fs/cgroup/x/cgroup.procs",
        "/etc/passwd",
        "/process/x",
        "/system/x/y",
    ] {
        assert!(!denies(path, 'w'), "{path}");
    }
    let unread = ["/proc/kcore", "/proc/sysrq-trigger", "/sys/firmware/acpi/tables/DSDT"];
    for path in unread.iter().chain(&["/sys/kernel/security/lsm"]) {
        assert!(denies(path, 'r'), "{path}");
    }
    for path in ["/proc/cpuinfo", "/proc/sys/kernel/hostname", "/sys/class/net/eth0/mtu"] {
        assert!(!denies(path, 'r'), "{path}");
    }
    let text = text(DEFAULT, UNCONFINED);
    assert!(text.contains("  deny mount,\n") && text.contains("  deny network alg,\n"));
}

#[test]
fn a_daemon_that_is_confined_may_still_end_its_containers() {
    let rule = "  signal (receive) peer=\"/usr/bin/rnet//child\",\n";
    assert!(text(DEFAULT, "/usr/bin/rnet//child").contains(rule));
    assert!(!text(DEFAULT, "a\" b").contains("a\""));
    assert_eq!(without_mode("/usr/bin/rnet (enforce)"), "/usr/bin/rnet");
}

#[test]
fn apparmors_own_parser_takes_the_profile() {
    let parser = in_path("apparmor_parser");
    let parser = parser.expect("apparmor_parser is needed: tests/setup.sh installs it");
    let mut command = Command::new(parser);
    command.args(["--skip-kernel-load", "--skip-cache", "--skip-read-cache"]);
    let text = text(DEFAULT, "/usr/bin/rnet");
    let called = launch::call(command.stdout(Stdio::null()), text.as_bytes(), LIMIT).unwrap();
    assert!(called.status.success(), "{}", called.errors);
    assert!(!called.errors.contains("error"), "{}", called.errors);
}
