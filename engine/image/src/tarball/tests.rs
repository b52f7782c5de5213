//! Archives, well and badly made.

use std::fs::File;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;
use crate::tests::Scratch;

/// Builds archives the way attackers do: any name, any type, no questions.
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(path, EntryType::Regular, "", 0o644, content)
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.entry(path, EntryType::Directory, "", 0o755, b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Symlink, target, 0o777, b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Link, target, 0o644, b"")
    }

    /// A file of holes, but for up to four pieces of data.
    pub(crate) fn sparse(mut self, path: &str, size: u64, pieces: &[(u64, &[u8])]) -> Self {
        let number = |field: &mut [u8; 12], number: u64| {
            // As GNU tar writes what eleven octal digits cannot say.
            field[0] = 0x80;
            field[4..].copy_from_slice(&number.to_be_bytes());
        };
        let data: Vec<u8> = pieces.iter().flat_map(|(_, data)| data.iter().copied()).collect();
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_size(data.len() as u64);
        header.set_mode(0o600);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..path.len()].copy_from_slice(path.as_bytes());
        number(&mut gnu.realsize, size);
        for (slot, (offset, data)) in gnu.sparse.iter_mut().zip(pieces) {
            number(&mut slot.offset, *offset);
            number(&mut slot.numbytes, data.len() as u64);
        }
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn entry(
        mut self,
        path: &str,
        kind: EntryType,
        link: &str,
        mode: u32,
        content: &[u8],
    ) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            bytes.extend(format!("{length} {key}=").bytes());
            bytes.extend(*value);
            bytes.push(b'\n');
        }
        self.entry("PaxHeaders/x", EntryType::XHeader, "", 0o644, &bytes)
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn read(bytes: &[u8]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = TarReader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        entries.push((entry, content));
    }
    Ok(entries)
}

#[test]
fn entries_come_with_content_owner_and_time() {
    let bytes = Tar::new().dir("a/").file("a/b", b"hello").symlink("c", "/a").finish();
    let entries = read(&bytes).unwrap();
    let paths: Vec<_> = entries.iter().map(|(entry, _)| entry.path.clone()).collect();
    assert_eq!(paths, [b"a/".to_vec(), b"a/b".to_vec(), b"c".to_vec()]);
    let (file, content) = &entries[1];
    assert_eq!((content.as_slice(), file.uid, file.gid, file.mode), (&b"hello"[..], 7, 8, 0o644));
    assert_eq!(file.mtime, (1_000_000_000, 0));
    assert_eq!(entries[2].0.link, b"/a");
}

#[test]
fn long_names_of_gnu_and_pax_overrule_the_header() {
    let long = "d/".repeat(90) + "file";
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o600);
    builder.append_data(&mut header, &long, &b"x"[..]).unwrap();
    assert_eq!(read(&builder.into_inner().unwrap()).unwrap()[0].0.path, long.as_bytes());

    let bytes = Tar::new()
        .pax(&[("path", b"real"), ("uid", b"100000"), ("mtime", b"-1.25"), ("size", b"3")])
        .file("fake", b"abc")
        .pax(&[("SCHILY.xattr.user.x", b"a\nb\0=c")])
        .file("next", b"")
        .finish();
    let entries = read(&bytes).unwrap();
    assert_eq!(entries[0].0.path, b"real");
    assert_eq!((entries[0].0.uid, entries[0].0.mtime), (100_000, (-2, 750_000_000)));
    assert_eq!(entries[1].0.xattrs, [(b"user.x".to_vec(), b"a\nb\0=c".to_vec())]);
}

#[test]
fn the_size_of_a_pax_record_decides_where_the_next_header_is() {
    // A reader that skips by the header's size would see the file hidden in the content.
    let hidden = Tar::new().file("hidden", b"").finish();
    let mut bytes = Tar::new().pax(&[("size", hidden.len().to_string().as_bytes())]);
    bytes = bytes.file("outer", b"");
    bytes.0.extend(&hidden);
    let entries = read(&bytes.file("last", b"").finish()).unwrap();
    let paths: Vec<_> = entries.iter().map(|(entry, _)| entry.path.as_slice()).collect();
    assert_eq!(paths, [&b"outer"[..], b"last"]);
}

#[test]
fn sparse_files_are_filled_with_zeros() {
    let tar = Tar::new().sparse("s", 10, &[(2, b"data")]).file("next", b"n");
    let entries = read(&tar.finish()).unwrap();
    assert_eq!((entries[0].0.size, entries[0].0.stored), (10, 4));
    assert_eq!(entries[0].1, b"\0\0data\0\0\0\0");
    assert_eq!(entries[1].1, b"n");
}

/// What GNU tar makes of a file of 3 MiB with data in the middle and a second one at its end.
fn by_gnu_tar(scratch: &Scratch, flags: &[&str]) -> Vec<u8> {
    let archive = scratch.path("archive.tar");
    let mut command = std::process::Command::new("tar");
    command.args(["--sparse", "-C"]).arg(scratch.path("")).args(flags);
    let made = command.arg("-cf").arg(&archive).args(["middle", "end"]).output().unwrap();
    assert!(made.status.success(), "{flags:?}: {made:?}");
    std::fs::read(archive).unwrap()
}

