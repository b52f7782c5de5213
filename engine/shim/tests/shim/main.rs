//! Shims with real containers: the real runtimes, on this kernel.
//!
//! They need root and a runtime: crun, runc or both, whichever is installed.

#![expect(clippy::unwrap_used, reason = "whatever fails here fails the test")]

mod confined;
mod held;
mod hostile;
mod hung;
mod memory;
mod mounts;
mod said;
mod stdio;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::spec::{self, BundleInput, ExecInput};
use runtime::{Host, Runtime};
use shim::client::{self, ShimClient, ShimError, Shims, Watch};
use shim::protocol::{Config, Event, Exec, Exit, Log, Stdin, Streams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const OUTPUT: Streams = Streams { stdin: false, stdout: true, stderr: true };
/// Nothing takes as long unless it fails.
const PATIENCE: Duration = Duration::from_secs(30);
const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true };

/// A container to be, with everything it needs on disk. Gone on drop.
struct Container {
    directory: PathBuf,
    runtime: Arc<dyn Runtime>,
    host: Host,
    input: BundleInput,
    config: Config,
    shims: Shims,
}

impl Container {
    /// One of the default runtime's.
    fn new(name: &str, args: &[&str]) -> Self {
        Self::of("", name, args).expect("these tests need a runtime: install crun or runc")
    }

    /// One of this runtime's, if that is installed.
    fn of(runtime: &str, name: &str, args: &[&str]) -> Option<Self> {
        let runtime = runtime::find(runtime, &BTreeMap::new()).ok()?;
        let id = format!("rnet-test-{}-{name}-{}", runtime.name(), std::process::id());
        let directory = std::env::temp_dir().join(&id);
        let _ = fs::remove_dir_all(&directory);
        let rootfs = directory.join("rootfs");
        for path in ["bin", "proc", "sys", "dev", "etc"] {
            fs::create_dir_all(rootfs.join(path)).unwrap();
        }
        fs::write(rootfs.join("etc/motd"), "not a program").unwrap();
        fs::copy(probe(), rootfs.join("bin/probe")).unwrap();
        let shim = directory.join("shim");
        fs::create_dir(&shim).unwrap();
        let host = Host::probe();
        let input = BundleInput {
            args: std::iter::once(&"probe").chain(args).map(ToString::to_string).collect(),
            rootfs,
            hostname: "box".to_owned(),
            cgroups_path: format!("/{id}"),
            ..BundleInput::default()
        };
        let config = Config {
            id,
            runtime: runtime.command(&directory.join("runtime")),
            directory: shim.clone(),
            bundle: shim,
            view: None,
            tty: false,
            console_size: None,
            stdin: Stdin::Closed,
            log: Log::JsonFile {
                path: directory.join("json.log"),
                max_size: 0,
                max_files: 1,
                compress: false,
                attributes: BTreeMap::new(),
            },
            oom_events: host.cgroups.oom_events(&input.cgroups_path),
            attached: Vec::new(),
            held: false,
        };
        let shims = Shims::new(env!("CARGO_BIN_EXE_rnet-shim"));
        Some(Self { directory, runtime, host, input, config, shims })
    }

    fn start(&mut self, attached: &[OwnedFd]) -> Result<i32, ShimError> {
        self.input.tty = self.config.tty;
        self.input.console_size = self.config.console_size;
        let bundle = spec::build(&self.input, &self.host, &*self.runtime).unwrap();
        bundle.write(&self.config.bundle).unwrap();
        self.shims.spawn(&self.config, attached)
    }

    fn client(&self) -> ShimClient {
        ShimClient::new(&self.config.directory)
    }

