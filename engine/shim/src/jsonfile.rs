//! Docker's `json-file` log: one JSON object per line of output, rotated by size.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use flate2::{Compression, GzBuilder};

use super::clock;
use super::protocol::Log;

/// A line is cut after this many bytes; what follows is a record of its own.
const LONGEST: usize = 16 * 1024;

/// One of a process's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log of a container, and the lines that are not complete yet.
#[derive(Debug)]
pub(super) struct JsonFile {
    path: PathBuf,
    max_size: u64,
    max_files: u32,
    compress: bool,
    packing: Option<JoinHandle<io::Result<()>>>,
    /// The end of every record: what it has of its container.
    attributes: Vec<u8>,
    file: File,
    size: u64,
    partial: [Vec<u8>; 2],
}

impl JsonFile {
    /// Opens the log, if there is to be one, and goes on at its end.
    pub(super) fn open(log: &Log) -> io::Result<Option<Self>> {
        let Log::JsonFile { path, max_size, max_files, compress, attributes } = log else {
            return Ok(None);
        };
        let file = append(path)?;
        let size = file.metadata()?.len();
        Ok(Some(Self {
            path: path.clone(),
            max_size: *max_size,
            max_files: (*max_files).max(1),
            compress: *compress,
            packing: None,
            attributes: ending(attributes),
            file,
            size,
            partial: Default::default(),
        }))
    }

    /// Takes what a process wrote; complete lines are in the file afterwards.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let mut partial = std::mem::take(&mut self.partial[stream as usize]);
        partial.extend_from_slice(bytes);
        let mut records = Vec::with_capacity(bytes.len() + bytes.len() / 2);
        let time = clock::now();
        let mut rest = partial.as_slice();
        while let Some(length) = record_length(rest) {
            let (line, after) = rest.split_at(length);
            encode(&mut records, line, stream, &self.attributes, &time);
            rest = after;
            if self.is_full(records.len() as u64) {
                self.append(&records)?;
                records.clear();
                self.rotate()?;
            }
        }
        self.partial[stream as usize] = rest.to_vec();
        self.append(&records)
    }

    /// Writes what came without an end of line; nothing more comes on this stream.
    pub(super) fn end(&mut self, stream: Stream) -> io::Result<()> {
        let partial = std::mem::take(&mut self.partial[stream as usize]);
        if partial.is_empty() {
            return Ok(());
        }
        let mut record = Vec::new();
        encode(&mut record, &partial, stream, &self.attributes, &clock::now());
        self.append(&record)
    }

    /// Whether the next file is to be begun after so many more bytes. While the last one is still
    /// being compressed, this one grows to twice its size: whoever writes does not wait for that.
    fn is_full(&self, more: u64) -> bool {
        let packs = self.packing.as_ref().is_some_and(|packing| !packing.is_finished());
        let limit = if packs { self.max_size.saturating_mul(2) } else { self.max_size };
        limit > 0 && self.size + more >= limit
    }

    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        self.size += records.len() as u64;
        self.file.write_all(records)
    }

    /// `log` becomes `log.1`, `log.1` becomes `log.2`; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32, suffix: &str| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}{suffix}"));
            PathBuf::from(name)
        };
        // Names change now: what is still being compressed has to have its own first. Only whoever
        // writes more than is compressed meanwhile waits here.
        if let Some(packing) = self.packing.take() {
            let _ = packing.join();
        }
        if self.max_files == 1 {
            self.file.set_len(0)?;
        } else {
            let oldest = self.max_files - 1;
            for suffix in ["", ".gz"] {
                ignore_missing(std::fs::remove_file(numbered(oldest, suffix)))?;
                for number in (1..oldest).rev() {
                    let (from, to) = (numbered(number, suffix), numbered(number + 1, suffix));
                    ignore_missing(std::fs::rename(from, to))?;
                }
            }
            ignore_missing(std::fs::rename(&self.path, numbered(1, "")))?;
            if self.compress {
                let (from, to) = (numbered(1, ""), numbered(1, ".gz"));
                let work = move || compress(&from, &to);
                // Beside whatever else the shim has to do.
                self.packing = std::thread::Builder::new().spawn(work).ok();
            }
            self.file = append(&self.path)?;
        }
        self.size = 0;
        Ok(())
    }
}

