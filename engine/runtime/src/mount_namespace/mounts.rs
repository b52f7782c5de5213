//! What is mounted, in a form that can be compared.
#![expect(unsafe_code, reason = "statmount and listmount, which no library has yet")]

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

/// The same numbers on every architecture.
const STATMOUNT: libc::c_long = 457;
const LISTMOUNT: libc::c_long = 458;
/// `LSMT_ROOT`: all mounts that the process sees.
const ALL: u64 = u64::MAX;
/// `STATMOUNT_MNT_BASIC | STATMOUNT_MNT_ROOT | STATMOUNT_MNT_POINT`: parent, flags, propagation,
/// and what is mounted where.
const WANTED: u64 = 0x02 | 0x08 | 0x10;
/// `STATX_MNT_ID_UNIQUE`: an identifier that no later mount gets.
const UNIQUE: u32 = 0x4000;
/// `struct statmount` and the two paths at its end.
const LONGEST: usize = 512 + 2 * libc::PATH_MAX as usize;

/// `struct mnt_id_req`.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mount: u64,
    parameter: u64,
}

/// All that is mounted for this thread but for what is below `but`, which is a mount. Equal to
/// another one if nothing was mounted, unmounted, moved, or given other flags between the two.
///
/// Takes 0.02 µs for each mount below and 2 µs for each other one.
///
/// # Errors
/// Linux before 6.8 is not able to tell; nor is this if `but` is no mount.
pub(super) fn but_below(but: &Path) -> io::Result<Vec<u8>> {
    let below = list(unique(but)?)?;
    let mut told = Vec::new();
    let mut buffer = vec![0; LONGEST];
    for mount in list(ALL)?.into_iter().filter(|mount| below.binary_search(mount).is_err()) {
        told.extend_from_slice(stat(mount, &mut buffer)?);
    }
    Ok(told)
}

/// The identifier of a mount.
fn unique(path: &Path) -> io::Result<u64> {
    let wanted = StatxFlags::from_bits_retain(UNIQUE);
    let stat = statx(CWD, path, AtFlags::empty(), wanted)?;
    // Somebody may have unmounted it.
    let is_mount = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    if stat.stx_mask & UNIQUE == 0 || !is_mount {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(stat.stx_mnt_id)
}

/// The mounts below a mount, in ascending order.
fn list(mount: u64) -> io::Result<Vec<u64>> {
    let mut all = Vec::new();
    let mut part = vec![0_u64; 1024];
    loop {
        // The list goes on after the last that is known.
        let request = Request::new(mount, all.last().copied().unwrap_or_default());
        // SAFETY: the kernel reads a request of the size that it says, and writes at most as many
        // numbers as there is room for.
        let count = unsafe {
            libc::syscall(LISTMOUNT, &raw const request, part.as_mut_ptr(), part.len(), 0)
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        all.extend_from_slice(&part[..count]);
        if count < part.len() {
            return Ok(all);
        }
    }
}

/// What the kernel tells of a mount.
fn stat(mount: u64, buffer: &mut [u8]) -> io::Result<&[u8]> {
    buffer.fill(0);
    let request = Request::new(mount, WANTED);
    // SAFETY: the kernel reads a request of the size that it says, and writes within the buffer.
    let done = unsafe {
        libc::syscall(STATMOUNT, &raw const request, buffer.as_mut_ptr(), buffer.len(), 0)
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let size = u32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
    Ok(&buffer[..buffer.len().min(size as usize)])
}

impl Request {
    fn new(mount: u64, parameter: u64) -> Self {
        Self { size: 24, spare: 0, mount, parameter }
    }
}

const _: () = assert!(size_of::<Request>() == 24);
