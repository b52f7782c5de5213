//! Which program a process runs: by it a shim sees that the container's own has taken the place of
//! the runtime's.

use std::io;
use std::os::unix::fs::MetadataExt;

/// The program of a process at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// Device and number of its file.
    file: Option<(u64, u64)>,
    /// The name that the kernel shows: for one whose file is the runtime's own.
    name: Vec<u8>,
}

impl Program {
    /// What a process runs now.
    ///
    /// # Errors
    /// The process is gone.
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        // The link leads to the file wherever that is, in a container or nowhere any more. Without
        // the privilege to follow it there is the name.
        let file = std::fs::metadata(format!("/proc/{pid}/exe")).ok();
        let name = std::fs::read(format!("/proc/{pid}/comm"))?;
        Ok(Self { file: file.map(|file| (file.dev(), file.ino())), name })
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::Program;

    #[test]
    fn a_program_is_known_from_another_and_a_process_that_is_gone_has_none() {
        let own = Program::of(std::process::id().cast_signed()).unwrap();
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = cat.id().cast_signed();
        // It has been executed when spawn returns.
        assert_ne!(Program::of(pid).unwrap(), own);
        assert_eq!(Program::of(pid).unwrap(), Program::of(pid).unwrap());
        drop(cat.stdin.take());
        cat.wait().unwrap();
        assert!(Program::of(pid).is_err());
    }
}
