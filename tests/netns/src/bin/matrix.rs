//! Tries who reaches what of an engine's networks, and prints the tables and where they differ from
//! rnet's (`docs/networks/isolation.md`).
//!
//! ```sh
//! cargo run -p netns-tests --bin matrix -- --docker-host unix:///var/run/docker.sock --image busybox
//! ```
//!
//! It makes networks and containers named `matrix-…` on that engine, two machines beside its host, and
//! removes them again. An engine in a container or a chroot of its own is found by `--root`, where
//! its file system with its `/proc` is seen from here: `--root /proc/PID/root`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use netns_tests::Lab;
use netns_tests::matrix::{Engine, Page, measure};

const USAGE: &str = "usage: matrix --docker-host URL [--root DIRECTORY] [--netns FILE] [--image NAME] \
                     [--name WORD] [--short]";

/// What is asked for.
struct Arguments {
    url: String,
    root: PathBuf,
    netns: Option<PathBuf>,
    /// An image that has `sleep`.
    image: String,
    /// What the engine is called where it differs.
    name: String,
    /// Whether only the differences are printed.
    short: bool,
}

fn main() -> ExitCode {
    match arguments(std::env::args().skip(1)).and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "matrix: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut found = Arguments {
        url: String::new(),
        root: PathBuf::from("/"),
        netns: None,
        image: "rnet/toolbox".to_owned(),
        name: "it".to_owned(),
        short: false,
    };
    while let Some(flag) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"));
        match flag.as_str() {
            "--docker-host" => found.url = value()?,
            "--root" => found.root = value()?.into(),
            "--netns" => found.netns = Some(value()?.into()),
            "--image" => found.image = value()?,
            "--name" => found.name = value()?,
            "--short" => found.short = true,
            _ => return Err(format!("unknown argument {flag}\n{USAGE}")),
        }
    }
    if found.url.is_empty() { Err(USAGE.to_owned()) } else { Ok(found) }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let engine =
        Engine::new(&arguments.url, &arguments.root, arguments.netns.as_deref(), &arguments.image);
    let lab = Lab::around(engine.host()?);
    let found = measure(&engine, &lab, None)?;
    let ours = Page::parse(include_str!("../../../../docs/networks/isolation.md"));
    let mut out = io::stdout().lock();
    let mut print = |text: &str| writeln!(out, "{text}").map_err(|error| error.to_string());
    if !arguments.short {
        print(&found.render())?;
    }
    print(&format!("| | from | by | rnet | {} |\n|---|---|---|---|---|", arguments.name))?;
    for difference in ours.differences(&found) {
        print(&format!("| {} |", difference.join(" | ")))?;
    }
    Ok(())
}
