//! Images and users that mean harm, and clients that do not care: what was found in other engines, tried
//! on this one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use crate::daemon::{Client, Daemon, PATIENCE, Scratch};

const IMAGE: &str = "rnet/toolbox";
const RUNTIMES: [&str; 2] = ["crun", "runc"];
/// The tools that a made-up image has.
const TOOLS: [&str; 6] = ["cat", "id", "ls", "pwd", "true", "sleep"];

/// An image to be: the toolbox, and whatever else is put in.
struct Made(tar::Builder<Vec<u8>>);

impl Made {
    fn new(daemon: &Daemon) -> Self {
        let mut made = Self(tar::Builder::new(Vec::new()));
        let program = fs::read(daemon.scratch.path("data/init")).unwrap();
        made.file("bin/toolbox", &program);
        for tool in TOOLS {
            made.link(&format!("bin/{tool}"), "toolbox");
        }
        made
    }

    fn file(&mut self, name: &str, bytes: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(bytes.len() as u64);
        self.0.append_data(&mut header, name, bytes).unwrap();
    }

    fn link(&mut self, name: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        self.0.append_link(&mut header, name, target).unwrap();
    }

    fn import(self, daemon: &Daemon, name: &str) {
        let path = daemon.scratch.text("made.tar");
        fs::write(&path, self.0.into_inner().unwrap()).unwrap();
        daemon.docker_ok(&["import", "-c", "ENV PATH=/bin", "-c", "WORKDIR /work", &path, name]);
        fs::remove_file(path).unwrap();
    }
}

/// A directory on the host that no container may touch.
struct Canary {
    path: PathBuf,
    before: BTreeMap<PathBuf, String>,
}

impl Canary {
    fn new(scratch: &Scratch) -> Self {
        let path = scratch.path("canary");
        fs::create_dir_all(path.join("sub")).unwrap();
        for file in ["hosts", "sub/file"] {
            fs::write(path.join(file), "untouched").unwrap();
        }
        fs::write(path.join("passwd"), "spy:x:77:77::/:\n").unwrap();
        let before = contents(&path);
        Self { path, before }
    }

    fn absolute(&self, name: &str) -> String {
        self.path.join(name).to_str().unwrap().to_owned()
    }

    fn by_climbing(&self, name: &str) -> String {
        format!("{}{}", "../".repeat(16), self.absolute(name).trim_start_matches('/'))
    }

    /// It is as it was, and nothing is mounted on it where the daemon is.
    fn assert_untouched(&self, daemon: &Daemon) {
        assert_eq!(contents(&self.path), self.before);
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", daemon.id())).unwrap();
        let place = |line: &str| line.split(' ').nth(4).map(PathBuf::from);
        let on_it = |line: &&str| place(line).is_some_and(|place| place.starts_with(&self.path));
        assert_eq!(mounts.lines().find(on_it), None);
    }
}

/// All that is below a directory, with what would show that it was changed.
fn contents(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let (path, meta) = (entry.path(), entry.metadata().unwrap());
        let (mode, time) = (meta.mode(), (meta.mtime(), meta.mtime_nsec()));
        let fact = format!("{mode:o} {} {time:?} {:?}", meta.nlink(), fs::read(&path).ok());
        if meta.is_dir() {
            all.extend(contents(&path));
        }
        all.insert(path, fact);
    }
    all
}

