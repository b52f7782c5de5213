//! Options, which users write as names and values: what reading them has in common.
//!
//! A driver lists its own in a table of [`Spec`]s. Those of endpoints that all drivers have are
//! here.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::driver::Driver;
use crate::{HasKind, Kind, LinkName};

/// What the options of an endpoint say (`--driver-opt`) that all drivers have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointOptions {
    /// `com.docker.network.endpoint.ifname`: the interface's name in the sandbox.
    pub interface: Option<LinkName>,
    /// `com.docker.network.endpoint.sysctls`.
    pub sysctls: Vec<InterfaceSysctl>,
    /// Options that have no effect, in sentences.
    pub warnings: Vec<String>,
}

/// A sysctl of an interface whose name is not known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceSysctl {
    /// The parts of its path below `/proc/sys`; nothing stands for the interface.
    parts: Vec<Option<String>>,
    /// The value.
    value: String,
}

impl InterfaceSysctl {
    /// The path below `/proc/sys` and the value, for an interface.
    pub fn of(&self, interface: &LinkName) -> (String, String) {
        let part = |part: &Option<String>| part.clone().unwrap_or_else(|| interface.to_string());
        (self.parts.iter().map(part).collect::<Vec<_>>().join("/"), self.value.clone())
    }
}

/// An option that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// It has a value that it cannot have.
    #[error("invalid value \"{value}\" of option {option}: {expected} is expected")]
    Value {
        /// Its name.
        option: String,
        /// The value.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Its name is one of Docker's networks, and there is none of that name.
    #[error("{0}")]
    Unknown(String),
    /// It contradicts another one, or another property of the network.
    #[error("{0}")]
    Contradiction(String),
}

impl HasKind for OptionError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// One option: its names (the first is the proper one), what it accepts, and what it does.
#[derive(Clone, Debug)]
pub struct Spec<T> {
    /// Its names.
    pub names: &'static [&'static str],
    /// What the manual says of it.
    pub manual: Manual,
    /// What it accepts, in words.
    pub expected: &'static str,
    /// Sets what it stands for, if the text means something.
    pub set: fn(&mut T, &str) -> Option<()>,
    /// Whether it is only understood: this version cannot do what it asks for.
    pub idle: bool,
}

/// What the manual says of an option, which stands where the option does so that it is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manual {
    /// What it says or does, in a sentence.
    pub about: &'static str,
    /// What is so where it is not given, in words.
    pub default: &'static str,
    /// A value that makes a difference.
    pub example: &'static str,
}

/// What the manual says: what the option does, what is so without it, a value that makes a difference.
pub const fn manual(about: &'static str, default: &'static str, example: &'static str) -> Manual {
    Manual { about, default, example }
}

/// An option as the manual has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its names, the proper one first.
    pub names: &'static [&'static str],
    /// What it accepts, in words.
    pub expected: &'static str,
    /// What is said of it.
    pub manual: Manual,
    /// Whether this version cannot do what it asks for.
    pub idle: bool,
}

/// The options of a table as the manual has them.
pub fn described<T>(specs: &[Spec<T>]) -> Vec<Described> {
    let described = |spec: &Spec<T>| Described {
        names: spec.names,
        expected: spec.expected,
        manual: spec.manual,
        idle: spec.idle,
    };
    specs.iter().map(described).collect()
}

/// What an option with two values accepts.
pub const BOOLEAN: &str = "true or false";

/// What an option that names an interface accepts.
pub const INTERFACE: &str = "an interface name of 1 to 15 bytes without `/`, `:` and white space";

const SYSCTLS: &str = "a comma-separated list such as net.ipv4.conf.IFNAME.log_martians=1";

