//! What is mounted where, as this thread sees it.
//!
//! Nothing that is mounted is asked itself: it may never answer.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The places at which something is mounted, in the order in which it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mounts(Vec<PathBuf>);

impl Mounts {
    /// Reads them.
    pub fn read() -> io::Result<Self> {
        std::fs::read("/proc/thread-self/mountinfo").map(|text| Self::parse(&text))
    }

    fn parse(text: &[u8]) -> Self {
        let lines = text.split(|&byte| byte == b'\n');
        let places = lines.filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
        Self(places.map(|place| PathBuf::from(OsString::from_vec(unescaped(place)))).collect())
    }

    /// Whether something is mounted at a path. Links are followed on the way there.
    pub fn has(&self, path: &Path) -> bool {
        let path = real(path);
        self.0.contains(&path)
    }

    /// The places below a directory. Links are followed on the way there.
    pub fn below(&self, directory: &Path) -> Vec<PathBuf> {
        let directory = real(directory);
        let below = |place: &&PathBuf| place.starts_with(&directory) && **place != directory;
        self.0.iter().filter(below).cloned().collect()
    }
}

/// Whether something is mounted at a path.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    Mounts::read().map(|mounts| mounts.has(path))
}

/// What somebody has mounted somewhere below a directory.
pub fn mount_in(directory: &Path) -> io::Result<Option<PathBuf>> {
    Mounts::read().map(|mounts| mounts.below(directory).into_iter().next())
}

/// The path without links. What is at its end is not looked at.
pub fn real(path: &Path) -> PathBuf {
    let Some((above, name)) = path.parent().zip(path.file_name()) else { return path.to_owned() };
    above.canonicalize().map_or_else(|_| path.to_owned(), |above| above.join(name))
}

/// A path without the octal escapes of white space and backslashes.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut left = text;
    while let Some((&first, rest)) = left.split_first() {
        let digits = rest.get(..3).filter(|_| first == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        plain.push(digits.unwrap_or(first));
        left = if digits.is_some() { &rest[3..] } else { rest };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_and_backslashes_are_part_of_a_place() {
        let text =
            b"1 0 0:1 / / rw - ext4 a rw\n2 1 0:2 / /a\\040b\\134\\011c\\x rw - tmpfs b rw\n";
        let places = ["/", "/a b\\\tc\\x"].map(PathBuf::from);
        assert_eq!(Mounts::parse(text), Mounts(places.to_vec()));
    }

    #[test]
    fn what_is_mounted_below_a_directory_is_found_through_a_link_to_it() {
        let name = format!("rnet-tree-mounts-{}", std::process::id());
        let scratch = std::env::temp_dir().join(name);
        std::fs::create_dir_all(scratch.join("real/volume")).unwrap();
        std::os::unix::fs::symlink("real", scratch.join("link")).unwrap();
        let real = scratch.canonicalize().unwrap().join("real");
        let places = ["volume/data", "volume", "volumes"].map(|below| real.join(below));
        let mounts = Mounts(places.to_vec());
        let link = scratch.join("link");
        let found = (
            mounts.has(&link.join("volume/data")),
            mounts.has(&link.join("volume/other")),
            mounts.below(&link.join("volume")),
            mounts.has(&link),
        );
        std::fs::remove_dir_all(&scratch).unwrap();
        assert_eq!(found, (true, false, vec![places[0].clone()], false));
    }
}
