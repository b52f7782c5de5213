//! Containers whose users are others on the host: `--userns-remap`, `--userns=host`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::busybox;
use crate::daemon::{Client, Daemon, Scratch, isolated, standard_flags};

/// Whom root of containers is on the host: user and group differ, so that none is taken for the other.
const ROOT: (u32, u32) = (231_072, 331_072);

/// An `/etc` of the daemon's own, with ranges for somebody.
fn etc(scratch: &Scratch) -> String {
    let etc = scratch.path("etc");
    fs::create_dir(&etc).unwrap();
    for file in ["group", "hosts", "passwd", "resolv.conf"] {
        let _ = fs::copy(Path::new("/etc").join(file), etc.join(file));
    }
    let add = |file: &str, line: &str| {
        let text = fs::read_to_string(etc.join(file)).unwrap_or_default();
        fs::write(etc.join(file), format!("{text}{line}\n")).unwrap();
    };
    add("passwd", "tenant:x:4711:4712::/:/bin/false");
    add("group", "tenant:x:4712:");
    add("subuid", &format!("tenant:{}:65536", ROOT.0));
    add("subgid", &format!("tenant:{}:65536", ROOT.1));
    etc.to_str().unwrap().to_owned()
}

fn daemon_with(flags: &[&str]) -> Daemon {
    let scratch = Scratch::new();
    let etc = etc(&scratch);
    let script = "mount --bind \"$0\" /etc && exec \"$@\"";
    let first = ["-c", script, &etc, env!("CARGO_BIN_EXE_rnet"), "daemon"];
    Daemon::start_in(scratch, "sh", &first, flags)
}

/// A daemon that remaps, with an image `box` that has a shell.
fn daemon() -> Daemon {
    let daemon = daemon_with(&["--userns-remap", "tenant"]);
    busybox::import(&daemon, "box");
    daemon
}

fn data(daemon: &Daemon) -> PathBuf {
    daemon.scratch.path("data").join(format!("{}.{}", ROOT.0, ROOT.1))
}

/// Runs a line of a shell in a container that goes with it.
fn shell(daemon: &Daemon, flags: &[&str], line: &str) -> String {
    daemon.docker_ok(&[&["run", "--rm"], flags, &["box", "sh", "-c", line]].concat())
}

/// A container that does not end.
fn container(daemon: &Daemon, name: &str, flags: &[&str]) -> String {
    let run = ["run", "-d", "--name", name, "--stop-signal", "KILL"];
    daemon.docker_ok(&[&run, flags, &["box", "sleep", "1000"]].concat())
}

fn inspect(daemon: &Daemon, format: &str, name: &str) -> String {
    daemon.docker_ok(&["inspect", "-f", format, name])
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap();
    (found.uid(), found.gid())
}

#[test]
fn root_of_a_container_is_root_inside_and_another_user_of_the_host() {
    let daemon = daemon();
    let info: Value = serde_json::from_str(&daemon.get("/info").text()).unwrap();
    let options = info["SecurityOptions"].as_array().unwrap();
    assert!(options.iter().any(|option| option == "name=userns"), "{options:?}");
    assert_eq!(info["DockerRootDir"].as_str(), data(&daemon).to_str());
    let flags = ["-v", "kept:/kept", "--user", "0"];
    container(&daemon, "web", &flags);
    assert_eq!(
        daemon
            .docker_ok(&["exec", "web", "cat", "/proc/self/uid_map"])
            .split_whitespace()
            .collect::<Vec<_>>(),
        ["0", "231072", "65536"]
    );
    let pid = inspect(&daemon, "{{.State.Pid}}", "web");
    let ran = fs::metadata(format!("/proc/{pid}")).unwrap();
    assert_eq!((ran.uid(), ran.gid()), ROOT, "the host's ps shows it so");
    let top = daemon.docker_ok(&["top", "web", "-eo", "pid,uid,comm"]);
    assert!(top.contains("231072"), "{top}");
    daemon.docker_ok(&[
        "exec",
        "web",
        "sh",
        "-c",
        "echo x >/kept/mine; echo y >/new; chown 33:44 /new",
    ]);
    let volume = data(&daemon).join("volumes/kept/_data");
    assert_eq!((owner(&volume), owner(volume.join("mine"))), (ROOT, ROOT));
    let seen = "stat -c %u:%g /bin /bin/busybox /new /kept /kept/mine /etc/hosts /etc/hostname \
                /etc/resolv.conf /dev/shm /tmp";
    let seen = daemon.docker_ok(&["exec", "web", "sh", "-c", seen]);
    let mut want = vec!["0:0"; 10];
    want[2] = "33:44";
    assert_eq!(seen.lines().collect::<Vec<_>>(), want);
}

