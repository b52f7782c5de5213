//! The process object: of the container itself, and of an exec.

use std::path::{Component, Path};

use oci_spec::runtime as oci;

use super::super::capabilities::CapabilitySet;
use super::super::user::User;
use super::super::{Host, RuntimeError};
use super::{BundleInput, INIT};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What in a process's directory of `/proc` leads to what it has open.
const OPEN: [&str; 4] = ["cwd", "fd", "map_files", "root"];

/// What is run in a container that runs already.
#[derive(Clone, Debug, Default)]
pub struct ExecInput {
    /// The command with its arguments.
    pub args: Vec<String>,
    /// `-e`: over the container's environment.
    pub env: Vec<String>,
    /// `-w`; the container's own if empty.
    pub cwd: String,
    /// `-u`; the container's own if `None`.
    pub user: Option<User>,
    /// `-t`.
    pub tty: bool,
    /// The terminal's rows and columns at start.
    pub console_size: Option<(u16, u16)>,
    /// `--privileged`.
    pub privileged: bool,
}

/// The process object of an exec: as the container's first process, but for what the input says.
/// `container` is the `process` of the bundle ([`super::load`]).
pub fn exec(container: &oci::Process, input: &ExecInput, host: &Host) -> oci::Process {
    let mut env = container.env().clone().unwrap_or_default();
    if let Some(user) = &input.user
        && !user.home.is_empty()
    {
        set(&mut env, &format!("HOME={}", user.home));
    }
    if input.tty {
        add(&mut env, "TERM=xterm");
    }
    let home = env.iter().find_map(|known| known.strip_prefix("HOME=")).unwrap_or("/").to_owned();
    for variable in &input.env {
        set(&mut env, variable);
    }
    fill_home(&mut env, &home);
    let mut process = container.clone();
    process
        .set_terminal(Some(input.tty))
        .set_console_size(input.console_size.filter(|_| input.tty).and_then(size))
        .set_args(Some(input.args.clone()))
        .set_env(Some(env));
    if !input.cwd.is_empty() {
        process.set_cwd(input.cwd.clone().into());
    }
    if let Some(user) = &input.user {
        process.set_user(oci_user(user));
    }
    if input.privileged {
        // All capabilities, and the profile of the container, as Docker has it.
        process.set_capabilities(Some(capabilities(host.capabilities, 0)));
    } else if let (Some(user), Some(granted)) = (&input.user, container.capabilities()) {
        let bounding = granted.bounding().clone().unwrap_or_default();
        process.set_capabilities(Some(of_user(bounding, user.uid)));
    }
    process
}

/// The process object of the container itself.
pub(super) fn init(
    input: &BundleInput,
    host: &Host,
    granted: CapabilitySet,
    warnings: &mut Vec<String>,
) -> Result<oci::Process, RuntimeError> {
    if input.args.is_empty() {
        return Err(RuntimeError::Invalid("no command specified".to_owned()));
    }
    let mut args = input.args.clone();
    if input.init.is_some() {
        args.splice(0..0, [INIT.to_owned(), "--".to_owned()]);
    }
    let cwd = if input.cwd.is_empty() { "/" } else { &input.cwd };
    check_directory(cwd)?;
    let mut process = oci::Process::default();
    process
        .set_terminal(Some(input.tty))
        .set_console_size(input.console_size.filter(|_| input.tty).and_then(size))
        .set_user(oci_user(&input.user))
        .set_args(Some(args))
        .set_env(Some(environment(input)))
        .set_cwd(cwd.into())
        .set_capabilities(Some(capabilities(granted, input.user.uid)))
        .set_rlimits(Some(rlimits(input, host, warnings)?))
        .set_no_new_privileges(Some(input.no_new_privileges))
        .set_apparmor_profile(input.apparmor.clone())
        .set_oom_score_adj(oom_score(input, host, warnings)?);
    Ok(process)
}

/// Refuses a working directory that a process could not be in, or only because the runtime was: one
/// that is open in the runtime is the host's (CVE-2024-21626).
pub fn check_directory(path: &str) -> Result<(), RuntimeError> {
    let wrong = |why: &str| {
        Err(RuntimeError::Invalid(format!("the working directory '{path}' is invalid, {why}")))
    };
    if !path.starts_with('/') {
        return wrong("it needs to be an absolute path");
    }
    let mut parts = Path::new(path).components().skip(1).map(Component::as_os_str);
    let is_of_process = parts.next().is_some_and(|first| first == "proc");
    if is_of_process && parts.skip(1).any(|part| OPEN.iter().any(|open| part == *open)) {
        return wrong("it is what a process has open");
    }
    Ok(())
}

fn oci_user(user: &User) -> oci::User {
    let mut oci = oci::User::default();
    oci.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.groups.clone()));
    oci
}

fn size((rows, columns): (u16, u16)) -> Option<oci::Box> {
    oci::BoxBuilder::default().height(rows).width(columns).build().ok()
}

