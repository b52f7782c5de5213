//! Where the output of a container goes: a file of ours, somebody else's log, or both.
//!
//! A container never waits for whoever takes its log: what comes faster than it is taken waits in a
//! queue with a bound, and what does not fit there is left out and counted.

mod fluentd;
mod journald;
mod queue;
mod syslog;

use std::io;
use std::time::Duration;

use super::jsonfile::{JsonFile, Stream, record_length};
use super::protocol::{self, Destination};
use queue::{Message, Queue};

/// How long a container that has ended waits for the rest of its log to be taken.
const FAREWELL: Duration = Duration::from_secs(5);

/// The log of a container.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<JsonFile>,
    sent: Option<Sent>,
}

/// Output on its way to somebody else.
#[derive(Debug)]
struct Sent {
    queue: Delivery,
    partial: [Vec<u8>; 2],
}

/// What is left to be delivered when a container has ended.
#[derive(Clone, Debug)]
pub(super) struct Delivery(std::sync::Arc<Queue>);

impl Log {
    /// Opens the log, if there is to be one. Who is to have it must be there.
    pub(super) fn open(log: &protocol::Log) -> io::Result<Option<Self>> {
        let (file, sent) = match log {
            protocol::Log::None => return Ok(None),
            protocol::Log::JsonFile { .. } => (JsonFile::open(log)?, None),
            protocol::Log::Sent { to, bound, copy } => {
                let queue = Queue::start(to, *bound).map_err(|error| {
                    let text = format!("failed to initialize logging driver: {error}");
                    io::Error::new(error.kind(), text)
                })?;
                let copy = copy.as_deref().map(JsonFile::open).transpose()?.flatten();
                (copy, Some(Sent { queue: Delivery(queue), partial: Default::default() }))
            }
        };
        Ok(Some(Self { file, sent }))
    }

    /// What is to be waited for at the end.
    pub(super) fn delivery(&self) -> Option<Delivery> {
        self.sent.as_ref().map(|sent| sent.queue.clone())
    }

    /// Takes what a process wrote.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if let Some(sent) = &mut self.sent {
            sent.write(stream, bytes);
        }
        self.file.as_mut().map_or(Ok(()), |file| file.write(stream, bytes))
    }

    /// Takes what came without an end of line; nothing more comes on this stream.
    pub(super) fn end(&mut self, stream: Stream) -> io::Result<()> {
        if let Some(sent) = &mut self.sent {
            sent.end(stream);
        }
        self.file.as_mut().map_or(Ok(()), |file| file.end(stream))
    }
}

impl Sent {
    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let mut waiting = std::mem::take(&mut self.partial[stream as usize]);
        waiting.extend_from_slice(bytes);
        let mut rest = waiting.as_slice();
        while let Some(length) = record_length(rest) {
            let (line, after) = rest.split_at(length);
            let whole = line.strip_suffix(b"\n");
            self.queue.0.push(Message::new(stream, whole.unwrap_or(line), whole.is_none()));
            rest = after;
        }
        self.partial[stream as usize] = rest.to_vec();
    }

    fn end(&mut self, stream: Stream) {
        let rest = std::mem::take(&mut self.partial[stream as usize]);
        if !rest.is_empty() {
            self.queue.0.push(Message::new(stream, &rest, false));
        }
    }
}

impl Delivery {
    /// Waits until all is taken, and not for long.
    pub(super) fn finish(&self) {
        self.0.finish(FAREWELL);
    }
}

/// Whoever takes a log.
trait Taker: Send {
    /// Hands a message over, and tells whether it was taken.
    fn take(&mut self, message: &Message) -> io::Result<()>;
}

/// Reaches whoever takes a log.
fn connect(to: &Destination) -> io::Result<Box<dyn Taker>> {
    Ok(match to {
        Destination::Syslog(syslog) => Box::new(syslog::Syslog::connect(syslog)?),
        Destination::Journald { fields } => Box::new(journald::Journald::connect(fields)?),
        Destination::Fluentd(fluentd) => Box::new(fluentd::Fluentd::connect(fluentd)?),
    })
}
