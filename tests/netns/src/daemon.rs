//! The whole of rnet on a host: the programs as they are built, in namespaces of their own.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use drivers::kernel::Netns;

use crate::namespaces::Namespaces;
use crate::{Host, patient};

/// The longest that a start of the daemon may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon on a [`Host`], with directories, mounts, processes and an `/etc` of its own.
///
/// With the value go all of its processes and mounts, containers included.
#[derive(Debug)]
pub struct Daemon {
    directory: PathBuf,
    namespaces: Namespaces,
    process: Option<Child>,
    flags: Vec<String>,
}

impl Daemon {
    /// Starts a daemon and waits until it answers. The default network has both families.
    pub fn start(host: &Host, flags: &[&str]) -> Self {
        let mut daemon = Self::prepare(host, flags);
        daemon.restart();
        daemon
    }

    /// The same on a host with a name.
    pub fn start_named(host: &Host, name: &str, flags: &[&str]) -> Self {
        let mut daemon = Self::prepare(host, flags);
        assert!(daemon.command("hostname").arg(name).status().unwrap().success(), "{name}");
        daemon.restart();
        daemon
    }

    /// The same with its data on a disk of its own that holds so many bytes.
    pub fn start_on_disk(host: &Host, size: usize) -> Self {
        Self::start_on(host, &format!("mount -t tmpfs -o size={size} tmpfs $0"))
    }

    /// The same with its data on a disk whose files can be made immutable while they are written.
    pub fn start_on_ext4(host: &Host, size: usize) -> Self {
        let make = format!("truncate -s {size} $0.img && mkfs.ext4 -q -F $0.img");
        Self::start_on(host, &format!("{make} && mount -o loop $0.img $0"))
    }

    /// The same with its data where a script mounts something.
    fn start_on(host: &Host, script: &str) -> Self {
        let mut daemon = Self::prepare(host, &[]);
        let data = daemon.file("data");
        fs::create_dir(&data).unwrap();
        let mounted = daemon.command("sh").args(["-c", script]).arg(data).status().unwrap();
        assert!(mounted.success(), "{script}");
        daemon.restart();
        daemon
    }

    /// The same with the data root that is in an archive, in the place that it had: `/var/lib/rnet`. The
    /// caller sees it before the daemon does.
    pub fn start_from(host: &Host, archive: &Path, change: impl FnOnce(&Path)) -> Self {
        let mut daemon = Self::prepare(host, &[]);
        let data = daemon.file("data");
        fs::create_dir(&data).unwrap();
        let unpack = "tar -xJf $1 -C $0 && mount -t tmpfs tmpfs /var/lib && mkdir /var/lib/rnet && \
                      mount --bind $0 /var/lib/rnet";
        let mut command = daemon.command("sh");
        let unpacked = command.args(["-c", unpack]).arg(&data).arg(archive).status().unwrap();
        assert!(unpacked.success(), "{unpack}");
        change(&data);
        daemon.restart();
        daemon
    }

