//! What the programs of runtimes are able to do, asked once of each.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use shim::launch;

/// How long a program may take to tell of itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first version of crun that is known to do it although it does not tell.
const CRUN: (u32, u32) = (1, 8);

/// What is known of programs.
#[derive(Clone, Debug, Default)]
pub struct Abilities(Arc<Mutex<HashMap<Program, bool>>>);

/// A program as it is now: another one may be installed at its path while the daemon runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Program {
    path: PathBuf,
    inode: u64,
    changed: (i64, i64),
}

impl Abilities {
    /// Whether a program makes mounts read-only with all that is mounted below them (`rro`). Calls it,
    /// the first time.
    pub fn recursive_readonly(&self, program: &Path) -> bool {
        let Some(its) = Program::of(program) else { return false };
        if let Some(able) = self.known().get(&its) {
            return *able;
        }
        let able = is_able(program);
        tracing::debug!(program = %program.display(), able, "recursive read-only mounts");
        self.known().insert(its, able);
        able
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Program, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Program {
    fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        let changed = (found.ctime(), found.ctime_nsec());
        Some(Self { path: path.to_owned(), inode: found.ino(), changed })
    }
}

fn is_able(program: &Path) -> bool {
    let told = answer(program, "features").and_then(|text| options(&text));
    match told {
        Some(options) => options.iter().any(|option| option == "rro"),
        // It has no such command. Debian's crun is one of those.
        None => answer(program, "--version").as_deref().is_some_and(is_able_crun),
    }
}

/// What a program says to one argument, if it succeeds.
fn answer(program: &Path, argument: &str) -> Option<String> {
    let called = launch::call(Command::new(program).arg(argument), b"", PATIENCE).ok()?;
    called.status.success().then_some(called.output)
}

/// The options of mounts in the answer to `features` (the OCI's features structure).
fn options(text: &str) -> Option<Vec<String>> {
    let features: Value = serde_json::from_str(text).ok()?;
    let options = features["mountOptions"].as_array()?;
    Some(options.iter().filter_map(|option| option.as_str().map(str::to_owned)).collect())
}

/// Whether the first line of `--version` is that of a crun which is able to.
fn is_able_crun(text: &str) -> bool {
    let Some(version) = text.strip_prefix("crun version ") else { return false };
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let mut number = || numbers.next().and_then(Result::ok).unwrap_or_default();
    (number(), number()) >= CRUN
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A made-up program, which notes that it was called. Gone on drop.
    struct Script(PathBuf);

    impl Script {
        fn new(name: &str, body: &str) -> Self {
            let name = format!("rnet-abilities-{name}-{}", std::process::id());
            let script = Self(std::env::temp_dir().join(name));
            fs::create_dir_all(&script.0).unwrap();
            script.say(body);
            script
        }

        fn say(&self, body: &str) {
            let (program, aside) = (self.program(), self.0.join("aside"));
            let calls = self.0.join("calls");
            fs::write(&aside, format!("#!/bin/sh\necho >>{}\n{body}\n", calls.display())).unwrap();
            fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).unwrap();
            fs::rename(aside, program).unwrap();
        }

        fn program(&self) -> PathBuf {
            self.0.join("runtime")
        }

        fn calls(&self) -> usize {
            fs::read_to_string(self.0.join("calls")).map_or(0, |text| text.lines().count())
        }
    }

    impl Drop for Script {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_program_is_asked_once_for_what_it_is_able_to_do() {
        let script = Script::new("asked", r#"echo '{"mountOptions": ["ro", "rro"]}'"#);
        let abilities = Abilities::default();
        for _ in 0..2 {
            assert!(abilities.recursive_readonly(&script.program()));
        }
        assert_eq!(script.calls(), 1);
        script.say(r#"echo '{"mountOptions": ["ro"]}'"#);
        assert!(!abilities.recursive_readonly(&script.program()), "another one is installed");
        assert_eq!(script.calls(), 2);
    }

    #[test]
    fn a_program_that_does_not_tell_is_judged_by_its_version() {
        let crun = |version: &str| {
            format!("[ $1 = --version ] || exit 1\necho 'crun version {version}'\necho 'spec: 1.0'")
        };
        for (body, able) in [
            (crun("1.8.1"), true),
            (crun("1.28"), true),
            (crun("0.17"), false),
            ("exit 1".to_owned(), false),
            ("echo 'runc version 1.0.0'".to_owned(), false),
        ] {
            let script = Script::new("version", &body);
            let found = Abilities::default().recursive_readonly(&script.program());
            assert_eq!(found, able, "{body}");
        }
        assert!(!Abilities::default().recursive_readonly(Path::new("/nonexistent")));
    }
}
