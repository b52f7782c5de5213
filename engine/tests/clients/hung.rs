//! What never answers is waited for by nobody but who needs it; what is not there is named.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::json;

use crate::daemon::{Daemon, Scratch};
use crate::devices::{is_mounted, tmpfs};

const IMAGE: &str = "rnet/toolbox";
/// Containers that hang at a time.
const HUNG: usize = 4;

/// A whole life of another container, and how long it takes.
pub fn life(daemon: &Daemon, network: &str) -> Duration {
    let begun = Instant::now();
    daemon.docker_ok(&[
        "run",
        "-d",
        "--name",
        "other",
        "--network",
        network,
        IMAGE,
        "sleep",
        "1000",
    ]);
    daemon.docker_ok(&["exec", "other", "cat", "/proc/self/status"]);
    daemon.docker_ok(&["pause", "other"]);
    daemon.docker_ok(&["unpause", "other"]);
    daemon.docker_ok(&["stop", "-t", "0", "other"]);
    daemon.docker_ok(&["rm", "other"]);
    begun.elapsed()
}

/// Whether something becomes true within half a minute.
pub fn until(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        if Instant::now() > end {
            return false;
        }
        thread::yield_now();
    }
    true
}

#[test]
fn a_runtime_that_never_answers_keeps_nobody_else_waiting() {
    let place = Scratch::new();
    let script = place.path("hung");
    let (called, over) = (place.path("called"), place.path("over"));
    fs::create_dir_all(&called).unwrap();
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *\" create \"*) : >{}/$$; while [ ! -e {} ]; do sleep 0.1; done; exit 1;; \
         esac\n",
        called.display(),
        over.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = Daemon::start(&["--add-runtime", &format!("hung={}", script.display())]);
    let usual = life(&daemon, "bridge");
    thread::scope(|scope| {
        let run = || daemon.docker(&["run", "--rm", "--runtime", "hung", IMAGE, "true"]);
        let hung: Vec<_> = (0..HUNG).map(|_| scope.spawn(run)).collect();
        let all_called = until(|| fs::read_dir(&called).unwrap().count() == HUNG);
        assert!(all_called, "the runtime is not called");
        // Who heals does not wait for it either, and nobody for who heals.
        let bridge = |ip: &[&str]| daemon.beside("ip", ip);
        assert!(bridge(&["link", "set", "rnet0", "down"]).status.success());
        let healed = until(|| {
            let seen = bridge(&["link", "show", "up", "dev", "rnet0"]);
            !seen.stdout.is_empty()
        });
        let lives = ["bridge", "none", "bridge"]
            .map(|network| if healed { life(&daemon, network) } else { Duration::MAX });
        fs::write(&over, "").unwrap();
        assert!(healed, "the bridge is not switched on again");
        for run in hung {
            let output = run.join().unwrap();
            assert_eq!(output.status.code(), Some(125), "{output:?}");
        }
        for took in lives {
            assert!(
                took < usual * 5 + Duration::from_secs(1),
                "{took:?}, and {usual:?} in general"
            );
        }
    });
}

/// A file system in somebody's mount namespace whose program never reads what it is asked. It answers,
/// with an error, when this is dropped.
struct Silent {
    program: Option<File>,
    process: String,
    place: PathBuf,
}

impl Silent {
    /// Mounts it where a process sees it, and nobody else does.
    #[expect(clippy::disallowed_methods, reason = "the thread ends with this")]
    fn new(process: &str, place: &Path) -> Self {
        let program = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let namespace = File::open(format!("/proc/{process}/ns/mnt")).unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", program.as_raw_fd());
        let make = || {
            unshare(CloneFlags::CLONE_FS).unwrap();
            setns(&namespace, CloneFlags::CLONE_NEWNS).unwrap();
            let (silent, none) = (Some("silent"), MsFlags::empty());
            mount(silent, place, Some("fuse"), none, Some(&*options)).unwrap();
        };
        thread::scope(|scope| scope.spawn(make).join().unwrap());
        Self { program: Some(program), process: process.to_owned(), place: place.to_owned() }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // Or the one who unmounts it would wait for it.
        drop(self.program.take());
        let flags = ["-t", &self.process, "-m", "umount", "-l"];
        let _ = Command::new("nsenter").args(flags).arg(&self.place).status();
    }
}

/// That lives go on as usual.
pub fn check_lives(daemon: &Daemon, usual: Duration) {
    for network in ["bridge", "none", "bridge"] {
        let took = life(daemon, network);
        assert!(took < usual * 5 + Duration::from_secs(1), "{took:?}, and {usual:?} in general");
    }
}

