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
        // A child that is killed for want of memory, for each line.
        ["hogs"] => {
            while std::io::stdin().read_line(&mut String::new()).unwrap() > 0 {
                let own = std::env::current_exe().unwrap();
                println!("{}", std::process::Command::new(own).arg("hog").status().unwrap());
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
        ["overwrite"] => overwrite(),
        other => panic!("what is {other:?}?"),
    }
}

/// Whether there is a byte in a file, or a name in a directory.
fn shows(path: &str) -> bool {
    let byte = std::fs::File::open(path).and_then(|mut file| file.read(&mut [0]));
    let mut names = std::fs::read_dir(path).into_iter().flatten();
    byte.is_ok_and(|length| length > 0) || names.next().is_some()
}

fn code(done: std::io::Result<()>) -> i32 {
    done.map_or_else(|error| error.raw_os_error().unwrap_or(255), |()| 0)
}

/// Tries to write to the programs of all processes, until there is a file `/stop`. What is found is
/// kept open, for a program cannot be written while it runs.
fn overwrite() {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    let mut found: Vec<(u64, u64, std::fs::File)> = Vec::new();
    let mut last = false;
    loop {
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(file) = std::fs::File::open(process.path().join("exe")) else { continue };
            let Ok(meta) = file.metadata() else { continue };
            if !found.iter().any(|(dev, ino, _)| (*dev, *ino) == (meta.dev(), meta.ino())) {
                found.push((meta.dev(), meta.ino(), file));
            }
        }
        for (_, _, file) in &found {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let opened = std::fs::File::options().write(true).open(&path);
            if opened.is_ok_and(|mut file| file.write(b"#!/bin/gotcha").is_ok()) {
                println!("wrote to {}", std::fs::read_link(path).unwrap().display());
            }
        }
        if last {
            break;
        }
        last = std::path::Path::new("/stop").exists();
    }
    println!("tried {}", found.len());
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
    println!("af_vsock={}", errno(unsafe { syscall(41, 40, 1, 0) }));
    println!("af_inet={}", errno(unsafe { syscall(41, 2, 1, 0) }));
    println!("clone3={}", errno(unsafe { syscall(435, 0, 0) }));
    println!("unshare={}", errno(unsafe { syscall(272, 0x1000_0000_i64) }));
    let masked = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
        "/sys/devices/system/cpu/cpu0/thermal_throttle",
    ];
    println!("shown={:?}", masked.into_iter().filter(|path| shows(path)).collect::<Vec<_>>());
    let readonly = [
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/drop_caches",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/cgroup.procs",
    ];
    let opens = |path: &&str| std::fs::File::options().write(true).open(path).is_ok();
    println!("opened={:?}", readonly.iter().filter(|path| opens(path)).collect::<Vec<_>>());
    println!("sysctl={}", std::fs::write("/proc/sys/kernel/domainname", "x").is_ok());
    println!("sysfs={}", std::fs::create_dir("/sys/fs/x").is_ok());
    println!("cwd={}", std::env::current_dir().unwrap().display());
    println!("home={}", std::env::var("HOME").unwrap_or_default());
    println!("hostname={}", std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    devices();
    mounts();
    println!("ppid={}", std::os::unix::process::parent_id());
}

/// The devices that are there, and what becomes of those that one makes oneself.
fn devices() {
    use std::os::unix::fs::FileTypeExt;
    let entries = std::fs::read_dir("/dev").unwrap().flatten();
    let is_device = |entry: &std::fs::DirEntry| {
        let kind = std::fs::metadata(entry.path()).map(|meta| meta.file_type());
        kind.is_ok_and(|kind| kind.is_char_device() || kind.is_block_device())
    };
    let names = entries.filter(is_device).map(|entry| entry.file_name().into_string().unwrap());
    // These are links to what the program was given.
    let mut names: Vec<_> = names.filter(|name| !name.starts_with("std")).collect();
    names.sort_unstable();
    println!("devices={}", names.join(" "));
    let made = [(10, 229), (1, 1), (1, 3)].map(|(major, minor): (i64, i64)| {
        let path = format!("/made-{major}-{minor}");
        let name = std::ffi::CString::new(&*path).unwrap();
        let done = unsafe { syscall(133, name.as_ptr(), 0o020_666_i64, major << 8 | minor) };
        let opened = std::fs::File::options().read(true).open(&path).map(drop);
        let _ = std::fs::remove_file(path);
        let code = if done == 0 { code(opened) } else { 1000 };
        format!("{major}:{minor}={code}")
    });
    println!("made={}", made.join(" "));
}

/// What is mounted where, with the options that count, in an order of their own.
fn mounts() {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    for line in text.lines() {
        let (front, back) = line.split_once(" - ").unwrap();
        let (front, back): (Vec<_>, Vec<_>) = (front.split(' ').collect(), back.split(' ').collect());
        let all: Vec<_> = front[5].split(',').chain(back[2].split(',')).collect();
        let plain = ["noexec", "nodev", "nosuid"].into_iter().filter(|option| all.contains(option));
        let mut shown: Vec<_> = plain.collect();
        if front[5].starts_with("ro") {
            shown.push("ro");
        }
        for key in ["gid=", "mode=", "ptmxmode=", "size="] {
            shown.extend(all.iter().find(|option| option.starts_with(key)));
        }
        println!("at {}={} {}", front[4], back[0], shown.join(" "));
    }
}
