//! Asking file systems that may never answer: those of other processes, and of other hosts.
//!
//! A thread that asks such a file system for anything cannot be called back. So it is asked on a thread
//! of its own, for which nobody waits for long; nobody asks again while that is stuck; and there are only
//! so many of them. Whoever takes a path from a user, or lets one mount something at it, asks here
//! before anything else touches it.

pub(crate) mod propagation;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use engine_error::{Error, Kind, Result};

/// How long a file system may take for an answer, or for the next step of a long one.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same while many do not answer: whoever waits holds a thread that others need.
const HURRIED: Duration = Duration::from_millis(500);
/// How many are many.
const MANY: usize = 32;
/// How many questions may be open.
const MOST: usize = 256;
/// How often it is looked whether there are many.
const SLICE: Duration = Duration::from_millis(100);

/// What is asked of file systems.
#[derive(Clone, Debug, Default)]
pub struct FileSystems(Arc<Mutex<Open>>);

/// The questions that are open.
#[derive(Default)]
struct Open {
    count: usize,
    /// The paths whose file systems are known not to answer, and what waits until they do.
    stuck: BTreeMap<PathBuf, Vec<Later>>,
}

/// What is done with a path as soon as something else is answered.
type Later = Box<dyn FnOnce(&Path) + Send>;

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open")
            .field("count", &self.count)
            .field("stuck", &self.stuck.keys())
            .finish()
    }
}

/// How long an answer is waited for.
#[derive(Clone, Copy, Debug)]
struct Patience<'a> {
    /// Without a step.
    longest: Duration,
    /// Tells how far the answer is.
    steps: &'a AtomicU64,
}

impl FileSystems {
    /// Whether there is something at a path.
    pub(crate) fn exists(&self, path: &Path) -> Result<bool> {
        self.ask(path, |path| Ok(path.exists()))?.map_err(unseen(path))
    }

    /// Whether there is a directory at a path.
    pub(crate) fn is_directory(&self, path: &Path) -> Result<bool> {
        self.ask(path, |path| Ok(path.is_dir()))?.map_err(unseen(path))
    }

    /// Makes a directory at a path where nothing is.
    pub(crate) fn make(&self, path: &Path, owner: Option<(u32, u32)>) -> Result<()> {
        let make = move |path: &Path| {
            if path.exists() {
                return Ok(());
            }
            std::fs::create_dir_all(path)?;
            let Some((uid, gid)) = owner else { return Ok(()) };
            std::os::unix::fs::lchown(path, Some(uid), Some(gid))
        };
        self.ask(path, make)?.map_err(unseen(path))
    }

    /// Bytes of the files in a directory; `None` if the file system does not go on telling them.
    pub(crate) fn size(&self, path: &Path) -> Option<u64> {
        let steps = Arc::new(AtomicU64::new(0));
        let note = steps.clone();
        let walk = move |path: &Path| {
            tree::size_noting(path, || {
                note.fetch_add(1, Ordering::Relaxed);
            })
        };
        let patience = Patience { longest: PATIENCE, steps: &steps };
        match self.ask_within(path, patience, walk, drop) {
            Ok(size) => Some(size),
            Err(error) => {
                tracing::warn!(%error, "a size is not known");
                None
            }
        }
    }

    /// The answer to a question about what is at a path.
    ///
    /// # Errors
    /// Only if there is none.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        path: &Path,
        question: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T> {
        self.ask_or(path, question, drop)
    }

