//! The system calls for which there is no safe wrapper.
#![expect(unsafe_code, reason = "fork, ioctl on a terminal, and code between fork and exec")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{ForkResult, chdir, chroot, fchdir, fork, setsid};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::protocol::{HYBRID, VIEW_DESCRIPTORS, View};

/// Leaves the daemon's session and process tree: the parent ends at once, so that whoever started
/// us has nothing to reap later. Returns in the grandchild only.
pub(super) fn detach() -> io::Result<()> {
    // SAFETY: the process has a single thread.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {
            // SAFETY: ends this process without running anything of the child's.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Child => {
            setsid()?;
            Ok(())
        }
    }
}

/// Closes every descriptor above the three standard ones.
pub(super) fn close_inherited() {
    // SAFETY: called before this process has opened anything that Rust owns.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}

/// Ignores SIGPIPE, SIGHUP and what else may come from a terminal or a supervisor's group.
pub(super) fn ignore_signals() {
    for signal in [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Sets the size of a terminal.
pub(super) fn resize(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize, which outlives the call.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs the command with the shim's own signal state and score undone: a container must not
/// inherit them.
pub(super) fn restore_signals(command: &mut Command, oom_score: Option<i32>) {
    let prepare = move || {
        for signal in [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: async-signal-safe; no handler is installed.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        if let Some(score) = oom_score {
            // Raising one's own score is always allowed.
            let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
        }
        Ok(())
    };
    // SAFETY: the closure runs in a child of a process with a single thread.
    unsafe { command.pre_exec(prepare) };
}

/// A [`View`] as system calls take it.
#[derive(Debug)]
pub(super) struct Scene {
    namespace: OwnedFd,
    /// What is `/` there. Entering a mount namespace loses a chroot.
    top: OwnedFd,
    /// The root and all other mounts, with where they are attached.
    mounts: Vec<(OwnedFd, CString)>,
    /// Namespaces: the files that they are pinned to, and where they are attached.
    namespaces: Vec<(CString, CString)>,
    directory: CString,
}

impl Scene {
    /// A view with its descriptors, for a command that runs in this directory.
    pub(super) fn new(
        descriptors: Vec<OwnedFd>,
        view: &View,
        directory: &Path,
    ) -> io::Result<Self> {
        let wrong = || io::Error::other("descriptors of the view are missing");
        let mut descriptors = descriptors.into_iter();
        let [root, namespace, top] = [(); VIEW_DESCRIPTORS].map(|()| descriptors.next());
        let (root, namespace) = root.zip(namespace).ok_or_else(wrong)?;
        let top = top.ok_or_else(wrong)?;
        let path = |path: &Path| CString::new(path.as_os_str().as_bytes());
        let mut namespaces = Vec::new();
        if let Some(pin) = &view.pin {
            namespaces.push((path(pin)?, path(&view.network)?));
        }
        if let Some((place, pin)) = &view.user {
            namespaces.push((path(pin)?, path(place)?));
        }
        let mut mounts = vec![(root, path(&view.root)?)];
        for place in &view.mounts {
            mounts.push((descriptors.next().ok_or_else(wrong)?, path(place)?));
        }
        Ok(Self { namespace, top, mounts, namespaces, directory: path(directory)? })
    }

    /// Runs a command in it.
    pub(super) fn enter(self, command: &mut Command) {
        // SAFETY: the closure makes system calls only; it allocates nothing and takes no lock.
        unsafe { command.pre_exec(move || self.set()) };
    }

    /// Moves this process to a copy, and attaches what is its own. Makes system calls only.
    #[expect(clippy::disallowed_methods, reason = "the process is about to become another")]
    fn set(&self) -> io::Result<()> {
        let attach = |mount: &OwnedFd, path: &CString| {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(mount, c"", CWD, path.as_c_str(), flags)
        };
        // No more than the two kinds that there are: nothing may be allocated here.
        let mut pinned = [const { None }; 2];
        for ((pin, path), slot) in self.namespaces.iter().zip(&mut pinned) {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            *slot = Some((open_tree(CWD, pin.as_c_str(), flags)?, path));
        }
        setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
        fchdir(&self.top)?;
        chroot(c".")?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        for (namespace, path) in pinned.iter().flatten() {
            attach(namespace, path)?;
        }
        for (mount, place) in &self.mounts {
            attach(mount, place)?;
        }
        Ok(chdir(self.directory.as_c_str())?)
    }
}

/// Runs the command in a mount namespace of its own, without the unified hierarchy of a hybrid host.
pub(super) fn hide_hybrid(command: &mut Command) {
    let prepare = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        Ok(unmount_hybrid()?)
    };
    // SAFETY: the closure makes system calls only; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) };
}

/// Takes [`HYBRID`] out of this mount namespace, which is no other's, and nowhere else: the mount that
/// it is on hears of others and is not heard. All other mounts spread as they did, for what is mounted
/// in a container below a shared bind is to be seen outside. Makes system calls only.
pub fn unmount_hybrid() -> nix::Result<()> {
    let nothing = None::<&CStr>;
    for above in HYBRID_IS_ON {
        match mount(nothing, above, nothing, MsFlags::MS_SLAVE, nothing) {
            Ok(()) => break,
            // It is no mount of its own.
            Err(Errno::EINVAL) => {}
            Err(error) => return Err(error),
        }
    }
    umount2(HYBRID, MntFlags::MNT_DETACH)
}

/// Where the mount may be that [`HYBRID`] is on, the nearest first.
const HYBRID_IS_ON: [&CStr; 4] = [c"/sys/fs/cgroup", c"/sys/fs", c"/sys", c"/"];

/// Sends a signal, by number: real-time signals have no name. The process is a child that has not
/// been waited for, so its number cannot have been given to another.
pub(super) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes two numbers.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
