//! The log of a process that lives for years: a file that never gets long.
//!
//! The process cannot make files where its log is, so that it keeps the one it has: when that is
//! full, the older half goes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// How long the file gets.
const FULL: u64 = 1 << 20;

/// How much of a full file stays.
const KEPT: u64 = FULL / 2;

/// Writes to a file that is opened for reading and appending. What is no file has no length to keep.
#[derive(Debug)]
pub struct Log {
    file: File,
    bounded: bool,
}

impl Log {
    /// Of a descriptor such as that of stderr.
    pub fn of(descriptor: impl Into<std::os::fd::OwnedFd>) -> Self {
        let file = File::from(descriptor.into());
        let bounded = file.metadata().is_ok_and(|metadata| metadata.is_file());
        Self { file, bounded }
    }

    /// Throws away the older half, but for what is left of a line.
    fn shorten(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length < FULL {
            return Ok(());
        }
        let mut newest = Vec::new();
        let read = self
            .file
            .seek(SeekFrom::Start(length.saturating_sub(KEPT)))
            .and_then(|_| (&self.file).take(KEPT).read_to_end(&mut newest));
        // Better none of it than all of it for ever.
        if read.is_err() {
            newest.clear();
        }
        self.file.set_len(0)?;
        let line = newest.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.file.write_all(&newest[line..])
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bounded {
            self.shorten()?;
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_a_resolver_has_a_bound_and_its_newest_lines() {
        let path = std::env::temp_dir().join(format!("rnet-dns-log-{}", std::process::id()));
        let options = || {
            let mut options = File::options();
            options.create(true).read(true).append(true).clone()
        };
        let mut log = Log::of(options().open(&path).unwrap());
        // Somebody else, such as a panic, may write beside it.
        let mut beside = options().open(&path).unwrap();
        for number in 0..200_000 {
            writeln!(log, "line {number}").unwrap();
        }
        writeln!(beside, "beside").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(text.len() as u64 <= FULL + 100, "{}", text.len());
        assert!(text.len() as u64 >= KEPT / 2, "{}", text.len());
        assert!(text.starts_with("line "), "{}", &text[..40]);
        assert!(text.ends_with("line 199999\nbeside\n"));
    }
}
