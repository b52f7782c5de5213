//! seccomp: which system calls a container may make.
//!
//! A [`Profile`] is a list of rules by name. It becomes the specification's JSON for runtimes that
//! want that, or BPF instructions, compiled once and kept, for those that take them: compiling
//! costs more than all the rest of a container's start.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use oci_spec::runtime as oci;

use super::RuntimeError;
use super::capabilities::CapabilitySet;

mod bpf;
mod default;
mod docker;
mod syscalls;
#[cfg(test)]
mod tests;

/// The annotation by which crun takes a compiled filter.
pub const ANNOTATION: &str = "run.oci.seccomp_bpf_data";

/// Filters kept; more different ones than this are not in use at a time.
const KEPT: usize = 64;

/// A profile and its compiled form.
#[derive(Debug)]
pub struct Filter {
    profile: Profile,
    base64: String,
}

/// Which system calls are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    default_action: Action,
    architectures: Vec<Architecture>,
    rules: Vec<Rule>,
}

/// What happens to some system calls, perhaps depending on their arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    names: Vec<String>,
    action: Action,
    conditions: Vec<Condition>,
}

/// What happens to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Allow,
    Errno(u32),
    KillThread,
    KillProcess,
    Trap,
    Trace(u32),
    Log,
}

/// A comparison with an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condition {
    index: u32,
    operator: Operator,
    value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    NotEqual,
    Less,
    AtMost,
    Equal,
    AtLeast,
    Greater,
    /// Equal, as far as the mask goes.
    Masked(u64),
}

/// A way of making system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Architecture {
    X86_64,
    X86,
    X32,
    Aarch64,
}

/// The filters compiled so far, by profile and capabilities.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    known: Arc<Mutex<HashMap<FilterKey, Arc<Filter>>>>,
}

/// The text of a profile (the built-in one if absent), and the capabilities it is opened for.
type FilterKey = (Option<String>, CapabilitySet);

impl Filters {
    /// The built-in profile, as far as these capabilities open it.
    pub fn default_profile(
        &self,
        capabilities: CapabilitySet,
    ) -> Result<Arc<Filter>, RuntimeError> {
        self.get(None, capabilities, |native| Ok(default::profile(capabilities, native)))
    }

    /// A profile in Docker's JSON format.
    ///
    /// # Errors
    /// [`RuntimeError::Invalid`] if it is malformed, or too long for the kernel.
    pub fn user_profile(
        &self,
        json: &str,
        capabilities: CapabilitySet,
    ) -> Result<Arc<Filter>, RuntimeError> {
        let key = Some(json.to_owned());
        self.get(key, capabilities, |native| docker::parse(json, capabilities, native))
    }

    fn get(
        &self,
        profile: Option<String>,
        capabilities: CapabilitySet,
        make: impl FnOnce(Architecture) -> Result<Profile, RuntimeError>,
    ) -> Result<Arc<Filter>, RuntimeError> {
        let key = (profile, capabilities);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filter) = known.get(&key) {
            return Ok(Arc::clone(filter));
        }
        let filter = Arc::new(Filter::new(make(Architecture::native()?)?)?);
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(key, Arc::clone(&filter));
        Ok(filter)
    }
}

impl Filter {
    fn new(profile: Profile) -> Result<Self, RuntimeError> {
        let mut bytes = Vec::new();
        for instruction in bpf::compile(&profile)? {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jump_true, instruction.jump_false]);
            bytes.extend(instruction.value.to_ne_bytes());
        }
        let base64 = base64::engine::general_purpose::STANDARD.encode(bytes);
        Ok(Self { profile, base64 })
    }

    /// The compiled filter, as [`ANNOTATION`] carries it.
    pub fn base64(&self) -> &str {
        &self.base64
    }

    /// What it was compiled from.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }
}

impl Profile {
    /// As the specification has it.
    pub fn to_oci(&self) -> Result<oci::LinuxSeccomp, RuntimeError> {
        let failed = |error| RuntimeError::Invalid(format!("seccomp profile: {error}"));
        let mut syscalls = Vec::with_capacity(self.rules.len());
        for rule in &self.rules {
            let mut args = Vec::new();
            for condition in &rule.conditions {
                args.push(condition.to_oci().map_err(failed)?);
            }
            let mut syscall = oci::LinuxSyscallBuilder::default()
                .names(rule.names.clone())
                .action(rule.action.to_oci());
            if let Some(errno) = rule.action.number() {
                syscall = syscall.errno_ret(errno);
            }
            if !args.is_empty() {
                syscall = syscall.args(args);
            }
            syscalls.push(syscall.build().map_err(failed)?);
        }
        let architectures: Vec<_> = self.architectures.iter().map(|known| known.to_oci()).collect();
        let mut seccomp = oci::LinuxSeccompBuilder::default()
            .default_action(self.default_action.to_oci())
            .architectures(architectures)
            .syscalls(syscalls);
        if let Some(errno) = self.default_action.number() {
            seccomp = seccomp.default_errno_ret(errno);
        }
        seccomp.build().map_err(failed)
    }
}

