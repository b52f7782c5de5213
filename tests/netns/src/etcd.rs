//! etcd on hosts of its own: one member or three, with what can happen to them.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::authority::{Authority, Certificate};
use crate::namespaces::Namespaces;
use crate::{Host, Lan, patient};

/// The longest that members may need until they answer, elections on a busy machine among it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The members of one etcd, each on a host with data in memory. They end with the value.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    authority: Option<Authority>,
    /// With each new beginning it is another cluster.
    beginnings: u32,
    directory: PathBuf,
}

/// One member.
#[derive(Debug)]
struct Member {
    name: String,
    host: Host,
    /// The switch's end of its cable.
    port: String,
    addresses: [String; 2],
    certificate: Option<Certificate>,
    namespaces: Namespaces,
    /// Where its files are, as it sees them.
    directory: PathBuf,
    process: Option<String>,
    paused: bool,
}

impl Etcd {
    /// Where the addresses of members begin on the LAN: the first has these.
    pub const FIRST: [&str; 2] = ["192.0.2.101", "2001:db8::101"];

    /// So many members on a LAN, that speak with whoever comes. They answer already.
    pub fn start(lan: &Lan, members: usize) -> Self {
        Self::begin(lan, members, false)
    }

    /// The same with mutual TLS by an authority of their own.
    pub fn start_with_tls(lan: &Lan, members: usize) -> Self {
        Self::begin(lan, members, true)
    }

    fn begin(lan: &Lan, members: usize, tls: bool) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("rnet-etcd-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let authority = tls.then(|| Authority::new(&directory.join("tls")));
        let members = (0..members).map(|i| Member::new(lan, i, &directory, authority.as_ref()));
        let mut etcd = Self { members: members.collect(), authority, beginnings: 0, directory };
        etcd.begin_anew();
        etcd
    }

    /// Where clients find the members: `http://192.0.2.101:2379`, ….
    pub fn endpoints(&self) -> Vec<String> {
        let scheme = self.scheme();
        self.members.iter().map(|m| format!("{scheme}://{}:2379", m.addresses[0])).collect()
    }

    /// The same in one word, as `rnet daemon --cluster` takes it: `etcd://192.0.2.101:2379,…`.
    pub fn url(&self) -> String {
        let places: Vec<_> =
            self.members.iter().map(|m| format!("{}:2379", m.addresses[0])).collect();
        format!("etcd://{}", places.join(","))
    }

    /// The addresses of the members, IPv4 first.
    pub fn addresses(&self) -> Vec<[String; 2]> {
        self.members.iter().map(|member| member.addresses.clone()).collect()
    }

    /// Who certifies the members and their clients.
    pub fn authority(&self) -> &Authority {
        self.authority.as_ref().expect("it was started with TLS")
    }

