//! The programs: `crun`, `runc`, and what `--add-runtime` names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::{Runtime, RuntimeError, SeccompForm};
use shim::protocol::{Gate, HYBRID, LIMIT, RuntimeCommand};
use shim::{launch, said};

/// A program that `--add-runtime` names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// A path, or a name to be found in `PATH`.
    pub path: PathBuf,
    /// Arguments before the subcommand.
    pub arguments: Vec<String>,
}

/// `crun`: takes its filter compiled, which halves the time of a start.
#[derive(Clone, Debug)]
pub struct Crun {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
}

/// `runc`, and every other program with its command line.
#[derive(Clone, Debug)]
pub struct Runc {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Crun {
    /// The runtime of this name and executable.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), program: program.into(), arguments: Vec::new() }
    }
}

impl Runc {
    /// The runtime of this name and executable.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), program: program.into(), arguments: Vec::new() }
    }
}

impl Runtime for Crun {
    fn name(&self) -> &str {
        &self.name
    }

    fn program(&self) -> &Path {
        &self.program
    }

    fn seccomp_form(&self) -> SeccompForm {
        SeccompForm::Instructions
    }

    fn command(&self, root: &Path) -> RuntimeCommand {
        let controllers = std::fs::read(Path::new(HYBRID).join("cgroup.controllers"));
        RuntimeCommand {
            program: self.program.clone(),
            root: root.to_owned(),
            arguments: self.arguments.clone(),
            hide_hybrid: controllers.is_ok_and(|names| !names.is_empty()),
            gate: Gate::Written,
            limit: LIMIT,
        }
    }
}

impl Runtime for Runc {
    fn name(&self) -> &str {
        &self.name
    }

    fn program(&self) -> &Path {
        &self.program
    }

    fn seccomp_form(&self) -> SeccompForm {
        SeccompForm::Profile
    }

    fn command(&self, root: &Path) -> RuntimeCommand {
        RuntimeCommand {
            program: self.program.clone(),
            root: root.to_owned(),
            arguments: self.arguments.clone(),
            hide_hybrid: false,
            gate: if is(&self.program, "runc") { Gate::Read } else { Gate::Command },
            limit: LIMIT,
        }
    }
}

/// The runtime of a name: `crun` and `runc` are found in `PATH`, `added` are `--add-runtime`'s by
/// name. An empty name is the default: `crun` if there is one, else `runc`.
pub fn find(
    name: &str,
    added: &BTreeMap<String, Program>,
) -> Result<Arc<dyn Runtime>, RuntimeError> {
    let not_found = || RuntimeError::NotFound { name: name.to_owned() };
    if let Some(Program { path, arguments }) = added.get(name) {
        let program = if path.is_absolute() {
            path.clone()
        } else {
            in_path(&path.to_string_lossy()).ok_or_else(not_found)?
        };
        return Ok(of_program(name, program, arguments));
    }
    match name {
        "" => find("crun", added).or_else(|_| find("runc", added)).map_err(|_| not_found()),
        "crun" | "runc" => {
            in_path(name).map(|program| of_program(name, program, &[])).ok_or_else(not_found)
        }
        // Docker's names of its default runtime.
        "io.containerd.runc.v2" => find("", added),
        _ => Err(not_found()),
    }
}

fn of_program(name: &str, program: PathBuf, arguments: &[String]) -> Arc<dyn Runtime> {
    let (name, arguments) = (name.to_owned(), arguments.to_vec());
    if is(&program, "crun") {
        Arc::new(Crun { name, program, arguments })
    } else {
        Arc::new(Runc { name, program, arguments })
    }
}

/// Whether a program is the one of this name, whatever links lead to it.
fn is(program: &Path, name: &str) -> bool {
    let file = std::fs::canonicalize(program);
    file.as_deref().unwrap_or(program).file_name().is_some_and(|file| file == name)
}

/// The program of a name; a path stands for itself.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// First line of `--version`.
pub(super) fn version(program: &Path) -> Result<String, RuntimeError> {
    let called = launch::call(Command::new(program).arg("--version"), b"", LIMIT)
        .map_err(|source| RuntimeError::Call { program: program.to_owned(), source })?;
    Ok(called.output.lines().next().unwrap_or_default().to_owned())
}

/// Runs a subcommand whose last argument is the container.
pub(super) fn call(
    command: &RuntimeCommand,
    action: &str,
    arguments: &[&str],
    input: &[u8],
) -> Result<(), RuntimeError> {
    let mut program = launch::command(command);
    let called = launch::call(program.args(arguments), input, command.limit)
        .map_err(|source| RuntimeError::Call { program: command.program.clone(), source })?;
    if called.status.success() {
        return Ok(());
    }
    Err(RuntimeError::Refused {
        runtime: command.program.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        action: action.to_owned(),
        container: arguments.last().copied().unwrap_or_default().to_owned(),
        message: said::reason(&called.errors).unwrap_or_else(|| called.status.to_string()),
    })
}