#[test]
fn a_file_system_that_never_answers_holds_up_nobody_else() {
    let daemon = Daemon::start(&[]);
    let usual = life(&daemon, "bridge");
    let (bound, later) = (daemon.scratch.path("bound"), daemon.scratch.path("later"));
    fs::create_dir_all(&bound).unwrap();
    fs::create_dir_all(&later).unwrap();
    let bind = |path: &Path| format!("{}:/x", path.display());
    daemon.docker_ok(&["create", "--name", "before", "-v", &bind(&later), IMAGE, "true"]);
    daemon.docker_ok(&["create", "--name", "holder", "-v", "data:/x", IMAGE, "true"]);
    let data = daemon.docker_ok(&["volume", "inspect", "-f", "{{.Mountpoint}}", "data"]);
    let silent = [&*bound, &*later, Path::new(&data)].map(|place| Silent::new(&daemon.id(), place));
    let below = format!("type=bind,source={},target=/x", bound.join("below").display());
    let (bound, volume) = (bind(&bound), "data:/x".to_owned());
    thread::scope(|scope| {
        let run = |flag: &'static str, mount: &str| {
            let mount = mount.to_owned();
            let daemon = &daemon;
            scope.spawn(move || daemon.docker(&["run", "--rm", flag, &mount, IMAGE, "true"]))
        };
        let runs: Vec<_> = (0..HUNG)
            .flat_map(|_| [run("-v", &bound), run("--mount", &below), run("-v", &volume)])
            .collect();
        let starts = ["before", "holder"].map(|name| {
            scope.spawn({
                let daemon = &daemon;
                move || daemon.docker(&["start", name])
            })
        });
        check_lives(&daemon, usual);
        for end in runs.into_iter().chain(starts) {
            let output = end.join().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{output:?}");
            assert!(error.contains("does not answer: unmount it"), "{error}");
        }
    });
    let usage = daemon.get("/system/df").json();
    assert_eq!(usage["Volumes"][0]["UsageData"]["Size"], -1, "{usage}");
    assert_eq!(daemon.get("/volumes/data").json()["Name"], "data");
    assert_eq!(daemon.get("/containers/holder/json?size=1").json()["Name"], "/holder");
    assert!(daemon.docker_ok(&["ps", "-as"]).contains("before"));
    daemon.docker_ok(&["rm", "before", "holder"]);
    let (_, error) = daemon.docker_err(&["volume", "rm", "data"]);
    assert!(error.contains("something is mounted at"), "{error}");
    drop(silent);
    daemon.docker_ok(&["volume", "rm", "data"]);
}

#[test]
fn a_volume_that_did_not_answer_is_unmounted_when_it_does_and_another_at_once() {
    let daemon = Daemon::start(&[]);
    for name in ["aa", "bb"] {
        tmpfs(&daemon, name);
    }
    let volumes = ["-v", "aa:/aa", "-v", "bb:/bb"];
    let run = ["run", "-d", "--name", "c1", "--network", "none"];
    daemon.docker_ok(&[&run[..], &volumes, &[IMAGE, "sleep", "1000"]].concat());
    let place = daemon.docker_ok(&["volume", "inspect", "-f", "{{.Mountpoint}}", "aa"]);
    let silent = Silent::new(&daemon.id(), Path::new(&place));
    // This asks how large it is, and gets no answer.
    assert_eq!(daemon.get("/system/df").json()["Volumes"][0]["UsageData"]["Size"], -1);
    daemon.docker_ok(&["rm", "-f", "c1"]);
    assert!(!is_mounted(&daemon, "bb"), "it waits for the other");
    assert!(is_mounted(&daemon, "aa"));
    drop(silent);
    assert!(until(|| !is_mounted(&daemon, "aa")), "it stays mounted");
    daemon.docker_ok(&["volume", "rm", "aa", "bb"]);
}

#[test]
fn execs_that_look_for_their_user_where_nothing_answers_hold_up_nobody_else() {
    let daemon = Daemon::start(&[]);
    let usual = life(&daemon, "bridge");
    daemon.docker_ok(&["run", "-d", "--name", "hung", IMAGE, "sleep", "1000"]);
    let process = daemon.docker_ok(&["inspect", "-f", "{{.State.Pid}}", "hung"]);
    let silent = Silent::new(&process, Path::new("/etc"));
    thread::scope(|scope| {
        let exec = || daemon.docker(&["exec", "-u", "app", "hung", "true"]);
        let execs: Vec<_> = (0..HUNG).map(|_| scope.spawn(exec)).collect();
        check_lives(&daemon, usual);
        for exec in execs {
            let output = exec.join().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(text.contains("cannot look up user app in container hung"), "{text}");
        }
    });
    drop(silent);
}

#[test]
fn a_bind_of_what_is_not_there_is_refused_when_the_container_is_created() {
    let daemon = Daemon::start(&[]);
    let mount = json!({"Type": "bind", "Source": "/nonexistent", "Target": "/x"});
    let body = json!({"Image": IMAGE, "HostConfig": {"Mounts": [mount]}});
    let reply = daemon.post("/containers/create", &body);
    assert_eq!(
        (reply.status, reply.message().as_str()),
        (
            400,
            "invalid mount config for type \"bind\": bind source path does not exist: /nonexistent"
        )
    );
}
