//! Writes tar streams: POSIX headers, and PAX records for what does not fit into them.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::{BLOCK, Entry};

/// What eleven octal digits can say.
const LARGEST: u64 = (1 << 33) - 1;
/// What seven octal digits can say.
const LARGEST_ID: u32 = (1 << 21) - 1;
/// Bytes of a name, and of a link, in a header.
const NAME: usize = 100;

/// A tar stream that is being written. It is whole only after [`Self::finish`].
#[derive(Debug)]
pub struct TarWriter<W> {
    inner: W,
}

impl<W: Write> TarWriter<W> {
    /// Begins an archive.
    pub fn new(inner: W) -> Self {
        Self { inner }
    }

    /// Writes an entry that has no content.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.header(entry, 0)
    }

    /// Writes a file of exactly `entry.size` bytes. Content that has become longer is cut there, and
    /// what is missing of one that has become shorter is zeros: a file may change while it is read.
    pub fn file(&mut self, entry: &Entry, content: impl Read) -> io::Result<()> {
        self.header(entry, entry.size)?;
        let copied = io::copy(&mut content.take(entry.size), &mut self.inner)?;
        self.zeros(entry.size.next_multiple_of(BLOCK) - copied)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.zeros(2 * BLOCK)?;
        self.inner.flush()?;
        Ok(self.inner)
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        io::copy(&mut io::repeat(0).take(count), &mut self.inner).map(drop)
    }

    fn header(&mut self, entry: &Entry, size: u64) -> io::Result<()> {
        let mut path = entry.path.clone();
        if entry.kind == EntryType::Directory && path.last() != Some(&b'/') {
            path.push(b'/');
        }
        let records = records(entry, &path, size);
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            set_name(&mut header, b"PaxHeaders.0/entry");
            header.set_size(records.len() as u64);
            self.block(&mut header)?;
            self.inner.write_all(&records)?;
            let length = records.len() as u64;
            self.zeros(length.next_multiple_of(BLOCK) - length)?;
        }
        let mut header = plain(entry, &path, size)?;
        self.block(&mut header)
    }

    fn block(&mut self, header: &mut Header) -> io::Result<()> {
        header.set_cksum();
        self.inner.write_all(header.as_bytes())
    }
}

/// What a header says by itself; where it cannot, a record does.
fn plain(entry: &Entry, path: &[u8], size: u64) -> io::Result<Header> {
    let mut header = Header::new_ustar();
    header.set_entry_type(entry.kind);
    set_name(&mut header, path);
    let link = &entry.link[..entry.link.len().min(NAME)];
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
    header.set_mode(entry.mode & 0o7777);
    header.set_uid(entry.uid.min(LARGEST_ID).into());
    header.set_gid(entry.gid.min(LARGEST_ID).into());
    header.set_size(size.min(LARGEST));
    header.set_mtime(u64::try_from(entry.mtime.0).unwrap_or(0).min(LARGEST));
    if matches!(entry.kind, EntryType::Char | EntryType::Block) {
        header.set_device_major(entry.device.0)?;
        header.set_device_minor(entry.device.1)?;
    }
    Ok(header)
}

fn set_name(header: &mut Header, path: &[u8]) {
    let path = &path[..path.len().min(NAME)];
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
}

/// The PAX records of an entry, by their keys.
fn records(entry: &Entry, path: &[u8], size: u64) -> Vec<u8> {
    let mut records = Vec::new();
    let mut xattrs: Vec<_> = entry.xattrs.iter().collect();
    xattrs.sort();
    for (name, value) in xattrs {
        record(&mut records, &[b"SCHILY.xattr.", &name[..]].concat(), value);
    }
    if entry.gid > LARGEST_ID {
        record(&mut records, b"gid", entry.gid.to_string().as_bytes());
    }
    if entry.link.len() > NAME {
        record(&mut records, b"linkpath", &entry.link);
    }
    let (seconds, nanoseconds) = entry.mtime;
    if nanoseconds != 0 || u64::try_from(seconds).map_or(true, |seconds| seconds > LARGEST) {
        record(&mut records, b"mtime", time(seconds, nanoseconds).as_bytes());
    }
    if path.len() > NAME {
        record(&mut records, b"path", path);
    }
    if size > LARGEST {
        record(&mut records, b"size", size.to_string().as_bytes());
    }
    if entry.uid > LARGEST_ID {
        record(&mut records, b"uid", entry.uid.to_string().as_bytes());
    }
    records
}