/// Links at every place where the engine or a runtime mounts, makes or reads something.
fn with_traps(daemon: &Daemon, canary: &Canary) -> Made {
    let mut made = Made::new(daemon);
    // What is there on the host is there in the image too.
    let directories = ["data/x/a", "run/lock/a", "sbin/a", "scratch/a", "sub/deep/a", "work/a"];
    for file in directories.iter().chain(&["hosts", "new", "resolv.conf"]) {
        made.file(canary.absolute(file).trim_start_matches('/'), b"");
    }
    made.file("file", b"");
    for (link, target) in [
        ("etc/hosts", canary.absolute("hosts")),
        ("etc/resolv.conf", canary.by_climbing("resolv.conf")),
        ("etc/hostname", canary.absolute("new")),
        ("etc/passwd", canary.absolute("passwd")),
        ("etc/group", canary.by_climbing("passwd")),
        ("etc/mtab", canary.absolute("mtab")),
        ("data", canary.absolute("data")),
        ("volume", canary.by_climbing("sub")),
        ("scratch", canary.absolute("scratch")),
        ("run", canary.by_climbing("run")),
        ("sbin", canary.absolute("sbin")),
        ("work", canary.absolute("work")),
        ("up", "..".to_owned()),
        (".dockerenv", canary.absolute("env")),
        ("dev/null", canary.absolute("null")),
        ("dev/console", canary.absolute("console")),
        ("dev/ptmx", canary.absolute("ptmx")),
        ("dev/shm", canary.absolute("")),
        ("dev/pts", canary.by_climbing("")),
        ("proc/self", canary.absolute("")),
        ("sys/fs", canary.absolute("")),
    ] {
        made.link(link, &target);
    }
    made
}

#[test]
fn cve_2025_24965_cve_2025_31133_no_link_of_an_image_leads_what_the_engine_makes_out_of_the_root() {
    for driver in ["overlay2", "vfs"] {
        let daemon = Daemon::start(&["--storage-driver", driver]);
        let canary = Canary::new(&daemon.scratch);
        with_traps(&daemon, &canary).import(&daemon, "trap");
        let bound = daemon.scratch.text("bound");
        fs::create_dir(&bound).unwrap();
        fs::write(format!("{bound}/file"), "bound").unwrap();
        let binds = [format!("{bound}:/data/x"), format!("{bound}/file:/up/up/file:ro")];
        for runtime in RUNTIMES {
            for terminal in ["-t", "-i"] {
                let fixed = ["run", "--rm", terminal, "--init", "--runtime", runtime];
                let mounts = ["-v", &binds[0], "-v", &binds[1], "-v", "named:/volume/deep"];
                let others = ["--tmpfs", "/scratch", "--tmpfs", "/run/lock", "-v", "/volume"];
                let words =
                    [&fixed[..], &mounts, &others, &["trap", "cat", "/up/up/file"]].concat();
                assert_eq!(daemon.docker_ok(&words), "bound", "{driver} {runtime}");
                canary.assert_untouched(&daemon);
            }
            let words = ["run", "--rm", "--runtime", runtime, "-u", "spy", "trap", "id"];
            let (code, error) = daemon.docker_err(&words);
            assert_eq!(code, Some(125), "{error}");
            assert!(error.contains("unable to find user spy"), "{error}");
        }
        canary.assert_untouched(&daemon);
        assert!(!Path::new("/file").exists());
    }
}

#[test]
fn cve_2019_19921_cve_2026_41579_an_image_whose_own_places_are_links_is_refused_by_name() {
    for driver in ["overlay2", "vfs"] {
        let daemon = Daemon::start(&["--storage-driver", driver]);
        let canary = Canary::new(&daemon.scratch);
        for place in ["proc", "sys", "dev"] {
            for target in [canary.absolute(""), canary.by_climbing("sub"), "/tmp".to_owned()] {
                let mut made = Made::new(&daemon);
                made.link(place, &target);
                made.import(&daemon, "trap");
                for runtime in RUNTIMES {
                    let words = ["run", "--rm", "--network", "none", "--runtime", runtime];
                    let words = [&words[..], &["trap", "true"]].concat();
                    let (_, error) = daemon.docker_err(&words);
                    assert!(error.contains(&format!("its /{place} is not a directory")), "{error}");
                }
            }
        }
        canary.assert_untouched(&daemon);
    }
}

