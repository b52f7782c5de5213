//! The toolbox: one static program of small network tools, the content of the built-in image.
//!
//! It is compiled by `build.rs` with the standard library alone, so that a first container, the
//! demo and the tests need no registry. It runs the tool named by `argv[0]`, or by the first
//! argument. As `docker-init` it is what `--init` runs first in a container, whatever the image:
//! static, it needs nothing of it. Every tool speaks IPv4 and IPv6, says what went wrong on stderr, and tells success
//! by its exit code: 0 done, 1 failed, 2 used wrongly.

mod dns;
mod http;
mod init;
mod load;
mod names;
mod process;
mod signal;
mod sockets;
mod terminal;

use std::io::Write;
use std::process::ExitCode;

/// What a tool reports: its exit code, or a message for stderr and exit code 1.
type Outcome = Result<u8, String>;

struct Tool {
    name: &'static str,
    usage: &'static str,
    run: fn(&[String]) -> Outcome,
}

const TOOLS: &[Tool] = &[
    Tool { name: "httpd", usage: "[-p PORT]: HTTP server that tells who asked", run: http::serve },
    Tool { name: "get", usage: "[-4|-6] [-i] [-t SECONDS] URL: print a body", run: http::get },
    Tool { name: "client", usage: "the same as get", run: http::get },
    Tool {
        name: "lookup",
        usage: "[-v] [-t A|AAAA|PTR|SRV] NAME [SERVER[:PORT]]: ask the DNS",
        run: dns::lookup,
    },
    Tool { name: "nslookup", usage: "the same as lookup", run: dns::lookup },
    Tool {
        name: "echo-server",
        usage: "[-p PORT]: send back what comes, TCP and UDP",
        run: sockets::echo_server,
    },
    Tool {
        name: "send",
        usage: "[-u] [-4|-6] [-t SECONDS] HOST PORT TEXT: send, print the answer",
        run: sockets::send,
    },
    Tool { name: "nc", usage: "the same as send", run: sockets::send },
    Tool {
        name: "load",
        usage: "[-c CLIENTS] [-t SECONDS] HOST PORT[-LAST]: HTTP connections per second",
        run: load::load,
    },
    Tool {
        name: "dns-load",
        usage: "[-c OUTSTANDING] [-t SECONDS] [-u] NAME [SERVER[:PORT]]: questions per second",
        run: load::dns_load,
    },
    Tool {
        name: "dns-server",
        usage: "[-p PORT]: answer every question with 192.0.2.1",
        run: load::dns_server,
    },
    Tool { name: "size", usage: "[-w]: rows and columns of the terminal", run: terminal::size },
    Tool { name: "tty", usage: "name of the terminal", run: terminal::tty },
    Tool { name: "signals", usage: "print signals until SIGTERM", run: signal::report },
    Tool { name: "trap", usage: "[CODE]: exit with CODE on SIGTERM", run: signal::trap },
    Tool { name: "ignore", usage: "[SECONDS]: ignore SIGTERM", run: signal::ignore },
    Tool { name: "sleep", usage: "SECONDS|infinity", run: signal::sleep },
    Tool { name: "init", usage: "[--] PROGRAM…: be process 1 for a program", run: init::init },
    Tool { name: "docker-init", usage: "the same as init", run: init::init },
    Tool { name: "spawn", usage: "PROGRAM…: start it, do not wait for it", run: process::spawn },
    Tool { name: "true", usage: "exit with 0", run: |_| Ok(0) },
    Tool { name: "false", usage: "exit with 1", run: |_| Ok(1) },
    Tool { name: "exit", usage: "CODE", run: process::exit },
    Tool { name: "echo", usage: "[-n] [-e] TEXT…: -e writes to stderr", run: process::echo },
    Tool { name: "cat", usage: "[FILE]…", run: process::cat },
    Tool { name: "write", usage: "FILE TEXT…: write a file", run: process::write },
    Tool { name: "fill", usage: "FILE: take all space, whenever there is any", run: process::fill },
    Tool { name: "ls", usage: "[-l] [PATH]…", run: process::ls },
    Tool { name: "pwd", usage: "working directory", run: process::pwd },
    Tool { name: "env", usage: "environment", run: process::env },
    Tool { name: "id", usage: "user and groups", run: process::id },
    Tool { name: "hostname", usage: "name of the host", run: process::hostname },
    Tool { name: "flood", usage: "[-e] [LINES]: much output", run: process::flood },
    Tool { name: "spin", usage: "[SECONDS]: burn one processor", run: process::spin },
    Tool { name: "alloc", usage: "MEBIBYTES: use memory and wait", run: process::alloc },
];