#[test]
fn sparse_files_are_read_in_every_format_that_gnu_tar_writes() {
    let scratch = Scratch::new();
    let write = |name: &str, offset: u64, size: u64| {
        let file = File::create(scratch.path(name)).unwrap();
        file.write_all_at(b"data", offset).unwrap();
        file.set_len(size).unwrap();
        std::fs::read(scratch.path(name)).unwrap()
    };
    let files = [write("middle", 1 << 20, 3 << 20), write("end", 2 << 20, (2 << 20) + 4)];
    for version in [None, Some("0.0"), Some("0.1"), Some("1.0")] {
        let flags = version.map(|version| format!("--sparse-version={version}"));
        let flags = match &flags {
            Some(version) => vec!["--format=posix", version],
            None => vec!["--format=gnu"],
        };
        let bytes = by_gnu_tar(&scratch, &flags);
        assert!(bytes.len() < 1 << 20, "{flags:?}: it is not sparse");
        let entries = read(&bytes).unwrap();
        let paths: Vec<_> = entries.iter().map(|(entry, _)| entry.path.as_slice()).collect();
        assert_eq!(paths, [&b"middle"[..], b"end"], "{flags:?}");
        for ((entry, content), wanted) in entries.iter().zip(&files) {
            assert!(content == wanted, "{flags:?}: {} bytes", content.len());
            assert_eq!((entry.size, entry.kind), (wanted.len() as u64, EntryType::Regular));
            assert!(entry.stored <= 8192, "{flags:?}: {}", entry.stored);
        }
    }
}

#[test]
fn maps_of_sparse_files_in_records_that_are_wrong_are_refused() {
    type Records<'a> = &'a [(&'a str, &'a [u8])];
    let refused = |records: Records<'_>, content: &[u8]| {
        let bytes = Tar::new().pax(records).file("f", content).finish();
        read(&bytes).unwrap_err().to_string()
    };
    let one = |size: &'static [u8]| -> [(&str, &[u8]); 3] {
        [("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", size)]
    };
    let size: (&str, &[u8]) = ("GNU.sparse.size", b"10");
    let map = |text: &'static [u8]| ("GNU.sparse.map", text);
    for (error, records, content) in [
        ("without a size", &[map(b"0,4")][..], &b"data"[..]),
        ("not whole", &[size, map(b"0,4,6")], b"data"),
        ("not whole", &[size, ("GNU.sparse.numblocks", b"2"), map(b"0,4")], b"data"),
        ("overlapping", &[size, map(b"0,4,2,4")], b"datadata"),
        ("overlapping", &[size, map(b"8,4")], b"data"),
        ("do not add up", &[size, map(b"0,5")], b"data"),
        ("number", &[size, map(b"0,x")], b"data"),
        ("GNU.sparse.numbytes", &[size, ("GNU.sparse.numbytes", b"4")], b"data"),
        ("GNU.sparse.other", &[size, ("GNU.sparse.other", b"4")], b"data"),
        ("does not end", &one(b"10"), b"1\n0\n4\n"),
        ("number", &one(b"10"), &[b'x'; 512]),
        ("number", &one(b"10"), &[b'1'; 512]),
    ] {
        let found = refused(records, content);
        assert!(found.contains(error), "{error}: {found}");
    }
    let mut many = one(b"10");
    many[0].1 = b"2";
    assert!(refused(&many, b"").contains("sparse file in PAX format 2.0"), "no version of it");
    let link = Tar::new().pax(&[size, map(b"")]).symlink("l", "/x").finish();
    assert!(read(&link).unwrap_err().to_string().contains("that is no file"));
}

#[test]
fn broken_archives_are_errors() {
    let good = Tar::new().file("a", &[1; 2000]).finish();
    assert!(read(&good[..1000]).is_err(), "cut in the content");
    assert!(read(&good[..100]).is_err(), "cut in the header");
    let mut wrong = good.clone();
    wrong[0] = b'b';
    assert!(read(&wrong).unwrap_err().to_string().contains("checksum"));
    let huge = Tar::new().entry("x", EntryType::XHeader, "", 0, &vec![b'x'; 2 << 20]).finish();
    assert!(read(&huge).unwrap_err().to_string().contains("1 MiB"));
    for records in ["", "5", "99 a=b\n", "-5 a=b\n", "6 size=x\n"] {
        let bytes = Tar::new().entry("x", EntryType::XHeader, "", 0, records.as_bytes());
        let result = read(&bytes.file("a", b"").finish());
        assert_eq!(result.is_ok(), records.is_empty(), "{records}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_without_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..4096), kind in any::<u8>()
    ) {
        if bytes.len() >= 512 {
            bytes[156] = kind;
            let mut header = Header::from_byte_slice(&bytes[..512]).clone();
            header.set_cksum();
            bytes[..512].copy_from_slice(header.as_bytes());
        }
        let _ = read(&bytes);
    }

    #[test]
    fn what_is_written_is_read(content in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let entries = read(&Tar::new().file("f", &content).finish()).unwrap();
        prop_assert_eq!(&entries[0].1, &content);
    }
}