#[test]
fn cve_2025_52881_what_an_image_leads_to_proc_is_not_mounted() {
    let daemon = Daemon::start(&[]);
    let mut made = Made::new(&daemon);
    made.link("data", "/proc");
    made.link("attr", "/proc/self/attr");
    made.import(&daemon, "trap");
    for target in ["/data", "/data/self/attr", "/attr"] {
        let mount = format!("named:{target}");
        let words = ["run", "--rm", "--network", "none", "-v", &mount, "trap", "true"];
        let (_, error) = daemon.docker_err(&words);
        assert!(error.contains("in this image it leads to /proc"), "{error}");
    }
    let words = ["run", "--rm", "--network", "none", "-v", "named:/proc", IMAGE, "true"];
    let (_, error) = daemon.docker_err(&words);
    assert!(error.contains("because it is inside /proc"), "{error}");
}

#[test]
fn cve_2024_21626_a_working_directory_is_not_what_a_process_has_open() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "box", "--network", "none", IMAGE, "sleep", "1000"]);
    for descriptor in 3..12 {
        let place = format!("/proc/self/fd/{descriptor}");
        let run = ["run", "--rm", "--network", "none", "-w", &place, IMAGE, "pwd"];
        for words in [&run[..], &["exec", "-w", &place, "box", "pwd"]] {
            let output = daemon.docker(words);
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(!output.status.success() && said.contains("has open"), "{words:?}: {said}");
        }
    }
}

/// CVE-2026-30892, CVE-2024-40635, CVE-2026-46680.
#[test]
fn cve_2026_30892_cve_2024_40635_cve_2026_46680_nobody_becomes_root_by_how_a_user_is_written() {
    let daemon = Daemon::start(&[]);
    let mut made = Made::new(&daemon);
    made.file("etc/passwd", b"root:x:0:0::/:\nweb:x:33:34::/:\n1000:x:0:0::/:\n0x1:x:0:0::/:\n");
    made.file("etc/group", b"root:x:0:\nwww:x:34:\n1000:x:0:\n");
    made.import(&daemon, "users");
    let fixed = ["run", "-d", "--name", "box", "--network", "none", "users", "sleep", "1000"];
    daemon.docker_ok(&fixed);
    let both = |user: &str| {
        let run = daemon.docker(&["run", "--rm", "--network", "none", "-u", user, "users", "id"]);
        let exec = daemon.docker(&["exec", "-u", user, "box", "id"]);
        [run, exec].map(|output| {
            (
                output.status.success(),
                String::from_utf8([output.stdout, output.stderr].concat()).unwrap(),
            )
        })
    };
    for (user, ids) in [
        ("1", "uid=1 gid=0"),
        ("1:", "uid=1 gid=0"),
        (":1", "uid=0 gid=1"),
        ("web", "uid=33 gid=34"),
        ("web:1000", "uid=33 gid=1000"),
        ("1000", "uid=1000 gid=0"),
        ("1000:1000", "uid=1000 gid=1000"),
        ("2147483647", "uid=2147483647 gid=0"),
    ] {
        for (done, said) in both(user) {
            assert!(done && said.starts_with(ids), "{user}: {said}");
        }
    }
    for user in
        ["4294967296", "4294967295", "2147483648", "-1", "0:-1", "nobody", "1:nogroup", "0x2"]
    {
        for (done, said) in both(user) {
            assert!(!done && !said.contains("uid="), "{user}: {said}");
        }
    }
}