    /// A file of a test beside its own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The switch's ends of the members' cables.
    pub fn ports(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.port.as_str())
    }

    // === what happens to it ===

    /// Stops a member where it is: its connections stay, and nothing is answered.
    pub fn pause(&mut self, member: usize) {
        self.members[member].signal("-STOP");
        self.members[member].paused = true;
    }

    /// Has a paused member go on.
    pub fn resume(&mut self, member: usize) {
        self.members[member].signal("-CONT");
        self.members[member].paused = false;
    }

    /// Ends a member as a power failure would. Its data stay.
    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// Starts a member that was killed, and waits until all that run answer.
    pub fn restart(&mut self, member: usize) {
        self.run(member);
        self.wait();
    }

    /// Kills all members.
    pub fn kill_all(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
    }

    /// Starts all members that do not run.
    pub fn restart_all(&mut self) {
        for member in 0..self.members.len() {
            if self.members[member].process.is_none() {
                self.run(member);
            }
        }
        self.wait();
    }

    /// All members lose their data, and begin anew as another cluster.
    pub fn wipe(&mut self) {
        self.kill_all();
        self.begin_anew();
    }

    /// A copy of what is there now.
    pub fn snapshot(&self) -> PathBuf {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let file = self.directory.join(format!("snapshot{number}"));
        self.ctl_at(0, &["snapshot", "save", &file.to_string_lossy()]);
        file
    }

    /// Puts a copy in the place of what is there, as the manual of etcd says it is done.
    pub fn restore(&mut self, snapshot: &Path) {
        self.kill_all();
        self.beginnings += 1;
        for member in &self.members {
            member.forget();
            let mut command = member.namespaces.command("etcdctl");
            command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(snapshot);
            command.arg("--data-dir").arg(member.directory.join("data"));
            command.args(["--name", &member.name, "--initial-cluster", &self.everybody()]);
            command.args(["--initial-cluster-token", &self.token()]);
            let peer = format!("{}://{}:2380", self.scheme(), member.addresses[0]);
            let output = command.args(["--initial-advertise-peer-urls", &peer]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        self.restart_all();
    }

    /// The member that leads.
    pub fn leader(&self) -> usize {
        let start = Instant::now();
        loop {
            let leads = |member: &usize| {
                let status = self.try_ctl_at(*member, &["endpoint", "status", "-w", "json"]);
                let status: serde_json::Value =
                    serde_json::from_slice(&status.stdout).unwrap_or_default();
                let status = &status[0]["Status"];
                status["leader"].is_u64() && status["leader"] == status["header"]["member_id"]
            };
            if let Some(leader) = self.answering().find(leads) {
                return leader;
            }
            assert!(start.elapsed() < patient(PATIENCE), "nobody leads: {}", self.log());
        }
    }

    // === asking it ===

    /// What `etcdctl` prints, given words, at any member that answers. It must succeed.
    pub fn ctl(&self, words: &str) -> String {
        let member = self.answering().next().expect("a member answers");
        self.ctl_at(member, &words.split(' ').collect::<Vec<_>>())
    }

    /// The same from another host.
    pub fn ctl_from(&self, host: &Host, words: &str) -> String {
        let words: Vec<_> = words.split(' ').collect();
        let endpoints = self.endpoints().join(",");
        let mut command = self.command(Command::new("etcdctl"), &endpoints);
        Self::printed(&words, &host.run(|| command.args(&words).output().unwrap()))
    }

    /// Puts values, many at a time.
    pub fn put(&self, pairs: &[(String, String)]) {
        let endpoints = self.endpoints().join(",");
        for some in pairs.chunks(100) {
            // Quoted as in Go; what is in single quotes is cut off by this release.
            let quoted = |text: &str| serde_json::Value::from(text).to_string();
            let put = |(key, value): &(String, String)| format!("put {key} {}\n", quoted(value));
            let puts: String = some.iter().map(put).collect();
            let mut command =
                self.command(self.members[0].namespaces.command("etcdctl"), &endpoints);
            let command = command.arg("txn").stdin(Stdio::piped()).stdout(Stdio::null());
            let mut child = command.spawn().unwrap();
            write!(child.stdin.take().unwrap(), "\n{puts}\n\n").unwrap();
            assert!(child.wait().unwrap().success(), "etcdctl txn");
        }
    }

    /// The keys below a prefix, each with its value.
    pub fn keys(&self, prefix: &str) -> Vec<(String, String)> {
        let text = self.ctl(&format!("get --prefix {prefix}"));
        let lines: Vec<_> = text.lines().collect();
        lines.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
    }

    /// What the members had to say.
    pub fn log(&self) -> String {
        self.members.iter().map(Member::log).collect()
    }

    fn ctl_at(&self, member: usize, words: &[&str]) -> String {
        Self::printed(words, &self.try_ctl_at(member, words))
    }

    fn try_ctl_at(&self, member: usize, words: &[&str]) -> Output {
        let host = &self.members[member];
        let endpoint = &self.endpoints()[member];
        let mut command = self.command(host.namespaces.command("etcdctl"), endpoint);
        command.args(words).stdin(Stdio::null()).output().unwrap()
    }

    fn command(&self, mut command: Command, endpoints: &str) -> Command {
        command.env("ETCDCTL_API", "3").args(["--endpoints", endpoints]);
        command.args(["--dial-timeout", "2s", "--command-timeout", "10s"]);
        if let Some(authority) = &self.authority {
            let own = self.members[0].certificate.as_ref().unwrap();
            command.arg("--cacert").arg(authority.certificate());
            command.arg("--cert").arg(&own.certificate).arg("--key").arg(&own.key);
        }
        command
    }

    fn printed(words: &[&str], output: &Output) -> String {
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {words:?}: {error}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// The members that take connections.
    fn answering(&self) -> impl Iterator<Item = usize> {
        (0..self.members.len()).filter(|member| self.members[*member].answers())
    }

    // === starting it ===

    fn begin_anew(&mut self) {
        self.beginnings += 1;
        for member in &self.members {
            member.forget();
        }
        self.restart_all();
    }

    fn run(&mut self, member: usize) {
        let (scheme, everybody, token) = (self.scheme(), self.everybody(), self.token());
        let authority = self.authority.clone();
        let member = &mut self.members[member];
        let [ipv4, ipv6] = &member.addresses;
        let clients = format!("{scheme}://{ipv4}:2379,{scheme}://[{ipv6}]:2379");
        let peers = format!("{scheme}://{ipv4}:2380");
        let data = member.directory.join("data");
        let mut words = vec!["--name", &member.name, "--logger", "zap"];
        words.extend(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        words.extend(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
        words.extend(["--initial-cluster", &everybody, "--initial-cluster-token", &token]);
        // A process of its own: the program that started it would stop and end with it otherwise.
        let script = "exec etcd \"$@\" >>\"$0\" 2>&1 </dev/null & echo $!";
        let mut command = member.namespaces.command("sh");
        command
            .args(["-c", script])
            .arg(member.directory.join("log"))
            .args(words)
            .arg("--data-dir")
            .arg(data);
        if let (Some(authority), Some(own)) = (authority, &member.certificate) {
            for kind in ["", "peer-"] {
                command.arg(format!("--{kind}trusted-ca-file")).arg(authority.certificate());
                command.arg(format!("--{kind}cert-file")).arg(&own.certificate);
                command.arg(format!("--{kind}key-file")).arg(&own.key);
                command.arg(format!("--{kind}client-cert-auth"));
            }
        }
        let output = command.output().unwrap();
        member.process = Some(String::from_utf8(output.stdout).unwrap().trim().to_owned());
    }

    /// Waits until every member that runs takes connections and has a leader.
    fn wait(&self) {
        let start = Instant::now();
        let health = ["endpoint", "health"];
        for (number, member) in self.members.iter().enumerate() {
            let healthy = || member.answers() && self.try_ctl_at(number, &health).status.success();
            while member.process.is_some() && !member.paused && !healthy() {
                assert!(
                    start.elapsed() < patient(PATIENCE),
                    "etcd does not answer: {}",
                    self.log()
                );
                std::thread::park_timeout(Duration::from_millis(10));
            }
        }
    }

    fn scheme(&self) -> &'static str {
        if self.authority.is_some() { "https" } else { "http" }
    }

    fn token(&self) -> String {
        format!("beginning-{}", self.beginnings)
    }

    fn everybody(&self) -> String {
        let scheme = self.scheme();
        let place =
            |member: &Member| format!("{}={scheme}://{}:2380", member.name, member.addresses[0]);
        self.members.iter().map(place).collect::<Vec<_>>().join(",")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.members.clear();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

// === impl Member ===

impl Member {
    fn new(lan: &Lan, number: usize, etcd: &Path, authority: Option<&Authority>) -> Self {
        let name = format!("etcd{number}");
        let addresses = Etcd::FIRST.map(|first| {
            let (net, last) = first.rsplit_once(['.', ':']).unwrap();
            let separator = &first[net.len()..=net.len()];
            format!("{net}{separator}{}", last.parse::<usize>().unwrap() + number)
        });
        let host = Host::new();
        let [ipv4, ipv6] = &addresses;
        let port = lan.connect(&host, "eth0", &[&format!("{ipv4}/24"), &format!("{ipv6}/64")]);
        let certificate =
            authority.map(|a| a.certify(&name, &[ipv4.as_str(), ipv6.as_str(), "127.0.0.1"]));
        let directory = etcd.join(&name);
        fs::create_dir(&directory).unwrap();
        let namespaces = Namespaces::hold(&host, &directory, "mount -t tmpfs tmpfs \"$0\"");
        let process = None;
        Self {
            name,
            host,
            port,
            addresses,
            certificate,
            namespaces,
            directory,
            process,
            paused: false,
        }
    }

    /// Whether it runs and takes connections.
    fn answers(&self) -> bool {
        let at = SocketAddr::new(self.addresses[0].parse::<IpAddr>().unwrap(), 2379);
        let connects = || self.host.run(|| TcpStream::connect(at)).is_ok();
        self.process.is_some() && !self.paused && connects()
    }

    /// Loses its data.
    fn forget(&self) {
        let data = self.seen(&self.directory.join("data"));
        let _ = fs::remove_dir_all(data);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.seen(&self.directory.join("log"))).unwrap_or_default()
    }

    /// A file of its own as the test sees it.
    fn seen(&self, file: &Path) -> PathBuf {
        self.namespaces.root(&file.strip_prefix("/").unwrap().to_string_lossy())
    }

    fn signal(&self, signal: &str) {
        self.namespaces.signal(self.process.as_ref().expect("the member runs"), signal);
    }

    fn kill(&mut self) {
        let Some(process) = self.process.take() else { return };
        self.paused = false;
        self.namespaces.signal(&process, "-KILL");
        let place = self.namespaces.root(&format!("proc/{process}"));
        crate::wait_until("the member is gone", || !place.exists());
    }
}