    /// The log's text of one stream.
    fn log(&self, stream: &str) -> String {
        let text = fs::read_to_string(self.directory.join("json.log")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter(|line| line["stream"] == stream)
            .map(|line| line["log"].as_str().unwrap().to_owned())
            .collect()
    }

    fn exec(&self, id: &str, args: &[&str], streams: Streams, tty: bool) -> Exec {
        let spec = spec::load(&self.config.bundle).unwrap();
        let input = ExecInput {
            args: args.iter().map(ToString::to_string).collect(),
            tty,
            ..ExecInput::default()
        };
        let process = spec::exec(spec.process().as_ref().unwrap(), &input, &self.host);
        let process = serde_json::to_value(process).unwrap();
        let console_size = tty.then_some((33, 44));
        Exec { id: id.to_owned(), process, tty, console_size, streams, framed: None }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let root = self.directory.join("runtime");
        if root.join(&self.config.id).exists() {
            let _ = self.runtime.delete(&root, &self.config.id);
        }
        // A shim has the runtime forget its container, which makes directories anew.
        let end = Instant::now() + PATIENCE;
        while anybody_in(&self.directory) && Instant::now() < end {
            std::thread::yield_now();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Whether a process works in a directory.
fn anybody_in(directory: &Path) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut places = processes.filter_map(|entry| fs::read_link(entry.path().join("cwd")).ok());
    places.any(|place| place.starts_with(directory))
}

/// The program of the tests, compiled once.
fn probe() -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shim/probe.rs");
    let changed = fs::metadata(source).unwrap().modified().unwrap();
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shim-probe");
    let built = fs::metadata(&program).and_then(|metadata| metadata.modified());
    if built.is_ok_and(|built| built > changed) {
        return program;
    }
    // A directory of its own, for others may be at it too and the compiler puts more beside it.
    let own = program.with_extension(std::process::id().to_string());
    fs::create_dir_all(&own).unwrap();
    let status = Command::new("rustc")
        .args(["--edition", "2021", "-O", "-C", "target-feature=+crt-static", source, "-o"])
        .arg(own.join("probe"))
        .status()
        .unwrap();
    assert!(status.success());
    fs::rename(own.join("probe"), &program).unwrap();
    fs::remove_dir_all(own).unwrap();
    program
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(Duration::from_secs(20), future).await };
    runtime.block_on(limited).expect("nothing happened for 20 seconds")
}

async fn exit_of(watch: &mut Watch, exec: Option<&str>) -> Exit {
    loop {
        match watch.next().await.expect("the shim ended without telling of the exit") {
            Event::Exit(exit) if exit.exec.as_deref() == exec => return exit,
            _ => {}
        }
    }
}

/// Splits Docker's framing into stdout and stderr.
fn unframe(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut rest = bytes;
    while let [stream, 0, 0, 0, a, b, c, d, tail @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        assert!(length <= 16 * 1024);
        if *stream == 1 { &mut out } else { &mut err }.extend_from_slice(&tail[..length]);
        rest = &tail[length..];
    }
    assert!(rest.is_empty());
    (out, err)
}

/// Runs a test's body for each runtime that is installed.
fn with_each_runtime(name: &str, args: &[&str], body: impl Fn(Container)) {
    let runtimes = ["crun", "runc"];
    let found = runtimes.iter().filter_map(|runtime| Container::of(runtime, name, args));
    let tested = found.map(body).count();
    assert!(tested > 0, "these tests need a runtime: install crun or runc");
}

#[test]
fn a_container_runs_logs_and_tells_how_it_ended() {
    with_each_runtime("plain", &["say", "hello"], |mut container| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        container.config.attached = vec![OUTPUT];
        let pid = container.start(&[theirs.into()]).unwrap();
        assert!(pid > 1);
        let mut bytes = Vec::new();
        (&ours).read_to_end(&mut bytes).unwrap();
        assert_eq!(unframe(&bytes), (b"hello\n".to_vec(), b"and to stderr\n".to_vec()));
        assert_eq!(container.log("stdout"), "hello\n");
        assert_eq!(container.log("stderr"), "and to stderr\n");
        run(async {
            // The shim may have ended already; then the file tells.
            if let Ok(mut watch) = container.client().watch().await {
                while watch.next().await.is_some() {}
            }
        });
        let exit = client::exit(&container.config.directory).unwrap();
        assert_eq!((exit.code, exit.signal, exit.oom), (0, None, false));
        assert!(!container.directory.join("runtime").join(&container.config.id).exists());
    });
}

#[test]
fn a_container_that_was_started_runs_its_own_program() {
    for turn in 0..10 {
        with_each_runtime(&format!("own{turn}"), &["sleep"], |mut container| {
            let pid = container.start(&[]).unwrap();
            let file = |path: PathBuf| {
                let meta = fs::metadata(path).unwrap();
                (meta.dev(), meta.ino())
            };
            let runs = file(format!("/proc/{pid}/exe").into());
            assert_eq!(runs, file(container.directory.join("rootfs/bin/probe")));
            run(async { container.client().kill(libc::SIGKILL, None).await.unwrap() });
        });
    }
}

