//! The file with the daemon's process id: one daemon per file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A pidfile that is ours until it is dropped. The lock decides, so what a killed daemon left is
/// no obstacle, and a number that some other process has now is not either.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
    _lock: File,
}

/// Why a pidfile cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum PidfileError {
    /// A daemon has it.
    #[error(
        "process with PID {pid} is still running, as {path} says: stop it or choose another --pidfile"
    )]
    Running {
        /// Its process id.
        pid: String,
        /// The file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("cannot write the pidfile {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Pidfile {
    /// Takes the file for this process.
    pub fn take(path: &Path) -> Result<Self, PidfileError> {
        let error = |source| PidfileError::Write { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(error)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o644);
        let mut lock = options.custom_flags(libc::O_NOFOLLOW).open(path).map_err(error)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                lock.read_to_string(&mut pid).map_err(error)?;
                let pid = pid.trim().to_owned();
                return Err(PidfileError::Running { pid, path: path.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(error(source)),
        }
        lock.set_len(0).map_err(error)?;
        lock.rewind().map_err(error)?;
        lock.write_all(std::process::id().to_string().as_bytes()).map_err(error)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("rnet-pidfile-{name}-{}", std::process::id()))
    }

    #[test]
    fn what_a_dead_daemon_left_is_replaced() {
        let path = path("stale");
        std::fs::write(&path, "4194304999").unwrap();
        let pidfile = Pidfile::take(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), std::process::id().to_string());
        drop(pidfile);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_daemon_keeps_its_file() {
        let path = path("live");
        let _pidfile = Pidfile::take(&path).unwrap();
        let error = Pidfile::take(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("process with PID {}", std::process::id())), "{error}");
    }
}
