//! Lines on their way, and the thread that hands them over.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::super::jsonfile::Stream;
use super::super::protocol::Destination;
use super::{Taker, connect};

/// The shortest and the longest pause before somebody is called again who does not answer.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What a line takes beside its bytes.
const OVERHEAD: usize = 64;

/// A line of output, or a part of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) stream: Stream,
    pub(super) text: Vec<u8>,
    /// Whether the rest of its line is a message of its own.
    pub(super) partial: bool,
    pub(super) time: SystemTime,
}

/// Lines on their way.
#[derive(Debug)]
pub(super) struct Queue {
    bound: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Message>,
    size: usize,
    /// How many did not fit since the last one that did.
    lost: u64,
    /// Whether one is being handed over.
    busy: bool,
}

impl Message {
    pub(super) fn new(stream: Stream, text: &[u8], partial: bool) -> Self {
        Self { stream, text: text.to_vec(), partial, time: SystemTime::now() }
    }

    fn size(&self) -> usize {
        self.text.len() + OVERHEAD
    }
}

impl Queue {
    /// Begins to hand lines over to somebody, who must be there now or may come later.
    pub(super) fn start(to: &Destination, bound: u64) -> io::Result<Arc<Self>> {
        let bound = usize::try_from(bound).unwrap_or(usize::MAX);
        let queue = Arc::new(Self { bound, state: Mutex::default(), changed: Condvar::new() });
        let may_be_away = matches!(to, Destination::Fluentd(fluentd) if fluentd.may_be_away);
        let taker = if may_be_away { None } else { Some(connect(to)?) };
        let (to, its) = (to.clone(), Arc::clone(&queue));
        std::thread::Builder::new().name("log".to_owned()).spawn(move || its.serve(taker, &to))?;
        Ok(queue)
    }

    /// Adds a line. Does not wait: one that does not fit is left out.
    pub(super) fn push(&self, message: Message) {
        let mut state = self.lock();
        if state.size + message.size() > self.bound {
            state.lost += 1;
            return;
        }
        if state.lost > 0 {
            let text = format!("{} messages were lost: they came too fast", state.lost);
            state.lost = 0;
            state.add(Message::new(Stream::Stderr, text.as_bytes(), false));
        }
        state.add(message);
        self.changed.notify_all();
    }

    /// Waits until all is taken, or the patience is over.
    pub(super) fn finish(&self, patience: Duration) {
        let end = Instant::now() + patience;
        let mut state = self.lock();
        while state.busy || !state.waiting.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn serve(&self, mut taker: Option<Box<dyn Taker>>, to: &Destination) {
        let mut pause = PAUSES.0;
        loop {
            let message = self.next();
            loop {
                if taker.is_none() {
                    taker = connect(to).ok();
                }
                let answer = taker.as_mut().map(|taker| taker.take(&message));
                if matches!(answer, Some(Ok(()))) {
                    pause = PAUSES.0;
                    break;
                }
                // What a receiver cannot take at all must not keep the others back.
                if matches!(&answer, Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput)
                {
                    break;
                }
                taker = None;
                // Nothing tells when somebody answers again.
                #[expect(clippy::disallowed_methods, reason = "a thread that waits for nobody")]
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSES.1);
            }
            self.lock().busy = false;
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Message {
        let mut state = self.lock();
        loop {
            if let Some(message) = state.waiting.pop_front() {
                state.size -= message.size();
                state.busy = true;
                return message;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, message: Message) {
        self.size += message.size();
        self.waiting.push_back(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_left_out_and_counted() {
        let queue = Queue { bound: 400, state: Mutex::default(), changed: Condvar::new() };
        for number in 0..10 {
            queue.push(Message::new(Stream::Stdout, format!("line {number}").as_bytes(), false));
        }
        assert_eq!(queue.lock().waiting.len(), 5);
        for _ in 0..3 {
            queue.next();
        }
        queue.push(Message::new(Stream::Stdout, b"later", false));
        let texts: Vec<_> = queue
            .lock()
            .waiting
            .iter()
            .map(|m| String::from_utf8(m.text.clone()).unwrap())
            .collect();
        assert_eq!(texts[2..], ["5 messages were lost: they came too fast", "later"]);
    }

    #[test]
    fn a_fluentd_that_may_be_away_has_what_was_written_before_it_came() {
        use super::super::super::protocol::{Fluentd, FluentdTo};
        use std::io::Read;
        let path = std::env::temp_dir().join(format!("rnet-fluentd-{}", std::process::id()));
        let to = |may_be_away| {
            let (tag, fields) = ("t".to_owned(), Vec::new());
            let to = FluentdTo::Unix { path: path.clone() };
            Destination::Fluentd(Fluentd { to, tag, fields, fine: false, may_be_away })
        };
        assert!(Queue::start(&to(false), 1 << 20).is_err());
        let queue = Queue::start(&to(true), 1 << 20).unwrap();
        queue.push(Message::new(Stream::Stdout, b"early", false));
        let fluentd = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let (mut stream, _) = fluentd.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"early") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            text.extend(byte);
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_end_waits_for_a_receiver_that_does_not_come_only_so_long() {
        let queue = Queue { bound: 400, state: Mutex::default(), changed: Condvar::new() };
        queue.push(Message::new(Stream::Stdout, b"line", false));
        let begun = Instant::now();
        queue.finish(Duration::from_millis(50));
        assert!(begun.elapsed() >= Duration::from_millis(50));
    }
}
