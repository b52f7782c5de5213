//! The host's side of binds: whether it is there, and what spreads from it.
//!
//! A file system of another process, or of another host, may never answer, and a thread that asks it
//! cannot be called back. So it is asked on a thread of its own, for which nobody waits for long; and
//! nobody asks again while that is stuck.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use engine_error::{Error, Result};

/// How long a file system may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is asked about the sources of binds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// The paths whose file systems have not answered.
    stuck: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Sources {
    /// Whether there is something at a path.
    pub(crate) fn exists(&self, path: &Path) -> Result<bool> {
        self.ask(path, PATIENCE, |path| Ok(path.exists()))
    }

    /// Whether there is a directory at a path.
    pub(crate) fn is_directory(&self, path: &Path) -> Result<bool> {
        self.ask(path, PATIENCE, |path| Ok(path.is_dir()))
    }

    /// Makes a directory at a path where nothing is.
    pub(crate) fn make(&self, path: &Path) -> Result<()> {
        let make = |path: &Path| {
            if path.exists() { Ok(()) } else { std::fs::create_dir_all(path) }
        };
        self.ask(path, PATIENCE, make)
    }

    fn ask<T: Send + 'static>(
        &self,
        path: &Path,
        patience: Duration,
        question: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let failed =
            |error| Error::internal(format!("cannot look at or make {}", path.display()), error);
        let silent = || {
            Error::conflict(format!(
                "the file system of {} does not answer: unmount it, or wait until it does",
                path.display()
            ))
        };
        if lock(&self.stuck).contains(path) {
            return Err(silent());
        }
        let (stuck, its) = (self.stuck.clone(), path.to_owned());
        let (tell, told) = sync_channel(1);
        let asks = move || {
            let answer = question(&its);
            let mut stuck = lock(&stuck);
            stuck.remove(&its);
            // Nobody may wait for it any more.
            let _ = tell.send(answer);
        };
        let thread = thread::Builder::new().name("bind source".to_owned());
        thread.spawn(asks).map_err(failed)?;
        if let Ok(answer) = told.recv_timeout(patience) {
            return answer.map_err(failed);
        }
        let mut stuck = lock(&self.stuck);
        // It may have come just now.
        told.try_recv().map_or_else(
            |_| {
                stuck.insert(path.to_owned());
                Err(silent())
            },
            |answer| answer.map_err(failed),
        )
    }
}

/// Refuses a propagation that cannot be had: what is mounted below a source spreads only from a mount
/// that is shared, or a slave of one. `mounts` is the text of `/proc/self/mountinfo`.
pub(crate) fn check_propagation(source: &Path, propagation: &str, mounts: &str) -> Result<()> {
    let known: &[&str] = match propagation {
        "shared" | "rshared" => &["shared:"],
        "slave" | "rslave" => &["shared:", "master:"],
        _ => return Ok(()),
    };
    let Some((place, spreads)) = mount_of(source, mounts) else { return Ok(()) };
    if spreads.iter().any(|field| known.iter().any(|known| field.starts_with(known))) {
        return Ok(());
    }
    let wanted = if known.len() == 1 { "a shared" } else { "a shared or slave" };
    Err(Error::invalid(format!(
        "path {} is mounted on {place} but it is not {wanted} mount",
        source.display()
    )))
}

/// The mount that a path is on, and what it tells of how it spreads.
fn mount_of<'a>(path: &Path, mounts: &'a str) -> Option<(String, Vec<&'a str>)> {
    let all = mounts.lines().filter_map(|line| {
        let place = line.split(' ').nth(4)?.replace("\\040", " ");
        path.starts_with(&place).then(|| {
            let fields = line.split(' ').skip(6).take_while(|field| *field != "-");
            (place, fields.collect())
        })
    });
    // Of those at one place the last one is on top.
    all.max_by_key(|(place, _)| place.len())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_file_system_that_does_not_answer_is_waited_for_once_and_not_long() {
        let sources = Sources::default();
        let (hangs, path) = (Path::new("/hangs"), std::env::temp_dir());
        let (answer, question) = channel::<()>();
        let patience = Duration::from_millis(50);
        let hang = move |_: &Path| {
            // Until the other end is gone.
            let _ = question.recv();
            Ok(())
        };
        let error = sources.ask(hangs, patience, hang).unwrap_err().to_string();
        assert!(error.starts_with("the file system of /hangs does not answer"), "{error}");
        let again = |_: &Path| -> io::Result<()> { panic!("a second thread asks") };
        sources.ask(hangs, patience, again).unwrap_err();
        assert!(sources.exists(&path).unwrap(), "another one answers meanwhile");
        drop(answer);
        while lock(&sources.stuck).contains(hangs) {
            thread::yield_now();
        }
        assert!(!sources.exists(hangs).unwrap(), "it is asked again when it answers");
    }

    #[test]
    fn what_is_not_shared_cannot_spread_and_that_is_said() {
        let mounts = "1 0 8:1 / / rw - ext4 a rw\n2 1 8:1 / /s rw shared:7 - ext4 a rw\n\
                      3 1 8:1 / /m rw master:7 - ext4 a rw\n4 2 8:1 / /s/p rw - ext4 a rw\n";
        let check = |path: &str, how: &str| check_propagation(Path::new(path), how, mounts);
        for (path, how) in [("/s/x", "rshared"), ("/m", "slave"), ("/x", "rprivate"), ("/x", "")] {
            check(path, how).unwrap();
        }
        let error = |path, how| check(path, how).unwrap_err().to_string();
        assert_eq!(
            error("/etc", "shared"),
            "path /etc is mounted on / but it is not a shared mount"
        );
        assert_eq!(
            error("/s/p/x", "rslave"),
            "path /s/p/x is mounted on /s/p but it is not a shared or slave mount"
        );
        error("/m", "shared");
    }
}
