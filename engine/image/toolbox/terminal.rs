//! Tools about the terminal.

use crate::signal::Blocked;
use crate::{Outcome, options, print};

const TIOCGWINSZ: u64 = 0x5413;
const WINCH: i32 = 28;
const TERM: i32 = 15;

unsafe extern "C" {
    fn ioctl(fd: i32, request: u64, size: *mut [u16; 4]) -> i32;
    fn isatty(fd: i32) -> i32;
}

pub fn size(args: &[String]) -> Outcome {
    let (flags, _) = options("size", args, "w");
    let watch = !flags.is_empty();
    let blocked = watch.then(|| Blocked::new(&[WINCH, TERM]));
    print_size()?;
    while let Some(blocked) = &blocked {
        if blocked.wait() == TERM {
            break;
        }
        print_size()?;
    }
    Ok(0)
}

fn print_size() -> Result<(), String> {
    for fd in 0..3 {
        let mut size = [0; 4];
        // SAFETY: TIOCGWINSZ writes four 16-bit numbers.
        if unsafe { ioctl(fd, TIOCGWINSZ, &mut size) } == 0 {
            print(&format!("{} {}\n", size[0], size[1]));
            return Ok(());
        }
    }
    Err("not a terminal".into())
}

pub fn tty(_: &[String]) -> Outcome {
    // SAFETY: takes a number only.
    if unsafe { isatty(0) } != 1 {
        print("not a tty\n");
        return Ok(1);
    }
    let path = std::fs::read_link("/proc/self/fd/0").map_err(|error| error.to_string())?;
    print(&format!("{}\n", path.display()));
    Ok(0)
}
