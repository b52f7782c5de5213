//! Mounts of a request, in each of the ways that a request may name them.

use std::fmt;

use crate::api::wire::container_config::{BindOptions, HostConfig, Mount as WireMount};
use crate::container::spec::{Mount, MountKind, Propagation};
use engine_error::{Error, Result};
use runtime::spec::Recursion;

/// All mounts that were asked for one by one: `Mounts`, `Binds`, `Tmpfs`.
pub(super) fn mounts(host: &HostConfig) -> Result<Vec<Mount>> {
    if host.volumes_from.iter().flatten().any(String::is_empty) {
        return Err(Error::invalid("volumes-from specification cannot be an empty string"));
    }
    let wire = host.mounts.iter().flatten().map(of_mount);
    let binds = host.binds.iter().flatten().map(|text| {
        let mount = of_bind(text)?;
        let is_volume = mount.kind == MountKind::Volume;
        let driver = if is_volume { host.volume_driver.clone() } else { String::new() };
        Ok(Mount { driver, ..mount })
    });
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
    let wrong_mount = |reason: &str| {
        let kind = if source.starts_with('/') { MountKind::Bind } else { MountKind::Volume };
        Err(Error::invalid(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{kind}\": \
             {reason}"
        )))
    };
    if !target.starts_with('/') {
        return wrong_mount(&format!("invalid mount path: '{target}' mount path must be absolute"));
    }
    if target.trim_end_matches('/').is_empty() {
        return wrong_mount("invalid specification: destination can't be '/'");
    }
    let mut mount = volume(source.to_owned(), target.to_owned());
    if source.starts_with('/') {
        mount.kind = MountKind::Bind;
        mount.create_source = true;
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
                if mount.kind == MountKind::Volume {
                    return wrong_mount("field BindOptions must not be specified");
                }
            }
        }
    }
    if mount.kind == MountKind::Volume && !source.is_empty() && !is_volume_name(source) {
        return Err(bad_name(source));
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
        ("ImageOptions", wire.image_options.is_some() && kind != MountKind::Image),
        ("TmpfsOptions", wire.tmpfs_options.is_some() && kind != MountKind::Tmpfs),
    ];
    match of_others.into_iter().find(|(_, given)| *given) {
        // Docker has other words for it.
        Some(("ImageOptions", _)) => wrong(&wire.kind, "field ImageOptions must not be specified"),
        Some((name, _)) => Err(Error::invalid(format!(
            "{name} must not be specified on mount type \"{}\"",
            wire.kind
        ))),
        None => Ok(()),
    }
}

fn wrong<T>(kind: impl fmt::Display, reason: &str) -> Result<T> {
    Err(Error::invalid(format!("invalid mount config for type \"{kind}\": {reason}")))
}

fn of_mount(wire: &WireMount) -> Result<Mount> {
    if wire.target.is_empty() {
        return wrong(&wire.kind, "field Target must not be empty");
    }
    let Some(kind) = MountKind::named(&wire.kind) else {
        return wrong(&wire.kind, "mount type unknown");
    };
    check_options(wire, kind)?;
    let (source, target) = (wire.source.clone(), wire.target.clone());
    let mount = Mount { kind, readonly: wire.read_only, ..volume(source, target) };
    match kind {
        MountKind::Bind => bind(wire, mount),
        MountKind::Volume => of_volume(wire, mount),
        MountKind::Tmpfs => memory(wire, mount),
        MountKind::Image => of_image(wire, mount),
    }
}

fn bind(wire: &WireMount, mount: Mount) -> Result<Mount> {
    if wire.source.is_empty() {
        return wrong("bind", "field Source must not be empty");
    }
    if !wire.source.starts_with('/') {
        let why = format!("invalid mount path: '{}' mount path must be absolute", wire.source);
        return wrong("bind", &why);
    }
    let options = wire.bind_options.clone().unwrap_or_default();
    let wanted = &options.propagation;
    let Some(propagation) = Propagation::named(wanted) else {
        return wrong("bind", &format!("invalid propagation mode: {wanted}"));
    };
    let create_source = options.create_mountpoint;
    match recursion(&options, wire.read_only) {
        Ok(recursion) => Ok(Mount { recursion, propagation, create_source, ..mount }),
        Err(why) => wrong("bind", why),
    }
}

fn of_volume(wire: &WireMount, mount: Mount) -> Result<Mount> {
    if !wire.source.is_empty() && !is_volume_name(&wire.source) {
        return Err(bad_name(&wire.source));
    }
    let options = wire.volume_options.clone().unwrap_or_default();
    if wire.source.is_empty() && wire.read_only {
        return wrong("volume", "must not set ReadOnly mode when using anonymous volumes");
    }
    if wire.source.is_empty() && !options.subpath.is_empty() {
        return wrong("volume", "must not set Subpath when using anonymous volumes");
    }
    check_subpath("volume", &options.subpath)?;
    let driver = options.driver_config.unwrap_or_default();
    Ok(Mount {
        no_copy: options.no_copy,
        subpath: options.subpath,
        driver: driver.name,
        driver_options: driver.options.unwrap_or_default().into_iter().collect(),
        labels: options.labels.unwrap_or_default().into_iter().collect(),
        ..mount
    })
}

fn of_image(wire: &WireMount, mount: Mount) -> Result<Mount> {
    if wire.source.is_empty() {
        return wrong("image", "field Source must not be empty");
    }
    let subpath = wire.image_options.clone().unwrap_or_default().subpath;
    check_subpath("image", &subpath)?;
    Ok(Mount { subpath, readonly: true, ..mount })
}

/// Refuses a path that leads out of a volume by what it says. Where links lead is seen when they are
/// followed.
fn check_subpath(kind: &str, path: &str) -> Result<()> {
    let mut depth = 0_i64;
    let mut outside = path.starts_with('/') || path.contains('\0');
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        outside |= depth < 0;
    }
    if outside { wrong(kind, "subpath must be a relative path within the volume") } else { Ok(()) }
}

fn memory(wire: &WireMount, mut mount: Mount) -> Result<Mount> {
    if !wire.source.is_empty() {
        return wrong("tmpfs", "field Source must not be specified");
    }
    let options = wire.tmpfs_options.clone().unwrap_or_default();
    let size = (options.size_bytes > 0).then(|| format!("size={}", options.size_bytes));
    let mode = (options.mode > 0).then(|| format!("mode={:o}", options.mode));
    mount.options.extend(size.into_iter().chain(mode));
    for pair in options.options.into_iter().flatten() {
        match pair.as_slice() {
            [name] | [name, _] if !matches!(name.as_str(), "exec" | "noexec") => {
                return wrong("tmpfs", &format!("invalid option: {name}"));
            }
            [_] | [_, _] => mount.options.push(pair.join("=")),
            _ => return wrong("tmpfs", "invalid option array length"),
        }
    }
    Ok(mount)
}