#[test]
fn a_program_that_the_kernel_refuses_has_been_started_and_has_ended() {
    with_each_runtime("refused", &[], |mut container| {
        let script = container.directory.join("rootfs/bin/script");
        fs::write(&script, "#!/no/such/shell\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        container.input.args = vec!["/bin/script".to_owned()];
        container.start(&[]).unwrap();
        run(async {
            if let Ok(watch) = container.client().watch().await {
                watch.end().await;
            }
        });
        assert_ne!(client::exit(&container.config.directory).unwrap().code, 0);
    });
}

#[test]
fn a_signal_ends_a_container_with_its_number() {
    with_each_runtime("kill", &["sleep"], |mut container| {
        container.start(&[]).unwrap();
        let client = container.client();
        run(async {
            let mut watch = client.watch().await.unwrap();
            assert!(client.status().await.unwrap().pid.is_some());
            client.kill(libc::SIGKILL, None).await.unwrap();
            let exit = exit_of(&mut watch, None).await;
            assert_eq!((exit.code, exit.signal), (137, Some(9)));
            assert_eq!(watch.next().await, None);
            assert!(matches!(client.status().await, Err(ShimError::Gone { .. })));
        });
    });
}

#[test]
fn what_cannot_be_started_says_so_as_docker_does() {
    let create = "failed to create task for container: failed to create shim task: OCI runtime \
                  create failed: runc create failed: unable to start container process: ";
    for (program, words, code) in [
        ("nope", "exec: \"nope\": executable file not found in $PATH: unknown", 127),
        (
            "/bin/nope",
            "exec: \"/bin/nope\": stat /bin/nope: no such file or directory: unknown",
            127,
        ),
        ("/etc/motd", "exec: \"/etc/motd\": permission denied: unknown", 126),
        ("/etc", "exec: \"/etc\": ", 126),
    ] {
        with_each_runtime("missing", &[], |mut container| {
            container.input.args = vec![program.to_owned()];
            let Err(ShimError::Start(failure)) = container.start(&[]) else {
                panic!("{program} was started")
            };
            assert!(failure.error.starts_with(create), "{}", failure.error);
            assert!(failure.error.contains(words), "{}", failure.error);
            assert_eq!(failure.code, code, "{}", failure.error);
        });
    }
}

#[test]
fn a_start_that_failed_has_left_nothing_when_that_is_told() {
    with_each_runtime("again", &["sleep"], |mut container| {
        let program = std::mem::replace(&mut container.input.args[0], "nope".to_owned());
        for _ in 0..5 {
            container.input.args[0] = "nope".to_owned();
            container.start(&[]).unwrap_err();
            assert!(!container.config.directory.join("sock").exists());
            assert!(!container.directory.join("runtime").join(&container.config.id).exists());
            // The next one of the same name is not taken for it.
            container.input.args[0].clone_from(&program);
            container.start(&[]).unwrap();
            run(async {
                let client = container.client();
                let watch = client.watch().await.unwrap();
                client.kill(libc::SIGKILL, None).await.unwrap();
                watch.end().await;
            });
        }
    });
}

/// The parent of a process: its number and its status.
fn parent_of(pid: &str) -> (String, String) {
    let status = |pid: &str| fs::read_to_string(format!("/proc/{pid}/status"));
    let child = status(pid).unwrap();
    let parent = child.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    (parent.to_owned(), status(parent).unwrap_or_default())
}

#[test]
fn a_shim_is_nobodys_child_and_small() {
    let mut container = Container::new("alone", &["sleep"]);
    container.shims.prepare().unwrap();
    let pid = container.start(&[]).unwrap();
    let end = Instant::now() + PATIENCE;
    let (parent, shim) = loop {
        // crun detaches by a child of its own, which may outlive it for a moment.
        let (parent, shim) = parent_of(&pid.to_string());
        if shim.starts_with("Name:\trnet-shim") {
            break (parent, shim);
        }
        assert!(Instant::now() < end, "its parent is:\n{shim}");
        std::thread::yield_now();
    };
    assert!(!shim.contains(&format!("PPid:\t{}\n", std::process::id())));
    let memory = fs::read_to_string(format!("/proc/{parent}/smaps_rollup")).unwrap();
    println!("{}", memory.lines().find(|line| line.starts_with("Pss:")).unwrap());
    run(async {
        let mut watch = container.client().watch().await.unwrap();
        container.client().kill(libc::SIGKILL, None).await.unwrap();
        exit_of(&mut watch, None).await;
    });
}

/// The runtime alone, with the same bundle: what a start costs without a shim.
fn bare(container: &Container) -> Duration {
    let mut command = shim::launch::command(&container.config.runtime);
    command.args(["run", "--detach", "--bundle"]).arg(&container.config.bundle);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begun = Instant::now();
    assert!(command.arg(&container.config.id).status().unwrap().success());
    let taken = begun.elapsed();
    container.runtime.delete(&container.config.runtime.root, &container.config.id).unwrap();
    taken
}

#[test]
fn a_shim_costs_little_more_than_the_runtime_alone() {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for number in 0..20 {
        let name = format!("quick{number}");
        let container = Container::new(&name, &["exit", "0"]);
        container.shims.prepare().unwrap();
        let bundle = spec::build(&container.input, &container.host, &*container.runtime).unwrap();
        bundle.write(&container.config.bundle).unwrap();
        without.push(bare(&container));
        let begun = Instant::now();
        container.shims.spawn(&container.config, &[]).unwrap();
        with.push(begun.elapsed());
        run(async {
            if let Ok(mut watch) = container.client().watch().await {
                while watch.next().await.is_some() {}
            }
        });
    }
    with.sort();
    without.sort();
    println!("with a shim: {:?} at best, {:?} in the middle", with[0], with[10]);
    println!("without: {:?} at best, {:?} in the middle", without[0], without[10]);
    assert!(with[0] < without[10] * 3, "a shim triples the time of a start");
}
