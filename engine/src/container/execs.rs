//! The exec'd processes of all containers: which there are, and how far each is.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{ContainerId, ExecView};
use engine_error::{Error, Result};

/// How long a finished process can still be asked about.
const REMEMBERED: Duration = Duration::from_secs(300);
/// How many finished processes can be asked about; those that ended first are forgotten before their time. Each
/// keeps some pages of what thousands of clients at once took for a moment.
const ENDED: usize = 512;
/// How many processes of one container may wait for their start. A client starts what it has created,
/// or goes; as Docker does, those are kept until the container ends.
const WAITING: usize = 4096;
/// The exit code of what ended with its container.
const KILLED: i32 = 128 + libc::SIGKILL;

/// The exec'd processes of all containers.
#[derive(Debug, Default)]
pub(super) struct Execs(Mutex<HashMap<String, Entry>>);

#[derive(Debug)]
struct Entry {
    view: ExecView,
    /// Whether it was started; once is enough.
    started: bool,
    /// Whether it runs, or did.
    ran: watch::Sender<bool>,
    ended: watch::Sender<bool>,
    forget: Option<Instant>,
}

impl Execs {
    /// Takes in a process that is to be started.
    ///
    /// # Errors
    /// If too many of its container wait already.
    pub(super) fn add(&self, view: ExecView) -> Result<()> {
        let now = Instant::now();
        let mut execs = self.lock();
        execs.retain(|_, entry| entry.forget.is_none_or(|time| time > now));
        let waits = |entry: &&Entry| !entry.started && entry.view.container == view.container;
        if execs.values().filter(waits).count() >= WAITING {
            return Err(Error::conflict(format!(
                "container {} has {WAITING} execs that were created and never started: start them, or \
                 restart the container",
                view.container
            )));
        }
        forget_first(&mut execs);
        let id = view.id.clone();
        let (ran, ended) = (watch::Sender::new(false), watch::Sender::new(false));
        let entry = Entry { view, started: false, ran, ended, forget: None };
        execs.insert(id, entry);
        Ok(())
    }

    /// A process as it is now.
    pub(super) fn get(&self, id: &str) -> Result<ExecView> {
        let execs = self.lock();
        let entry = execs.get(id).ok_or_else(|| no_such_exec(id))?;
        Ok(entry.view.clone())
    }

    /// Those of a container that have not ended.
    pub(super) fn of(&self, container: &str) -> Vec<String> {
        let execs = self.lock();
        let own = execs.values().filter(|entry| entry.view.container.as_str() == container);
        own.filter(|entry| entry.forget.is_none()).map(|entry| entry.view.id.clone()).collect()
    }

    /// Takes the one start that a process has; what is returned turns true at its end.
    pub(super) fn claim(&self, id: &str) -> Result<watch::Receiver<bool>> {
        let mut execs = self.lock();
        let entry = execs.get_mut(id).ok_or_else(|| no_such_exec(id))?;
        if entry.started {
            return Err(Error::conflict(format!("exec command {id} has already run")));
        }
        entry.started = true;
        Ok(entry.ended.subscribe())
    }

    /// What turns true when a process runs, or has ended without.
    pub(super) fn ran(&self, id: &str) -> Result<watch::Receiver<bool>> {
        let execs = self.lock();
        let entry = execs.get(id).ok_or_else(|| no_such_exec(id))?;
        Ok(entry.ran.subscribe())
    }

    /// A process runs.
    pub(super) fn start(&self, id: &str, pid: i32) {
        if let Some(entry) = self.lock().get_mut(id) {
            entry.view.pid = pid;
            // The news of its end may have been quicker.
            entry.view.running = entry.view.exit_code.is_none();
            entry.ran.send_replace(true);
        }
    }

    /// A process has ended. Returns whether it was known, and not that it has.
    pub(super) fn end(&self, id: &str, code: i32) -> bool {
        let mut execs = self.lock();
        let Some(entry) = execs.get_mut(id) else { return false };
        if entry.forget.is_some() {
            return false;
        }
        entry.view.running = false;
        entry.view.exit_code = Some(code);
        entry.forget = Some(Instant::now() + REMEMBERED);
        entry.ran.send_replace(true);
        entry.ended.send_replace(true);
        true
    }

    /// The processes of a container that ended have ended: they can be asked about for a while, and
    /// those that were never started are forgotten.
    pub(super) fn end_all(&self, container: &ContainerId) {
        let soon = Instant::now() + REMEMBERED;
        self.lock().retain(|_, entry| {
            if entry.view.container != *container {
                return true;
            }
            if entry.forget.is_none() {
                entry.view.running = false;
                entry.view.exit_code = entry.view.exit_code.or(Some(KILLED));
                entry.forget = Some(soon);
            }
            entry.ran.send_replace(true);
            entry.ended.send_replace(true);
            entry.started
        });
    }