const ENDPOINT: &[Spec<EndpointOptions>] = &[
    Spec {
        names: &["com.docker.network.endpoint.ifname"],
        manual: manual(
            "The name of the interface in the container.",
            "the network's prefix and the next free number",
            "lan0",
        ),
        expected: INTERFACE,
        set: |to, text| put(&mut to.interface, text.parse().ok().map(Some)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.endpoint.sysctls"],
        manual: manual(
            "Sysctls of the interface in the container.",
            "the kernel's",
            "net.ipv4.conf.IFNAME.log_martians=1",
        ),
        expected: SYSCTLS,
        set: |to, text| {
            to.sysctls = text.split(',').map(sysctl).collect::<Option<_>>()?;
            Some(())
        },
        idle: false,
    },
];

/// Reads options by a table, and returns what has no effect, in sentences. `of` is whose they are.
/// What is unknown is an error or, if it is not of Docker's vocabulary, a warning; a value that
/// cannot be is an error.
pub fn read<T>(
    specs: &[Spec<T>],
    to: &mut T,
    given: &BTreeMap<String, String>,
    of: &str,
) -> Result<Vec<String>, OptionError> {
    let mut warnings = Vec::new();
    for (name, value) in given {
        if specs.is_empty() {
            warnings.push(format!("option {name} is ignored: {of} has no options"));
            continue;
        }
        match set(specs, to, name, value)? {
            Some(spec) if spec.idle => {
                warnings.push(format!("option {name} is ignored: this version cannot do it"));
            }
            Some(_) => {}
            None => warnings.extend(unknown(name, of, specs.iter().flat_map(|spec| spec.names))?),
        }
    }
    Ok(warnings)
}

impl EndpointOptions {
    /// What the manual says of those that all drivers have.
    pub fn described() -> Vec<Described> {
        described(ENDPOINT)
    }

    /// Reads the options of an endpoint.
    pub fn parse(
        given: &BTreeMap<String, String>,
        driver: &dyn Driver,
    ) -> Result<Self, OptionError> {
        let mut to = Self::default();
        for (name, value) in given {
            if set(ENDPOINT, &mut to, name, value)?.is_none()
                && !driver.read_endpoint(name, value)?
            {
                let names = ENDPOINT.iter().flat_map(|spec| spec.names);
                to.warnings.extend(unknown(name, "endpoints", names)?);
            }
        }
        Ok(to)
    }
}

impl EndpointOptions {
    /// The sysctls among options that were accepted once.
    pub(crate) fn sysctls_of(given: &BTreeMap<String, String>) -> Vec<InterfaceSysctl> {
        let mut to = Self::default();
        for (name, value) in given {
            let _ = set(ENDPOINT, &mut to, name, value);
        }
        to.sysctls
    }
}

/// Applies the option of this name, and returns it if there is one.
pub fn set<'a, T>(
    specs: &'a [Spec<T>],
    to: &mut T,
    name: &str,
    value: &str,
) -> Result<Option<&'a Spec<T>>, OptionError> {
    let Some(spec) = specs.iter().find(|spec| spec.names.contains(&name)) else {
        return Ok(None);
    };
    (spec.set)(to, value).map(|()| Some(spec)).ok_or_else(|| OptionError::Value {
        option: name.to_owned(),
        value: value.to_owned(),
        expected: spec.expected,
    })
}

/// A name of Docker's vocabulary that does not exist was meant to do something: it is an error.
/// Others are for somebody else, and a warning.
fn unknown<'a>(
    name: &str,
    of: &str,
    known: impl Iterator<Item = &'a &'static str>,
) -> Result<Option<String>, OptionError> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_lowercase();
    // The last word says what is meant; what stands before it is often left out or mixed up.
    let far = |known: &str| (distance(&last(known), &last(name)), distance(known, name));
    let sane = (1..100).contains(&name.len());
    let near = |known: &&&str| sane && 3 * far(known).0 <= last(name).len();
    let hint = known.filter(near).min_by_key(|known| far(known));
    let hint = hint.map(|known| format!(": did you mean {known}?")).unwrap_or_default();
    if name.starts_with("com.docker.network.") {
        return Err(OptionError::Unknown(format!("unknown option {name} of {of}{hint}")));
    }
    Ok(Some(format!("unknown option {name} of {of} is ignored{hint}")))
}

/// How many letters have to be put in, taken out or replaced to turn one text into the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Sets what an option stands for, if the text means something.
pub fn put<T>(slot: &mut T, value: Option<T>) -> Option<()> {
    *slot = value?;
    Some(())
}

/// The spellings of Go's `strconv.ParseBool`, which clients know from Docker.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// A number within bounds.
pub fn number(text: &str, accepted: RangeInclusive<u32>) -> Option<u32> {
    text.parse().ok().filter(|number| accepted.contains(number))
}

/// `net.ipv4.conf.IFNAME.x=v`. Only what belongs to one interface is accepted: the rest are the
/// sandbox's own. Command lines make it all lower case.
fn sysctl(text: &str) -> Option<InterfaceSysctl> {
    let (name, value) = text.trim().split_once('=')?;
    let parts: Vec<&str> = name.trim().split('.').collect();
    let plain = |part: &str| !part.is_empty() && !part.contains('/');
    let ["net", "ipv4" | "ipv6" | "mpls", _, rest @ ..] = parts.as_slice() else { return None };
    let is_interface = |part: &str| part.eq_ignore_ascii_case("IFNAME");
    let of_interface = rest.first().is_some_and(|part| is_interface(part)) || parts[1] == "mpls";
    if !of_interface || !parts.iter().copied().all(plain) {
        return None;
    }
    let part = |part: &&str| (!is_interface(part)).then(|| (*part).to_owned());
    Some(InterfaceSysctl {
        parts: parts.iter().map(part).collect(),
        value: value.trim().to_owned(),
    })
}

#[cfg(test)]
mod tests;