#[test]
fn what_a_container_may_do_to_its_own_network_works_in_its_user_namespace() {
    let daemon = daemon();
    let line = "cat /proc/sys/net/ipv4/ip_forward && ip addr add 10.99.9.9/32 dev lo && \
                ping -c 1 -W 5 127.0.0.1 >/dev/null && (nc -l -p 80 & sleep 1000 & \
                until netstat -ltn | grep -q :80; do :; done) && echo bound";
    for network in ["bridge", "none"] {
        let flags =
            ["--network", network, "--sysctl", "net.ipv4.ip_forward=1", "--cap-add", "NET_ADMIN"];
        assert_eq!(shell(&daemon, &flags, line), "1\nbound", "{network}");
    }
    // Not what is not its own, though root has the capabilities.
    let line = "ip link set lo down 2>/dev/null; mount -t tmpfs x /tmp 2>/dev/null; \
                echo 1 >/proc/sys/kernel/panic; echo $?";
    assert!(shell(&daemon, &["--cap-add", "ALL"], line).ends_with('1'));
}

#[test]
fn what_a_container_wrote_leaves_it_with_the_ids_that_it_had_inside() {
    let daemon = daemon();
    container(&daemon, "web", &["-v", "kept:/kept"]);
    let made = "echo x >/new; chown 33:44 /new; echo y >/kept/mine; chown 55:66 /kept/mine";
    daemon.docker_ok(&["exec", "web", "sh", "-c", made]);
    let into = daemon.scratch.text("into");
    fs::write(&into, "content").unwrap();
    let listed = |path: &str| {
        let out = daemon.scratch.text("out.tar");
        let copied = daemon.docker_ok(&["cp", path, "-"]);
        fs::write(&out, copied).unwrap();
        let mut archive = tar::Archive::new(fs::File::open(out).unwrap());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        (entry.header().uid().unwrap(), entry.header().gid().unwrap())
    };
    for number in 0..2 {
        assert_eq!(listed("web:/new"), (33, 44), "{number}");
        assert_eq!(listed("web:/kept/mine"), (55, 66), "{number}");
        daemon.docker_ok(&["cp", &into, &format!("web:/in{number}")]);
        daemon.docker_ok(&["cp", &into, &format!("web:/kept/in{number}")]);
        // Once while it runs, and once while it does not.
        daemon.docker_ok(&["stop", "web"]);
    }
    assert!(daemon.docker_ok(&["diff", "web"]).lines().any(|line| line == "A /new"));
    daemon.docker_ok(&["commit", "web", "made"]);
    let seen = "stat -c %u:%g /new /in0 /in1";
    for users in [&[][..], &["--userns", "host"]] {
        let run = [&["run", "--rm"], users, &["made", "sh", "-c", seen]].concat();
        assert_eq!(daemon.docker_ok(&run), "33:44\n0:0\n0:0", "{users:?}");
    }
    let seen = ["-v", "kept:/kept"];
    assert_eq!(
        shell(&daemon, &seen, "stat -c %u:%g /kept/mine /kept/in0 /kept/in1"),
        "55:66\n0:0\n0:0"
    );
    daemon.docker_ok(&["start", "web"]);
    assert_eq!(daemon.docker_ok(&["exec", "web", "stat", "-c", "%u:%g", "/new"]), "33:44");
}

#[test]
fn a_volume_belongs_to_root_of_containers_and_so_does_what_the_image_puts_there() {
    let daemon = daemon();
    daemon.docker_ok(&["volume", "create", "empty"]);
    assert_eq!(owner(data(&daemon).join("volumes/empty/_data")), ROOT);
    assert_eq!(shell(&daemon, &["-v", "filled:/etc"], "stat -c %u:%g /etc/passwd"), "0:0");
    assert_eq!(owner(data(&daemon).join("volumes/filled/_data/passwd")), ROOT);
    // A bind is as it is; one that is made for the container is its root's.
    let (there, made) = (daemon.scratch.text("there"), daemon.scratch.text("made"));
    fs::create_dir(&there).unwrap();
    let binds = [format!("{there}:/there"), format!("{made}:/made")];
    let flags = ["-v", &binds[0], "-v", &binds[1], "--tmpfs", "/memory"];
    let seen =
        shell(&daemon, &flags, "stat -c %u:%g /there /made /memory; touch /there/x; echo $?");
    assert_eq!(seen, "65534:65534\n0:0\n0:0\n1");
    assert_eq!((owner(&there), owner(&made)), ((0, 0), ROOT));
}

