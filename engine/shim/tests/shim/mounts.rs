//! What is mounted below a bind, looked at from both sides: in the container, and on the host.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use runtime::spec::{Mount, MountKind, Propagation, Recursion};
use shim::protocol::Streams;

use super::{Container, exit_of, run, with_each_runtime};

/// The error of a read-only file system.
const READ_ONLY: i32 = libc::EROFS;
/// That of a file that is not there.
const MISSING: i32 = libc::ENOENT;

/// A mount on the host with another one below it, and a file in each. Gone on drop.
struct Source(PathBuf);

impl Source {
    fn new(container: &Container) -> Self {
        let source = Self(container.directory.join("source"));
        make_mount(&source.0);
        fs::write(source.0.join("file"), "").unwrap();
        make_mount(&source.0.join("below"));
        fs::write(source.0.join("below/file"), "").unwrap();
        fs::create_dir(source.0.join("empty")).unwrap();
        source
    }

    /// Says how mounts spread from it.
    fn spread(&self, how: MsFlags) {
        mount(None::<&str>, &self.0, None::<&str>, how, None::<&str>).unwrap();
    }

    fn bind(&self) -> Mount {
        Mount {
            kind: MountKind::Bind,
            source: self.0.display().to_string(),
            target: "/data".to_owned(),
            ..Mount::default()
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn make_mount(path: &Path) {
    fs::create_dir_all(path).unwrap();
    mount(Some("rnet"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

fn is_mount(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
}

/// The exit codes of the probe's commands in a running container, one after the other.
fn codes<const N: usize>(container: &Container, commands: [&[&str]; N]) -> [i32; N] {
    let client = container.client();
    run(async {
        let mut watch = client.watch().await.unwrap();
        let mut codes = [0; N];
        for (code, command) in codes.iter_mut().zip(commands) {
            let args: Vec<&str> = std::iter::once("probe").chain(command.iter().copied()).collect();
            let id = command.join("-").replace('/', "_");
            client.exec(container.exec(&id, &args, Streams::default(), false)).await.unwrap();
            *code = exit_of(&mut watch, Some(&id)).await.code;
        }
        codes
    })
}

fn end(container: &Container) {
    run(async {
        let mut watch = container.client().watch().await.unwrap();
        container.client().kill(libc::SIGKILL, None).await.unwrap();
        exit_of(&mut watch, None).await;
        watch.end().await;
    });
}

#[test]
fn mounts_below_a_read_only_bind_are_read_only_unless_asked_for_otherwise() {
    for (name, recursion, writes) in [
        ("enabled", Recursion::Enabled, READ_ONLY),
        ("readonly", Recursion::Readonly, READ_ONLY),
        ("writable", Recursion::Writable, 0),
        ("disabled", Recursion::Disabled, READ_ONLY),
    ] {
        with_each_runtime(&format!("ro-{name}"), &["sleep"], |mut container| {
            let source = Source::new(&container);
            container.input.mounts = vec![Mount { readonly: true, recursion, ..source.bind() }];
            container.start(&[]).unwrap();
            let reads = if recursion == Recursion::Disabled { MISSING } else { 0 };
            let found = codes(
                &container,
                [
                    &["write", "/data/new"],
                    &["write", "/data/below/new"],
                    &["read", "/data/below/file"],
                ],
            );
            assert_eq!(found, [READ_ONLY, writes, reads], "{name} {}", container.runtime.name());
            assert_eq!(source.0.join("below/new").exists(), writes == 0, "{name}");
            end(&container);
        });
    }
}

#[test]
fn mounts_of_the_container_are_seen_outside_of_a_shared_bind_and_of_no_other() {
    for (propagation, spreads) in
        [("shared", true), ("rshared", true), ("rslave", false), ("rprivate", false), ("", false)]
    {
        with_each_runtime(&format!("out-{propagation}"), &["sleep"], |mut container| {
            let source = Source::new(&container);
            source.spread(MsFlags::MS_SHARED);
            let propagation = Propagation::named(propagation).unwrap();
            container.input.mounts = vec![Mount { propagation, ..source.bind() }];
            container.input.cap_add = vec!["SYS_ADMIN".to_owned()];
            container.start(&[]).unwrap();
            assert_eq!(codes(&container, [&["mount", "/data/empty"]]), [0]);
            assert_eq!(is_mount(&source.0.join("empty")), spreads);
            end(&container);
        });
    }
}

#[test]
fn mounts_of_the_host_are_seen_inside_of_a_shared_or_slave_bind_and_of_no_other() {
    for (propagation, seen) in [
        ("shared", true),
        ("rshared", true),
        ("slave", true),
        ("rslave", true),
        ("private", false),
        ("rprivate", false),
        ("", false),
    ] {
        with_each_runtime(&format!("in-{propagation}"), &["sleep"], |mut container| {
            let source = Source::new(&container);
            source.spread(MsFlags::MS_SHARED);
            let propagation = Propagation::named(propagation).unwrap();
            container.input.mounts = vec![Mount { propagation, ..source.bind() }];
            container.start(&[]).unwrap();
            make_mount(&source.0.join("empty"));
            fs::write(source.0.join("empty/file"), "").unwrap();
            let expected = if seen { 0 } else { MISSING };
            assert_eq!(codes(&container, [&["read", "/data/empty/file"]]), [expected]);
            end(&container);
        });
    }
}
