//! Programs that run by a [`RunSpec`] alone: no container, no image and no network is there.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use engine::runner::{RunRoot, RunSpec, Runner, StreamClient};
use engine::settings::Settings;
use image::builtin::TOOLBOX;
use nix::mount::{MntFlags, umount2};
use runtime::spec::{BundleInput, Namespace, Namespaces};
use runtime::{Host, cgroup};
use shim::protocol::Streams;

use crate::scene::{on_a_host_of_its_own, settings};

const OUTPUT: Streams = Streams { stdin: false, stdout: true, stderr: true };

/// A directory with the toolbox and a user.
fn root(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    for path in ["bin", "proc", "sys", "dev", "etc", "work"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    let program = root.join("bin/toolbox");
    fs::write(&program, TOOLBOX).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("etc/passwd"), "app:x:1234:1235::/home/app:/bin/sh\n").unwrap();
    root
}

/// A runner with a cgroup of its own, so that it can be seen that nothing is left in it.
fn runner(dir: &Path, parent: &str) -> (Arc<Settings>, Arc<Runner>) {
    let settings = Settings { cgroup_parent: parent.to_owned(), ..settings(dir) };
    let (settings, host) = (Arc::new(settings), Arc::new(Host::probe()));
    let tasks = tokio::runtime::Handle::current();
    (settings.clone(), Arc::new(Runner::new(settings, host, tasks).unwrap()))
}

fn run_spec(id: &str, root: &Path, tool: &[&str]) -> RunSpec {
    let program = ["/bin/toolbox"].iter().chain(tool).map(ToString::to_string).collect();
    RunSpec::new(id, RunRoot::Directory(root.to_owned()), program)
}

/// Runs a program to its end: its exit code, and what it has written.
async fn outcome(runner: &Arc<Runner>, spec: RunSpec) -> (i32, String) {
    let runner = runner.clone();
    let run = move || {
        let (mut ours, stream) = UnixStream::pair().unwrap();
        let client = StreamClient { stream, streams: OUTPUT };
        let running = runner.run(spec, vec![client]).unwrap();
        let exit = runner.finish(&running).unwrap();
        let mut written = Vec::new();
        ours.read_to_end(&mut written).unwrap();
        (exit.code, without_frames(&written))
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn without_frames(mut framed: &[u8]) -> String {
    let mut text = Vec::new();
    while let [_, _, _, _, a, b, c, d, rest @ ..] = framed {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        text.extend_from_slice(&rest[..length]);
        framed = &rest[length..];
    }
    String::from_utf8(text).unwrap()
}

/// A network namespace with an interface called `left`, at a file. Gone on drop.
struct Network(PathBuf);

impl Drop for Network {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

fn network(dir: &Path) -> Network {
    let file = dir.join("net");
    fs::write(&file, "").unwrap();
    let flag = format!("--net={}", file.display());
    let made = Command::new("unshare").args([&flag, "true"]).status().unwrap();
    assert!(made.success());
    let link = "ip link add left type veth peer name right";
    let made = Command::new("nsenter").arg(flag).args(link.split(' ')).status().unwrap();
    assert!(made.success());
    Network(file)
}

#[test]
fn a_program_runs_by_its_specification_alone() {
    on_a_host_of_its_own("run::a_program_runs_by_its_specification_alone", async |dir| {
        let parent = "rnet-test-of-runs";
        let (settings, runner) = runner(&dir, parent);
        let root = root(&dir);

        let mut spec = run_spec("who", &root, &["id"]);
        spec.user = "app".to_owned();
        assert_eq!(outcome(&runner, spec).await, (0, "uid=1234 gid=1235 groups=1235\n".to_owned()));
        let mut spec = run_spec("where", &root, &["pwd"]);
        spec.bundle.cwd = "/work".to_owned();
        assert_eq!(outcome(&runner, spec).await, (0, "/work\n".to_owned()));
        let mut spec = run_spec("with", &root, &["env"]);
        spec.bundle.env = vec!["STEP=1".to_owned()];
        assert!(outcome(&runner, spec).await.1.contains("STEP=1\n"));
        let failed = run_spec("fails", &root, &["exit", "7"]);
        assert_eq!(outcome(&runner, failed).await, (7, String::new()));

        let (_, alone) =
            outcome(&runner, run_spec("alone", &root, &["cat", "/proc/net/dev"])).await;
        assert!(alone.contains("lo:") && !alone.contains("left:"), "{alone}");
        let mut spec = run_spec("connected", &root, &["cat", "/proc/net/dev"]);
        let network = network(&dir);
        let namespace = Namespace::Path(network.0.clone());
        spec.bundle.namespaces = Namespaces { network: namespace, ..Namespaces::default() };
        let (_, connected) = outcome(&runner, spec).await;
        assert!(connected.contains("left:"), "{connected}");
        drop(network);

        let missing = RunRoot::Directory(root.clone());
        let missing = RunSpec::new("missing", missing, vec!["/bin/none".to_owned()]);
        let its = runner.clone();
        let failure =
            tokio::task::spawn_blocking(move || its.run(missing, Vec::new()).unwrap_err());
        let failure = failure.await.unwrap();
        assert_eq!(failure.code, 127, "{}", failure.error.chain());

        for left in [settings.exec_root.join("shim"), settings.runtime_root()] {
            assert_eq!(fs::read_dir(&left).unwrap().count(), 0, "{}", left.display());
        }
        cgroup::remove_empty(parent);
        let below = Path::new("/sys/fs/cgroup/memory").join(parent);
        assert!(!below.exists(), "a run has left a cgroup");
    });
}

#[test]
fn a_run_has_what_its_specification_says_of_mounts_and_limits() {
    let name = "run::a_run_has_what_its_specification_says_of_mounts_and_limits";
    on_a_host_of_its_own(name, async |dir| {
        let parent = "rnet-test-of-limits";
        let (_, runner) = runner(&dir, parent);
        let root = root(&dir);
        let shared = dir.join("shared");
        fs::create_dir_all(&shared).unwrap();
        fs::write(shared.join("file"), "seen").unwrap();
        let mut spec = run_spec("bound", &root, &["cat", "/shared/file"]);
        spec.bundle = BundleInput {
            mounts: vec![runtime::spec::Mount {
                source: shared.display().to_string(),
                target: "/shared".to_owned(),
                readonly: true,
                ..runtime::spec::Mount::default()
            }],
            readonly_rootfs: true,
            ..spec.bundle
        };
        assert_eq!(outcome(&runner, spec).await, (0, "seen".to_owned()));
        let mut spec = run_spec("limited", &root, &["cat", "/proc/self/limits"]);
        spec.bundle.ulimits = vec![("nofile".to_owned(), 77, 77)];
        let (_, limits) = outcome(&runner, spec).await;
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(files.split_whitespace().nth(3), Some("77"), "{files}");
        cgroup::remove_empty(parent);
    });
}