/// CVE-2019-5736: with `--init` process 1 is a program of the host's.
#[test]
fn cve_2019_5736_programs_of_the_host_cannot_be_written_from_a_container() {
    let daemon = Daemon::start(&[]);
    let program = daemon.scratch.path("data/init");
    let before = fs::read(&program).unwrap();
    let words =
        ["run", "-d", "--name", "box", "--init", "--network", "none", IMAGE, "sleep", "1000"];
    daemon.docker_ok(&words);
    for path in ["/proc/1/exe", "/sbin/docker-init", "/proc/self/exe"] {
        let (code, error) = daemon.docker_err(&["exec", "box", "write", path, "x"]);
        assert_eq!(code, Some(1), "{error}");
        let why = error.contains("Read-only file system") || error.contains("Text file busy");
        assert!(why, "{path}: {error}");
    }
    daemon.docker_ok(&["rm", "-f", "box"]);
    assert!(fs::read(&program).unwrap() == before);
    // Who sees the host's processes may not touch them either.
    let words = ["run", "-d", "--name", "nosy", "--pid", "host", IMAGE, "sleep", "1000"];
    daemon.docker_ok(&words);
    let pid = daemon.docker_ok(&["inspect", "-f", "{{.State.Pid}}", "nosy"]);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    for process in [shim, &daemon.id()] {
        let path = format!("/proc/{process}/exe");
        let (_, error) = daemon.docker_err(&["exec", "nosy", "write", &path, "x"]);
        assert!(error.contains("ermission denied") || error.contains("Text file busy"), "{error}");
    }
}

#[test]
fn options_of_security_modules_that_the_kernel_lacks_are_taken_as_docker_takes_them() {
    let daemon = Daemon::start(&[]);
    let source = daemon.scratch.text("bound");
    fs::create_dir(&source).unwrap();
    let has = |file: &str| fs::read_to_string(file).is_ok_and(|text| text.starts_with('Y'));
    let apparmor = has("/sys/module/apparmor/parameters/enabled");
    let options = daemon.docker_ok(&["info", "-f", "{{json .SecurityOptions}}"]);
    assert_eq!(options.contains("name=apparmor"), apparmor, "{options}");
    assert!(!options.contains("selinux"), "{options}");
    for client in Client::ALL {
        for option in
            ["apparmor=unconfined", "label=disable", "label=type:container_t", "label:level:s0"]
        {
            let words =
                ["run", "--rm", "--network", "none", "--security-opt", option, IMAGE, "pwd"];
            assert_eq!(daemon.ok(client, &words), "/", "{option}");
        }
        for mode in ["z", "Z", "ro,z"] {
            let bind = format!("{source}:/data:{mode}");
            let words = ["run", "--rm", "--network", "none", "-v", &bind, IMAGE, "pwd"];
            assert_eq!(daemon.ok(client, &words), "/", "{mode}");
        }
        let words = ["create", "--security-opt", "apparmor=nosuch", IMAGE];
        let (_, id, warning) = daemon.ask(client, &words);
        assert_eq!(warning.contains("The AppArmor profile nosuch is discarded"), !apparmor, "{id}");
        let words = ["create", "--security-opt", "nope=1", IMAGE];
        let (_, _, error) = daemon.ask(client, &words);
        assert!(error.contains("invalid --security-opt 2: \"nope=1\""), "{error}");
    }
}

/// What in a data root is strangers' own, and has the modes that they chose.
fn is_of_strangers(path: &Path) -> bool {
    let text = path.to_str().unwrap();
    ["/diff", "/upper", "/merged", "/_data", "/work/work"].iter().any(|part| text.ends_with(part))
}

fn check_modes(path: &Path) {
    let meta = fs::symlink_metadata(path).unwrap();
    if meta.file_type().is_symlink() || is_of_strangers(path) {
        return;
    }
    let mode = meta.mode() & 0o7777;
    assert_eq!(mode & 0o022, 0, "{} may be written by others: {mode:o}", path.display());
    assert_eq!(meta.uid(), 0, "{}", path.display());
    if meta.file_type().is_socket() {
        assert_eq!(mode & 0o077, 0, "{} is a socket for others: {mode:o}", path.display());
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap().flatten() {
            check_modes(&entry.path());
        }
    }
}