    fn prepare(host: &Host, flags: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Short, because the paths of sockets may have 107 bytes only.
        let name = format!("rnet-d{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(directory.join("etc")).unwrap();
        for file in ["passwd", "group", "hosts"] {
            let _ = fs::copy(Path::new("/etc").join(file), directory.join("etc").join(file));
        }
        fs::write(directory.join("etc/resolv.conf"), "").unwrap();
        let etc = directory.join("etc");
        let namespaces = Namespaces::hold(host, &etc, "mount --bind \"$0\" /etc");
        let own = ["--ipv6", "--fixed-cidr-v6", "fd00:99::/64"];
        let flags = own.iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
        Self { directory, namespaces, process: None, flags }
    }

    /// Starts another daemon with the same directories, and waits until it answers.
    pub fn restart(&mut self) {
        self.restart_by(&[]);
    }

    /// The same, started by a program with its arguments.
    pub fn restart_by(&mut self, starter: &[&str]) {
        let log = fs::File::options().create(true).append(true).open(self.file("log")).unwrap();
        let places = [("--data-root", "data"), ("--exec-root", "run"), ("--pidfile", "pid")];
        let program = programs().join("rnet").to_string_lossy().into_owned();
        let words: Vec<_> = starter.iter().copied().chain([&*program, "daemon"]).collect();
        let mut command = self.command(words[0]);
        command.args(&words[1..]).arg("--host").arg(self.url());
        for (flag, file) in places {
            command.arg(flag).arg(self.file(file));
        }
        command.args(&self.flags).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let process = self.process.insert(command.spawn().unwrap());
        let (start, id) = (Instant::now(), process.id());
        while !self.client(&["version"]).status.success() {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            assert!(ended.is_none(), "the daemon {id} ended: {}", self.log());
            assert!(
                start.elapsed() < patient(PATIENCE),
                "the daemon does not answer: {}",
                self.log()
            );
        }
    }

    /// Ends the daemon as a power failure would, but for what it started.
    pub fn kill(&mut self) {
        self.end("-KILL");
    }

    /// Ends the daemon as a service manager would.
    pub fn terminate(&mut self) {
        self.end("-TERM");
    }

    /// Ends the daemon, its containers and what it had in memory, and has the next one find another boot.
    pub fn lose_power(&mut self) {
        self.kill();
        let script = "for p in /proc/[0-9]*; do case $(cat $p/comm 2>&-) in sh|cat) ;; \
                      *) kill -9 ${p#/proc/} 2>&- ;; esac; done; \
                      for m in $(grep -o \" $0/run/[^ ]*\" /proc/mounts); do umount -l $m; done; \
                      rm -rf $0/run; \
                      cat /proc/sys/kernel/random/uuid >$0/boot && \
                      mount --bind $0/boot /proc/sys/kernel/random/boot_id";
        let mut command = self.command("sh");
        let done = command.args(["-c", script]).arg(&self.directory).status().unwrap();
        assert!(done.success(), "the power is gone");
    }

    /// Waits for a daemon that ends by itself.
    pub fn ends(&mut self) {
        self.process.take().unwrap().wait().unwrap();
    }

    fn end(&mut self, signal: &str) {
        let pid = fs::read_to_string(self.file("pid")).unwrap();
        self.signal(pid.trim(), signal);
        self.ends();
    }

    /// Sends a signal to a process, by its number on the daemon's host.
    pub fn signal(&self, pid: &str, signal: &str) {
        self.namespaces.signal(pid, signal);
    }

    /// A program on the daemon's host.
    pub fn command(&self, program: &str) -> Command {
        self.namespaces.command(program)
    }

    /// Has a shell of the daemon's host do a line in which `rnet` is known and knows the daemon. Whether that went
    /// well, and what was printed.
    pub fn shell(&self, line: &str) -> (bool, String) {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.command("sh");
        command.args(["-c", line]).stdin(Stdio::null()).env("RNET_HOST", self.url());
        command.env("PATH", format!("{}:{path}", programs().display()));
        let output = command.output().unwrap();
        let printed = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&printed).into_owned())
    }

    /// What `rnet` prints, given words. It must succeed.
    pub fn rnet(&self, words: &str) -> String {
        let words: Vec<_> = words.split(' ').collect();
        let output = self.client(&words);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "rnet {words:?}: {error}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// What `rnet` prints, given words, whatever its exit code.
    pub fn output(&self, words: &str) -> String {
        let output = self.client(&words.split(' ').collect::<Vec<_>>());
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `rnet` complains of, given words. It must fail.
    pub fn refusal(&self, words: &str) -> String {
        let output = self.client(&words.split(' ').collect::<Vec<_>>());
        assert!(!output.status.success(), "rnet {words} succeeded");
        String::from_utf8(output.stderr).unwrap().trim_end().to_owned()
    }

    /// What `rnet` warns of, given words. It must succeed.
    pub fn warnings(&self, words: &str) -> String {
        let output = self.client(&words.split(' ').collect::<Vec<_>>());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "rnet {words}: {text}");
        text.trim_end().to_owned()
    }

    /// What `rnet` complains of, given words, if it fails.
    pub fn fails(&self, words: &str) -> Option<String> {
        let output = self.client(&words.split(' ').collect::<Vec<_>>());
        let error = || String::from_utf8(output.stderr).unwrap().trim_end().to_owned();
        (!output.status.success()).then(error)
    }

    /// `rnet` with words, and somebody who waits for its end.
    pub fn begin(&self, words: &str) -> Child {
        let mut command = Command::new(programs().join("rnet"));
        command.arg("-H").arg(self.url()).args(words.split(' ')).stdin(Stdio::null());
        command.spawn().unwrap()
    }

    /// Posts to the daemon's API; it must accept.
    pub fn post(&self, path: &str, body: &serde_json::Value) -> serde_json::Value {
        let mut stream = UnixStream::connect(self.file("sock")).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: rnet\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 2"), "POST {path}: {reply}");
        serde_json::from_str(body).unwrap_or_default()
    }

    /// Runs a container that does nothing, and gives back its namespace as a host.
    pub fn run(&self, name: &str, words: &str) -> Host {
        let words = words.trim();
        let gap = if words.is_empty() { "" } else { " " };
        self.rnet(&format!("run -d --name {name} {words}{gap}rnet/toolbox sleep 1000"));
        self.inside(name)
    }

    /// The namespace of a running container as a host.
    pub fn inside(&self, container: &str) -> Host {
        let pid = self.rnet(&format!("inspect -f {{{{.State.Pid}}}} {container}"));
        Host::from_netns(Netns::open(self.root(&format!("proc/{pid}/ns/net"))).unwrap())
    }

    /// The addresses that a container has on all of its networks.
    pub fn addresses_of(&self, container: &str) -> Vec<IpAddr> {
        self.addresses(container).into_values().flatten().collect()
    }

    /// The addresses of a container, IPv4 first, by the name of the network.
    pub fn addresses(&self, container: &str) -> BTreeMap<String, Vec<IpAddr>> {
        let text = self.rnet(&format!("inspect {container}"));
        let all: serde_json::Value = serde_json::from_str(&text).unwrap();
        let networks = all[0]["NetworkSettings"]["Networks"].as_object().unwrap();
        let of = |network: &serde_json::Value| {
            let families = ["IPAddress", "GlobalIPv6Address"];
            let texts = families.iter().filter_map(|family| network[family].as_str());
            texts.filter_map(|text| text.parse().ok()).collect()
        };
        networks.iter().map(|(name, network)| (name.clone(), of(network))).collect()
    }

    /// How much memory the daemon has in use, in bytes.
    pub fn resident(&self) -> usize {
        let pid = fs::read_to_string(self.file("pid")).unwrap();
        let status = self.root(&format!("proc/{}/status", pid.trim()));
        let status = fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    /// The process that answers names, by its number on the daemon's host.
    pub fn resolver(&self) -> Option<String> {
        let ours = fs::read_dir(self.root("proc")).unwrap().flatten().find(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let state = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            name.trim() == "rnet-dns" && !state.contains(") Z ")
        });
        ours.map(|entry| entry.file_name().to_string_lossy().into_owned())
    }

    /// Replaces the host's resolvers, as its DHCP client would.
    pub fn set_resolvers(&self, addresses: &[&str]) {
        let lines: Vec<_> = addresses.iter().map(|a| format!("nameserver {a}\n")).collect();
        fs::write(self.file("etc/new"), lines.concat()).unwrap();
        fs::rename(self.file("etc/new"), self.file("etc/resolv.conf")).unwrap();
    }

    /// A file as the daemon's host sees it.
    pub fn root(&self, path: &str) -> PathBuf {
        self.namespaces.root(path)
    }

    /// A file in the daemon's directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What the daemon had to say.
    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// Where its API is.
    pub fn url(&self) -> String {
        format!("unix://{}", self.file("sock").display())
    }

    fn client(&self, words: &[&str]) -> Output {
        let mut command = Command::new(programs().join("rnet"));
        command.arg("-H").arg(self.url()).args(words).stdin(Stdio::null()).output().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_some() {
            // So that not even empty control groups are left, also by a test that failed.
            let limit = patient(PATIENCE).as_secs().to_string();
            let mut reset = Command::new("timeout");
            reset.arg(limit).arg(programs().join("rnet")).arg("-H").arg(self.url());
            let _ = reset.args(["system", "reset", "--force"]).stdin(Stdio::null()).output();
        }
        self.namespaces.end();
        if let Some(mut process) = self.process.take() {
            let _ = process.wait();
        }
        let start = Instant::now();
        while fs::remove_dir_all(&self.directory).is_err() && start.elapsed() < patient(PATIENCE) {
            std::thread::yield_now();
        }
    }
}

/// Where the programs are. They belong to other packages, and are built if that was not done since
/// their sources changed.
fn programs() -> &'static Path {
    static PROGRAMS: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let test = std::env::current_exe().unwrap();
        let directory = test.ancestors().skip(1).find(|place| !place.ends_with("deps"));
        let directory = directory.unwrap().to_owned();
        let modified = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
        let names = ["rnet", "rnet-shim", "rnet-dns"];
        let oldest = names.iter().map(|name| modified(&directory.join(name))).min().flatten();
        let sources = ["cnm", "dns", "drivers", "engine"].map(|name| newest(&workspace.join(name)));
        if oldest < sources.into_iter().max().flatten() {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.args([
                "build",
                "--package",
                "engine",
                "--package",
                "shim",
                "--package",
                "dns",
                "--bins",
            ]);
            assert!(build.current_dir(&workspace).status().unwrap().success());
        }
        directory
    })
}

/// When the newest of a package's sources was changed; tests are not among them.
fn newest(package: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(package).ok()?.flatten();
    let sources = entries.filter(|entry| entry.file_name() != "tests");
    let times = sources.filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        if metadata.is_dir() { newest(&entry.path()) } else { metadata.modified().ok() }
    });
    times.max()
}