    /// The same for what changes something: an answer for which nobody waits any more is taken back,
    /// before what is at the path is asked again.
    pub(crate) fn ask_or<T: Send + 'static>(
        &self,
        path: &Path,
        question: impl FnOnce(&Path) -> T + Send + 'static,
        take_back: impl FnOnce(T) + Send + 'static,
    ) -> Result<T> {
        let patience = Patience { longest: PATIENCE, steps: &AtomicU64::new(0) };
        self.ask_within(path, patience, question, take_back)
    }

    /// Has something done with what is at a path that must be done once: now, or as soon as its file system
    /// answers what it was asked before.
    pub(crate) fn have_done(
        &self,
        path: &Path,
        work: impl FnOnce(&Path) + Send + 'static,
    ) -> Result<()> {
        if let Some(later) = self.open().stuck.get_mut(path) {
            later.push(Box::new(work));
            return Err(silent(path));
        }
        self.ask(path, work)
    }

    fn ask_within<T: Send + 'static>(
        &self,
        path: &Path,
        patience: Patience<'_>,
        question: impl FnOnce(&Path) -> T + Send + 'static,
        take_back: impl FnOnce(T) + Send + 'static,
    ) -> Result<T> {
        self.begin(path)?;
        let (all, its) = (self.0.clone(), path.to_owned());
        let (tell, told) = sync_channel(1);
        let asks = move || {
            let answer = question(&its);
            let mut open = lock(&all);
            if let Err(SendError(answer)) = tell.send(answer) {
                drop(open);
                take_back(answer);
                open = lock(&all);
            }
            while let Some(later) = open.stuck.get_mut(&its).filter(|later| !later.is_empty()) {
                let later = std::mem::take(later);
                drop(open);
                for work in later {
                    work(&its);
                }
                open = lock(&all);
            }
            open.count -= 1;
            open.stuck.remove(&its);
        };
        let thread = thread::Builder::new().name("file system".to_owned());
        if let Err(error) = thread.spawn(asks) {
            self.open().count -= 1;
            return Err(Error::internal("cannot start a thread", error));
        }
        if let Some(answer) = self.wait(&told, patience) {
            return Ok(answer);
        }
        let mut open = self.open();
        // It may have come just now.
        let answer = told.try_recv();
        // While this is locked: whoever answers later is to see that nobody waits.
        drop(told);
        answer.map_err(|_| {
            open.stuck.entry(path.to_owned()).or_default();
            silent(path)
        })
    }

    /// Takes part in the number of open questions.
    fn begin(&self, path: &Path) -> Result<()> {
        let mut open = self.open();
        if open.stuck.contains_key(path) {
            return Err(silent(path));
        }
        if open.count >= MOST {
            let text = format!(
                "cannot look at {}: {MOST} questions to file systems are not answered yet; unmount \
                 those that hang",
                path.display()
            );
            return Err(Error::new(Kind::Unavailable, text));
        }
        open.count += 1;
        Ok(())
    }

    fn wait<T>(&self, told: &Receiver<T>, patience: Patience<'_>) -> Option<T> {
        let Patience { longest: patience, steps } = patience;
        let (mut since, mut seen) = (Instant::now(), 0);
        loop {
            match told.recv_timeout(SLICE.min(patience)) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = steps.load(Ordering::Relaxed);
            if now != seen {
                (since, seen) = (Instant::now(), now);
            }
            let many = self.open().count > MANY;
            if since.elapsed() >= if many { HURRIED.min(patience) } else { patience } {
                return None;
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        lock(&self.0)
    }
}

fn unseen(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let text = format!("cannot look at or make {}", path.display());
    move |error| Error::internal(text, error)
}

fn silent(path: &Path) -> Error {
    Error::conflict(format!(
        "the file system of {} does not answer: unmount it, or wait until it does",
        path.display()
    ))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    fn stuck(path: &Path, file_systems: &FileSystems) -> bool {
        file_systems.open().stuck.contains_key(path)
    }

    #[test]
    fn a_file_system_that_does_not_answer_is_waited_for_once_and_not_long() {
        let file_systems = FileSystems::default();
        let (hangs, path) = (Path::new("/hangs"), std::env::temp_dir());
        let (answer, question) = channel::<()>();
        let (undo, undone) = channel::<u8>();
        let (its, none) = (file_systems.clone(), AtomicU64::new(0));
        let patience = Patience { longest: Duration::from_millis(50), steps: &none };
        let hang = move |_: &Path| {
            // Until the other end is gone.
            let _ = question.recv();
            7
        };
        let taken = move |answer| {
            assert!(stuck(Path::new("/hangs"), &its), "it is asked again too early");
            undo.send(answer).unwrap();
        };
        let asked = file_systems.ask_within(hangs, patience, hang, taken);
        let error = asked.unwrap_err().to_string();
        assert!(error.starts_with("the file system of /hangs does not answer"), "{error}");
        let again = |_: &Path| panic!("a second thread asks");
        file_systems.ask(hangs, again).unwrap_err();
        let (do_it, done) = channel::<()>();
        file_systems.have_done(hangs, move |_| do_it.send(()).unwrap()).unwrap_err();
        assert!(file_systems.exists(&path).unwrap(), "another one answers meanwhile");
        drop(answer);
        assert_eq!(undone.recv_timeout(PATIENCE), Ok(7), "what comes late is taken back");
        assert_eq!(done.recv_timeout(PATIENCE), Ok(()), "what had to wait is done");
        while stuck(hangs, &file_systems) {
            thread::yield_now();
        }
        assert!(!file_systems.exists(hangs).unwrap(), "it is asked again when it answers");
    }

    #[test]
    fn many_that_hang_are_waited_for_less_and_more_than_that_are_not_asked() {
        let file_systems = FileSystems::default();
        let place = |number: usize| PathBuf::from(format!("/hangs/{number}"));
        let (gates, answers): (Vec<_>, Vec<_>) = (0..MOST).map(|_| channel::<()>()).unzip();
        let begun = Instant::now();
        thread::scope(|scope| {
            for (number, answer) in answers.into_iter().enumerate() {
                let file_systems = &file_systems;
                scope.spawn(move || {
                    let hang = move |_: &Path| {
                        let _ = answer.recv();
                    };
                    file_systems.ask(&place(number), hang).unwrap_err();
                });
            }
        });
        assert!(begun.elapsed() < PATIENCE, "they took {:?}", begun.elapsed());
        let error = file_systems.exists(Path::new("/")).unwrap_err().to_string();
        assert!(error.starts_with("cannot look at /: 256 questions"), "{error}");
        drop(gates);
        while file_systems.open().count > 0 {
            thread::yield_now();
        }
        assert!(file_systems.exists(Path::new("/")).unwrap());
        assert!(file_systems.open().stuck.is_empty());
    }

    #[test]
    fn a_long_answer_that_goes_on_is_waited_for() {
        let file_systems = FileSystems::default();
        let steps = Arc::new(AtomicU64::new(0));
        let (its, longest) = (steps.clone(), Duration::from_millis(200));
        let begun = Instant::now();
        let slow = move |_: &Path| {
            while begun.elapsed() < longest * 3 {
                its.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
            }
            7
        };
        let patience = Patience { longest, steps: &steps };
        let taken = |_| panic!("somebody waits for it");
        let answer = file_systems.ask_within(Path::new("/slow"), patience, slow, taken);
        assert_eq!(answer.unwrap(), 7);
    }
}