#[test]
fn cve_2021_21284_root_of_a_remapped_container_gets_nowhere_at_the_data_root() {
    let daemon = daemon();
    container(&daemon, "web", &["-v", "kept:/kept"]);
    let (data, run) = (data(&daemon), daemon.scratch.path("run"));
    for place in ["", "containers", "images", "volumes", "build"] {
        let found = fs::metadata(data.join(place)).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o077), (0, 0), "{place}");
    }
    for place in [data.join("images"), data, run.join("shim"), run.join("runtime")] {
        let mut list = Command::new("ls");
        let listed = list.arg(&place).uid(ROOT.0).gid(ROOT.1).output().unwrap();
        let said = String::from_utf8_lossy(&listed.stderr);
        assert!(said.contains("Permission denied"), "{}: {said}", place.display());
    }
}

#[test]
fn a_build_keeps_the_ids_of_inside_and_its_caches_can_be_written() {
    let daemon = daemon();
    let context = daemon.scratch.path("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("file"), "x").unwrap();
    let steps = "FROM box\nRUN echo a >/made && chown 7:8 /made\nCOPY file /file\nWORKDIR /work\n\
                 RUN --mount=type=cache,target=/cache echo x >/cache/y && touch mine\n";
    fs::write(context.join("Dockerfile"), steps).unwrap();
    let mut command = daemon.docker_command(&["build", "-t", "built", context.to_str().unwrap()]);
    let built = command.env("DOCKER_BUILDKIT", "0").output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let seen =
        ["run", "--rm", "built", "stat", "-c", "%u:%g", "/made", "/file", "/work", "/work/mine"];
    assert_eq!(daemon.docker_ok(&seen), "7:8\n0:0\n0:0\n0:0");
}

#[test]
fn a_step_with_users_of_its_own_could_not_read_secrets_and_other_stages() {
    let daemon = daemon();
    let context = daemon.scratch.path("context");
    fs::create_dir(&context).unwrap();
    let steps = "FROM box AS first\nRUN mkdir /d && echo stage >/d/f && chmod 600 /d/f\nFROM box\n\
                 RUN --mount=type=secret,id=s,required cat /run/secrets/s >/seen\n\
                 RUN --mount=type=secret,id=s,uid=7,gid=8 stat -c %u:%g /run/secrets/s >>/seen\n\
                 RUN --mount=from=first,source=/d,target=/m cat /m/f >>/seen\n\
                 RUN --mount=from=first,source=/d,target=/m,rw echo x >/m/f && touch /m/g \
                 && stat -c %u:%g /m/f /m/g >>/seen\n";
    fs::write(context.join("Dockerfile"), steps).unwrap();
    let secret = daemon.scratch.path("secret");
    fs::write(&secret, "secret\n").unwrap();
    let flag = format!("id=s,src={}", secret.display());
    let build = ["build", "-t", "built", "--secret", &flag, context.to_str().unwrap()];
    let ended = daemon.client(Client::Rnet, &build).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let seen = daemon.docker_ok(&["run", "--rm", "built", "cat", "/seen"]);
    assert_eq!(seen, "secret\n7:8\nstage\n0:0\n0:0");
}

#[test]
fn containers_that_share_namespaces_share_the_user_namespace() {
    let daemon = daemon();
    container(&daemon, "web", &["--ipc", "shareable"]);
    let users = ["exec", "web", "readlink", "/proc/self/ns/user"];
    let own = daemon.docker_ok(&users);
    let line = "readlink /proc/self/ns/user";
    for flags in [
        &["--network", "container:web"][..],
        &["--pid", "container:web"],
        &["--ipc", "container:web"],
    ] {
        assert_eq!(shell(&daemon, flags, line), own, "{flags:?}");
    }
    assert_ne!(shell(&daemon, &[], line), own, "all others have their own");
    container(&daemon, "hosts", &["--userns", "host", "--ipc", "shareable"]);
    for flag in ["--network", "--pid", "--ipc"] {
        let run = ["run", "--rm", flag, "container:hosts", "box", "true"];
        let (code, refused) = daemon.docker_err(&run);
        assert!(code == Some(125) && refused.contains("is in another user namespace"), "{refused}");
    }
}

#[test]
fn what_needs_the_host_s_users_is_refused_in_docker_s_words_unless_it_has_them() {
    let daemon = daemon();
    let privileged = "privileged mode is incompatible with user namespaces.  You must run the container \
                      in the host namespace when running privileged mode";
    let network = "cannot share the host's network namespace when user namespaces are enabled";
    let pid = "cannot share the host PID namespace when user namespaces are enabled";
    for (flag, words) in
        [("--privileged", privileged), ("--network=host", network), ("--pid=host", pid)]
    {
        let (code, refused) = daemon.docker_err(&["run", "--rm", flag, "box", "true"]);
        assert!(code == Some(125) && refused.contains(words), "{refused}");
        assert_eq!(
            shell(&daemon, &[flag, "--userns", "host"], "cat /proc/self/uid_map")
                .split_whitespace()
                .last(),
            Some("4294967295")
        );
    }
}

#[test]
fn a_container_s_root_does_not_get_the_host_s_null_device() {
    let daemon = daemon();
    let before = owner("/dev/null");
    shell(&daemon, &[], "true");
    shell(&daemon, &["-t"], "true");
    container(&daemon, "web", &[]);
    daemon.docker_ok(&["exec", "-d", "web", "true"]);
    daemon.docker_ok(&["exec", "web", "true"]);
    assert_eq!(owner("/dev/null"), before);
}

#[test]
fn a_daemon_that_is_killed_finds_its_containers_in_their_user_namespaces_and_leaves_nothing() {
    let mut daemon = daemon();
    container(&daemon, "web", &["-v", "kept:/kept", "--restart", "always"]);
    container(&daemon, "ends", &[]);
    let own = ["exec", "web", "readlink", "/proc/self/ns/user"];
    let before = daemon.docker_ok(&own);
    daemon.restart_after(Signal::SIGKILL, &["--userns-remap", "tenant"]);
    assert_eq!(daemon.docker_ok(&own), before);
    let lodger = ["--network", "container:web"];
    assert_eq!(shell(&daemon, &lodger, "readlink /proc/self/ns/user"), before);
    let pins = || {
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", daemon.id())).unwrap();
        mounts.lines().filter(|line| line.contains(".user ")).count()
    };
    assert_eq!(pins(), 2);
    daemon.docker_ok(&["restart", "-t", "1", "web"]);
    daemon.docker_ok(&["exec", "web", "touch", "/kept/again"]);
    daemon.docker_ok(&["rm", "-f", "web", "ends"]);
    assert_eq!(pins(), 0);
    let left = fs::read_dir(daemon.scratch.path("run/ns")).unwrap().count();
    assert_eq!(left, 0, "nothing is left of the sandboxes");
}

#[test]
fn default_is_a_user_who_is_made_with_ranges_that_nobody_has() {
    let daemon = daemon_with(&["--userns-remap", "default"]);
    let read = |file: &str| fs::read_to_string(daemon.scratch.path("etc").join(file)).unwrap();
    assert!(read("passwd").lines().any(|line| line.starts_with("dockremap:")));
    let (users, groups) = (ROOT.0 + 65536, ROOT.1 + 65536);
    assert!(read("subuid").contains(&format!("dockremap:{users}:65536")), "{}", read("subuid"));
    assert!(read("subgid").contains(&format!("dockremap:{groups}:65536")), "{}", read("subgid"));
    let root = daemon.docker_ok(&["info", "-f", "{{.DockerRootDir}}"]);
    assert!(root.ends_with(&format!("/{users}.{groups}")), "{root}");
}

#[test]
fn copies_of_layers_cannot_be_shown_to_other_users_and_are_refused() {
    let scratch = Scratch::new();
    let etc = etc(&scratch);
    let rnet = env!("CARGO_BIN_EXE_rnet");
    let mut command = isolated("sh");
    command.args(["-c", "mount --bind \"$0\" /etc && exec \"$@\"", &etc, rnet, "daemon"]);
    command.args(standard_flags(&scratch)).args(["--userns-remap", "tenant", "-s", "vfs"]);
    let ended = command.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned()
        + &String::from_utf8_lossy(&ended.stderr);
    assert!(
        !ended.status.success()
            && said.contains("user namespaces need the storage driver overlay2"),
        "{said}"
    );
}
