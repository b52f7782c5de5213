//! Archives of plain files: what a build is given, and what `ADD` unpacks.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;

use super::compression::{Compression, Decoder};
use super::extract::plain;
use super::limits::{Budget, Limited, Limits, Packed, Room};
use super::store::buffered;
use super::tarball::TarReader;

/// Unpacks an archive, compressed or not, into an empty directory. Links in it lead nowhere out of
/// there, and its bytes have the limits of those of a layer.
pub fn unpack(archive: impl Read, into: &Path) -> io::Result<()> {
    let packed = Packed::default();
    within(Limits::default(), packed.count(archive), packed, into)
}

/// The same for an archive that is a file.
pub fn unpack_file(archive: File, into: &Path) -> io::Result<()> {
    let packed = Packed::whole(archive.metadata()?.len());
    within(Limits::default(), archive, packed, into)
}

fn within(limits: Limits, archive: impl Read, packed: Packed, into: &Path) -> io::Result<()> {
    let mut archive = buffered(archive);
    let compression = Compression::detect(archive.fill_buf()?);
    let decoder = Decoder::with(archive, compression)?;
    let mut archive = Limited::new(decoder, limits, packed.clone());
    let mut budget = Budget::new(limits, packed, Room::of(into));
    plain(&mut archive, into, &mut budget).map(drop)
}

/// Whether a file begins as an archive does, compressed or not.
pub fn is_archive(file: &File) -> bool {
    let first = || -> io::Result<bool> {
        let limited = file.try_clone()?.take(1 << 20);
        let mut archive = buffered(limited);
        let compression = Compression::detect(archive.fill_buf()?);
        let mut reader = TarReader::new(Decoder::with(archive, compression)?);
        Ok(reader.next_entry()?.is_some())
    };
    first().unwrap_or(false)
}

/// Whether bytes begin as an archive does that is compressed, or as a bare one.
pub fn looks_like_archive(start: &[u8]) -> bool {
    let magic = start.get(257..262).is_some_and(|magic| magic == b"ustar");
    magic || Compression::detect(start) != Compression::Plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tarball::tests::Tar;

    fn archive(names: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(2);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, &b"hi"[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn no_name_in_a_context_is_a_whiteout() {
        let dir = std::env::temp_dir().join(format!("rnet-context-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        unpack(&archive(&[".wh.a", "b/.wh..wh..opq"])[..], &dir).unwrap();
        let found = [dir.join(".wh.a").exists(), dir.join("b/.wh..wh..opq").exists()];
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(found, [true, true]);
    }

    #[test]
    fn a_file_of_a_context_may_be_larger_than_what_is_taken_at_any_ratio() {
        let dir = std::env::temp_dir().join(format!("rnet-context-large-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let limits = Limits { size: 1 << 40, free: 1 << 10, ratio: 2 };
        let tar = Tar::new().file("large", &vec![0; 4 << 20]).finish();
        let packed = Packed::default();
        let plain = within(limits, packed.count(&tar[..]), packed, &dir);
        let size = std::fs::metadata(dir.join("large")).map(|file| file.len());
        let bomb = zstd::encode_all(&tar[..], 1).unwrap();
        let packed = Packed::default();
        let bomb = within(limits, packed.count(&bomb[..]), packed, &dir);
        std::fs::remove_dir_all(&dir).unwrap();
        plain.unwrap();
        assert_eq!(size.unwrap(), 4 << 20);
        let error = bomb.unwrap_err().to_string();
        assert!(error.contains("decompression bomb"), "{error}");
    }

    #[test]
    fn archives_are_known_by_what_is_in_them() {
        let packed = zstd::encode_all(&archive(&["a"])[..], 1).unwrap();
        assert!(looks_like_archive(&archive(&["a"])) && looks_like_archive(&packed));
        assert!(!looks_like_archive(b"FROM x"));
    }
}
