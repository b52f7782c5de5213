//! A socket between a client and a daemon, where it is written down what is asked and how it is
//! answered.
//!
//! Bytes pass as they are, in both directions; heads are read to find where messages begin.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::PATIENCE;

/// A request, and the status of its answer as soon as there is one.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// The path with its query, as it was sent.
    pub path: String,
    status: Arc<OnceLock<u16>>,
}

impl Asked {
    pub fn status(&self) -> Option<u16> {
        self.status.get().copied()
    }
}

type Log = Arc<Mutex<Vec<Asked>>>;

/// A listener; its threads end with the connections, and with the process of the test.
#[derive(Debug)]
pub struct Recorder {
    socket: PathBuf,
    log: Log,
}

impl Recorder {
    /// Listens at a path, on behalf of a daemon.
    pub fn start(socket: PathBuf, daemon: &Path) -> Self {
        let listener = UnixListener::bind(&socket).unwrap();
        let log = Log::default();
        let (shared, daemon) = (Arc::clone(&log), daemon.to_owned());
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, log) = (client.unwrap(), Arc::clone(&shared));
                let daemon = UnixStream::connect(&daemon).unwrap();
                thread::spawn(move || relay(&client, &daemon, &log));
            }
        });
        Self { socket, log }
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Waits until something is asked that has this in its path, and is answered.
    pub fn until(&self, path: &str) {
        assert!(self.heard(path, PATIENCE), "nobody asks for {path}");
    }

    /// Whether something is asked and answered, within some time, that has this in its path.
    pub fn heard(&self, path: &str, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let is_it = |asked: &Asked| asked.path.contains(path) && asked.status().is_some();
        while !self.log.lock().unwrap().iter().any(is_it) {
            if Instant::now() >= end {
                return false;
            }
            thread::yield_now();
        }
        true
    }

    /// What was asked since this was called last, in the order in which it came.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

/// A request that waits for its answer: where its status goes, and whether it is a `HEAD`.
type Waiting = (Arc<OnceLock<u16>>, bool);

/// Carries one connection to its end: that of the client. A daemon that has answered may have no more to
/// say and still read on, so that who is in the middle of a request gets to hear the answer.
fn relay(client: &UnixStream, daemon: &UnixStream, log: &Log) {
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = requests(client, daemon, log, &sender);
            let _ = daemon.shutdown(Shutdown::Write);
            // What the daemon does not want to hear any more is still the client's to say.
            let _ = io::copy(&mut &*client, &mut io::sink());
        });
        if answers(daemon, client, &receiver).is_err() {
            // What cannot be told to the client any more need not be said.
            let _ = daemon.shutdown(Shutdown::Both);
        }
        let _ = client.shutdown(Shutdown::Write);
    });
}

/// Up to where a request makes the connection one of bytes, or the client has no more to say.
fn requests(
    client: &UnixStream,
    mut daemon: &UnixStream,
    log: &Log,
    sender: &Sender<Waiting>,
) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    while let Some(head) = Head::read(&mut reader)? {
        let mut words = head.first().split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap(), words.next().unwrap_or_default());
        let is_head = method == "HEAD";
        let status = Arc::default();
        let _ = sender.send((Arc::clone(&status), is_head));
        log.lock().unwrap().push(Asked { method, path, status });
        daemon.write_all(head.text.as_bytes())?;
        if head.value("upgrade").is_some() {
            return io::copy(&mut reader, &mut daemon).map(drop);
        }
        head.carry_body(&mut reader, daemon, false)?;
    }
    Ok(())
}

fn answers(
    daemon: &UnixStream,
    mut client: &UnixStream,
    receiver: &Receiver<Waiting>,
) -> io::Result<()> {
    let mut reader = BufReader::new(daemon);
    while let Some(head) = Head::read(&mut reader)? {
        let status: u16 =
            head.first().split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
        let is_last = status == 101 || status >= 200;
        let waiting = is_last.then(|| receiver.recv().unwrap());
        if let Some((place, _)) = &waiting {
            place.set(status).unwrap();
        }
        client.write_all(head.text.as_bytes())?;
        let is_empty = waiting.is_none_or(|(_, is_head)| is_head) || matches!(status, 204 | 304);
        if status == 101 {
            return bytes(&mut reader, client);
        } else if !is_empty {
            head.carry_body(&mut reader, client, true)?;
        }
    }
    Ok(())
}

/// Carries all bytes, as they come.
fn bytes(reader: &mut impl BufRead, mut to: &UnixStream) -> io::Result<()> {
    loop {
        let length = {
            let bytes = reader.fill_buf()?;
            to.write_all(bytes)?;
            bytes.len()
        };
        if length == 0 {
            return Ok(());
        }
        reader.consume(length);
    }
}

/// The head of a message.
struct Head {
    text: String,
}

impl Head {
    /// The next one, or nothing if the other side has ended.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut text = String::new();
        while !text.ends_with("\r\n\r\n") {
            if reader.read_line(&mut text)? == 0 {
                return Ok(None);
            }
        }
        Ok(Some(Self { text }))
    }

    fn first(&self) -> &str {
        self.text.lines().next().unwrap()
    }

    fn value(&self, name: &str) -> Option<&str> {
        let mut fields = self.text.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Carries what follows. The end of an answer without a length is that of the connection.
    fn carry_body(
        &self,
        reader: &mut impl BufRead,
        mut to: &UnixStream,
        is_answer: bool,
    ) -> io::Result<()> {
        if self.value("transfer-encoding") == Some("chunked") {
            return chunks(reader, to);
        }
        match self.value("content-length") {
            Some(length) => {
                let length = length.parse().unwrap();
                io::copy(&mut reader.take(length), &mut to).map(drop)
            }
            None if is_answer => bytes(reader, to),
            None => Ok(()),
        }
    }
}

/// Carries chunks, each as soon as it is there, and what is behind the last.
fn chunks(reader: &mut impl BufRead, mut to: &UnixStream) -> io::Result<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = u64::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
        to.write_all(line.as_bytes())?;
        if length == 0 {
            break;
        }
        io::copy(&mut reader.take(length + 2), &mut to)?;
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        to.write_all(line.as_bytes())?;
        if line.trim_end().is_empty() {
            return Ok(());
        }
    }
}

#[test]
fn who_is_answered_early_can_finish_its_request() {
    let scratch = crate::daemon::Scratch::new();
    let daemon = UnixListener::bind(scratch.path("daemon")).unwrap();
    let _recorder = Recorder::start(scratch.path("recorder"), &scratch.path("daemon"));
    let mut client = UnixStream::connect(scratch.path("recorder")).unwrap();
    client.write_all(b"PUT /x HTTP/1.1\r\nContent-Length: 9\r\n\r\nsome").unwrap();
    let (mut connection, _) = daemon.accept().unwrap();
    connection.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
    connection.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    client.write_all(b" more").unwrap();
    drop(client);
    let mut request = String::new();
    connection.read_to_string(&mut request).unwrap();
    assert!(request.ends_with("\r\n\r\nsome more"), "{request}");
}
