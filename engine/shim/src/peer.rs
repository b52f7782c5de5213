//! A connection to the shim: a question, then perhaps a stream.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::jsonfile::Stream;
use super::protocol::Streams;

/// Bytes a slow reader may owe before the process it reads from is made to wait.
const CONGESTED: usize = 1 << 20;
/// How long a process waits for a reader that takes nothing; then the reader is dropped.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest request: an exec's process object.
const LONGEST_REQUEST: usize = 4 << 20;

/// What a connection is used for.
#[derive(Debug)]
pub(super) enum Role {
    /// The request is on its way.
    Asking(Vec<u8>),
    /// The process asked for is being started; the bytes are early input.
    Waiting { process: u64, streams: Streams, framed: bool, early: Vec<u8> },
    /// The streams of a process.
    Streaming { process: u64, streams: Streams, framed: bool },
    /// Events.
    Watching,
    /// Nothing more but the reply.
    Answered,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) stream: UnixStream,
    pub(super) role: Role,
    out: VecDeque<u8>,
    progress: Instant,
    finishing: bool,
    closed: bool,
    input_ended: bool,
}

/// What reading a request came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Not all of it is here.
    Partly,
    /// The line, and what came after it.
    Request { line: Vec<u8>, rest: Vec<u8> },
    /// There will be none.
    Nothing,
}

impl Peer {
    pub(super) fn new(stream: UnixStream, role: Role) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            role,
            out: VecDeque::new(),
            progress: Instant::now(),
            finishing: false,
            closed: false,
            input_ended: false,
        })
    }

    /// Reads on until the request's line is complete.
    pub(super) fn ask(&mut self, buffer: &mut [u8]) -> Asked {
        let Role::Asking(line) = &mut self.role else { return Asked::Nothing };
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Asked::Nothing,
                Ok(length) => line.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Asked::Partly,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Asked::Nothing,
            }
            if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                let rest = line.split_off(end + 1);
                return Asked::Request { line: std::mem::take(line), rest };
            }
            if line.len() > LONGEST_REQUEST {
                return Asked::Nothing;
            }
        }
    }

    /// Reads input for a process; `None` is its end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.stream.read(buffer)? {
            0 => {
                self.input_ended = true;
                Ok(None)
            }
            length => Ok(Some(length)),
        }
    }

    /// Queues a JSON line.
    pub(super) fn say<T: Serialize>(&mut self, value: &T) {
        if let Ok(mut line) = serde_json::to_vec(value) {
            line.push(b'\n');
            self.send(&line);
        }
    }

    /// Queues what a process wrote, if this connection is to have it.
    pub(super) fn output(&mut self, of: u64, stream: Stream, bytes: &[u8]) {
        let Role::Streaming { process, streams, framed } = self.role else { return };
        let wanted = match stream {
            Stream::Stdout => streams.stdout,
            Stream::Stderr => streams.stderr,
        };
        if process != of || !wanted {
            return;
        }
        if framed {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let mut header = [0; 8];
            header[0] = stream as u8 + 1;
            header[4..].copy_from_slice(&length.to_be_bytes());
            self.out.extend(header);
        }
        self.send(bytes);
    }

    fn send(&mut self, bytes: &[u8]) {
        if self.closed {
            return;
        }
        if self.out.is_empty() {
            self.progress = Instant::now();
        }
        self.out.extend(bytes);
        self.flush();
    }

    /// Writes as much as the connection takes.
    pub(super) fn flush(&mut self) {
        while !self.out.is_empty() && !self.closed {
            let (front, _) = self.out.as_slices();
            match self.stream.write(front) {
                Ok(written) => {
                    self.out.drain(..written);
                    self.progress = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.close(),
            }
        }
        if self.out.capacity() > CONGESTED / 4 {
            self.out.shrink_to_fit();
        }
    }

    /// Closes the connection as soon as all is written.
    pub(super) fn finish(&mut self) {
        self.finishing = true;
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.out = VecDeque::new();
    }

    /// Whether there is nothing left to do with it.
    pub(super) fn is_over(&self) -> bool {
        self.closed || (self.finishing && self.out.is_empty())
    }

    pub(super) fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    pub(super) fn has_input_ended(&self) -> bool {
        self.input_ended
    }

    /// Whether the process it reads from has to wait for it.
    pub(super) fn is_congested(&self) -> bool {
        self.out.len() > CONGESTED && !self.closed
    }

    /// Drops a reader that has taken nothing for too long.
    pub(super) fn lose_patience(&mut self, now: Instant) {
        if self.is_congested() && now.duration_since(self.progress) > PATIENCE {
            self.close();
        }
    }

    /// Whether this connection carries streams of a process.
    pub(super) fn streams_of(&self, id: u64) -> Option<Streams> {
        match self.role {
            Role::Streaming { process, streams, .. } if process == id => Some(streams),
            _ => None,
        }
    }
}
