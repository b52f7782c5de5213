//! Registries for a test: Docker's own, as Debian has it, and small servers that stand in for what
//! goes with one.
//!
//! All of them listen in the daemon's network namespace, so that no port is anybody else's.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use nix::sched::{CloneFlags, setns};
use serde_json::json;

use crate::daemon::{Daemon, PATIENCE};

/// Who may read and write, with a password that nobody else has.
pub const USER: (&str, &str) = ("user", "a-very-secret-word");
/// The same as `htpasswd -B` writes it.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuud6BJpKbeEv5OOrKh5GhHH44eI.GXhD.";

/// How a registry is set up. Those of one daemon have the same content.
#[derive(Clone, Debug, Default)]
pub struct Setup<'a> {
    /// Lines of its configuration: `auth:` and the like.
    pub lines: Vec<String>,
    /// Lines of its configuration about its port.
    pub http: Vec<String>,
    /// The address that it listens at.
    pub address: &'a str,
}

/// Docker's own registry.
#[derive(Debug)]
pub struct Registry(Child);

impl Registry {
    /// The address of one that lets everybody in.
    pub const OPEN: &'static str = "127.0.0.1:5000";

    /// One that everybody may read and write.
    pub fn open(daemon: &Daemon) -> Self {
        Self::start(daemon, &Setup { address: Self::OPEN, ..Setup::default() })
    }

    /// One that [`USER`] may read and write.
    pub fn with_password(daemon: &Daemon, address: &str) -> Self {
        let lines = vec![passwords(daemon)];
        Self::start(daemon, &Setup { lines, address, ..Setup::default() })
    }

    /// Starts one and waits until it listens.
    pub fn start(daemon: &Daemon, setup: &Setup<'_>) -> Self {
        let name = setup.address.replace(['.', ':'], "-");
        let (config, root) = (daemon.scratch.text(&name), daemon.scratch.text("registry"));
        let mut http = vec![format!("addr: '{}'", setup.address), "secret: test".to_owned()];
        http.extend(setup.http.iter().cloned());
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\n\
             storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}\n\
             http: {{{}}}\n{}\n",
            http.join(", "),
            setup.lines.join("\n")
        );
        std::fs::write(&config, text).unwrap();
        let mut command = daemon.beside_command("docker-registry", &["serve", &config]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let registry = Self(child);
        await_port(daemon, setup.address);
        registry
    }
}

/// What makes a registry ask for [`USER`]'s password.
pub fn passwords(daemon: &Daemon) -> String {
    let passwords = daemon.scratch.text("htpasswd");
    std::fs::write(&passwords, HTPASSWD).unwrap();
    format!("auth: {{htpasswd: {{realm: test, path: {passwords}}}}}")
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until somebody listens at an address of the daemon's.
pub fn await_port(daemon: &Daemon, address: &str) {
    let (host, port) = address.rsplit_once(':').unwrap();
    let knock = format!("exec 3<>/dev/tcp/{host}/{port}");
    let end = Instant::now() + PATIENCE;
    loop {
        let mut command = daemon.beside_command("bash", &["-c", &knock]);
        if command.stderr(Stdio::null()).status().unwrap().success() {
            return;
        }
        assert!(Instant::now() < end, "nobody listens at {address}");
    }
}

/// What a client of a [`Stand`] asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Method, and path with query.
    pub line: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

/// A small HTTP server; its thread ends with the process of the test.
#[derive(Debug)]
pub struct Stand(Arc<Mutex<Vec<Asked>>>);

impl Stand {
    /// Listens at an address of the daemon's. Answers are a status and JSON.
    pub fn start(
        daemon: &Daemon,
        address: &str,
        answer: impl Fn(&Asked) -> (&'static str, String) + Send + 'static,
    ) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let (shared, listener) = (Arc::clone(&log), listen(daemon, address));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(asked) = read(&stream) else { continue };
                shared.lock().unwrap().push(asked.clone());
                let (status, body) = answer(&asked);
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\
                     content-length: {length}\r\n\r\n{body}"
                );
            }
        });
        Self(log)
    }

    /// What it was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.0.lock().unwrap().clone()
    }
}

/// Listens at an address of the daemon's.
#[expect(clippy::disallowed_methods, reason = "the thread does nothing else, to its end")]
pub fn listen(daemon: &Daemon, address: &str) -> TcpListener {
    let namespace = File::open(format!("/proc/{}/ns/net", daemon.id())).unwrap();
    let address = address.to_owned();
    let listening = std::thread::spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
        TcpListener::bind(address).unwrap()
    });
    listening.join().unwrap()
}

fn read(stream: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let line = line.rsplit_once(' ')?.0.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { line, headers, body: String::from_utf8(body).unwrap() })
}

/// A service that gives tokens: to everybody to read, to [`USER`] to write, and to whoever has the
/// refresh token that it gave.
pub struct Tokens {
    pub stand: Stand,
    /// What makes a registry ask for them.
    pub auth: String,
}

impl Tokens {
    const ADDRESS: &str = "127.0.0.1:5900";
    const REFRESH: &str = "a-very-secret-token";

    pub fn start(daemon: &Daemon) -> Self {
        let directory = daemon.scratch.path("tokens");
        std::fs::create_dir(&directory).unwrap();
        openssl(
            &directory,
            "req -x509 -newkey rsa:2048 -nodes -subj /CN=issuer -days 2 -keyout key -out pem",
        );
        openssl(&directory, "x509 -in pem -outform der -out der");
        let bundle = directory.join("pem");
        let auth = format!(
            "auth: {{token: {{realm: 'http://{}/token', service: reg, issuer: issuer, \
             rootcertbundle: {}}}}}",
            Self::ADDRESS,
            bundle.display()
        );
        let stand = Stand::start(daemon, Self::ADDRESS, move |asked| token(&directory, asked));
        Self { stand, auth }
    }
}

