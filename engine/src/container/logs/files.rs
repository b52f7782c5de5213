//! The lines of a log that is written, and rotated, while it is read.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use rustix::fs::{Mode, OFlags};

/// How much is read at once when looking for the last lines.
const CHUNK: usize = 64 << 10;

/// More than a log is before it is rotated.
const LARGEST: u64 = 16 << 30;

/// How often the files are looked at anew while they change their names.
const TRIES: usize = 8;

/// Yields whole lines, oldest first; `None` means: none more for now.
pub(super) struct Lines {
    path: PathBuf,
    current: Option<Reading>,
    later: VecDeque<Opened>,
}

/// One file of a log.
struct Opened {
    file: File,
    /// What it is known by, also after it was compressed.
    inode: u64,
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
        let current = files.pop_front().map(Reading::new);
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
            self.current = self.later.pop_front().map(Reading::new);
        }
    }

    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.current.as_mut().map_or(Ok(None), Reading::line)
    }

    /// The files that came after the current one.
    fn younger(&self) -> io::Result<VecDeque<Opened>> {
        let inode = self.current.as_ref().map(|current| current.inode);
        let mut files = open_all(&self.path)?;
        // An older one that was compressed may have had the number before.
        if let Some(place) = files.iter().rposition(|file| Some(file.inode) == inode) {
            files.drain(..=place);
        }
        Ok(files)
    }
}

impl Reading {
    fn new(Opened { file, inode }: Opened) -> Self {
        Self { reader: BufReader::new(file), inode, partial: Vec::new() }
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
fn open_all(path: &Path) -> io::Result<VecDeque<Opened>> {
    let mut files = VecDeque::new();
    for _ in 0..TRIES {
        files.clear();
        for number in 0.. {
            match open(path, number) {
                Ok(file) => files.push_front(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        let mut inodes: Vec<_> = files.iter().map(|file| file.inode).collect();
        inodes.sort_unstable();
        inodes.dedup();
        // The same file twice: it was rotated between two opens.
        if inodes.len() == files.len() {
            break;
        }
    }
    Ok(files)
}

/// One of the files, compressed or not.
fn open(path: &Path, number: u32) -> io::Result<Opened> {
    match File::open(rotated(path, number)) {
        Ok(file) => {
            let inode = file.metadata()?.ino();
            Ok(Opened { file, inode })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && number > 0 => {
            unpacked(path, number)
        }
        Err(error) => Err(error),
    }
}

/// What was compressed when it was rotated, as it was: in a file without a name.
fn unpacked(path: &Path, number: u32) -> io::Result<Opened> {
    let mut name = rotated(path, number).into_os_string();
    name.push(".gz");
    let mut small = GzDecoder::new(File::open(name)?);
    let directory = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?);
    io::copy(&mut (&mut small).take(LARGEST), &mut file)?;
    file.rewind()?;
    let told = small.header().and_then(|header| header.comment());
    let told = told.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    let inode = told.map_or_else(|| file.metadata().map(|found| found.ino()), Ok)?;
    Ok(Opened { file, inode })
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
fn seek_tail(files: &mut VecDeque<Opened>, count: usize) -> io::Result<()> {
    let mut missing = count;
    for place in (0..files.len()).rev() {
        let (found, offset) = last_lines(&files[place].file, missing)?;
        files[place].file.seek(SeekFrom::Start(offset))?;
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