    /// Forgets the processes of a container.
    pub(super) fn forget(&self, container: &ContainerId) {
        self.lock().retain(|_, entry| {
            if entry.view.container == *container {
                entry.ended.send_replace(true);
            }
            entry.view.container != *container
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes room for the end of one more process.
fn forget_first(execs: &mut HashMap<String, Entry>) {
    let ended = execs.iter().filter_map(|(id, entry)| Some((entry.forget?, id)));
    // Those of a container end together, and may be more than one too many.
    let too_many = (ended.clone().count() + 1).saturating_sub(ENDED);
    if too_many > 0 {
        let mut ended: Vec<_> = ended.map(|(time, id)| (time, id.clone())).collect();
        ended.sort();
        ended.iter().take(too_many).for_each(|(_, id)| drop(execs.remove(id)));
    }
}

fn no_such_exec(id: &str) -> Error {
    Error::not_found(format!("No such exec instance: {id}"))
}

#[cfg(test)]
mod tests {
    use super::super::ExecSpec;
    use super::*;

    fn view(container: &ContainerId, number: usize) -> ExecView {
        ExecView {
            id: number.to_string(),
            container: container.clone(),
            spec: ExecSpec::default(),
            running: false,
            exit_code: None,
            pid: 0,
        }
    }

    fn container(digit: &str) -> ContainerId {
        digit.repeat(64).try_into().unwrap()
    }

    #[test]
    fn execs_that_are_never_started_are_bounded_and_end_with_their_container() {
        let (execs, own, other) = (Execs::default(), container("a"), container("b"));
        for number in 0..WAITING {
            execs.add(view(&own, number)).unwrap();
        }
        let error = execs.add(view(&own, WAITING)).unwrap_err().to_string();
        assert!(error.contains("has 4096 execs that were created and never started"), "{error}");
        execs.add(view(&other, WAITING)).unwrap();
        let started = execs.claim("7").unwrap();
        execs.add(view(&own, WAITING + 1)).unwrap();
        execs.add(view(&own, WAITING + 2)).unwrap_err();
        execs.forget(&own);
        assert!(*started.borrow(), "whoever waits for it is told");
        assert_eq!(execs.of(&own), Vec::<String>::new());
        assert_eq!(execs.of(&other), [WAITING.to_string()]);
        assert_eq!(execs.get("7").unwrap_err().to_string(), "No such exec instance: 7");
        execs.add(view(&own, 7)).unwrap();
    }

    #[test]
    fn of_a_flood_of_execs_that_ended_the_last_are_remembered() {
        let (execs, own) = (Execs::default(), container("a"));
        for number in 0..ENDED {
            execs.add(view(&own, number)).unwrap();
            execs.claim(&number.to_string()).unwrap();
            assert!(execs.end(&number.to_string(), 0));
        }
        assert_eq!(execs.get("0").unwrap().exit_code, Some(0));
        execs.add(view(&own, ENDED)).unwrap();
        assert_eq!(execs.get("0").unwrap_err().to_string(), "No such exec instance: 0");
        assert_eq!(execs.get(&(ENDED - 1).to_string()).unwrap().exit_code, Some(0));
        assert_eq!(execs.lock().len(), ENDED);
    }

    #[test]
    fn what_ended_with_its_container_was_forgotten_at_once() {
        let (execs, own) = (Execs::default(), container("a"));
        for number in 0..3 {
            execs.add(view(&own, number)).unwrap();
        }
        let started = execs.claim("0").unwrap();
        execs.start("0", 5);
        execs.claim("1").unwrap();
        assert!(execs.end("1", 7));
        execs.end_all(&own);
        assert!(*started.borrow(), "whoever waits for it is told");
        let code = |id: &str| execs.get(id).map(|view| (view.running, view.exit_code));
        assert_eq!(code("0").unwrap(), (false, Some(137)));
        assert_eq!(code("1").unwrap(), (false, Some(7)));
        code("2").unwrap_err();
        assert!(!execs.end("0", 1), "it is told once");
        for number in 3..ENDED + 9 {
            execs.add(view(&own, number)).unwrap();
            execs.claim(&number.to_string()).unwrap();
        }
        execs.end_all(&own);
        execs.add(view(&own, ENDED + 9)).unwrap();
        assert_eq!(execs.lock().len(), ENDED);
    }
}
