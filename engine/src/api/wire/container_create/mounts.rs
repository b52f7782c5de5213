//! Mounts of a request, in each of the ways that a request may name them.

use crate::api::wire::container_config::{BindOptions, HostConfig, Mount as WireMount};
use crate::container::spec::{Mount, MountKind, Propagation};
use engine_error::{Error, Result};
use runtime::spec::Recursion;

/// All mounts that were asked for one by one: `Mounts`, `Binds`, `Tmpfs`.
pub(super) fn mounts(host: &HostConfig) -> Result<Vec<Mount>> {
    let wire = host.mounts.iter().flatten().map(of_mount);
    let binds = host.binds.iter().flatten().map(|text| of_bind(text));
    let tmpfs = host.tmpfs.iter().flatten().map(|(target, options)| of_tmpfs(target, options));
    wire.chain(binds).chain(tmpfs).collect()
}

fn volume(source: String, target: String) -> Mount {
    Mount { kind: MountKind::Volume, source, target, ..Mount::default() }
}

fn of_tmpfs(target: &str, options: &str) -> Result<Mount> {
    if !target.starts_with('/') {
        return Err(Error::invalid(format!(
            "invalid mount path: '{target}' mount path must be absolute"
        )));
    }
    if target.trim_end_matches('/').is_empty() {
        return Err(Error::invalid("invalid specification: destination can't be '/'"));
    }
    let options = options.split(',').filter(|option| !option.is_empty());
    Ok(Mount {
        kind: MountKind::Tmpfs,
        target: target.to_owned(),
        options: options.map(str::to_owned).collect(),
        ..Mount::default()
    })
}

/// `source:target[:mode]`, or the target of an anonymous volume.
fn of_bind(text: &str) -> Result<Mount> {
    let invalid = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, mode] => (*source, *target, *mode),
        _ => return Err(invalid()),
    };
    if target.is_empty() || (source.is_empty() && parts.len() > 1) {
        return Err(invalid());
    }
    let wrong = |reason: &str| {
        let kind = if source.starts_with('/') { MountKind::Bind } else { MountKind::Volume };
        Err(Error::invalid(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{kind}\": \
             {reason}"
        )))
    };
    if !target.starts_with('/') {
        return wrong(&format!("invalid mount path: '{target}' mount path must be absolute"));
    }
    if target.trim_end_matches('/').is_empty() {
        return wrong("invalid specification: destination can't be '/'");
    }
    let mut mount = volume(source.to_owned(), target.to_owned());
    if source.starts_with('/') {
        mount.kind = MountKind::Bind;
        mount.create_source = true;
    } else if !source.is_empty() && !is_volume_name(source) {
        return Err(bad_name(source));
    }
    let has = |wanted: &str| mode.split(',').any(|option| option == wanted);
    if has("ro") && has("rw") {
        return Err(Error::invalid(format!("invalid mode: {mode}")));
    }
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => mount.readonly = true,
            "nocopy" => mount.no_copy = true,
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            other => {
                let wrong = || Error::invalid(format!("invalid mode: {mode}"));
                mount.propagation = Propagation::named(other).ok_or_else(wrong)?;
            }
        }
    }
    Ok(mount)
}

fn bad_name(name: &str) -> Error {
    if name.len() == 1 {
        return Error::invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric \
             characters"
        ));
    }
    Error::invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, \
         use absolute path"
    ))
}

/// Docker's names of volumes and containers.
fn is_volume_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric();
    name.len() > 1
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || matches!(c, '_' | '.' | '-'))
}

/// What becomes of mounts below a bind, or why the options contradict each other.
fn recursion(options: &BindOptions, readonly: bool) -> Result<Recursion, &'static str> {
    match (options.read_only_non_recursive, options.read_only_force_recursive) {
        (true, true) => Err(
            "mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive",
        ),
        (true, _) if !readonly => {
            Err("mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive")
        }
        (_, true) if !readonly => {
            Err("mount options conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive")
        }
        (_, true) if options.non_recursive => {
            Err("mount options conflict: NonRecursive && BindOptions.ReadOnlyForceRecursive")
        }
        (_, true) => Ok(Recursion::Readonly),
        _ if options.non_recursive => Ok(Recursion::Disabled),
        (true, _) => Ok(Recursion::Writable),
        _ => Ok(Recursion::Enabled),
    }
}

/// Options are of one kind of mounts.
fn check_options(wire: &WireMount, kind: MountKind) -> Result<()> {
    let of_others = [
        ("BindOptions", wire.bind_options.is_some() && kind != MountKind::Bind),
        ("VolumeOptions", wire.volume_options.is_some() && kind != MountKind::Volume),
        ("TmpfsOptions", wire.tmpfs_options.is_some() && kind != MountKind::Tmpfs),
    ];
    match of_others.into_iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Error::invalid(format!(
            "{name} must not be specified on mount type \"{}\"",
            wire.kind
        ))),
        None => Ok(()),
    }
}

fn of_mount(wire: &WireMount) -> Result<Mount> {
    let invalid = |reason: &str| {
        Err(Error::invalid(format!("invalid mount config for type \"{}\": {reason}", wire.kind)))
    };
    if wire.target.is_empty() {
        return invalid("field Target must not be empty");
    }
    let Some(kind) = MountKind::named(&wire.kind) else { return invalid("mount type unknown") };
    check_options(wire, kind)?;
    let (source, target) = (wire.source.clone(), wire.target.clone());
    let mut mount = Mount { kind, readonly: wire.read_only, ..volume(source, target) };
    match kind {
        MountKind::Bind if wire.source.is_empty() => invalid("field Source must not be empty"),
        MountKind::Bind if !wire.source.starts_with('/') => {
            invalid(&format!("invalid mount path: '{}' mount path must be absolute", wire.source))
        }
        MountKind::Bind => {
            let options = wire.bind_options.clone().unwrap_or_default();
            mount.create_source = options.create_mountpoint;
            let wanted = &options.propagation;
            let Some(propagation) = Propagation::named(wanted) else {
                return invalid(&format!("invalid propagation mode: {wanted}"));
            };
            mount.propagation = propagation;
            match recursion(&options, wire.read_only) {
                Ok(recursion) => Ok(Mount { recursion, ..mount }),
                Err(why) => invalid(why),
            }
        }
        MountKind::Volume
            if wire.volume_options.as_ref().is_some_and(|o| !o.subpath.is_empty()) =>
        {
            invalid("volume-subpath is not supported")
        }
        MountKind::Volume if wire.source.is_empty() || is_volume_name(&wire.source) => {
            mount.no_copy = wire.volume_options.as_ref().is_some_and(|options| options.no_copy);
            Ok(mount)
        }
        MountKind::Volume => Err(bad_name(&wire.source)),
        MountKind::Tmpfs if !wire.source.is_empty() => {
            invalid("field Source must not be specified")
        }
        MountKind::Tmpfs => {
            let options = wire.tmpfs_options.clone().unwrap_or_default();
            let size = (options.size_bytes > 0).then(|| format!("size={}", options.size_bytes));
            let mode = (options.mode > 0).then(|| format!("mode={:o}", options.mode));
            let others = options.options.into_iter().flatten().map(|pair| pair.join("="));
            mount.options = size.into_iter().chain(mode).chain(others).collect();
            Ok(mount)
        }
    }
}
