//! What runs in the containers of the tests: one static program with many names for its work.
//! Compiled by the tests themselves; it has no dependencies.

use std::io::{Read, Write};

extern "C" {
    fn syscall(number: i64, ...) -> i64;
    fn ioctl(fd: i32, request: u64, ...) -> i32;
    fn pause() -> i32;
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["sleep"] => loop {
            unsafe { pause() };
        },
        ["say", rest @ ..] => {
            println!("{}", rest.join(" "));
            eprintln!("and to stderr");
        }
        ["cat"] => {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = std::io::stdin().read(&mut buffer) {
                std::io::stdout().write_all(&buffer[..length]).unwrap();
                std::io::stdout().flush().unwrap();
            }
        }
        ["exit", code] => std::process::exit(code.parse().unwrap()),
        ["flood", lines] => {
            let mut out = std::io::stdout().lock();
            for number in 0..lines.parse().unwrap() {
                writeln!(out, "{number:063}").unwrap();
            }
        }
        ["size"] => {
            let mut size = [0_u16; 4];
            // A runtime that leaves the size of an exec's terminal to the shim is a moment ahead.
            while size[0] == 0 {
                unsafe { ioctl(0, 0x5413, size.as_mut_ptr()) };
            }
            println!("{}x{}", size[0], size[1]);
        }
        ["hog"] => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(vec![1_u8; 1 << 20]);
            }
        }
        // What it comes to is its exit code: 0, or the error's number.
        ["write", path] => std::process::exit(code(std::fs::write(path, "x"))),
        ["read", path] => std::process::exit(code(std::fs::read(path).map(drop))),
        ["mount", path] => {
            let (path, kind) = (std::ffi::CString::new(*path).unwrap(), c"tmpfs".as_ptr());
            let done = unsafe { syscall(165, kind, path.as_ptr(), kind, 0_i64, 0_i64) };
            std::process::exit(if done == 0 { 0 } else { code(Err(std::io::Error::last_os_error())) });
        }
        ["confinement"] => confinement(),
        other => panic!("what is {other:?}?"),
    }
}

fn code(done: std::io::Result<()>) -> i32 {
    done.map_or_else(|error| error.raw_os_error().unwrap_or(255), |()| 0)
}

/// What the process may do, as `name=value` lines.
fn confinement() {
    for line in std::fs::read_to_string("/proc/self/status").unwrap().lines() {
        let (name, value) = line.split_once(':').unwrap();
        if name.starts_with("Cap") || ["Seccomp", "NoNewPrivs", "Uid", "Groups"].contains(&name) {
            println!("{name}={}", value.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    let mut files: Vec<i32> = (0..1024)
        .filter(|fd| unsafe { syscall(72, *fd, 1) } >= 0) // fcntl(F_GETFD)
        .collect();
    files.sort_unstable();
    println!("files={files:?}");
    let errno = |result: i64| match result {
        0.. => 0,
        _ => std::io::Error::last_os_error().raw_os_error().unwrap(),
    };
    println!("af_alg={}", errno(unsafe { syscall(41, 38, 5, 0) }));
    println!("af_inet={}", errno(unsafe { syscall(41, 2, 1, 0) }));
    println!("clone3={}", errno(unsafe { syscall(435, 0, 0) }));
    println!("unshare={}", errno(unsafe { syscall(272, 0x1000_0000_i64) }));
    println!("kcore={}", std::fs::read("/proc/kcore").map_or(0, |text| text.len()));
    println!("sysctl={}", std::fs::write("/proc/sys/kernel/domainname", "x").is_ok());
    println!("sysfs={}", std::fs::create_dir("/sys/fs/x").is_ok());
    println!("cwd={}", std::env::current_dir().unwrap().display());
    println!("home={}", std::env::var("HOME").unwrap_or_default());
    println!("hostname={}", std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    println!("ppid={}", std::os::unix::process::parent_id());
}
