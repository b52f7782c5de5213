//! Profiles of the user's, in Docker's JSON format.

use serde::Deserialize;

use super::{Action, Architecture, Condition, Operator, Profile, Rule};
use crate::RuntimeError;
use crate::capabilities::CapabilitySet;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchitectureMap>>,
    #[serde(default)]
    syscalls: Option<Vec<Syscalls>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchitectureMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syscalls {
    name: Option<String>,
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Vec<String>,
    #[serde(default)]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

/// The rules that apply to a container with these capabilities on this architecture.
pub(super) fn parse(
    json: &str,
    capabilities: CapabilitySet,
    native: Architecture,
) -> Result<Profile, RuntimeError> {
    let document: Document = serde_json::from_str(json)
        .map_err(|error| invalid(&format!("decoding seccomp profile failed: {error}")))?;
    let default_action = action(&document.default_action, document.default_errno_ret)?;
    let architectures = architectures(&document, native)?;
    let mut rules = Vec::new();
    for syscalls in document.syscalls.unwrap_or_default() {
        if !applies(&syscalls, capabilities, native)? {
            continue;
        }
        let action = action(&syscalls.action, syscalls.errno_ret)?;
        let mut conditions = Vec::new();
        for argument in syscalls.args.unwrap_or_default() {
            conditions.push(condition(&argument)?);
        }
        let names: Vec<String> = syscalls.name.into_iter().chain(syscalls.names).collect();
        rules.push(Rule { names, action, conditions });
    }
    Ok(Profile { default_action, architectures, rules })
}

fn architectures(
    document: &Document,
    native: Architecture,
) -> Result<Vec<Architecture>, RuntimeError> {
    let given = document.architectures.as_deref().unwrap_or_default();
    let map = document.arch_map.as_deref().unwrap_or_default();
    if !given.is_empty() && !map.is_empty() {
        return Err(invalid("use either 'architectures' or 'archMap' in a seccomp profile"));
    }
    let mut known: Vec<_> = given.iter().filter_map(|name| Architecture::parse(name)).collect();
    if let Some(entry) = map.iter().find(|entry| entry.architecture == native.name()) {
        let others = entry.sub_architectures.iter().flatten();
        known.extend(others.filter_map(|name| Architecture::parse(name)));
    }
    if !known.contains(&native) {
        known.insert(0, native);
    }
    Ok(known)
}

fn applies(
    syscalls: &Syscalls,
    capabilities: CapabilitySet,
    native: Architecture,
) -> Result<bool, RuntimeError> {
    let none = Filter::default();
    let excludes = syscalls.excludes.as_ref().unwrap_or(&none);
    let includes = syscalls.includes.as_ref().unwrap_or(&none);
    let here = |names: &[String]| names.iter().any(|name| name == native.short_name());
    if here(&excludes.arches) || excludes.caps.iter().any(|name| capabilities.contains(name)) {
        return Ok(false);
    }
    if let Some(version) = &excludes.min_kernel
        && kernel_is_at_least(version)?
    {
        return Ok(false);
    }
    if !includes.arches.is_empty() && !here(&includes.arches) {
        return Ok(false);
    }
    if !includes.caps.iter().all(|name| capabilities.contains(name)) {
        return Ok(false);
    }
    includes.min_kernel.as_ref().map_or(Ok(true), |version| kernel_is_at_least(version))
}

fn kernel_is_at_least(version: &str) -> Result<bool, RuntimeError> {
    let numbers = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split(['.', '-']);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    let wanted = numbers(version).ok_or_else(|| {
        invalid(&format!("invalid kernel version {version:?} in seccomp profile"))
    })?;
    let release = nix::sys::utsname::uname().ok();
    let running = release.as_ref().and_then(|name| name.release().to_str()).and_then(numbers);
    Ok(running.is_none_or(|running| running >= wanted))
}

fn action(name: &str, errno: Option<u32>) -> Result<Action, RuntimeError> {
    let number = errno.unwrap_or(libc::EPERM.unsigned_abs());
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(number),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_TRACE" => Action::Trace(number),
        "SCMP_ACT_LOG" => Action::Log,
        other => return Err(invalid(&format!("unknown action {other:?} in seccomp profile"))),
    })
}

fn condition(argument: &Argument) -> Result<Condition, RuntimeError> {
    let (operator, value) = match argument.op.as_str() {
        "SCMP_CMP_NE" => (Operator::NotEqual, argument.value),
        "SCMP_CMP_LT" => (Operator::Less, argument.value),
        "SCMP_CMP_LE" => (Operator::AtMost, argument.value),
        "SCMP_CMP_EQ" => (Operator::Equal, argument.value),
        "SCMP_CMP_GE" => (Operator::AtLeast, argument.value),
        "SCMP_CMP_GT" => (Operator::Greater, argument.value),
        "SCMP_CMP_MASKED_EQ" => (Operator::Masked(argument.value), argument.value_two),
        other => return Err(invalid(&format!("unknown operator {other:?} in seccomp profile"))),
    };
    if argument.index > 5 {
        return Err(invalid("a system call has six arguments, 0 to 5"));
    }
    Ok(Condition { index: argument.index, operator, value })
}

fn invalid(message: &str) -> RuntimeError {
    RuntimeError::Invalid(message.to_owned())
}
