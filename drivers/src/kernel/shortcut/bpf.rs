//! The system call bpf(2), as far as shortcuts need it: programs, and what they look things up in.
#![expect(unsafe_code, reason = "bpf has no safe wrapper in libc, nix or rustix")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// `BPF_…`: commands.
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE: libc::c_int = 2;
const MAP_LOOKUP: libc::c_int = 1;
const MAP_DELETE: libc::c_int = 3;
const MAP_NEXT: libc::c_int = 4;
const PROGRAM_LOAD: libc::c_int = 5;
const PROGRAM_BY_ID: libc::c_int = 13;
const MAP_BY_ID: libc::c_int = 14;
const INFO: libc::c_int = 15;

/// `BPF_MAP_TYPE_LPM_TRIE`: takes memory for what is in it, and not for what might be.
const TRIE: u32 = 11;
/// `BPF_F_NO_PREALLOC`
const NO_PREALLOC: u32 = 1;
/// `BPF_PROG_TYPE_SCHED_CLS`
const CLASSIFIER: u32 = 3;
/// More than a network has endpoints.
const ROOM: u32 = 1 << 20;

/// The size of an entry's key: a length in bits, and what is compared.
pub(super) const KEY: usize = 4 + BYTES as usize;
pub(super) const BYTES: u8 = 24;

/// The key of an entry.
pub(super) type Bytes = [u8; KEY];

/// What programs look things up in: a number for each key.
#[derive(Debug)]
pub(super) struct Map(OwnedFd);

/// A program in the kernel.
#[derive(Debug)]
pub(super) struct Program(OwnedFd);

#[repr(C)]
struct CreateMap {
    kind: u32,
    key: u32,
    value: u32,
    room: u32,
    flags: u32,
}

#[repr(C)]
struct Entry {
    map: RawFd,
    padding: u32,
    key: u64,
    /// Also the next key.
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    licence: u64,
    log: [u32; 4],
    version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

#[repr(C)]
struct Info {
    of: RawFd,
    size: u32,
    to: u64,
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    sizes: [u32; 2],
    code: [u64; 2],
    loaded: u64,
    by: u32,
    maps: u32,
    map_ids: u64,
}

impl Map {
    pub(super) fn new() -> io::Result<Self> {
        let key = u32::try_from(KEY).unwrap_or_default();
        let asked = CreateMap { kind: TRIE, key, value: 4, room: ROOM, flags: NO_PREALLOC };
        // SAFETY: it has no addresses.
        unsafe { descriptor(MAP_CREATE, &asked) }.map(Self)
    }

    /// The number to be written into instructions.
    pub(super) fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    pub(super) fn set(&self, key: &Bytes, value: u32) -> io::Result<()> {
        let asked = self.entry(address(key), address(&value));
        // SAFETY: the addresses are of a key and of a value of the map's sizes, which are only read.
        unsafe { call(MAP_UPDATE, &asked) }.map(drop)
    }

    /// That it is gone is a success.
    pub(super) fn remove(&self, key: &Bytes) -> io::Result<()> {
        let asked = self.entry(address(key), 0);
        // SAFETY: the address is of a key of the map's size, which is only read.
        match unsafe { call(MAP_DELETE, &asked) } {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            done => done.map(drop),
        }
    }

    /// All of it. What is changed meanwhile may be missing, or be there twice.
    pub(super) fn entries(&self) -> io::Result<Vec<(Bytes, u32)>> {
        let mut found: Vec<(Bytes, u32)> = Vec::new();
        loop {
            let mut next: Bytes = [0; KEY];
            let last = found.last().map_or(0, |(key, _)| address(key));
            let asked = self.entry(last, (&raw mut next).addr() as u64);
            // SAFETY: a key of the map's size is read, if there is one, and one is written.
            if let Err(error) = unsafe { call(MAP_NEXT, &asked) } {
                let end = error.raw_os_error() == Some(libc::ENOENT);
                return if end { Ok(found) } else { Err(error) };
            }
            let mut value = 0_u32;
            let asked = self.entry(address(&next), (&raw mut value).addr() as u64);
            // SAFETY: a key of the map's size is read, and a value of its size is written.
            match unsafe { call(MAP_LOOKUP, &asked) } {
                Ok(_) => found.push((next, value)),
                // It was removed a moment ago, and the kernel would begin again from the first.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => found.clear(),
                Err(error) => return Err(error),
            }
        }
    }

    fn entry(&self, key: u64, value: u64) -> Entry {
        Entry { map: self.0.as_raw_fd(), padding: 0, key, value, flags: 0 }
    }
}

impl Program {
    /// Loads a program that classifies packets. The kernel refuses what it cannot prove harmless.
    pub(super) fn load(code: &[u8]) -> io::Result<Self> {
        // Helpers that redirect are for programs under the GPL, or under this as well.
        const LICENCE: &[u8] = b"Dual MIT/GPL\0";
        let mut name = [0; 16];
        name[..13].copy_from_slice(b"rnet_shortcut");
        let asked = Load {
            kind: CLASSIFIER,
            instructions: u32::try_from(code.len() / 8).unwrap_or_default(),
            code: address(code),
            licence: address(LICENCE),
            log: [0; 4],
            version: 0,
            flags: 0,
            name,
        };
        // SAFETY: the addresses are of as many instructions as it says and of a text with its end.
        unsafe { descriptor(PROGRAM_LOAD, &asked) }.map(Self)
    }

    /// The one with a number of the kernel's.
    pub(super) fn by_id(id: u32) -> io::Result<Self> {
        let asked = ById { id, next: 0, flags: 0 };
        // SAFETY: it has no addresses.
        unsafe { descriptor(PROGRAM_BY_ID, &asked) }.map(Self)
    }

    /// The number to be written into requests.
    pub(super) fn number(&self) -> u32 {
        self.0.as_raw_fd().cast_unsigned()
    }

    /// Its number of the kernel's, and what it looks things up in.
    pub(super) fn look(&self) -> io::Result<(u32, Map)> {
        let mut map = 0_u32;
        let to = (&raw mut map).addr() as u64;
        let mut info = ProgramInfo { maps: 1, map_ids: to, ..ProgramInfo::default() };
        let size = u32::try_from(size_of::<ProgramInfo>()).unwrap_or_default();
        let asked = Info { of: self.0.as_raw_fd(), size, to: (&raw mut info).addr() as u64 };
        // SAFETY: the kernel writes at most as many bytes as the size says, and one number of a map.
        unsafe { call(INFO, &asked) }?;
        let asked = ById { id: map, next: 0, flags: 0 };
        // SAFETY: it has no addresses.
        let map = unsafe { descriptor(MAP_BY_ID, &asked) }?;
        Ok((info.id, Map(map)))
    }
}

fn address<T: ?Sized>(of: &T) -> u64 {
    (&raw const *of).cast::<u8>().addr() as u64
}

/// # Safety
/// The command makes a descriptor; see [`call`].
unsafe fn descriptor<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller says.
    let made = unsafe { call(command, attributes) }?;
    // SAFETY: the kernel has just made it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

/// # Safety
/// The attributes are those of the command, with addresses of what it reads and writes.
unsafe fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: as the caller says; the kernel reads as many bytes of them as there are.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    match RawFd::try_from(done) {
        Ok(done) if done >= 0 => Ok(done),
        _ => Err(io::Error::last_os_error()),
    }
}

const _: () = assert!(size_of::<Entry>() == 32 && size_of::<Load>() == 64);
const _: () = assert!(size_of::<ProgramInfo>() == 64 && size_of::<Info>() == 16);
