//! HTTP: a server that tells who asked for what, and a client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::names::Family;
use crate::signal::{self, Blocked};
use crate::sockets::{connect, dual_stack, serve as accept};
use crate::{Outcome, complain, number, options, print, print_bytes, process, seconds, usage};

/// Longest request line or header that is read.
const LONGEST_LINE: u64 = 8192;

pub fn serve(args: &[String]) -> Outcome {
    let (flags, rest) = options("httpd", args, "p:");
    if !rest.is_empty() {
        usage("httpd");
    }
    let port = flags.last().map_or(80, |(_, port)| number("httpd", port));
    let blocked = Blocked::new(&[2, 15]);
    let listener = dual_stack(port, TcpListener::bind)?;
    print(&format!("serving on port {port}\n"));
    std::thread::spawn(move || accept(&listener, handle));
    signal::wait_for_termination(&blocked);
    Ok(0)
}

fn handle(stream: TcpStream) {
    let peer = match stream.peer_addr() {
        Ok(peer) => SocketAddr::new(peer.ip().to_canonical(), peer.port()),
        Err(_) => return,
    };
    // Without these the connection is slower to close, no more.
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader) {
        let keep = request.keep_alive;
        if request.answer(reader.get_mut(), peer).is_err() || !keep {
            return;
        }
    }
}

struct Request {
    method: String,
    target: String,
    keep_alive: bool,
    body: u64,
}

impl Request {
    fn read(reader: &mut BufReader<TcpStream>) -> Option<Self> {
        let first = line(reader)?;
        let mut words = first.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut request = Self { method, target, keep_alive: first.ends_with("/1.1"), body: 0 };
        loop {
            let header = line(reader)?;
            if header.is_empty() {
                break;
            }
            let (key, value) = header.split_once(':')?;
            let value = value.trim();
            match key.to_ascii_lowercase().as_str() {
                "connection" => request.keep_alive &= !value.eq_ignore_ascii_case("close"),
                "content-length" => request.body = value.parse().ok()?,
                _ => {}
            }
        }
        let skipped = std::io::copy(&mut reader.take(request.body), &mut std::io::sink());
        (skipped.ok()? == request.body).then_some(request)
    }

    fn answer(&self, stream: &mut TcpStream, peer: SocketAddr) -> std::io::Result<()> {
        let host = process::host_name();
        let (method, target) = (&self.method, &self.target);
        let body = format!("peer: {peer}\nrequest: {method} {target}\nhostname: {host}\n");
        let connection = if self.keep_alive { "keep-alive" } else { "close" };
        let mut text = format!(
            "HTTP/1.1 200 OK\r\nServer: rnet-toolbox\r\nContent-Type: text/plain\r\n\
             Content-Length: {}\r\nConnection: {connection}\r\n\r\n",
            body.len()
        );
        if self.method != "HEAD" {
            text.push_str(&body);
        }
        stream.write_all(text.as_bytes())
    }
}

/// A line without its end, or nothing at the end of the stream or where it is too long.
fn line(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut bytes = Vec::new();
    reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes).ok()?;
    bytes.pop_if(|byte| *byte == b'\n')?;
    bytes.pop_if(|byte| *byte == b'\r');
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

pub fn get(args: &[String]) -> Outcome {
    let (flags, rest) = options("get", args, "46it:");
    let [url] = rest.as_slice() else { usage("get") };
    let family = Family::from_options(&flags);
    let timeout = flags.iter().rfind(|(flag, _)| *flag == 't');
    let timeout = timeout.map_or(Duration::from_secs(5), |(_, time)| seconds("get", time));
    let Target { authority, host, port, path } = Target::parse(url)?;
    let mut stream = connect(&host, port, family, timeout)?;
    let request = format!(
        "GET {path} HTTP/1.0\r\nHost: {authority}\r\nUser-Agent: rnet-toolbox\r\nAccept: */*\r\n\r\n"
    );
    let failed = |error: std::io::Error| format!("{url}: {error}");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut reader = BufReader::new(stream);
    let status = line(&mut reader).ok_or(format!("{url}: no answer"))?;
    let code = status.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    let code = code.filter(|_| status.starts_with("HTTP/"));
    let code = code.ok_or(format!("{url}: not an HTTP answer"))?;
    let headers = flags.iter().any(|(flag, _)| *flag == 'i');
    if headers {
        print(&format!("{status}\n"));
    }
    loop {
        let header = line(&mut reader).ok_or(format!("{url}: answer cut short"))?;
        if headers {
            print(&format!("{header}\n"));
        }
        if header.is_empty() {
            break;
        }
    }
    let mut buffer = [0; 16384];
    loop {
        match reader.read(&mut buffer).map_err(failed)? {
            0 => break,
            length => print_bytes(&buffer[..length]),
        }
    }
    if code >= 400 {
        complain(&format!("get: {url}: {status}\n"));
        return Ok(1);
    }
    Ok(0)
}

struct Target {
    authority: String,
    host: String,
    port: u16,
    path: String,
}

impl Target {
    fn parse(url: &str) -> Result<Self, String> {
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some((scheme, _)) => return Err(format!("{url}: {scheme} is not spoken here")),
            None => url,
        };
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let wrong = || format!("{url}: no host to be found in it");
        let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
            let (host, rest) = bracketed.split_once(']').ok_or_else(wrong)?;
            (host, rest.strip_prefix(':').unwrap_or("80"))
        } else {
            authority.split_once(':').unwrap_or((authority, "80"))
        };
        let port = port.parse().map_err(|_| wrong())?;
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Self { authority: authority.into(), host: host.into(), port, path: path.into() })
    }
}
