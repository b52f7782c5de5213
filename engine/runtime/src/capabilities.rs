//! Linux capabilities: their names, Docker's default set, and what the user adds and drops.

use std::fmt;

use super::RuntimeError;

/// All capabilities in the order of their numbers, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container gets unless it asks for something else.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// From the kernel's mask.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << NAMES.len()) - 1))
    }

    /// Every capability this program knows.
    pub fn all() -> Self {
        Self::from_bits(u64::MAX)
    }

    /// Docker's default set.
    pub fn default_set() -> Self {
        DEFAULT.iter().filter_map(|name| number(name)).fold(Self(0), Self::with)
    }

    /// What a container gets: the default set (all, if privileged) with `--cap-drop` taken away and
    /// `--cap-add` added, within what the daemon itself has.
    ///
    /// # Errors
    /// [`RuntimeError::Invalid`] for a name that is no capability, and for one added that the
    /// daemon does not have.
    pub fn of_container(
        privileged: bool,
        add: &[String],
        drop: &[String],
        available: Self,
    ) -> Result<Self, RuntimeError> {
        let added = parse(add)?;
        let dropped = parse(drop)?;
        if privileged {
            return Ok(available);
        }
        let base = match (added.all, dropped.all) {
            (true, _) => Self(Self::all().0 & !dropped.named.0),
            (false, true) => Self(0),
            (false, false) => Self(Self::default_set().0 & !dropped.named.0),
        };
        if let Some(missing) = Self(added.named.0 & !available.0).names().next() {
            return Err(RuntimeError::Invalid(format!(
                "capability {missing} cannot be added: the daemon does not have it"
            )));
        }
        Ok(Self((base.0 | added.named.0) & available.0))
    }

    /// Whether the capability of this name (without `CAP_`) is in the set.
    pub fn contains(self, name: &str) -> bool {
        number(name.strip_prefix("CAP_").unwrap_or(name))
            .is_some_and(|number| self.0 & (1 << number) != 0)
    }

    /// The names, with `CAP_`, in the order of their numbers.
    pub fn names(self) -> impl Iterator<Item = String> {
        NAMES
            .iter()
            .enumerate()
            .filter(move |(number, _)| self.0 & (1 << number) != 0)
            .map(|(_, name)| format!("CAP_{name}"))
    }

    /// The kernel's mask.
    pub fn bits(self) -> u64 {
        self.0
    }

    fn with(self, number: usize) -> Self {
        Self(self.0 | (1 << number))
    }
}

impl fmt::Display for CapabilitySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

struct Parsed {
    all: bool,
    named: CapabilitySet,
}

fn parse(names: &[String]) -> Result<Parsed, RuntimeError> {
    let mut parsed = Parsed { all: false, named: CapabilitySet(0) };
    for name in names {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if short == "ALL" {
            parsed.all = true;
            continue;
        }
        let number = number(short).ok_or_else(|| {
            RuntimeError::Invalid(format!(
                "invalid capability: unknown capability to add or drop: {name:?}"
            ))
        })?;
        parsed.named = parsed.named.with(number);
    }
    Ok(parsed)
}

fn number(name: &str) -> Option<usize> {
    NAMES.iter().position(|known| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(add: &[&str], drop: &[&str]) -> Result<CapabilitySet, RuntimeError> {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        CapabilitySet::of_container(false, &owned(add), &owned(drop), CapabilitySet::all())
    }

    #[test]
    fn the_default_set_is_dockers() {
        assert_eq!(CapabilitySet::default_set().to_string(), "00000000a80425fb");
        assert_eq!(of(&[], &[]).unwrap().to_string(), "00000000a80425fb");
    }

    #[test]
    fn add_and_drop_take_any_spelling() {
        let set = of(&["net_admin", "CAP_SYS_TIME"], &["cap_mknod", "KILL"]).unwrap();
        assert!(set.contains("NET_ADMIN") && set.contains("CAP_SYS_TIME"));
        assert!(!set.contains("MKNOD") && !set.contains("KILL"));
    }

    #[test]
    fn all_stands_for_every_capability() {
        assert_eq!(of(&["ALL"], &["SYS_ADMIN"]).unwrap().names().count(), NAMES.len() - 1);
        assert_eq!(of(&["CHOWN"], &["ALL"]).unwrap().names().collect::<Vec<_>>(), ["CAP_CHOWN"]);
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(of(&["FLY"], &[]).unwrap_err().to_string().contains("\"FLY\""));
    }

    #[test]
    fn a_container_never_gets_what_the_daemon_lacks() {
        let few = CapabilitySet::from_bits(0b11);
        let got = CapabilitySet::of_container(false, &[], &[], few).unwrap();
        assert_eq!(got, few);
        let added = CapabilitySet::of_container(false, &["BPF".into()], &[], few);
        assert!(added.unwrap_err().to_string().contains("CAP_BPF"));
        assert_eq!(CapabilitySet::of_container(true, &[], &[], few).unwrap(), few);
    }
}
