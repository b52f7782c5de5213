//! AppArmor: the profile of containers that choose none, and which one a container gets.
//!
//! The profile is text made here. Kernels take profiles compiled, so `apparmor_parser` loads it. A
//! profile that is not there when a container starts is loaded then: package upgrades unload what
//! they find no file of.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use shim::launch;
use shim::protocol::LIMIT;
use shim::said;

use super::RuntimeError;
use super::program::in_path;

/// The profile of containers that choose none.
pub const DEFAULT: &str = "rnet-default";
/// What Docker calls it. Who asks for that gets ours.
const DOCKERS: &str = "docker-default";
/// No profile at all.
const UNCONFINED: &str = "unconfined";

/// What the kernel has of AppArmor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppArmor {
    /// Where it tells of itself; nothing if the kernel has none, or it is switched off.
    directory: Option<PathBuf>,
    /// What loads profiles.
    parser: Option<PathBuf>,
}

impl AppArmor {
    /// Asks this kernel.
    pub fn probe() -> Self {
        let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        if !enabled.is_ok_and(|text| text.starts_with('Y')) {
            return Self::default();
        }
        let directory = PathBuf::from("/sys/kernel/security/apparmor");
        Self::at(directory, in_path("apparmor_parser"))
    }

    /// One that tells of itself in a directory, as it is in `securityfs`.
    pub fn at(directory: PathBuf, parser: Option<PathBuf>) -> Self {
        let directory = Some(directory).filter(|directory| directory.join("profiles").exists());
        Self { directory, parser }
    }

    /// Whether containers that choose no profile have one, for `info`.
    pub fn confines(&self) -> bool {
        self.directory.is_some() && (self.parser.is_some() || self.has(DEFAULT))
    }

    /// What a user should know.
    pub fn warning(&self) -> Option<&'static str> {
        (self.directory.is_some() && !self.confines()).then_some(
            "containers have no AppArmor profile: the kernel has AppArmor, and there is no \
             apparmor_parser to load one; install the package apparmor",
        )
    }

    /// The profile of a container that asks for this one or for none, by name; nothing where the
    /// kernel has no AppArmor, which then is no obstacle to who asks for nothing of it.
    pub fn name_for<'a>(&self, asked: Option<&'a str>, privileged: bool) -> Option<&'a str> {
        let asked = asked.filter(|name| !name.is_empty());
        let name = match asked {
            None if privileged => UNCONFINED,
            None | Some(DOCKERS) => DEFAULT,
            Some(own) => own,
        };
        self.directory.is_some().then_some(name).filter(|name| *name != DEFAULT || self.confines())
    }

    /// The same, there when it is needed. Blocks, for a program may have to load it.
    ///
    /// # Errors
    /// [`RuntimeError::Invalid`] if the kernel does not know it.
    pub fn profile(
        &self,
        asked: Option<&str>,
        privileged: bool,
    ) -> Result<Option<String>, RuntimeError> {
        let Some(name) = self.name_for(asked, privileged) else { return Ok(None) };
        // A kernel is able to find more than is listed: stacks of profiles, and other namespaces'.
        let is_unlisted = name.contains("//&") || name.starts_with(':');
        if name == UNCONFINED || is_unlisted || self.has(name) {
            return Ok(Some(name.to_owned()));
        }
        if name == DEFAULT {
            self.load()?;
            return Ok(Some(name.to_owned()));
        }
        Err(RuntimeError::Invalid(format!(
            "the kernel knows no AppArmor profile {name:?}: load it by apparmor_parser, or choose \
             another by --security-opt apparmor="
        )))
    }

    /// Loads [`DEFAULT`], over one of an earlier release. Nothing without a kernel or a program for
    /// it. Blocks.
    pub fn load(&self) -> Result<(), RuntimeError> {
        let (Some(_), Some(parser)) = (&self.directory, &self.parser) else { return Ok(()) };
        let text = text(DEFAULT, &own_profile());
        let mut command = Command::new(parser);
        command.args(["--replace", "--skip-cache"]);
        let called = launch::call(&mut command, text.as_bytes(), LIMIT)
            .map_err(|source| RuntimeError::Call { program: parser.clone(), source })?;
        if called.status.success() {
            return Ok(());
        }
        let why = said::reason(&called.errors).unwrap_or_else(|| called.status.to_string());
        Err(RuntimeError::Invalid(format!(
            "AppArmor enabled on system but the {DEFAULT} profile could not be loaded: {why}"
        )))
    }

    /// Whether the kernel knows a profile.
    fn has(&self, name: &str) -> bool {
        let profiles = self.directory.as_deref().map(|directory| directory.join("profiles"));
        let text = profiles.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        text.lines().any(|line| without_mode(line) == name)
    }
}

