//! Tools about the process: its output, files, user, memory, processor.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use crate::{Outcome, complain, number, options, print, print_bytes, seconds, signal, usage};

pub fn exit(args: &[String]) -> Outcome {
    match args {
        [code] => Ok(number("exit", code)),
        _ => usage("exit"),
    }
}

/// Leaves a child to process 1.
pub fn spawn(args: &[String]) -> Outcome {
    let [program, args @ ..] = args else { usage("spawn") };
    let started = std::process::Command::new(program).args(args).spawn();
    started.map(|_| 0).map_err(|error| format!("{program}: {error}"))
}

pub fn echo(args: &[String]) -> Outcome {
    let (mut newline, mut stderr, mut rest) = (true, false, args);
    while let [first, others @ ..] = rest {
        match first.as_str() {
            "-n" => newline = false,
            "-e" => stderr = true,
            _ => break,
        }
        rest = others;
    }
    let mut text = rest.join(" ");
    if newline {
        text.push('\n');
    }
    if stderr {
        complain(&text)
    } else {
        print(&text)
    }
    Ok(0)
}

pub fn cat(args: &[String]) -> Outcome {
    if args.is_empty() {
        return copy(&mut std::io::stdin().lock(), "stdin").map(|()| 0);
    }
    for path in args {
        if path == "-" {
            copy(&mut std::io::stdin().lock(), "stdin")?;
        } else {
            let mut file = fs::File::open(path).map_err(|error| format!("{path}: {error}"))?;
            copy(&mut file, path)?;
        }
    }
    Ok(0)
}

fn copy(from: &mut impl Read, name: &str) -> Result<(), String> {
    let mut buffer = [0; 16384];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => print_bytes(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("{name}: {error}")),
        }
    }
}

pub fn write(args: &[String]) -> Outcome {
    let [path, text @ ..] = args else { usage("write") };
    fs::write(path, text.join(" ") + "\n").map_err(|error| format!("{path}: {error}"))?;
    Ok(0)
}

/// Writes without end. Space that others free is taken at once.
pub fn fill(args: &[String]) -> Outcome {
    let [path] = args else { usage("fill") };
    let mut file = fs::File::create(path).map_err(|error| format!("{path}: {error}"))?;
    loop {
        match file.write(&[1; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            Err(error) => return Err(format!("{path}: {error}")),
        }
    }
}

pub fn ls(args: &[String]) -> Outcome {
    let (flags, mut paths) = options("ls", args, "la");
    let long = flags.iter().any(|(flag, _)| *flag == 'l');
    if paths.is_empty() {
        paths.push(".".into());
    }
    let mut text = String::new();
    for path in &paths {
        let meta = fs::symlink_metadata(path).map_err(|error| format!("{path}: {error}"))?;
        if !fs::metadata(path).is_ok_and(|meta| meta.is_dir()) {
            line(&mut text, path, path, &meta, long);
            continue;
        }
        let mut names: Vec<_> = fs::read_dir(path)
            .map_err(|error| format!("{path}: {error}"))?
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        for name in names {
            let full = format!("{path}/{name}");
            if let Ok(meta) = fs::symlink_metadata(&full) {
                line(&mut text, &full, &name, &meta, long);
            }
        }
    }
    print(&text);
    Ok(0)
}

fn line(text: &mut String, path: &str, name: &str, meta: &fs::Metadata, long: bool) {
    if long {
        let kind = match meta.mode() & 0o17_0000 {
            0o04_0000 => 'd',
            0o12_0000 => 'l',
            0o02_0000 => 'c',
            0o06_0000 => 'b',
            0o01_0000 => 'p',
            0o14_0000 => 's',
            _ => '-',
        };
        let (uid, gid, size) = (meta.uid(), meta.gid(), meta.size());
        let _ = write!(text, "{kind}{:04o} {uid} {gid} {size} ", meta.mode() & 0o7777);
    }
    text.push_str(name);
    if long && let Ok(target) = fs::read_link(path) {
        let _ = write!(text, " -> {}", target.display());
    }
    text.push('\n');
}

pub fn pwd(_: &[String]) -> Outcome {
    let path = std::env::current_dir().map_err(|error| error.to_string())?;
    print(&format!("{}\n", path.display()));
    Ok(0)
}

pub fn env(_: &[String]) -> Outcome {
    let mut text = String::new();
    for (key, value) in std::env::vars_os() {
        let _ = writeln!(text, "{}={}", key.to_string_lossy(), value.to_string_lossy());
    }
    print(&text);
    Ok(0)
}

pub fn id(_: &[String]) -> Outcome {
    let status = fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
    let field = |key: &str| -> Vec<&str> {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().split_whitespace().collect()
    };
    // Real, effective, saved, file system.
    let effective = |key| field(key).get(1).copied().unwrap_or("?").to_owned();
    let groups = field("Groups:").join(",");
    print(&format!("uid={} gid={} groups={groups}\n", effective("Uid:"), effective("Gid:")));
    Ok(0)
}

pub fn hostname(_: &[String]) -> Outcome {
    print(&format!("{}\n", host_name()));
    Ok(0)
}

pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim_end().to_owned()
}

pub fn flood(args: &[String]) -> Outcome {
    let (flags, rest) = options("flood", args, "e");
    let lines: u64 = rest.first().map_or(u64::MAX, |text| number("flood", text));
    let mut sink: Box<dyn Write> = if flags.is_empty() {
        Box::new(std::io::BufWriter::with_capacity(1 << 16, std::io::stdout()))
    } else {
        Box::new(std::io::BufWriter::with_capacity(1 << 16, std::io::stderr()))
    };
    for line in 1..=lines {
        writeln!(sink, "line {line:012} the quick brown fox jumps over the lazy dog")
            .map_err(|error| error.to_string())?;
    }
    sink.flush().map_err(|error| error.to_string())?;
    Ok(0)
}

pub fn spin(args: &[String]) -> Outcome {
    let limit = args.first().map(|text| seconds("spin", text));
    signal::exit_on_termination();
    let start = Instant::now();
    while limit.is_none_or(|limit| start.elapsed() < limit) {
        std::hint::black_box((0..100_000_u64).fold(0, u64::wrapping_add));
    }
    Ok(0)
}

pub fn alloc(args: &[String]) -> Outcome {
    let [size] = args else { usage("alloc") };
    signal::exit_on_termination();
    let mut blocks = Vec::new();
    for _ in 0..number::<usize>("alloc", size) {
        blocks.push(vec![1_u8; 1 << 20]);
    }
    print(&format!("{} MiB\n", std::hint::black_box(&blocks).len()));
    loop {
        std::thread::park();
    }
}
