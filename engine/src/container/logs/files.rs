//! The lines of a log that is written, and rotated, while it is read.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// How much is read at once when looking for the last lines.
const CHUNK: usize = 64 << 10;

/// Yields whole lines, oldest first; `None` means: none more for now.
pub(super) struct Lines {
    path: PathBuf,
    current: Option<Reading>,
    later: VecDeque<File>,
}

struct Reading {
    reader: BufReader<File>,
    inode: u64,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

impl Lines {
    /// Opens the log at `path` with its rotated files, at the last `tail` lines or the beginning.
    pub(super) fn open(path: &Path, tail: Option<usize>) -> io::Result<Self> {
        let mut files = open_all(path)?;
        if let Some(tail) = tail {
            seek_tail(&mut files, tail)?;
        }
        let current = files.pop_front().map(Reading::new).transpose()?;
        Ok(Self { path: path.to_owned(), current, later: files })
    }

    /// The next line, without its line feed.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(line) = self.line()? {
                return Ok(Some(line));
            }
            if self.later.is_empty() {
                self.later = self.younger()?;
            }
            if self.later.is_empty() {
                return Ok(None);
            }
            // Once more, now that a later file is known: the writer may have ended this one since.
            if let Some(line) = self.line()? {
                return Ok(Some(line));
            }
            self.current = self.later.pop_front().map(Reading::new).transpose()?;
        }
    }

    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.current.as_mut().map_or(Ok(None), Reading::line)
    }

    /// The files that came after the current one.
    fn younger(&self) -> io::Result<VecDeque<File>> {
        let inode = self.current.as_ref().map(|current| current.inode);
        let mut files = open_all(&self.path)?;
        let place = files
            .iter()
            .position(|file| file.metadata().is_ok_and(|metadata| Some(metadata.ino()) == inode));
        if let Some(place) = place {
            files.drain(..=place);
        }
        Ok(files)
    }
}

impl Reading {
    fn new(file: File) -> io::Result<Self> {
        let inode = file.metadata()?.ino();
        Ok(Self { reader: BufReader::new(file), inode, partial: Vec::new() })
    }

    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.reader.read_until(b'\n', &mut self.partial)?;
        if self.partial.last() != Some(&b'\n') {
            return Ok(None);
        }
        self.partial.pop();
        Ok(Some(std::mem::take(&mut self.partial)))
    }
}

/// All files of a log, the oldest first.
fn open_all(path: &Path) -> io::Result<VecDeque<File>> {
    loop {
        let mut files = VecDeque::new();
        for number in 0.. {
            match File::open(rotated(path, number)) {
                Ok(file) => files.push_front(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        let mut inodes = Vec::with_capacity(files.len());
        for file in &files {
            inodes.push(file.metadata()?.ino());
        }
        inodes.sort_unstable();
        let opened = inodes.len();
        inodes.dedup();
        // The same file twice: it was rotated between two opens.
        if inodes.len() == opened {
            return Ok(files);
        }
    }
}

fn rotated(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Drops what comes before the last `count` lines.
fn seek_tail(files: &mut VecDeque<File>, count: usize) -> io::Result<()> {
    let mut missing = count;
    for place in (0..files.len()).rev() {
        let (found, offset) = last_lines(&files[place], missing)?;
        files[place].seek(SeekFrom::Start(offset))?;
        missing -= found;
        if missing == 0 {
            files.drain(..place);
            break;
        }
    }
    Ok(())
}

/// How many of the wanted last lines a file has, and where they begin.
fn last_lines(file: &File, wanted: usize) -> io::Result<(usize, u64)> {
    let length = file.metadata()?.len();
    if wanted == 0 {
        return Ok((0, length));
    }
    let mut buffer = vec![0; CHUNK];
    let (mut found, mut end) = (0, length);
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        let size = usize::try_from(end - start).unwrap_or(CHUNK);
        file.read_exact_at(&mut buffer[..size], start)?;
        for place in (0..size).rev().filter(|&place| buffer[place] == b'\n') {
            // Each line feed ends one line; the one before the wanted lines is not theirs.
            if found == wanted {
                return Ok((wanted, start + place as u64 + 1));
            }
            found += 1;
        }
        end = start;
    }
    Ok((found, 0))
}
