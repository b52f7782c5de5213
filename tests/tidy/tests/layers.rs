//! The dependency arrows of ARCHITECTURE.md.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Each crate with the workspace crates it may depend on.
const LAYERS: &[(&str, &[&str])] = &[
    ("cnm", &[]),
    ("drivers", &["cnm"]),
    ("dns", &["cnm"]),
    ("engine/error", &["cnm"]),
    ("engine/shim", &["cnm"]),
    ("engine/runtime", &["cnm", "shim"]),
    ("engine/image", &["cnm", "engine-error"]),
    ("engine", &["cnm", "dns", "drivers", "engine-error", "image", "runtime", "shim"]),
    ("cni-adapter", &["cnm", "drivers"]),
];

/// Packages that touch the kernel's network configuration; only `drivers` may name them.
const KERNEL: &[&str] = &["rtnetlink", "netlink-packet-route", "netlink-sys", "nftables"];

/// Packages that would make the model impure.
const IMPURE: &[&str] = &["tokio", "nix", "libc", "getrandom", "chrono", "hyper", "axum"];

#[test]
fn crates_depend_only_downwards() {
    for (name, allowed) in LAYERS {
        let dependencies = dependencies(name);
        let local = LAYERS.iter().map(|(other, _)| package(other));
        let upward: Vec<_> =
            local.filter(|o| dependencies.contains(*o) && !allowed.contains(o)).collect();
        assert!(upward.is_empty(), "{name} must not depend on {upward:?}");
    }
}

#[test]
fn only_drivers_touches_the_kernel() {
    for (name, _) in LAYERS.iter().filter(|(name, _)| *name != "drivers") {
        let found = forbidden(name, KERNEL);
        assert!(found.is_empty(), "{name} must not depend on {found:?}");
    }
}

#[test]
fn the_model_is_pure() {
    let found = forbidden("cnm", IMPURE);
    assert!(found.is_empty(), "cnm must not depend on {found:?}");
}

/// The package in a directory.
fn package(directory: &str) -> &str {
    match directory.rsplit('/').next() {
        Some("error") => "engine-error",
        Some(name) => name,
        None => directory,
    }
}

fn forbidden(name: &str, list: &[&str]) -> Vec<String> {
    dependencies(name).into_iter().filter(|d| list.contains(&d.as_str())).collect()
}

/// The names under `[dependencies]`; dev-dependencies are free.
fn dependencies(name: &str) -> BTreeSet<String> {
    let manifest =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name).join("Cargo.toml");
    let text = fs::read_to_string(&manifest).expect("every layer has a manifest");
    let section = text.split("[dependencies]").nth(1).unwrap_or_default();
    let lines = section.lines().skip(1).take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| line.split(['.', ' ', '=']).next()).map(str::to_owned).collect()
}
