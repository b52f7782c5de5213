//! Users and groups that stand for others: those of containers in a user namespace of their own.
//!
//! What a tree has on disk is as the container knows it, root being 0. A mount may show it otherwise
//! ([`map`]), and who makes something by way of such a mount has to be somebody whom it knows
//! ([`IdMap::as_root`]).
#![expect(unsafe_code, reason = "mount_setattr, and the ids of one thread for files")]

use std::fmt::Write;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

/// Who is seen where somebody is not mapped: the kernel's overflow ids.
const NOBODY: u32 = 65534;

/// Ids in a row that stand for others in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The first one, as it is called inside.
    pub inside: u32,
    /// The first one that it is on the host.
    pub outside: u32,
    /// How many there are.
    pub count: u32,
}

/// Whom the users and groups of a container are on the host. There is a root of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap {
    uids: Vec<IdRange>,
    gids: Vec<IdRange>,
    root: (u32, u32),
}

impl IdMap {
    /// A map by its ranges; none if it has no root, user and group.
    pub fn new(uids: Vec<IdRange>, gids: Vec<IdRange>) -> Option<Self> {
        let root = (outside(&uids, 0)?, outside(&gids, 0)?);
        Some(Self { uids, gids, root })
    }

    /// Whom root is on the host: user and group.
    pub fn root(&self) -> (u32, u32) {
        self.root
    }

    /// The ranges as the kernel reads them from `uid_map` and `gid_map`.
    pub fn lines(&self) -> (String, String) {
        (lines(&self.uids), lines(&self.gids))
    }

    /// The ranges of users.
    pub fn uids(&self) -> &[IdRange] {
        &self.uids
    }

    /// The ranges of groups.
    pub fn gids(&self) -> &[IdRange] {
        &self.gids
    }

    /// Whom a user and a group of the container are on the host.
    pub fn outside(&self, uid: u32, gid: u32) -> io::Result<(u32, u32)> {
        let unknown = || {
            let text = format!("{uid}:{gid} is nobody in the container's user namespace");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        let uid_outside = outside(&self.uids, uid).ok_or_else(unknown)?;
        Ok((uid_outside, outside(&self.gids, gid).ok_or_else(unknown)?))
    }

    /// How a user and a group of the host are called inside: nobody, if they are not mapped.
    pub fn inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        (inside(&self.uids, uid), inside(&self.gids, gid))
    }

    /// Runs `f` on a thread of its own, whose files belong to the container's root. It may do to all
    /// files what this process may.
    pub fn as_root<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.be_root()?;
                Ok(f())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The same for the calling thread, for good: it is to be one that does nothing else.
    pub fn be_root(&self) -> io::Result<()> {
        let (uid, gid) = self.root;
        // SAFETY: all three take numbers, and are about this thread alone.
        let kept = unsafe {
            let bits = libc::c_ulong::from(NO_SETUID_FIXUP);
            let kept = libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0);
            if kept == 0 {
                libc::setfsgid(gid);
                libc::setfsuid(uid);
            }
            kept
        };
        if kept == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// `SECBIT_NO_SETUID_FIXUP`: capabilities stay where ids change.
const NO_SETUID_FIXUP: u32 = 1 << 2;

fn lines(ranges: &[IdRange]) -> String {
    let mut text = String::new();
    for IdRange { inside, outside, count } in ranges {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{inside} {outside} {count}");
    }
    text
}

/// Has a mount, which is attached nowhere yet, show ids as a user namespace maps them.
pub fn map(mount: impl AsFd, namespace: impl AsFd) -> io::Result<()> {
    let namespace = namespace.as_fd().as_raw_fd();
    let attributes = Attributes {
        set: libc::MOUNT_ATTR_IDMAP,
        clear: 0,
        propagation: 0,
        namespace: u64::try_from(namespace).unwrap_or_default(),
    };
    // SAFETY: the path is a string that ends, the structure is as long as is said.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<Attributes>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct mount_attr`.
#[repr(C)]
struct Attributes {
    set: u64,
    clear: u64,
    propagation: u64,
    namespace: u64,
}

fn outside(ranges: &[IdRange], id: u32) -> Option<u32> {
    let range = ranges.iter().find(|range| is_in(range.inside, range.count, id))?;
    range.outside.checked_add(id - range.inside)
}

fn inside(ranges: &[IdRange], id: u32) -> u32 {
    let range = ranges.iter().find(|range| is_in(range.outside, range.count, id));
    range.map_or(NOBODY, |range| range.inside + (id - range.outside))
}

fn is_in(first: u32, count: u32, id: u32) -> bool {
    id.checked_sub(first).is_some_and(|distance| distance < count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> IdMap {
        let uids = vec![
            IdRange { inside: 0, outside: 100_000, count: 1000 },
            IdRange { inside: 1000, outside: 300_000, count: 10 },
        ];
        let gids = vec![IdRange { inside: 0, outside: 200_000, count: 500 }];
        IdMap::new(uids, gids).unwrap()
    }

    #[test]
    fn ids_go_out_and_come_back_by_each_of_the_ranges() {
        let map = map();
        assert_eq!(map.root(), (100_000, 200_000));
        for ids in [(0, 0), (999, 499), (1000, 1), (1009, 33)] {
            let (uid, gid) = map.outside(ids.0, ids.1).unwrap();
            assert_eq!(map.inside(uid, gid), ids);
        }
        assert_eq!(map.outside(1009, 0).unwrap(), (300_009, 200_000));
        assert_eq!(lines(map.uids()), "0 100000 1000\n1000 300000 10\n");
    }

    #[test]
    fn who_is_in_no_range_is_nobody_inside_and_refused_outside() {
        let map = map();
        assert_eq!(map.inside(0, 99), (NOBODY, NOBODY));
        for ids in [(1010, 0), (0, 500)] {
            let refused = map.outside(ids.0, ids.1).unwrap_err().to_string();
            let named = format!("{}:{} is nobody in the container's user namespace", ids.0, ids.1);
            assert_eq!(refused, named);
        }
        assert!(IdMap::new(Vec::new(), Vec::new()).is_none());
    }
}