impl Drop for JsonFile {
    /// A process that ends takes its threads along.
    fn drop(&mut self) {
        if let Some(packing) = self.packing.take() {
            let _ = packing.join();
        }
    }
}

/// Makes a file a smaller one. Whoever reads it meanwhile has it open.
fn compress(from: &Path, to: &Path) -> io::Result<()> {
    let mut half = to.as_os_str().to_owned();
    half.push(".tmp");
    let mut whole = File::open(from)?;
    // Who was reading it knows it again by this.
    let inode = whole.metadata()?.ino().to_string();
    let packed = GzBuilder::new().comment(inode);
    let mut packed = packed.write(File::create(&half)?, Compression::fast());
    io::copy(&mut whole, &mut packed)?;
    packed.finish()?;
    std::fs::rename(&half, to)?;
    ignore_missing(std::fs::remove_file(from))
}

fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What a process wrote to its standard output until it ended, as the records of a log.
pub fn records(written: &[u8], attributes: &BTreeMap<String, String>) -> Vec<u8> {
    let (mut records, mut rest) = (Vec::new(), written);
    let (ending, time) = (ending(attributes), clock::now());
    while !rest.is_empty() {
        let (line, after) = rest.split_at(record_length(rest).unwrap_or(rest.len()));
        encode(&mut records, line, Stream::Stdout, &ending, &time);
        rest = after;
    }
    records
}

/// How many bytes make the next record: a line with its end, or as much of a long one as fits
/// without cutting a character in two.
pub(super) fn record_length(bytes: &[u8]) -> Option<usize> {
    let window = &bytes[..bytes.len().min(LONGEST)];
    if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
        return Some(end + 1);
    }
    if window.len() < LONGEST {
        return None;
    }
    let boundary = (LONGEST - 3..=LONGEST)
        .rev()
        .find(|at| bytes.get(*at).is_none_or(|byte| byte & 0b1100_0000 != 0b1000_0000));
    Some(boundary.unwrap_or(LONGEST))
}

