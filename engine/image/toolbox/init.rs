//! The first process of a container (`--init`): it starts the program, hands it the signals that
//! it gets itself, and takes leave of every process whose parent has gone.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::signal::Blocked;
use crate::{Outcome, complain, usage};

/// Signals that a fault of our own raises; blocked, they would end the process all the same.
const OF_FAULTS: [i32; 7] = [4, 5, 6, 7, 8, 11, 31];

const CHLD: i32 = 17;
const NO_HANG: i32 = 1;
const DEFAULT: usize = 0;

unsafe extern "C" {
    fn kill(pid: i32, signal: i32) -> i32;
    fn getpid() -> i32;
    fn signal(signal: i32, handler: usize) -> usize;
    fn tcsetpgrp(fd: i32, group: i32) -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
}

/// `init [--] PROGRAM [ARGUMENT]…`: ends with the program's exit code, or 128 and the signal that
/// ended it; 127 if there is no such program, 126 if it cannot be run.
pub fn init(args: &[String]) -> Outcome {
    let args = if args.first().is_some_and(|arg| arg == "--") { &args[1..] } else { args };
    let [program, args @ ..] = args else { usage("init") };
    // SAFETY: takes numbers only. Where it is ignored, children leave no exit status.
    unsafe { signal(CHLD, DEFAULT) };
    let blocked = Blocked::all_but(&OF_FAULTS);
    let child = match start(program, args, blocked) {
        Ok(child) => child,
        Err(error) => {
            complain(&format!("init: {program}: {error}\n"));
            return Ok(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 });
        }
    };
    loop {
        match blocked.wait() {
            CHLD => {
                if let Some(code) = reap(child) {
                    return Ok(code);
                }
            }
            // SAFETY: takes numbers only. A child that has ended takes no signal, but is still
            // there: only we can take leave of it.
            other => unsafe {
                kill(child, other);
            },
        }
    }
}

/// Starts the program in a process group of its own, which is in front on the terminal if there is
/// one. Signals that are blocked here are not blocked there.
fn start(program: &str, args: &[String], blocked: Blocked) -> io::Result<i32> {
    let mut command = Command::new(program);
    command.args(args).process_group(0);
    let to_the_front = move || {
        // SAFETY: these take numbers only. That there is no terminal is no failure; SIGTTOU, which
        // would stop who goes to the front by itself, is still blocked.
        unsafe { tcsetpgrp(0, getpid()) };
        blocked.lift();
        Ok(())
    };
    // SAFETY: the closure makes system calls only.
    let child = unsafe { command.pre_exec(to_the_front) }.spawn()?;
    Ok(child.id().cast_signed())
}

/// Takes leave of every process that has ended; the exit code of the child if it is among them.
fn reap(child: i32) -> Option<u8> {
    let mut code = None;
    loop {
        let mut status = 0;
        // SAFETY: the status is a live number.
        let ended = unsafe { waitpid(-1, &mut status, NO_HANG) };
        if ended <= 0 {
            return code;
        }
        if ended == child {
            code = Some(exit_code(status));
        }
    }
}

/// The exit code that a shell would tell of a wait status.
fn exit_code(status: i32) -> u8 {
    let [code, signal] = [status >> 8 & 0xff, status & 0x7f];
    u8::try_from(if signal == 0 { code } else { 128 + signal }).unwrap_or(u8::MAX)
}