/// A time as PAX has it: the fraction goes on from the number before it, also below zero.
fn time(seconds: i64, nanoseconds: u32) -> String {
    if seconds < 0 && nanoseconds > 0 {
        let text = format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds);
        return text.trim_end_matches('0').to_owned();
    }
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    format!("{seconds}.{nanoseconds:09}").trim_end_matches('0').to_owned()
}

/// Adds `length key=value`, whose length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend(length.to_string().as_bytes());
    records.push(b' ');
    records.extend(key);
    records.push(b'=');
    records.extend(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::TarReader;
    use super::*;

    fn entry(path: &[u8]) -> Entry {
        Entry {
            path: path.to_owned(),
            link: Vec::new(),
            kind: EntryType::Regular,
            size: 0,
            stored: 0,
            mode: 0o640,
            uid: 1,
            gid: 2,
            mtime: (1_000_000_000, 0),
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }

    /// Reads back what is written.
    fn again(entry: &Entry, content: &[u8]) -> (Entry, Vec<u8>) {
        let mut writer = TarWriter::new(Vec::new());
        writer.file(entry, content).unwrap();
        let bytes = writer.finish().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        let mut reader = TarReader::new(&bytes[..]);
        let read = reader.next_entry().unwrap().unwrap();
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        assert!(reader.next_entry().unwrap().is_none());
        (read, content)
    }

    #[test]
    fn what_no_header_can_say_is_said_in_records() {
        let long = "directory/".repeat(50).into_bytes();
        let written = Entry {
            link: long.clone(),
            uid: u32::MAX - 1,
            gid: 4_000_000,
            mtime: (-5, 250_000_000),
            xattrs: vec![(b"user.b".to_vec(), b"\0=\n".to_vec()), (b"user.a".to_vec(), vec![])],
            ..entry(&[&long[..], b"\xff\xfe"].concat())
        };
        let (read, _) = again(&written, b"");
        assert_eq!((&read.path, &read.link), (&written.path, &written.link));
        assert_eq!((read.uid, read.gid, read.mtime), (written.uid, written.gid, written.mtime));
        let xattrs: Vec<_> = written.xattrs.into_iter().rev().collect();
        assert_eq!(read.xattrs, xattrs, "in the order of their names");
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_keeps_the_size_of_its_header() {
        let written = Entry { size: 700, ..entry(b"f") };
        assert_eq!(again(&written, &[7; 900]).1, [7; 700]);
        assert_eq!(again(&written, &[7; 100]).1, [&[7; 100][..], &[0; 600]].concat());
    }

    #[test]
    fn other_tars_read_what_is_written() {
        let mut writer = TarWriter::new(Vec::new());
        let long = "n".repeat(150);
        writer.entry(&Entry { kind: EntryType::Directory, ..entry(b"d") }).unwrap();
        let file = Entry { size: 5, ..entry(format!("d/{long}").as_bytes()) };
        writer.file(&file, &b"hello"[..]).unwrap();
        let bytes = writer.finish().unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries = archive.entries().unwrap();
        let names: Vec<_> = entries.map(|e| e.unwrap().path_bytes().into_owned()).collect();
        assert_eq!(names.len(), 2);
        assert_eq!(names[0], b"d/");
        assert_eq!(names[1], format!("d/{long}").as_bytes());
    }

    proptest! {
        #[test]
        fn any_entry_is_read_as_it_was_written(
            path in proptest::collection::vec(1_u8..=255, 1..300),
            link in proptest::collection::vec(1_u8..=255, 0..300),
            ids in any::<(u32, u32)>(),
            mtime in (-1_i64 << 40..1 << 40, 0_u32..1_000_000_000),
            content in proptest::collection::vec(any::<u8>(), 0..1500),
        ) {
            let size = content.len() as u64;
            let written = Entry {
                link, uid: ids.0, gid: ids.1, mtime, size, stored: size, ..entry(&path)
            };
            let (read, bytes) = again(&written, &content);
            prop_assert_eq!(read.path, written.path);
            prop_assert_eq!(read.link, written.link);
            prop_assert_eq!((read.uid, read.gid, read.mtime), (ids.0, ids.1, mtime));
            prop_assert_eq!((read.size, bytes), (size, content));
        }
    }
}
