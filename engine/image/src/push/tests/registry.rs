//! A registry on loopback that takes uploads, with the faults of real ones.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::digest::Digest;

/// What a registry does wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Manners {
    /// So many requests are answered with 503 first.
    pub(super) overload: usize,
    /// So many uploads are answered with 429 after they came.
    pub(super) busy_uploads: usize,
    /// So many uploads break in the middle.
    pub(super) cuts: usize,
    /// The answers to so many ends of uploads are lost.
    pub(super) lost: usize,
    /// Uploads that broke are not known any more.
    pub(super) forgets: bool,
    /// So many uploads do not go on where it said that they do.
    pub(super) out_of_step: usize,
    /// Of so many uploads no byte is kept, though they are answered well.
    pub(super) uncounted: usize,
}

#[derive(Debug, Default)]
struct Content {
    manners: Manners,
    log: Vec<String>,
    /// By repository and digest.
    blobs: HashMap<(String, String), Vec<u8>>,
    manifests: HashMap<(String, String), (Vec<u8>, String)>,
    uploads: HashMap<String, Vec<u8>>,
}

pub(super) struct Server {
    address: SocketAddr,
    content: Arc<Mutex<Content>>,
}

struct Request {
    method: String,
    path: String,
    query: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
    /// Whether it ended before its end.
    broken: bool,
}

impl Server {
    pub(super) fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let content = Arc::new(Mutex::new(Content { manners, ..Content::default() }));
        let shared = Arc::clone(&content);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let content = Arc::clone(&shared);
                std::thread::spawn(move || serve(&content, &stream.unwrap()));
            }
        });
        Self { address, content }
    }

    pub(super) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub(super) fn requests(&self, part: &str) -> usize {
        self.content.lock().unwrap().log.iter().filter(|line| line.contains(part)).count()
    }

    /// Uploads that are still to be cut.
    pub(super) fn cuts(&self) -> usize {
        self.content.lock().unwrap().manners.cuts
    }

    pub(super) fn has(&self, repository: &str, digest: &str) -> bool {
        let key = (repository.to_owned(), digest.to_owned());
        self.content.lock().unwrap().blobs.contains_key(&key)
    }

    pub(super) fn manifest(&self, repository: &str, tag: &str) -> (Vec<u8>, String) {
        let key = (repository.to_owned(), tag.to_owned());
        self.content.lock().unwrap().manifests[&key].clone()
    }
}

fn serve(content: &Mutex<Content>, stream: &TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let request = Request::read(&mut reader, content)?;
        let answer = content.lock().unwrap().answer(&request)?;
        (&*stream).write_all(answer.as_bytes()).ok()?;
    }
}

fn take(count: &mut usize) -> bool {
    let some = *count > 0;
    *count -= usize::from(some);
    some
}

impl Request {
    fn read(reader: &mut BufReader<&TcpStream>, content: &Mutex<Content>) -> Option<Self> {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let mut words = line.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut headers = HashMap::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok().filter(|count| *count > 0)?;
            let Some((key, value)) = header.trim().split_once(": ") else { break };
            headers.insert(key.to_ascii_lowercase(), value.to_owned());
        }
        let mut length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let broken =
            method == "PATCH" && length > 1000 && take(&mut content.lock().unwrap().manners.cuts);
        if broken {
            length /= 2;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let (path, query) = (path.to_owned(), query.to_owned());
        Some(Self { method, path, query, headers, body, broken })
    }

    fn parameter(&self, name: &str) -> Option<String> {
        let value =
            self.query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.map(|value| value.replace("%3A", ":"))
    }
}

impl Content {
    /// The answer; none if the connection breaks.
    fn answer(&mut self, request: &Request) -> Option<String> {
        let range = request.headers.get("content-range").map(|_| "content-range");
        self.log.push(format!("{} {} {}", request.method, request.path, range.unwrap_or_default()));
        if take(&mut self.manners.overload) {
            return Some(head("503 Busy", "retry-after: 0\r\n"));
        }
        let path = request.path.strip_prefix("/v2/")?;
        if path.is_empty() {
            return Some(head("200 OK", ""));
        }
        if let Some((repository, id)) = path.split_once("/blobs/uploads/") {
            return self.upload(request, repository, id);
        }
        if let Some((repository, digest)) = path.split_once("/blobs/") {
            let known = self.blobs.contains_key(&(repository.into(), digest.into()));
            return Some(head(if known { "200 OK" } else { "404 No" }, ""));
        }
        let (repository, tag) = path.split_once("/manifests/")?;
        let kind = request.headers["content-type"].clone();
        self.manifests.insert((repository.into(), tag.into()), (request.body.clone(), kind));
        Some(head("201 Created", ""))
    }

    fn upload(&mut self, request: &Request, repository: &str, id: &str) -> Option<String> {
        let at = |id: &str| format!("location: /v2/{repository}/blobs/uploads/{id}?_state=s\r\n");
        match request.method.as_str() {
            "POST" => {
                let mounted = request.parameter("mount").zip(request.parameter("from"));
                let blob = mounted.and_then(|(digest, from)| {
                    Some((digest.clone(), self.blobs.get(&(from, digest))?.clone()))
                });
                if let Some((digest, bytes)) = blob {
                    self.blobs.insert((repository.into(), digest), bytes);
                    return Some(head("201 Created", ""));
                }
                let id = self.uploads.len().to_string();
                self.uploads.insert(id.clone(), Vec::new());
                Some(head("202 Accepted", &at(&id)))
            }
            "PATCH"
                if request.headers.contains_key("content-range")
                    && take(&mut self.manners.out_of_step) =>
            {
                Some(head("416 Out of step", ""))
            }
            "PATCH" if take(&mut self.manners.uncounted) => Some(head("202 Accepted", &at(id))),
            "PATCH" => {
                self.uploads.get_mut(id)?.extend(&request.body);
                if request.broken {
                    if self.manners.forgets {
                        self.uploads.get_mut(id)?.clear();
                    }
                    return None;
                }
                if take(&mut self.manners.busy_uploads) {
                    return Some(head("429 Slowly", "retry-after: 0\r\n"));
                }
                Some(head("202 Accepted", &at(id)))
            }
            "GET" if self.manners.forgets => Some(head("404 No", "")),
            "GET" => {
                let last = self.uploads[id].len().saturating_sub(1);
                Some(head("204 No Content", &format!("{}range: 0-{last}\r\n", at(id))))
            }
            "PUT" => {
                let bytes = self.uploads[id].clone();
                let digest = request.parameter("digest")?;
                if bytes.is_empty() {
                    return Some(head("416 Nothing came", ""));
                }
                if Digest::of(&bytes).to_string() != digest {
                    return Some(head("400 DIGEST", ""));
                }
                self.blobs.insert((repository.into(), digest), bytes);
                if take(&mut self.manners.lost) {
                    return None;
                }
                Some(head("201 Created", ""))
            }
            _ => Some(head("204 No Content", "")),
        }
    }
}

fn head(status: &str, headers: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: 0\r\n\r\n")
}