fn encode(out: &mut Vec<u8>, line: &[u8], stream: Stream, attributes: &[u8], time: &str) {
    out.extend_from_slice(b"{\"log\":\"");
    for chunk in line.utf8_chunks() {
        escape(out, chunk.valid());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(b"\"");
    out.extend_from_slice(attributes);
    out.extend_from_slice(b",\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// The part of every record that tells of its container, if there is any.
fn ending(attributes: &BTreeMap<String, String>) -> Vec<u8> {
    if attributes.is_empty() {
        return Vec::new();
    }
    let mut out = b",\"attrs\":{".to_vec();
    for (place, (name, value)) in attributes.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.push(b'"');
        escape(&mut out, name);
        out.extend_from_slice(b"\":\"");
        escape(&mut out, value);
        out.push(b'"');
    }
    out.push(b'}');
    out
}

/// As Go's encoder does it, safe for HTML too.
fn escape(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut utf8 = [0; 4];
    for character in text.chars() {
        match character {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\u{2028}' => out.extend_from_slice(b"\\u2028"),
            '\u{2029}' => out.extend_from_slice(b"\\u2029"),
            '\0'..='\u{1f}' | '<' | '>' | '&' => {
                let code = character as usize;
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[code >> 4], HEX[code & 15]]);
            }
            other => out.extend_from_slice(other.encode_utf8(&mut utf8).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn log(directory: &Path, max_size: u64, max_files: u32) -> (PathBuf, JsonFile) {
        let path = directory.join("c-json.log");
        let (compress, attributes) = (false, BTreeMap::new());
        let log = Log::JsonFile { path: path.clone(), max_size, max_files, compress, attributes };
        (path, JsonFile::open(&log).unwrap().unwrap())
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("rnet-log-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_line_is_written_when_it_is_complete() {
        let directory = directory("line");
        let (path, mut log) = log(&directory, 0, 1);
        log.write(Stream::Stdout, b"one\r\ntw").unwrap();
        log.write(Stream::Stderr, b"err\n").unwrap();
        log.write(Stream::Stdout, b"o").unwrap();
        assert_eq!(lines(&path).len(), 2);
        log.end(Stream::Stdout).unwrap();
        let lines = lines(&path);
        assert_eq!(lines[0]["log"], "one\r\n");
        assert_eq!((&lines[1]["log"], &lines[1]["stream"]), (&"err\n".into(), &"stderr".into()));
        assert_eq!(lines[2]["log"], "two");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn strings_are_escaped_as_docker_does() {
        let mut out = Vec::new();
        let attributes = ending(&BTreeMap::from([("a".to_owned(), "\"b".to_owned())]));
        encode(&mut out, b"<a>&\"\\\t\x1b\xff\xc3\xa9\n", Stream::Stdout, &attributes, "T");
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"log\":\"\\u003ca\\u003e\\u0026\\\"\\\\\\u0009\\u001b\\ufffd\u{e9}\\n\",\
             \"stream\":\"stdout\",\"attrs\":{\"a\":\"\\\"b\"},\"time\":\"T\"}\n"
        );
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let directory = directory("long");
        let (path, mut log) = log(&directory, 0, 1);
        let text = format!("a{}\n", "\u{e9}".repeat(LONGEST));
        log.write(Stream::Stdout, text.as_bytes()).unwrap();
        let records = lines(&path);
        let joined: String = records.iter().map(|line| line["log"].as_str().unwrap()).collect();
        assert_eq!(joined, text);
        assert!(records.len() == 3 && records[0]["log"].as_str().unwrap().len() == LONGEST - 1);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn files_that_are_full_are_compressed_but_for_the_current_one() {
        let directory = directory("compress");
        let path = directory.join("c-json.log");
        let attributes = BTreeMap::new();
        let log = Log::JsonFile { path, max_size: 200, max_files: 3, compress: true, attributes };
        let mut log = JsonFile::open(&log).unwrap().unwrap();
        for number in 0..40 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes()).unwrap();
            log.packing.take().map(JoinHandle::join).transpose().unwrap();
        }
        drop(log);
        let mut names: Vec<_> = std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["c-json.log", "c-json.log.1.gz", "c-json.log.2.gz"]);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_container_writes_on_while_a_full_file_is_compressed() {
        let directory = directory("beside");
        let path = directory.join("c-json.log");
        let half = directory.join("c-json.log.1.gz.tmp");
        // Whoever opens it to write waits for one who reads.
        nix::unistd::mkfifo(&half, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (attributes, compress) = (BTreeMap::new(), true);
        let log = Log::JsonFile {
            path: path.clone(),
            max_size: 4096,
            max_files: 3,
            compress,
            attributes,
        };
        let (told, heard) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            let mut log = JsonFile::open(&log).unwrap().unwrap();
            let mut line =
                || log.write(Stream::Stdout, &[b"x".repeat(200), b"\n".to_vec()].concat());
            while log_files(&directory) < 2 {
                line().unwrap();
            }
            // The next file is full, and a little more.
            for _ in 0..20 {
                line().unwrap();
            }
            told.send(directory).unwrap();
            log
        });
        let directory = heard.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() > 4096);
        assert!(!directory.join("c-json.log.2").exists());
        io::copy(&mut File::open(half).unwrap(), &mut io::sink()).unwrap();
        drop(writer.join().unwrap());
        assert!(directory.join("c-json.log.1.gz").exists());
        std::fs::remove_dir_all(directory).unwrap();
    }

    /// How many files of a log there are that are not compressed.
    fn log_files(directory: &Path) -> usize {
        ["c-json.log", "c-json.log.1"].iter().filter(|name| directory.join(name).exists()).count()
    }

    #[test]
    fn a_full_log_is_rotated_and_the_oldest_goes() {
        let directory = directory("rotate");
        let (path, mut log) = log(&directory, 200, 3);
        for number in 0..40 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes()).unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["c-json.log", "c-json.log.1", "c-json.log.2"]);
        let newest = lines(&PathBuf::from(format!("{}.1", path.display())));
        assert!(newest.len() >= 2 && std::fs::metadata(&path).unwrap().len() <= 300);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