impl Rule {
    fn allow<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            names: names.into_iter().map(str::to_owned).collect(),
            action: Action::Allow,
            conditions: Vec::new(),
        }
    }
}

impl Condition {
    fn new(index: u32, operator: Operator, value: u64) -> Self {
        Self { index, operator, value }
    }

    fn to_oci(self) -> Result<oci::LinuxSeccompArg, oci_spec::OciSpecError> {
        use oci::LinuxSeccompOperator as Operators;
        let (operator, value, second) = match self.operator {
            Operator::NotEqual => (Operators::ScmpCmpNe, self.value, None),
            Operator::Less => (Operators::ScmpCmpLt, self.value, None),
            Operator::AtMost => (Operators::ScmpCmpLe, self.value, None),
            Operator::Equal => (Operators::ScmpCmpEq, self.value, None),
            Operator::AtLeast => (Operators::ScmpCmpGe, self.value, None),
            Operator::Greater => (Operators::ScmpCmpGt, self.value, None),
            Operator::Masked(mask) => (Operators::ScmpCmpMaskedEq, mask, Some(self.value)),
        };
        let argument = oci::LinuxSeccompArgBuilder::default()
            .index(self.index as usize)
            .value(value)
            .op(operator);
        match second {
            Some(second) => argument.value_two(second),
            None => argument,
        }
        .build()
    }
}

impl Action {
    fn to_oci(self) -> oci::LinuxSeccompAction {
        use oci::LinuxSeccompAction as Actions;
        match self {
            Self::Allow => Actions::ScmpActAllow,
            Self::Errno(_) => Actions::ScmpActErrno,
            Self::KillThread => Actions::ScmpActKillThread,
            Self::KillProcess => Actions::ScmpActKillProcess,
            Self::Trap => Actions::ScmpActTrap,
            Self::Trace(_) => Actions::ScmpActTrace,
            Self::Log => Actions::ScmpActLog,
        }
    }

    fn number(self) -> Option<u32> {
        match self {
            Self::Errno(number) | Self::Trace(number) => Some(number),
            _ => None,
        }
    }

    /// What a filter returns for it (`SECCOMP_RET_…`).
    fn returned(self) -> u32 {
        match self {
            Self::Allow => 0x7fff_0000,
            Self::Errno(number) => 0x0005_0000 | (number & 0xffff),
            Self::KillThread => 0,
            Self::KillProcess => 0x8000_0000,
            Self::Trap => 0x0003_0000,
            Self::Trace(number) => 0x7ff0_0000 | (number & 0xffff),
            Self::Log => 0x7ffc_0000,
        }
    }
}

impl Architecture {
    fn native() -> Result<Self, RuntimeError> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            other => Err(RuntimeError::Invalid(format!(
                "no seccomp profile for {other}: use --security-opt seccomp=unconfined"
            ))),
        }
    }

    /// With those that programs for older or smaller machines use.
    fn with_older(self) -> &'static [Self] {
        match self {
            Self::Aarch64 => &[Self::Aarch64],
            _ => &[Self::X86_64, Self::X86, Self::X32],
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::X86_64, Self::X86, Self::X32, Self::Aarch64]
            .into_iter()
            .find(|known| known.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "SCMP_ARCH_X86_64",
            Self::X86 => "SCMP_ARCH_X86",
            Self::X32 => "SCMP_ARCH_X32",
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
        }
    }

    /// As Docker's conditions have it.
    fn short_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::X86 => "x86",
            Self::X32 => "x32",
            Self::Aarch64 => "arm64",
        }
    }

    /// The kernel's `AUDIT_ARCH_…`; x32 has that of `x86_64`.
    fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    fn to_oci(self) -> oci::Arch {
        match self {
            Self::X86_64 => oci::Arch::ScmpArchX86_64,
            Self::X86 => oci::Arch::ScmpArchX86,
            Self::X32 => oci::Arch::ScmpArchX32,
            Self::Aarch64 => oci::Arch::ScmpArchAarch64,
        }
    }
}