/// `name (enforce)` without its mode.
fn without_mode(line: &str) -> &str {
    line.rsplit_once(" (").map_or(line, |(name, _)| name)
}

/// The profile that this process is in. A shim is in it too, and sends signals to its container.
fn own_profile() -> String {
    let files = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"];
    let text = files.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    let name = without_mode(text.trim_end_matches(['\0', '\n']));
    if name.is_empty() { UNCONFINED.to_owned() } else { name.to_owned() }
}

/// The text of the default profile, for a daemon in this one.
///
/// Whatever needs a capability needs it as before: this is for what a container's root could do
/// although it is in namespaces of its own. It needs no file of the host's, so that it is loaded
/// where nothing but the parser is installed.
fn text(name: &str, daemon: &str) -> String {
    let mut rules: Vec<String> = [
        "network,",
        "deny network alg,",
        "capability,",
        "file,",
        "umount,",
        "deny mount,",
        // Processes of the host, and the runtimes that distributions confine.
        "signal (receive) peer=unconfined,",
        "signal (receive) peer=crun,",
        "signal (receive) peer=runc,",
    ]
    .map(str::to_owned)
    .into();
    if daemon != UNCONFINED && !daemon.contains('"') {
        rules.push(format!("signal (receive) peer=\"{daemon}\","));
    }
    rules.push(format!("signal (send,receive) peer={name},"));
    rules.push(format!("ptrace (trace,read,tracedby,readby) peer={name},"));
    // In /proc a process's own files are written, and how much memory may be shared.
    rules.push("deny /proc/* w,".to_owned());
    rules.push("deny /proc/[^1-9s]*/** w,".to_owned());
    rules.extend(all_but("/proc/", "sys/", 1, "/**", "w"));
    rules.extend(all_but("/proc/sys/", "kernel/shm", 0, "**", "w"));
    rules.extend(["/proc/sysrq-trigger", "/proc/kcore"].map(|file| format!("deny {file} rwklx,")));
    // In /sys nothing but cgroups, and some of it is not even read.
    rules.extend(all_but("/sys/", "fs/cgroup/", 0, "/**", "wklx"));
    let unread = ["firmware", "devices/virtual/powercap", "kernel/security"];
    rules.extend(unread.map(|directory| format!("deny /sys/{directory}/** rwklx,")));
    let rules = rules.join("\n  ");
    format!("profile {name} flags=(attach_disconnected,mediate_deleted) {{\n  {rules}\n}}\n")
}

/// Denies all paths below a directory but those that begin with `kept`. AppArmor's patterns know no
/// exception, so there is a rule for each letter in which a path may differ, from the `first` on.
fn all_but(
    directory: &'static str,
    kept: &'static str,
    first: usize,
    below: &'static str,
    access: &'static str,
) -> impl Iterator<Item = String> {
    kept.char_indices().skip(first).map(move |(at, letter)| {
        let (begin, any) = (&kept[..at], if below == "**" { "" } else { "*" });
        format!("deny {directory}{begin}[^{letter}]{any}{below} {access},")
    })
}

#[cfg(test)]
mod tests;