/// CVE-2021-41091, CVE-2020-15257.
#[test]
fn cve_2021_41091_cve_2020_15257_what_the_engine_keeps_is_for_root_alone_and_no_socket_is_reached_by_its_name()
 {
    let daemon = Daemon::start(&[]);
    let image = daemon.scratch.text("image.tar");
    daemon.docker_ok(&["network", "create", "own"]);
    let words =
        ["run", "-d", "--name", "box", "--network", "own", "-v", "named:/data", "-v", "/anonymous"];
    let words = [&words[..], &["-p", "127.0.0.1::80", "-t", "--init", IMAGE, "httpd"]].concat();
    daemon.docker_ok(&words);
    daemon.docker_ok(&["exec", "box", "write", "/data/file", "x"]);
    daemon.docker_ok(&["exec", "-t", "box", "echo", "x"]);
    daemon.docker_ok(&["save", "-o", &image, IMAGE]);
    daemon.docker_ok(&["load", "-q", "-i", &image]);
    daemon.docker_ok(&["restart", "-t", "0", "box"]);
    daemon.docker_ok(&["run", "--rm", IMAGE, "true"]);
    daemon.docker_ok(&["logs", "box"]);
    for place in ["data", "run"] {
        let path = daemon.scratch.path(place);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700, "{place}");
        check_modes(&path);
    }
    let sockets = daemon.beside("cat", &["/proc/self/net/unix"]).stdout;
    let sockets = String::from_utf8(sockets).unwrap();
    assert!(sockets.contains("/sock"), "those with files are there: {sockets}");
    let named: Vec<_> = sockets.lines().filter(|line| line.contains(" @")).collect();
    assert_eq!(named, [""; 0]);
}

/// CVE-2022-31030, CVE-2022-23471: clients that go away leave nothing.
#[test]
fn cve_2022_31030_clients_that_vanish_leave_neither_descriptors_nor_tasks() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "box", "--network", "none", IMAGE, "sleep", "1000"]);
    let figures = || {
        let info = daemon.get("/info").json();
        (info["NFd"].as_u64().unwrap(), info["NGoroutines"].as_u64().unwrap())
    };
    let abuse = |rounds: usize| {
        for round in 0..rounds {
            let exec = json!({"Cmd": ["cat"], "AttachStdin": true, "AttachStdout": true});
            let id = daemon.post("/containers/box/exec", &exec).json()["Id"].clone();
            let start = format!("/exec/{}/start", id.as_str().unwrap());
            let upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
            drop(daemon.open("POST", &start, upgrade, b"{}"));
            for path in ["/containers/box/attach?stream=1&stdout=1", "/containers/box/wait"] {
                drop(daemon.open("POST", path, upgrade, b""));
            }
            for path in
                ["/containers/box/logs?follow=1&stdout=1", "/events", "/containers/box/json"]
            {
                drop(daemon.open("GET", path, "", b""));
            }
            // Half a request, and a head that never ends.
            drop(daemon.open("POST", "/containers/create", "Content-Length: 99\r\n", b"{"));
            drop(UnixStream::connect(daemon.socket()).unwrap());
            if round % 50 == 0 {
                assert_eq!(daemon.get("/_ping").status, 200);
            }
        }
    };
    abuse(50);
    let settled = |limit: (u64, u64)| {
        let end = Instant::now() + PATIENCE;
        loop {
            let now = figures();
            if now.0 <= limit.0 && now.1 <= limit.1 {
                return now;
            }
            assert!(Instant::now() < end, "{now:?} of descriptors and tasks, {limit:?} before");
        }
    };
    let (descriptors, tasks) = settled((60, 60));
    abuse(1200);
    settled((descriptors + 5, tasks + 5));
    let words = ["exec", "box", "ls", "/proc"];
    let processes = daemon.docker_ok(&words);
    let count = processes.lines().filter(|name| name.parse::<u32>().is_ok()).count();
    assert_eq!(count, 2, "processes of clients that went: {processes}");
}
