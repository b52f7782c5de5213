//! What a container and an exec find that they may do, with each runtime: Docker's defaults, looked at
//! from inside.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use tokio::io::AsyncReadExt as _;

use super::{Container, OUTPUT, exit_of, run, unframe, with_each_runtime};

/// What `probe confinement` says as the first program of a container.
fn of_container(container: &mut Container) -> String {
    let (ours, theirs) = UnixStream::pair().unwrap();
    container.config.attached = vec![OUTPUT];
    container.start(&[theirs.into()]).unwrap();
    (&ours).read_to_end(&mut Vec::new()).unwrap();
    container.log("stdout")
}

/// What it says in a container that runs, which ends then.
fn of_exec(container: &Container) -> String {
    let client = container.client();
    run(async {
        let mut watch = client.watch().await.unwrap();
        let exec = container.exec("c", &["probe", "confinement"], OUTPUT, false);
        let mut stream = client.exec(exec).await.unwrap().stream.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        client.kill(libc::SIGKILL, None).await.unwrap();
        exit_of(&mut watch, None).await;
        while watch.next().await.is_some() {}
        String::from_utf8(unframe(&bytes).0).unwrap()
    })
}

/// Whether the facts are so, in a container and in an exec.
fn check(name: &str, facts: impl Fn(&Container) -> Vec<(&'static str, String)>) {
    with_each_runtime(name, &["sleep"], |mut container| {
        container.start(&[]).unwrap();
        let exec = of_exec(&container);
        "confinement".clone_into(&mut container.input.args[1]);
        fs::remove_file(container.directory.join("json.log")).unwrap();
        let first = of_container(&mut container);
        for text in [exec, first] {
            let lines = text.lines().filter_map(|line| line.trim_end().split_once('='));
            let found: BTreeMap<&str, &str> = lines.collect();
            for (name, value) in facts(&container) {
                assert_eq!(found.get(name), Some(&&*value), "{name} in:\n{text}");
            }
        }
    });
}

fn texts(facts: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    facts.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

#[test]
fn cve_2022_24769_capabilities_are_fourteen_and_none_is_inherited() {
    check("capabilities", |container| {
        let granted = format!("{:016x}", 0xa804_25fb & container.host.capabilities.bits());
        let mut facts = texts(&[
            ("CapInh", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "0"),
        ]);
        facts.extend(["CapEff", "CapPrm", "CapBnd"].map(|name| (name, granted.clone())));
        facts
    });
}

#[test]
fn cve_2024_21626_nothing_of_the_runtime_s_is_open_and_the_place_is_in_the_root() {
    check("open", |_| {
        texts(&[("files", "[0, 1, 2]"), ("cwd", "/"), ("home", "/"), ("hostname", "box")])
    });
}

#[test]
fn cve_2026_31431_calls_that_lead_into_the_kernel_are_refused() {
    check("calls", |_| {
        texts(&[
            ("Seccomp", "2"),
            ("af_alg", "1"),
            ("af_vsock", "1"),
            ("af_inet", "0"),
            ("clone3", "38"),
            ("unshare", "1"),
        ])
    });
}

#[test]
fn ghsa_jq35_85cj_fj4p_ghsa_6fw5_f8r9_fgfm_cve_2023_25809_the_host_is_neither_shown_nor_changed() {
    check("shown", |_| {
        texts(&[("shown", "[]"), ("opened", "[]"), ("sysctl", "false"), ("sysfs", "false")])
    });
}

#[test]
fn devices_are_the_usual_ones_and_others_are_refused_whoever_makes_them() {
    // A runtime links it to /proc/kcore, which is masked, where the kernel has that (runc's `setupDevSymlinks`).
    let core = if Path::new("/proc/kcore").exists() { "core " } else { "" };
    check("devices", |_| {
        texts(&[
            ("devices", &format!("{core}full null ptmx random tty urandom zero")),
            // What one makes oneself: /dev/fuse and /dev/mem, and /dev/null beside them.
            ("made", "10:229=1 1:1=1 1:3=0"),
        ])
    });
}

#[test]
fn mounts_have_docker_s_sizes_and_options() {
    check("mounts", |_| {
        texts(&[
            ("at /dev", "tmpfs nosuid mode=755 size=65536k"),
            ("at /dev/shm", "tmpfs noexec nodev nosuid size=65536k"),
            ("at /dev/pts", "devpts noexec nosuid gid=5 mode=620 ptmxmode=666"),
            ("at /dev/mqueue", "mqueue noexec nodev nosuid"),
            ("at /proc", "proc noexec nodev nosuid"),
            ("at /sys", "sysfs noexec nodev nosuid ro"),
        ])
    });
}

#[test]
fn namespaces_are_a_container_s_own() {
    with_each_runtime("namespaces", &["sleep"], |mut container| {
        let pid = container.start(&[]).unwrap();
        for kind in ["mnt", "net", "ipc", "uts", "pid"] {
            let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{kind}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("self"), "{kind}");
        }
        run(async { container.client().kill(libc::SIGKILL, None).await.unwrap() });
    });
}
