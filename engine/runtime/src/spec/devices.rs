//! Device nodes, and which devices the cgroup lets a container use.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use oci_spec::runtime as oci;

use super::super::RuntimeError;
use super::BundleInput;

/// Directories and files of `/dev` that are a container's own.
const OWN: [&str; 8] = ["pts", "shm", "fd", "mqueue", "console", "ptmx", ".lxc", ".lxd-mounts"];

/// The nodes to make besides the usual ones, and the rules.
pub(super) fn of(
    input: &BundleInput,
) -> Result<(Vec<oci::LinuxDevice>, Vec<oci::LinuxDeviceCgroup>), RuntimeError> {
    let mut nodes = Vec::new();
    if input.privileged {
        all_below(Path::new("/dev"), &mut nodes);
        return Ok((nodes, vec![rule(true, None, None, None, "rwm")]));
    }
    let mut rules = defaults();
    for (host, inside, permissions) in &input.devices {
        add(host, inside, permissions, &mut nodes, &mut rules)?;
    }
    rules.extend(device_rules(&input.device_rules)?);
    Ok((nodes, rules))
}

/// `--device-cgroup-rule`, understood.
pub fn device_rules(rules: &[String]) -> Result<Vec<oci::LinuxDeviceCgroup>, RuntimeError> {
    let rule = |text: &String| {
        parse_rule(text).ok_or_else(|| {
            RuntimeError::Invalid(format!("invalid device cgroup rule format: '{text}'"))
        })
    };
    rules.iter().map(rule).collect()
}

/// Everything is denied but making nodes and the ten devices every container has.
fn defaults() -> Vec<oci::LinuxDeviceCgroup> {
    let char = Some(oci::LinuxDeviceType::C);
    let mut rules = vec![
        rule(false, None, None, None, "rwm"),
        rule(true, char, None, None, "m"),
        rule(true, Some(oci::LinuxDeviceType::B), None, None, "m"),
    ];
    let usable = [
        (1, Some(3)), // null
        (1, Some(5)), // zero
        (1, Some(7)), // full
        (1, Some(8)), // random
        (1, Some(9)), // urandom
        (5, Some(0)), // tty
        (5, Some(1)), // console
        (5, Some(2)), // ptmx
        (136, None),  // pts/*
    ];
    rules.extend(usable.map(|(major, minor)| rule(true, char, Some(major), minor, "rwm")));
    rules
}

fn rule(
    allow: bool,
    kind: Option<oci::LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> oci::LinuxDeviceCgroup {
    let mut rule = oci::LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(kind)
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

/// `--device`: a node, or a directory of them.
fn add(
    host: &str,
    inside: &str,
    permissions: &str,
    nodes: &mut Vec<oci::LinuxDevice>,
    rules: &mut Vec<oci::LinuxDeviceCgroup>,
) -> Result<(), RuntimeError> {
    let permissions = if permissions.is_empty() { "rwm" } else { permissions };
    if permissions.chars().any(|letter| !"rwm".contains(letter)) {
        return Err(RuntimeError::Invalid(format!(
            "invalid mode for device {host:?}: {permissions:?}"
        )));
    }
    let source = Path::new(host);
    let inside = if inside.is_empty() { source } else { Path::new(inside) };
    let gathering = |why: &str| {
        RuntimeError::Invalid(format!(
            "error gathering device information while adding custom device {host:?}: {why}"
        ))
    };
    let metadata = std::fs::metadata(source).map_err(|_| gathering("no such file or directory"))?;
    let found = if metadata.is_dir() {
        let mut below = Vec::new();
        all_below(source, &mut below);
        for node in &mut below {
            if let Ok(relative) = node.path().strip_prefix(source) {
                let path = inside.join(relative);
                node.set_path(path);
            }
        }
        if below.is_empty() {
            return Err(gathering("not a device node"));
        }
        below
    } else {
        vec![node(source, inside.to_owned()).ok_or_else(|| gathering("not a device node"))?]
    };
    for node in found {
        rules.push(rule(
            true,
            Some(node.typ()),
            Some(node.major()),
            Some(node.minor()),
            permissions,
        ));
        nodes.push(node);
    }
    Ok(())
}

fn all_below(directory: &Path, nodes: &mut Vec<oci::LinuxDevice>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if OWN.iter().any(|own| name == *own) || name.as_encoded_bytes().starts_with(b".udev") {
            continue;
        }
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => all_below(&path, nodes),
            Ok(kind) if kind.is_char_device() || kind.is_block_device() => {
                nodes.extend(node(&path, path.clone()));
            }
            _ => {}
        }
    }
}

fn node(source: &Path, inside: PathBuf) -> Option<oci::LinuxDevice> {
    let metadata = std::fs::metadata(source).ok()?;
    let kind = if metadata.file_type().is_char_device() {
        oci::LinuxDeviceType::C
    } else if metadata.file_type().is_block_device() {
        oci::LinuxDeviceType::B
    } else {
        return None;
    };
    let mut node = oci::LinuxDevice::default();
    node.set_path(inside)
        .set_typ(kind)
        .set_major(i64::try_from(major(metadata.rdev())).ok()?)
        .set_minor(i64::try_from(minor(metadata.rdev())).ok()?)
        .set_file_mode(Some(metadata.mode() & 0o7777))
        .set_uid(Some(metadata.uid()))
        .set_gid(Some(metadata.gid()));
    Some(node)
}

/// `c 1:3 rwm`, with `*` for any number.
fn parse_rule(text: &str) -> Option<oci::LinuxDeviceCgroup> {
    let mut words = text.split(' ');
    let (kind, numbers, access) = (words.next()?, words.next()?, words.next()?);
    let kind = match kind {
        "a" => oci::LinuxDeviceType::A,
        "b" => oci::LinuxDeviceType::B,
        "c" => oci::LinuxDeviceType::C,
        _ => return None,
    };
    let number = |text: &str| match text {
        "*" => Some(None),
        digits => digits.parse::<u32>().ok().map(|number| Some(i64::from(number))),
    };
    let (major, minor) = numbers.split_once(':')?;
    let fits = words.next().is_none()
        && (1..=3).contains(&access.len())
        && access.chars().all(|letter| "rwm".contains(letter));
    fits.then_some(rule(true, Some(kind), number(major)?, number(minor)?, access))
}
