//! A registry on loopback, with the faults of real ones.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::super::*;
use crate::Platform;
use crate::tarball::tests::Tar;

/// What a registry does wrong, and asks for.
#[derive(Default)]
pub(super) struct Manners {
    /// A bearer token is needed, which these credentials buy.
    pub(super) credentials: Option<&'static str>,
    /// Basic authentication is needed.
    pub(super) basic: Option<&'static str>,
    /// So many requests are answered with 503 first.
    pub(super) overload: usize,
    /// So many blobs are cut in the middle.
    pub(super) cuts: usize,
    /// Requests for parts get the whole.
    pub(super) no_ranges: bool,
    /// Blobs are to be had there.
    pub(super) elsewhere: Option<SocketAddr>,
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

struct Content {
    files: HashMap<String, (String, Vec<u8>)>,
    manners: Manners,
    overload: AtomicUsize,
    cuts: AtomicUsize,
    log: Arc<Mutex<Vec<String>>>,
    address: SocketAddr,
}

impl Server {
    pub(super) fn start(files: Files, manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let content = Arc::new(Content {
            files: files.0,
            overload: AtomicUsize::new(manners.overload),
            cuts: AtomicUsize::new(manners.cuts),
            manners,
            log: Arc::clone(&log),
            address,
        });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let content = Arc::clone(&content);
                std::thread::spawn(move || content.serve(&stream.unwrap()));
            }
        });
        Self { address, log }
    }

    pub(super) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub(super) fn requests(&self, part: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.contains(part)).count()
    }
}

impl Content {
    fn serve(&self, stream: &TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
            let path = line.split(' ').nth(1)?.to_owned();
            let mut headers = HashMap::new();
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).ok().filter(|count| *count > 0)?;
                let Some((key, value)) = header.trim().split_once(": ") else { break };
                headers.insert(key.to_ascii_lowercase(), value.to_owned());
            }
            let range = headers.get("range").cloned().unwrap_or_default();
            self.log.lock().unwrap().push(format!("{path} {range}").trim().to_owned());
            if let Some(credentials) = headers.get("authorization") {
                self.log.lock().unwrap().push(format!("{path} by {credentials}"));
            }
            let head = self.respond(&path, &headers);
            (&*stream).write_all(&head.0).ok()?;
            if head.1 {
                return None;
            }
        }
    }

    /// The answer, and whether the connection breaks after it.
    fn respond(&self, path: &str, headers: &HashMap<String, String>) -> (Vec<u8>, bool) {
        let take = |count: &AtomicUsize| {
            count
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok()
        };
        if take(&self.overload) {
            return (answer("503 Busy", "retry-after: 0\r\n", b""), false);
        }
        let authorization = headers.get("authorization").map_or("", String::as_str);
        if path.starts_with("/token") {
            let wanted = self.manners.credentials.unwrap_or_default();
            if authorization != format!("Basic {wanted}") {
                return (answer("401 No", "", br#"{"errors":[{"code":"UNAUTHORIZED"}]}"#), false);
            }
            return (answer("200 OK", "", br#"{"token":"sesame"}"#), false);
        }
        if self.manners.credentials.is_some() && authorization != "Bearer sesame" {
            let realm = format!(
                "www-authenticate: Bearer realm=\"http://{}/token\",service=\"s\"\r\n",
                self.address
            );
            return (answer("401 No", &realm, b""), false);
        }
        if let Some(wanted) = self.manners.basic
            && authorization != format!("Basic {wanted}")
        {
            return (answer("401 No", "www-authenticate: Basic realm=\"r\"\r\n", b""), false);
        }
        if let Some(there) = self.manners.elsewhere.filter(|_| path.contains("/blobs/")) {
            let location = format!("location: http://{there}{path}\r\n");
            return (answer("307 Elsewhere", &location, b""), false);
        }
        let Some((kind, bytes)) = self.files.get(path) else {
            let code = if path.contains("denied") { "DENIED" } else { "MANIFEST_UNKNOWN" };
            let text = if path.contains("denied") {
                "requested access to the resource is denied"
            } else {
                "manifest unknown"
            };
            let body = json!({"errors": [{"code": code, "message": text}]}).to_string();
            let status = if path.contains("denied") { "403 No" } else { "404 No" };
            return (answer(status, "", body.as_bytes()), false);
        };
        let kind = format!("content-type: {kind}\r\n");
        let from = headers.get("range").filter(|_| !self.manners.no_ranges);
        let from =
            from.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let (status, body) = match from {
            Some(from) => ("206 Part", &bytes[from..]),
            None => ("200 OK", &bytes[..]),
        };
        let mut whole = answer(status, &kind, body);
        let cut = path.contains("/blobs/") && body.len() > 1000 && take(&self.cuts);
        if cut {
            whole.truncate(whole.len() - body.len() / 2);
        }
        (whole, cut)
    }
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let mut bytes =
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n").into_bytes();
    bytes.extend(body);
    bytes
}

/// What a registry has.
#[derive(Default)]
pub(super) struct Files(pub(super) HashMap<String, (String, Vec<u8>)>);

impl Files {
    pub(super) fn blob(&mut self, repository: &str, bytes: &[u8]) -> serde_json::Value {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{repository}/blobs/{digest}");
        self.0.insert(path, ("application/octet-stream".into(), bytes.to_vec()));
        json!({"digest": digest, "size": bytes.len()})
    }

    pub(super) fn manifest(
        &mut self,
        repository: &str,
        tag: &str,
        body: &serde_json::Value,
    ) -> Digest {
        let bytes = body.to_string().into_bytes();
        let kind = body["mediaType"].as_str().unwrap().to_owned();
        let digest = Digest::of(&bytes);
        for name in [tag, &digest.to_string()] {
            let path = format!("/v2/{repository}/manifests/{name}");
            self.0.insert(path, (kind.clone(), bytes.clone()));
        }
        digest
    }

    /// An image of gzip layers.
    pub(super) fn image(&mut self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Digest {
        let ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let host = Platform::host();
        let config = json!({
            "os": host.os, "architecture": host.architecture,
            "config": {"Cmd": ["x"]}, "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let config = self.blob(repository, config.to_string().as_bytes());
        let layers: Vec<_> =
            layers.iter().map(|layer| self.blob(repository, &gzip(layer))).collect();
        let manifest = json!({
            "schemaVersion": 2, "config": config, "layers": layers,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        });
        self.manifest(repository, tag, &manifest)
    }
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn layer(text: &str) -> Vec<u8> {
    Tar::new().file("text", text.repeat(20_000).as_bytes()).finish()
}
