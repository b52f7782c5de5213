//! What a build tells of itself, and in which order.

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use engine_error::{Error, Kind, Result};
use image::Progress;

/// How many lines of a stage wait until those before it are told: a stage that has more to say waits
/// too.
const DEPTH: usize = 256;

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Text, with its line feeds.
    Text(String),
    /// The progress of a pull.
    Progress(Progress),
    /// The image that a stage has come to.
    Id(String),
}

/// Why a build came to nothing.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// The exit code of what ran, if that was it.
    pub code: Option<i64>,
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { error: error.into(), code: None }
    }
}

/// Where one stage, or the build as a whole, says what it has to say.
#[derive(Clone, Debug)]
pub(super) struct Output {
    lines: mpsc::Sender<Line>,
    quiet: bool,
    cancel: CancellationToken,
    tasks: Handle,
}

impl Output {
    pub(super) fn new(
        lines: mpsc::Sender<Line>,
        quiet: bool,
        cancel: &CancellationToken,
        tasks: &Handle,
    ) -> Self {
        Self { lines, quiet, cancel: cancel.clone(), tasks: tasks.clone() }
    }

    /// The same for stages that end when one of them fails.
    pub(super) fn of_stages(&self) -> Self {
        Self { cancel: self.cancel.child_token(), ..self.clone() }
    }

    /// The output of a stage, whose lines come out at the other end.
    pub(super) fn of_stage(&self) -> (Self, mpsc::Receiver<Line>) {
        let (lines, receiver) = mpsc::channel(DEPTH);
        (Self { lines, ..self.clone() }, receiver)
    }

    /// Tells a text. An error if nobody wants to know any more.
    pub(super) fn text(&self, text: impl Into<String>) -> Result<()> {
        if self.quiet { self.check() } else { self.send(Line::Text(text.into())) }
    }

    /// Tells something whatever was said about being quiet.
    pub(super) fn send(&self, line: Line) -> Result<()> {
        // Whoever does not listen may not go away either.
        if self.wait(self.lines.send(line))?.is_err() {
            self.cancel.cancel();
        }
        self.check()
    }

    /// Waits for something, as long as the build is wanted. Blocks.
    pub(super) fn wait<T>(&self, something: impl Future<Output = T>) -> Result<T> {
        self.tasks.block_on(async {
            tokio::select! {
                () = self.cancel.cancelled() => Err(cancelled()),
                done = something => Ok(done),
            }
        })
    }

    /// Where the progress of a pull goes, and how it becomes lines.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// The other end, for whoever does not block.
    pub(super) fn lines(&self) -> mpsc::Sender<Line> {
        self.lines.clone()
    }

    /// The token that ends the build.
    pub(super) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Whether the build is still wanted.
    pub(super) fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(cancelled()) } else { Ok(()) }
    }
}

/// What a build ends with that nobody wants any more.
pub fn cancelled() -> Error {
    Error::new(Kind::Unavailable, "Build cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_is_cancelled_ends_though_nobody_reads_what_it_says() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (lines, mut queue) = mpsc::channel(1);
        let cancel = CancellationToken::new();
        let output = Output::new(lines, false, &cancel, runtime.handle());
        output.text("first").unwrap();
        let second = std::thread::spawn(move || output.text("second"));
        cancel.cancel();
        assert!(second.join().unwrap().is_err());
        assert_eq!(queue.blocking_recv(), Some(Line::Text("first".to_owned())));
    }
}
