//! A running `rnet-dns` with sandboxes and upstream resolvers, gone on drop.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cnm::{EndpointId, NetworkId, SandboxId};
use dns::client::Client;
use dns::protocol::{EndpointNames, SandboxView};
use hickory_proto::op::{Edns, Message, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Longer than anything a test waits for when all is well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

static LABS: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Lab {
    pub(crate) dir: PathBuf,
    pub(crate) client: Client,
    pub(crate) child: Child,
    port: u16,
}

impl Lab {
    /// With the host's resolv.conf naming these upstreams.
    pub(crate) fn new(upstreams: &[&Upstream]) -> Self {
        Self::with_files(upstreams, 1 << 16)
    }

    /// The same with a process that may have no more files open than that, if the host lets it
    /// have that many.
    pub(crate) fn with_files(upstreams: &[&Upstream], files: u32) -> Self {
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let name = format!("rnet-dns-test-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let port = upstreams.first().map_or(1, |upstream| upstream.address.port());
        std::fs::write(dir.join("resolv.conf"), resolv_conf(upstreams)).unwrap();
        let child = spawn(&dir, port, files);
        let client = Client::connect(&dir.join("dns.sock")).unwrap();
        Self { dir, client, child, port }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("dns.sock")
    }

    /// Ends it as the kernel would, and starts another.
    pub(crate) fn crash_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.dir, self.port, 1 << 16);
        self.client = Client::connect(&self.socket()).unwrap();
    }

    pub(crate) fn sandbox(&self, view: SandboxView) -> Sandbox {
        let sandbox = Sandbox::bind(view.sandbox.clone());
        self.serve(&sandbox, view);
        sandbox
    }

    pub(crate) fn serve(&self, sandbox: &Sandbox, view: SandboxView) {
        self.client.serve(view, sandbox.udp.as_fd(), sandbox.tcp.as_fd()).unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Starts a process, and returns when it is ready. Its log is not read after that.
pub(crate) fn spawn(dir: &std::path::Path, port: u16, files: u32) -> Child {
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -n $0 2>/dev/null; exec \"$@\""])
        .args([files.to_string().as_str(), env!("CARGO_BIN_EXE_rnet-dns")])
        .arg("--socket")
        .arg(dir.join("dns.sock"))
        .arg("--resolv-conf")
        .arg(dir.join("resolv.conf"))
        .arg(format!("--upstream-port={port}"))
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("ready") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "rnet-dns ended at its start");
    }
    child
}

pub(crate) fn resolv_conf(upstreams: &[&Upstream]) -> String {
    let line = |upstream: &&Upstream| format!("nameserver {}", upstream.address.ip());
    upstreams.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Tries until it holds.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "does not come true");
        thread::yield_now();
    }
}

// === Names ===

pub(crate) fn network(digit: char) -> NetworkId {
    digit.to_string().repeat(64).parse().unwrap()
}

pub(crate) fn endpoint(number: usize) -> EndpointId {
    format!("{number:064x}").parse().unwrap()
}

/// A sandbox that is on network `a` and may ask outside.
pub(crate) fn view(number: usize) -> SandboxView {
    let sandbox: SandboxId = format!("{number:064x}").parse().unwrap();
    SandboxView {
        sandbox,
        networks: vec![network('a')],
        private: std::collections::BTreeMap::new(),
        upstreams: vec![],
        forward: true,
        ttl: 2,
    }
}

pub(crate) fn named(number: usize, name: &str, address: &str) -> EndpointNames {
    EndpointNames {
        endpoint: endpoint(number),
        names: vec![name.to_owned()],
        addresses: vec![address.parse().unwrap()],
        services: vec![],
    }
}

// === Sandbox ===

/// The sockets that would be bound inside a namespace.
pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
}

impl Sandbox {
    pub(crate) fn bind(id: SandboxId) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { id, udp, tcp }
    }

    /// Someone inside, who asks.
    pub(crate) fn asker(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(self.udp.local_addr().unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    pub(crate) fn ask(&self, name: &str, kind: RecordType) -> Message {
        ask(&self.asker(), &query(name, kind))
    }

    pub(crate) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        addresses(&self.ask(name, RecordType::A))
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.tcp.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(crate) fn ask_over_tcp(&self, query: &Message) -> Message {
        let mut stream = self.connect();
        send_framed(&mut stream, query);
        receive_framed(&mut stream)
    }
}

pub(crate) fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    message
}

pub(crate) fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