/// Answers a question for a token.
fn token(directory: &Path, asked: &Asked) -> (&'static str, String) {
    let (_, query) = asked.line.split_once('?').unwrap_or((&asked.line, &asked.body));
    let decoded = query.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
    let parameters: Vec<_> = decoded.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let all = |name| parameters.iter().filter(move |(key, _)| *key == name).map(|(_, v)| *v);
    let basic = STANDARD.encode(format!("{}:{}", USER.0, USER.1));
    let known = match asked.headers.get("authorization") {
        Some(header) if *header != format!("Basic {basic}") => return ("401 No", "{}".to_owned()),
        Some(_) => true,
        None => match all("refresh_token").next() {
            Some(token) if token != Tokens::REFRESH => return ("401 No", "{}".to_owned()),
            token => token.is_some(),
        },
    };
    let scopes: Vec<_> = all("scope").flat_map(|scope| scope.split('+')).collect();
    let access: Vec<_> = scopes
        .iter()
        .filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            let actions: Vec<_> = actions.split(',').filter(|a| known || *a == "pull").collect();
            Some(json!({"type": kind, "name": name, "actions": actions}))
        })
        .collect();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let der = std::fs::read(directory.join("der")).unwrap();
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [STANDARD.encode(der)]});
    let claims = json!({"iss": "issuer", "sub": "", "aud": "reg", "exp": now + 300, "nbf": now - 10,
        "iat": now, "jti": "1", "access": access});
    let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    std::fs::write(directory.join("signed"), &signed).unwrap();
    openssl(directory, "dgst -sha256 -sign key -out signature signed");
    let signature = URL_SAFE_NO_PAD.encode(std::fs::read(directory.join("signature")).unwrap());
    let mut answer = json!({"token": format!("{signed}.{signature}"), "expires_in": 300});
    if all("offline_token").next() == Some("true") {
        answer["refresh_token"] = Tokens::REFRESH.into();
    }
    ("200 OK", answer.to_string())
}

/// The certificate of a registry, from an authority that nobody trusts yet, and one of a client.
pub struct Trusted {
    directory: PathBuf,
    host: String,
}

impl Trusted {
    pub fn new(daemon: &Daemon, address: &str) -> Self {
        let directory = daemon.scratch.path("authority");
        std::fs::create_dir(&directory).unwrap();
        let host = address.split(':').next().unwrap();
        std::fs::write(directory.join("ext"), format!("subjectAltName=IP:{host}\n")).unwrap();
        let make = "req -x509 -newkey rsa:2048 -nodes -subj /CN=authority -days 2";
        openssl(&directory, &format!("{make} -keyout ca.key -out ca.crt"));
        for name in ["server", "client"] {
            let request = "req -newkey rsa:2048 -nodes -subj /CN=somebody";
            openssl(&directory, &format!("{request} -keyout {name}.key -out {name}.csr"));
            openssl(
                &directory,
                &format!(
                    "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
                     -extfile ext -out {name}.cert"
                ),
            );
        }
        Self { directory, host: address.to_owned() }
    }

    /// What makes a registry show its certificate, and want one.
    pub fn tls(&self) -> String {
        let file = |name: &str| self.directory.join(name).display().to_string();
        format!(
            "tls: {{certificate: {}, key: {}, clientcas: [{}]}}",
            file("server.cert"),
            file("server.key"),
            file("ca.crt")
        )
    }

    /// Makes an `/etc` of the daemon's own in which the authority is trusted for the registry.
    pub fn trust(&self, daemon: &Daemon) {
        let etc = daemon.scratch.text("etc");
        assert!(Command::new("cp").args(["-a", "/etc", &etc]).status().unwrap().success());
        self.put(daemon, &["ca.crt"]);
        let mut command = Command::new("nsenter");
        command.args(["-t", &daemon.id(), "-m", "mount", "--bind", &etc, "/etc"]);
        assert!(command.status().unwrap().success());
    }

    /// Gives the daemon a certificate of its own.
    pub fn identify(&self, daemon: &Daemon) {
        self.put(daemon, &["client.cert", "client.key"]);
    }

    fn put(&self, daemon: &Daemon, files: &[&str]) {
        let place = daemon.scratch.path("etc/docker/certs.d").join(&self.host);
        std::fs::create_dir_all(&place).unwrap();
        for file in files {
            std::fs::copy(self.directory.join(file), place.join(file)).unwrap();
        }
    }
}

/// Imports an image with a file in it.
pub fn import(daemon: &Daemon, name: &str, content: &str) {
    let tree = daemon.scratch.path("tree");
    std::fs::create_dir_all(&tree).unwrap();
    std::fs::write(tree.join("motd"), content).unwrap();
    let files = daemon.scratch.text("files.tar");
    let tar = ["-C", tree.to_str().unwrap(), "-cf", &files, "motd"];
    assert!(Command::new("tar").args(tar).status().unwrap().success());
    daemon.docker_ok(&["import", &files, name]);
}

/// Runs openssl in a directory.
pub fn openssl(directory: &Path, words: &str) {
    let mut command = Command::new("openssl");
    let output = command.args(words.split(' ')).current_dir(directory).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {words}: {error}");
}
