//! Volumes that have something mounted: the options of Docker's local driver.

use std::fs;

use nix::sys::signal::Signal;

use crate::daemon::{Daemon, Scratch};

const IMAGE: &str = "rnet/toolbox";

/// Whether the daemon's namespace has something mounted at the content of a volume.
pub fn is_mounted(daemon: &Daemon, volume: &str) -> bool {
    let place = daemon.docker_ok(&["volume", "inspect", "-f", "{{.Mountpoint}}", volume]);
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", daemon.id())).unwrap();
    mounts.contains(&format!(" {place} "))
}

pub fn tmpfs(daemon: &Daemon, name: &str) {
    let options = ["--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=1m,uid=7"];
    daemon.docker_ok(&[&["volume", "create"], &options[..], &[name]].concat());
}

fn run(daemon: &Daemon, name: &str, volume: &str) {
    let flags = ["run", "-d", "--name", name, "--network", "none", "-v", volume];
    daemon.docker_ok(&[&flags[..], &[IMAGE, "sleep", "1000"]].concat());
}

#[test]
fn a_volume_s_device_is_mounted_while_containers_run_with_it() {
    let daemon = Daemon::start(&[]);
    tmpfs(&daemon, "vv");
    let options = daemon.docker_ok(&["volume", "inspect", "-f", "{{json .Options}}", "vv"]);
    assert_eq!(options, r#"{"device":"tmpfs","o":"size=1m,uid=7","type":"tmpfs"}"#);
    run(&daemon, "aa", "vv:/data");
    run(&daemon, "bb", "vv:/data");
    daemon.docker_ok(&["exec", "aa", "write", "/data/f", "shared"]);
    assert_eq!(daemon.docker_ok(&["exec", "bb", "cat", "/data/f"]), "shared");
    daemon.docker_ok(&["rm", "-f", "aa"]);
    assert!(is_mounted(&daemon, "vv"));
    daemon.docker_ok(&["kill", "bb"]);
    daemon.docker_ok(&["wait", "bb"]);
    assert!(!is_mounted(&daemon, "vv"), "nobody runs with it");
    daemon.docker_ok(&["rm", "bb"]);
    daemon.docker_ok(&["volume", "rm", "vv"]);
}

#[test]
fn a_volume_may_be_a_directory_of_the_host_and_is_copied_into_though_nothing_runs() {
    let daemon = Daemon::start(&[]);
    let host = daemon.scratch.path("host");
    fs::create_dir(&host).unwrap();
    let device = format!("device={}", host.display());
    let create = ["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "vv"];
    daemon.docker_ok(&create);
    daemon.docker_ok(&["create", "--name", "cc", "-v", "vv:/data", IMAGE, "true"]);
    fs::write(daemon.scratch.path("file"), "copied").unwrap();
    daemon.docker_ok(&["cp", &daemon.scratch.text("file"), "cc:/data/file"]);
    assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "copied");
    assert!(!is_mounted(&daemon, "vv"));
    daemon.docker_ok(&["rm", "cc"]);
    daemon.docker_ok(&["volume", "rm", "vv"]);
    assert!(host.join("file").exists(), "what was mounted is not the volume's to remove");
}

#[test]
fn devices_of_volumes_outlive_the_daemon_and_go_with_their_containers() {
    let mut daemon = Daemon::start(&[]);
    tmpfs(&daemon, "used");
    tmpfs(&daemon, "left");
    run(&daemon, "aa", "used:/data");
    run(&daemon, "bb", "left:/data");
    daemon.docker_ok(&["exec", "aa", "write", "/data/f", "kept"]);
    daemon.restart_after(Signal::SIGKILL, &[]);
    assert_eq!(daemon.docker_ok(&["exec", "aa", "cat", "/data/f"]), "kept");
    daemon.docker_ok(&["rm", "-f", "bb"]);
    assert!(is_mounted(&daemon, "used") && !is_mounted(&daemon, "left"));
    daemon.docker_ok(&["rm", "-f", "aa"]);
    assert!(!is_mounted(&daemon, "used"));
}

#[test]
fn options_that_local_volumes_do_not_have_are_refused_in_docker_s_words() {
    let daemon = Daemon::start(&[]);
    for (options, said) in [
        (vec!["-o", "bogus=x"], "create vv: invalid option: \"bogus\""),
        (vec!["-o", "type=tmpfs"], "create vv: missing required option: \"device\""),
    ] {
        let (code, message) =
            daemon.docker_err(&[&["volume", "create"], &options[..], &["vv"]].concat());
        assert_eq!(code, Some(1));
        assert!(message.contains(said), "{message}");
    }
    let create = ["volume", "create", "-o", "type=nosuch", "-o", "device=x", "vv"];
    daemon.docker_ok(&create);
    let run = ["run", "--rm", "--network", "none", "-v", "vv:/data", IMAGE, "true"];
    let (code, message) = daemon.docker_err(&run);
    assert_eq!(code, Some(125), "{message}");
    assert!(message.contains("failed to mount local volume"), "{message}");
    assert_eq!(daemon.docker_ok(&["ps", "-aq"]), "");
}

#[test]
fn a_device_is_seen_below_a_data_root_that_is_a_link_and_a_reset_unmounts_it() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", scratch.path("data")).unwrap();
    let mut daemon = Daemon::start_in(scratch, env!("CARGO_BIN_EXE_rnet"), &["daemon"], &[]);
    let mounts = |daemon: &Daemon| {
        let place = format!(" {} ", daemon.scratch.text("elsewhere/volumes/vv/_data"));
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", daemon.id())).unwrap();
        mounts.lines().filter(|line| line.contains(&place)).count()
    };
    tmpfs(&daemon, "vv");
    for name in ["aa", "bb"] {
        run(&daemon, name, "vv:/data");
        assert_eq!(mounts(&daemon), 1, "{name}");
    }
    daemon.docker_ok(&["rm", "-f", "aa", "bb"]);
    assert_eq!(mounts(&daemon), 0);
    run(&daemon, "aa", "vv:/data");
    let reply = daemon.call("POST", "/rnet/reset", None);
    assert!(reply.status < 300, "{}", reply.text());
    daemon.wait();
    assert!(!daemon.scratch.path("elsewhere/volumes").exists());
}
