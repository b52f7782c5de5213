//! Tools about signals.
//!
//! Signals are blocked and waited for: that works for process 1 of a container too, whose
//! unhandled signals the kernel drops.

use std::time::Duration;

use crate::{Outcome, number, print, seconds, usage};

const TERM: i32 = 15;
const INT: i32 = 2;

/// Larger than any kernel's `sigset_t`.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Set([u8; 128]);

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn sigemptyset(set: *mut Set) -> i32;
    fn sigfillset(set: *mut Set) -> i32;
    fn sigaddset(set: *mut Set, signal: i32) -> i32;
    fn sigdelset(set: *mut Set, signal: i32) -> i32;
    fn pthread_sigmask(how: i32, set: *const Set, old: *mut Set) -> i32;
    fn sigtimedwait(set: *const Set, info: *mut u8, timeout: *const Timespec) -> i32;
    fn sigwait(set: *const Set, signal: *mut i32) -> i32;
}

/// Signals this process has stopped taking, to be waited for.
#[derive(Clone, Copy)]
pub struct Blocked(Set);

impl Blocked {
    /// Blocks all signals but some, in this thread and those it starts.
    pub fn all_but(signals: &[i32]) -> Self {
        let mut set = Set([0; 128]);
        // SAFETY: the set is as large as the C library's, and initialised by it first.
        unsafe {
            sigfillset(&mut set);
            for &signal in signals {
                sigdelset(&mut set, signal);
            }
            pthread_sigmask(0, &set, std::ptr::null_mut());
        }
        Self(set)
    }

    /// Blocks some signals, or all with an empty list, in this thread and those it starts.
    pub fn new(signals: &[i32]) -> Self {
        let mut set = Set([0; 128]);
        // SAFETY: the set is as large as the C library's, and initialised by it first.
        unsafe {
            if signals.is_empty() {
                sigfillset(&mut set);
            } else {
                sigemptyset(&mut set);
            }
            for &signal in signals {
                sigaddset(&mut set, signal);
            }
            pthread_sigmask(0, &set, std::ptr::null_mut());
        }
        Self(set)
    }

    /// Takes them again, in this thread.
    pub fn lift(&self) {
        // SAFETY: the set is initialised; nobody wants to know what was blocked before.
        unsafe { pthread_sigmask(1, &self.0, std::ptr::null_mut()) };
    }

    /// The next signal.
    pub fn wait(&self) -> i32 {
        let mut signal = 0;
        // SAFETY: both pointers are to live, initialised values.
        while unsafe { sigwait(&self.0, &mut signal) } != 0 {}
        signal
    }

    /// The next signal within a time.
    pub fn wait_for(&self, time: Duration) -> Option<i32> {
        let timeout = Timespec {
            seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(time.subsec_nanos()),
        };
        // SAFETY: the set and the timeout are live; a null information pointer is allowed.
        let signal = unsafe { sigtimedwait(&self.0, std::ptr::null_mut(), &timeout) };
        (signal > 0).then_some(signal)
    }
}

/// Lets SIGTERM and SIGINT end the process from now on, even as process 1. Call it before any
/// other thread is started.
pub fn exit_on_termination() {
    let blocked = Blocked::new(&[TERM, INT]);
    std::thread::spawn(move || {
        let signal = blocked.wait();
        std::process::exit(128 + signal);
    });
}

/// Waits for SIGTERM or SIGINT.
pub fn wait_for_termination(blocked: &Blocked) {
    while !matches!(blocked.wait(), TERM | INT) {}
}

pub fn sleep(args: &[String]) -> Outcome {
    let [time] = args else { usage("sleep") };
    let blocked = Blocked::new(&[TERM, INT]);
    let signal = if time == "infinity" || time == "inf" {
        Some(blocked.wait())
    } else {
        blocked.wait_for(seconds("sleep", time))
    };
    Ok(signal.map_or(0, |signal| 128 + u8::try_from(signal).unwrap_or(0)))
}

pub fn trap(args: &[String]) -> Outcome {
    let code = args.first().map_or(0, |code| number("trap", code));
    let blocked = Blocked::new(&[TERM]);
    print("ready\n");
    blocked.wait();
    Ok(code)
}

pub fn ignore(args: &[String]) -> Outcome {
    let time = args.first().map(|text| seconds("ignore", text));
    let _blocked = Blocked::new(&[TERM]);
    print("ready\n");
    match time {
        Some(time) => std::thread::sleep(time),
        None => loop {
            std::thread::park();
        },
    }
    Ok(0)
}

pub fn report(_: &[String]) -> Outcome {
    let blocked = Blocked::new(&[]);
    print("ready\n");
    loop {
        let signal = blocked.wait();
        print(&format!("{signal} {}\n", name(signal)));
        if signal == TERM {
            return Ok(0);
        }
    }
}

fn name(signal: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let index = usize::try_from(signal).unwrap_or(0).wrapping_sub(1);
    match NAMES.get(index) {
        Some(name) => format!("SIG{name}"),
        None => format!("SIGRTMIN+{}", signal - 34),
    }
}
