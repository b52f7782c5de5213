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
    content: Content,
    /// What it is known by, also after it was compressed.
    inode: u64,
}

/// What a file has, as it lies there.
enum Content {
    Plain(File),
    /// Only its head is read until its lines are wanted.
    Packed(Box<GzDecoder<File>>),
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
            files = last_files(files, tail, directory(path))?;
        }
        let mut lines = Self { path: path.to_owned(), current: None, later: files };
        lines.go_on()?;
        Ok(lines)
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
            self.go_on()?;
        }
    }

    /// Turns to the next file.
    fn go_on(&mut self) -> io::Result<()> {
        let next = self.later.pop_front();
        self.current = next.map(|file| Reading::new(file, directory(&self.path))).transpose()?;
        Ok(())
    }

    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.current.as_mut().map_or(Ok(None), Reading::line)
    }

    /// The files that came after the current one.
    fn younger(&self) -> io::Result<VecDeque<Opened>> {
        let inode = self.current.as_ref().map(|current| current.inode);
        // Most of the time the current one is still the one that is written: there is no younger one.
        if inode.is_some() && inode == std::fs::metadata(&self.path).ok().map(|found| found.ino()) {
            return Ok(VecDeque::new());
        }
        let mut files = open_all(&self.path)?;
        // An older one that was compressed may have had the number before.
        if let Some(place) = files.iter().rposition(|file| Some(file.inode) == inode) {
            files.drain(..=place);
        }
        Ok(files)
    }
}

impl Reading {
    fn new(Opened { content, inode }: Opened, directory: &Path) -> io::Result<Self> {
        let file = content.unpacked(directory)?;
        Ok(Self { reader: BufReader::new(file), inode, partial: Vec::new() })
    }

    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.reader.read_until(b'\n', &mut self.partial)?;
        if self.partial.last() != Some(&b'\n') && self.is_shortened()? {
            self.partial.clear();
            self.reader.rewind()?;
            self.reader.read_until(b'\n', &mut self.partial)?;
        }
        if self.partial.last() != Some(&b'\n') {
            return Ok(None);
        }
        self.partial.pop();
        Ok(Some(std::mem::take(&mut self.partial)))
    }

    /// Whether it was emptied: what is rotated where only one file is kept.
    fn is_shortened(&mut self) -> io::Result<bool> {
        Ok(self.reader.get_ref().metadata()?.len() < self.reader.stream_position()?)
    }
}

impl Content {
    /// The file as it was before it was compressed, in one without a name.
    fn unpacked(self, directory: &Path) -> io::Result<File> {
        let small = match self {
            Self::Plain(file) => return Ok(file),
            Self::Packed(small) => small,
        };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?);
        io::copy(&mut small.take(LARGEST), &mut file)?;
        file.rewind()?;
        Ok(file)
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
            Ok(Opened { content: Content::Plain(file), inode })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && number > 0 => packed(path, number),
        Err(error) => Err(error),
    }
}

/// What was compressed when it was rotated.
fn packed(path: &Path, number: u32) -> io::Result<Opened> {
    let mut name = rotated(path, number).into_os_string();
    name.push(".gz");
    let file = File::open(name)?;
    let own = file.metadata()?.ino();
    let small = GzDecoder::new(file);
    let told = small.header().and_then(|header| header.comment());
    let told = told.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    Ok(Opened { content: Content::Packed(Box::new(small)), inode: told.unwrap_or(own) })
}

fn rotated(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn directory(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

/// The files that have the last `count` lines, with those before them passed over.
fn last_files(
    mut files: VecDeque<Opened>,
    count: usize,
    directory: &Path,
) -> io::Result<VecDeque<Opened>> {
    let (mut kept, mut missing) = (VecDeque::new(), count);
    while let Some(Opened { content, inode }) = files.pop_back() {
        let mut file = content.unpacked(directory)?;
        let (found, offset) = last_lines(&file, missing)?;
        file.seek(SeekFrom::Start(offset))?;
        kept.push_front(Opened { content: Content::Plain(file), inode });
        missing -= found;
        if missing == 0 {
            break;
        }
    }
    Ok(kept)
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