fn main() -> ExitCode {
    let mut args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let mut name = base_name(&args.next().unwrap_or_default());
    let mut args: Vec<String> = args.collect();
    if !TOOLS.iter().any(|tool| tool.name == name) && !args.is_empty() {
        name = base_name(&args.remove(0));
    }
    let Some(tool) = TOOLS.iter().find(|tool| tool.name == name) else {
        return list(&name);
    };
    if args.first().is_some_and(|arg| arg == "--help") {
        print(&format!("usage: {} {}\n", tool.name, tool.usage));
        return ExitCode::SUCCESS;
    }
    match (tool.run)(&args) {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            complain(&format!("{}: {message}\n", tool.name));
            ExitCode::FAILURE
        }
    }
}

fn list(name: &str) -> ExitCode {
    let mut text = String::from("usage: toolbox TOOL [ARGUMENT]…\n");
    for tool in TOOLS {
        text.push_str(&format!("  {:<12} {}\n", tool.name, tool.usage));
    }
    if matches!(name, "toolbox" | "--help" | "help" | "-h") {
        print(&text);
        return ExitCode::SUCCESS;
    }
    complain(&format!("toolbox: no tool {name:?}\n{text}"));
    ExitCode::from(2)
}

fn base_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

/// Ends the program for wrong usage.
fn usage(tool: &str) -> ! {
    let usage = TOOLS.iter().find(|known| known.name == tool).map_or("", |known| known.usage);
    complain(&format!("usage: {tool} {usage}\n"));
    std::process::exit(2)
}

/// Writes to stdout at once. A reader that went away ends the program.
fn print(text: &str) {
    print_bytes(text.as_bytes());
}

fn print_bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// Writes to stderr.
fn complain(text: &str) {
    // Where stderr is closed nobody is left to be told.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The options and the other arguments of a tool. `wanted` has the letters, a colon after those
/// that take a value. Options end at the first other argument.
fn options(tool: &str, args: &[String], wanted: &str) -> (Vec<(char, String)>, Vec<String>) {
    let mut found = Vec::new();
    let mut rest = args.iter();
    let mut others = Vec::new();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            break;
        }
        let Some(letters) = arg.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            others.push(arg.clone());
            break;
        };
        for (at, letter) in letters.char_indices() {
            let Some(position) = wanted.find(letter).filter(|_| letter != ':') else { usage(tool) };
            if !wanted[position + 1..].starts_with(':') {
                found.push((letter, String::new()));
                continue;
            }
            let inline = &letters[at + letter.len_utf8()..];
            let value = if inline.is_empty() { rest.next().cloned() } else { Some(inline.into()) };
            found.push((letter, value.unwrap_or_else(|| usage(tool))));
            break;
        }
    }
    others.extend(rest.cloned());
    (found, others)
}

/// A number, or the end of the program.
fn number<T: std::str::FromStr>(tool: &str, text: &str) -> T {
    text.parse().unwrap_or_else(|_| {
        complain(&format!("{tool}: {text:?} is not a number in range\n"));
        usage(tool)
    })
}

/// Seconds with a fraction.
fn seconds(tool: &str, text: &str) -> std::time::Duration {
    std::time::Duration::try_from_secs_f64(number(tool, text.trim_end_matches('s')))
        .unwrap_or_else(|_| usage(tool))
}