pub(crate) fn ask(socket: &UdpSocket, query: &Message) -> Message {
    socket.send(&query.to_vec().unwrap()).unwrap();
    let reply = receive(socket);
    assert_eq!(reply.metadata.id, query.metadata.id);
    reply
}

pub(crate) fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = vec![0; 65535];
    let length = socket.recv(&mut buffer).unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

pub(crate) fn send_framed(stream: &mut TcpStream, message: &Message) {
    let bytes = message.to_vec().unwrap();
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, bytes.as_slice()].concat()).unwrap();
}

pub(crate) fn receive_framed(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes).unwrap();
    Message::from_vec(&bytes).unwrap()
}

pub(crate) fn addresses(message: &Message) -> Vec<IpAddr> {
    let address = |record: &Record| match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

// === Upstream ===

/// A resolver that answers as it is told, over UDP and TCP.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

type Behaviour = dyn Fn(&Message, bool) -> Option<Message> + Send + Sync;

struct Shared {
    heard: AtomicUsize,
    open: Mutex<bool>,
    opened: Condvar,
    behaviour: Box<Behaviour>,
}

impl Upstream {
    /// Answers with what the function makes of a question and of whether it came over TCP.
    pub(crate) fn new(
        behaviour: impl Fn(&Message, bool) -> Option<Message> + Send + Sync + 'static,
    ) -> Self {
        Self::beside(None, behaviour)
    }

    /// At another's port, so that one process asks both.
    pub(crate) fn beside(
        other: Option<&Self>,
        behaviour: impl Fn(&Message, bool) -> Option<Message> + Send + Sync + 'static,
    ) -> Self {
        let port = other.map_or(0, |other| other.address.port());
        let udp = UdpSocket::bind((own_address(), port)).unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(address).unwrap();
        let shared = Arc::new(Shared {
            heard: AtomicUsize::new(0),
            open: Mutex::new(true),
            opened: Condvar::new(),
            behaviour: Box::new(behaviour),
        });
        let for_udp = Arc::clone(&shared);
        thread::spawn(move || for_udp.serve_udp(&udp));
        let for_tcp = Arc::clone(&shared);
        thread::spawn(move || for_tcp.serve_tcp(&tcp));
        Self { address, shared }
    }

    /// Answers every question for an address with this one.
    pub(crate) fn answering(address: &str) -> Self {
        let address = address.parse().unwrap();
        Self::new(move |query, _| Some(with_address(query, address)))
    }

    /// How many questions came.
    pub(crate) fn heard(&self) -> usize {
        self.shared.heard.load(Ordering::SeqCst)
    }

    /// Answers wait until `release`.
    pub(crate) fn hold(&self) {
        *self.shared.open.lock().unwrap() = false;
    }

    pub(crate) fn release(&self) {
        *self.shared.open.lock().unwrap() = true;
        self.shared.opened.notify_all();
    }
}

impl Shared {
    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = vec![0; 65535];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let Some(reply) = self.answer(&buffer[..length], false) {
                let _ = socket.send_to(&reply, from);
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        for mut stream in listener.incoming().flatten() {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut bytes = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut bytes).unwrap();
            if let Some(reply) = self.answer(&bytes, true) {
                let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
                let _ = stream.write_all(&[&length, reply.as_slice()].concat());
            }
        }
    }

    fn answer(&self, bytes: &[u8], tcp: bool) -> Option<Vec<u8>> {
        self.heard.fetch_add(1, Ordering::SeqCst);
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
        let query = Message::from_vec(bytes).unwrap();
        (self.behaviour)(&query, tcp).map(|message| message.to_vec().unwrap())
    }
}

/// An address of the loopback that no other test uses.
pub(crate) fn own_address() -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let number = u8::try_from(LABS.fetch_add(1, Ordering::Relaxed) % 250 + 1).unwrap();
    Ipv4Addr::new(127, 1 | high & 0x7f, low, number)
}

pub(crate) fn reply_to(query: &Message) -> Message {
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata.recursion_desired = true;
    reply.metadata.recursion_available = true;
    reply.add_queries(query.queries.clone());
    if query.edns.is_some() {
        reply.set_edns(Edns::new());
    }
    reply
}

pub(crate) fn with_address(query: &Message, address: Ipv4Addr) -> Message {
    let mut reply = reply_to(query);
    let owner = query.queries[0].name.clone();
    reply.add_answer(Record::from_rdata(owner, 300, RData::A(A(address))));
    reply
}
