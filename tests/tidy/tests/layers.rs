//! The dependency arrows of ARCHITECTURE.md.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each crate with the workspace crates it may depend on.
const LAYERS: &[(&str, &[&str])] = &[
    ("cnm", &[]),
    ("drivers", &["cnm"]),
    ("dns", &["cnm"]),
    ("engine/error", &["cnm"]),
    ("engine/dockerfile", &["engine-error"]),
    ("engine/cluster", &["cnm", "engine-error"]),
    ("engine/shim", &["cnm"]),
    ("engine/swarm", &["cluster", "engine-error"]),
    ("engine/runtime", &["cnm", "shim", "tree"]),
    ("engine/tree", &[]),
    ("engine/image", &["cnm", "engine-error", "tree"]),
    ("engine/volume", &["engine-error", "tree"]),
    (
        "engine",
        &[
            "cluster",
            "cnm",
            "dns",
            "dockerfile",
            "drivers",
            "engine-error",
            "image",
            "runtime",
            "shim",
            "swarm",
            "tree",
            "volume",
        ],
    ),
    ("cni-adapter", &["cnm", "drivers"]),
];

/// Each room of the engine with those that it may use, all of which stand above it: so there are no
/// circles.
const ROOMS: &[(&str, &[&str])] = &[
    ("settings", &[]),
    ("events", &[]),
    ("file_systems", &[]),
    ("tasks", &[]),
    ("templates", &[]),
    ("plugins", &["settings"]),
    ("volume", &["events"]),
    ("network", &["settings", "events", "tasks", "plugins"]),
    ("runner", &["settings", "tasks"]),
    (
        "container",
        &[
            "settings",
            "events",
            "file_systems",
            "tasks",
            "templates",
            "volume",
            "network",
            "runner",
        ],
    ),
    ("build", &["settings", "events", "container"]),
    ("cluster", &["settings", "tasks", "network", "container"]),
    ("swarm", &["settings", "tasks", "cluster"]),
    (
        "core",
        &[
            "build",
            "cluster",
            "settings",
            "events",
            "file_systems",
            "tasks",
            "plugins",
            "volume",
            "network",
            "runner",
            "container",
            "swarm",
        ],
    ),
    ("config", &[]),
    (
        "api",
        &[
            "build",
            "cluster",
            "config",
            "settings",
            "events",
            "volume",
            "network",
            "container",
            "swarm",
            "core",
        ],
    ),
    ("daemon", &["config", "settings", "core", "api"]),
    ("cli", &["config", "templates"]),
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

#[test]
fn rooms_of_the_engine_use_only_what_is_above_them() {
    let mut wrong = Vec::new();
    for (place, (room, allowed)) in ROOMS.iter().enumerate() {
        let above: Vec<_> = ROOMS[..place].iter().map(|(above, _)| *above).collect();
        let below = allowed.iter().filter(|other| !above.contains(other));
        wrong.extend(below.map(|other| format!("{other} does not stand above {room}")));
    }
    for (file, text) in sources(&engine()) {
        let Some(room) = room(&file) else { continue };
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            wrong.push(format!("{} is in no room of the list", file.display()));
            continue;
        };
        let used = used_rooms(&text, depth(&file)).into_iter();
        let climbs = used.filter(|other| *other != room && !allowed.contains(&other.as_str()));
        wrong.extend(climbs.map(|other| format!("{} uses {other}", file.display())));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_use_of_a_room_is_seen_in_every_form() {
    let text = "use crate::core::Engine;\nuse crate::{api::Api, container::{Spec, State}};\n\
                fn f() -> crate::network::Change {}\nmod tests {\n    use super::*;\n}\n";
    let used: Vec<_> = used_rooms(text, 1).into_iter().collect();
    assert_eq!(used, ["api", "container", "core", "network"]);
}

#[test]
fn a_climb_out_of_a_room_is_seen_and_one_within_is_not() {
    let text = "use super::events::Events;\nuse super::{tasks::Tasks, network::{Change, Journal}};\n\
                mod tests {\n    use super::inside::A;\n    use super::super::core::Engine;\n\
                \x20   mod deeper {\n        use super::super::inside::B;\n    }\n}\n\
                fn f() -> super::api::Api {}\n";
    let used: Vec<_> = used_rooms(text, 1).into_iter().collect();
    assert_eq!(used, ["api", "core", "events", "network", "tasks"]);
    assert_eq!(depth(Path::new("runner.rs")), 1);
    assert_eq!(depth(Path::new("api/wire/ports.rs")), 3);
    let below = "use super::super::super::daemon::Daemon;\nuse super::super::api;\n\
                 use super::super::{super::cli::Cli, wire};\n";
    let used: Vec<_> = used_rooms(below, 3).into_iter().collect();
    assert_eq!(used, ["cli", "daemon"]);
}

/// The sources of the engine.
fn engine() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../engine/src")
}

/// The room that a file of the engine is in; `lib.rs` and programs are in none.
fn room(file: &Path) -> Option<String> {
    let first = file.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!["lib", "bin"].contains(&name)).then(|| name.to_owned())
}

/// How many modules a file of the engine is below the crate.
fn depth(file: &Path) -> usize {
    file.components().count()
}

/// The rooms that a source names, so many modules below the crate: `crate::room`, as many `super::`
/// as lead out of its own, and either with `{room, …}`.
fn used_rooms(text: &str, depth: usize) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let mut inline = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        if inline.last() == Some(&indent) && line.trim_end().ends_with('}') {
            inline.pop();
        }
        let starts =
            |word: &str| line.match_indices(word).map(|(place, _)| place).collect::<Vec<_>>();
        for place in starts("crate::") {
            used.extend(named(&text[at + place + "crate::".len()..], 0));
        }
        for place in
            starts("super::").into_iter().filter(|place| !line[..*place].ends_with("super::"))
        {
            used.extend(named(&text[at + place..], depth + inline.len()));
        }
        let mut words = line.split_whitespace();
        if line.trim_end().ends_with('{') && words.any(|word| word == "mod") {
            inline.push(indent);
        }
        at += line.len();
    }
    used
}

/// The rooms at the beginning of a text, a path or a list of such in braces, whose first `climb` words
/// `super` lead to the crate.
fn named(text: &str, climb: usize) -> BTreeSet<String> {
    let mut rest = text;
    let mut left = climb;
    while let Some(above) = rest.strip_prefix("super::") {
        (rest, left) = (above, left.saturating_sub(1));
    }
    let Some(list) = rest.strip_prefix('{') else {
        return if left == 0 { word(rest).into_iter().collect() } else { BTreeSet::new() };
    };
    let mut used = BTreeSet::new();
    let mut depth = 0;
    for item in list.split_inclusive([',', '{', '}']) {
        if depth == 0 {
            used.extend(named(item.trim_start().trim_end_matches(['{', '}', ',']), left));
        }
        match item.chars().last() {
            Some('{') => depth += 1,
            Some('}') if depth == 0 => break,
            Some('}') => depth -= 1,
            _ => {}
        }
    }
    used
}

/// The word that a text begins with.
fn word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}

/// The sources below a directory by their paths in it.
fn sources(root: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).expect("a readable directory") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a readable source");
                let below = path.strip_prefix(root).expect("a path below the root");
                found.push((below.to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {}", root.display());
    found
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
