//! Whether the other side of a unix socket has read what was sent.
#![expect(unsafe_code, reason = "SIOCOUTQ has no safe wrapper in nix")]

use std::os::fd::AsRawFd;

use tokio::net::UnixStream;

nix::ioctl_read_bad!(out_queue, libc::TIOCOUTQ, libc::c_int);

/// The kernel counts whole buffers, hundreds of bytes each; while the last one is being freed,
/// a byte is left.
const LEAST: libc::c_int = 64;

/// Whether something is left to read. A socket that cannot be asked has nothing.
pub(super) fn is_any(socket: &UnixStream) -> bool {
    let mut bytes = 0;
    // SAFETY: the kernel writes one int, into `bytes`, which outlives the call.
    let asked = unsafe { out_queue(socket.as_raw_fd(), &raw mut bytes) };
    asked.is_ok() && bytes >= LEAST
}