fn environment(input: &BundleInput) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned()];
    if !input.hostname.is_empty() {
        env.push(format!("HOSTNAME={}", input.hostname));
    }
    if input.tty {
        env.push("TERM=xterm".to_owned());
    }
    for variable in &input.env {
        set(&mut env, variable);
    }
    let home = if input.user.home.is_empty() { "/" } else { &input.user.home };
    add(&mut env, &format!("HOME={home}"));
    fill_home(&mut env, home);
    env
}

/// An empty home directory is none: it is filled in, as runc does it.
fn fill_home(env: &mut Vec<String>, home: &str) {
    if env.iter().any(|known| known == "HOME=") {
        set(env, &format!("HOME={home}"));
    }
}

/// Sets `NAME=value` in place, or removes a variable given as `NAME` alone.
fn set(env: &mut Vec<String>, variable: &str) {
    let (name, value) =
        variable.split_once('=').map_or((variable, None), |(name, value)| (name, Some(value)));
    let position = env.iter().position(|known| is(known, name));
    match (position, value) {
        (Some(position), Some(_)) => variable.clone_into(&mut env[position]),
        (None, Some(_)) => env.push(variable.to_owned()),
        (Some(position), None) => drop(env.remove(position)),
        (None, None) => {}
    }
}

/// Adds `NAME=value` unless the variable is there.
fn add(env: &mut Vec<String>, variable: &str) {
    let name = variable.split('=').next().unwrap_or_default();
    if !env.iter().any(|known| is(known, name)) {
        env.push(variable.to_owned());
    }
}

fn is(variable: &str, name: &str) -> bool {
    variable.split('=').next() == Some(name)
}

/// Bounding and permitted sets; nothing is inheritable or ambient, and a user other than root has
/// nothing in force (CVE-2022-24769).
fn capabilities(granted: CapabilitySet, uid: u32) -> oci::LinuxCapabilities {
    let names: oci::Capabilities = granted
        .names()
        .filter_map(|name| name.trim_start_matches("CAP_").parse::<oci::Capability>().ok())
        .collect();
    of_user(names, uid)
}

fn of_user(bounding: oci::Capabilities, uid: u32) -> oci::LinuxCapabilities {
    let in_force = if uid == 0 { bounding.clone() } else { oci::Capabilities::new() };
    let mut capabilities = oci::LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(bounding))
        .set_permitted(Some(in_force.clone()))
        .set_effective(Some(in_force))
        .set_inheritable(Some(oci::Capabilities::new()))
        .set_ambient(Some(oci::Capabilities::new()));
    capabilities
}

fn rlimits(
    input: &BundleInput,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Vec<oci::PosixRlimit>, RuntimeError> {
    input
        .ulimits
        .iter()
        .map(|(name, soft, hard)| rlimit(name, *soft, *hard, host, warnings))
        .collect()
}

fn rlimit(
    name: &str,
    soft: i64,
    hard: i64,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<oci::PosixRlimit, RuntimeError> {
    let kind = format!("RLIMIT_{}", name.to_ascii_uppercase());
    let kind: oci::PosixRlimitType =
        kind.parse().map_err(|_| RuntimeError::Invalid(format!("invalid ulimit type: {name}")))?;
    let limit = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let (mut soft, mut hard) = (limit(soft), limit(hard));
    if soft > hard {
        return Err(RuntimeError::Invalid(format!(
            "ulimit {name}: the soft limit must be less than or equal to the hard limit: {soft} > {hard}"
        )));
    }
    let allowed = host.rlimit(kind);
    if hard > allowed && !host.capabilities.contains("SYS_RESOURCE") {
        warnings.push(format!(
            "ulimit {name} was lowered to {allowed}: the daemon may not raise it (CAP_SYS_RESOURCE)"
        ));
        hard = allowed;
        soft = soft.min(allowed);
    }
    oci::PosixRlimitBuilder::default()
        .typ(kind)
        .soft(soft)
        .hard(hard)
        .build()
        .map_err(|error| RuntimeError::Invalid(format!("ulimit {name}: {error}")))
}

fn oom_score(
    input: &BundleInput,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Option<i32>, RuntimeError> {
    let wanted = i32::try_from(input.oom_score_adj).unwrap_or(i32::MAX);
    if !(-1000..=1000).contains(&wanted) {
        return Err(RuntimeError::Invalid(format!(
            "invalid value {}, range for oom score adj is [-1000, 1000]",
            input.oom_score_adj
        )));
    }
    if wanted < host.oom_score_adj && !host.capabilities.contains("SYS_RESOURCE") {
        if wanted != 0 {
            warnings.push(format!(
                "oom score adjustment {wanted} was raised to {}: the daemon may not lower it \
                 (CAP_SYS_RESOURCE)",
                host.oom_score_adj
            ));
        }
        return Ok(None);
    }
    Ok(Some(wanted))
}
