//! Every dependency is used: its name occurs in the sources of the crate that asks for it.

use std::fs;
use std::path::Path;

use tidy::{Source, root, sources};

/// A manifest's directory below the root, and its text.
type Manifest = (String, String);

#[test]
fn every_dependency_is_used() {
    let sources = sources();
    let unused: Vec<_> = manifests(&sources)
        .iter()
        .flat_map(|(directory, text)| unused(directory, text, &sources))
        .collect();
    assert!(unused.is_empty(), "{}", unused.join("\n"));
}

#[test]
fn every_dependency_of_the_workspace_is_one_of_a_crate() {
    let root = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest");
    let asked: Vec<_> = manifests(&sources())
        .iter()
        .flat_map(|(_, text)| sections(text))
        .flat_map(|(_, names)| names)
        .collect();
    let offered = names(&root, "[workspace.dependencies]");
    let idle: Vec<_> = offered.iter().filter(|name| !asked.contains(name)).collect();
    assert!(idle.is_empty(), "no crate asks for {idle:?}");
}

#[test]
fn a_dependency_that_nobody_names_is_found() {
    let source = |path: &str, text: &str| Source { path: path.into(), text: text.to_owned() };
    let manifest = "[dependencies]\nused-one = \"1\"\nidle.workspace = true\n\n\
                    [dev-dependencies]\nin-tests = \"1\"\n";
    let sources = [
        source("a/src/lib.rs", "//! It is idle::.\nuse used_one::Thing;\nlet idle = a::idle::x;\n"),
        source("a/tests/idle.rs", "use in_tests::Thing;\nuse idle::Thing;\n"),
        source("b/src/lib.rs", "use idle::Thing;"),
    ];
    assert_eq!(unused("a", manifest, &sources), ["a/Cargo.toml: [dependencies] idle"]);
}

/// The manifests of the crates that have sources.
fn manifests(sources: &[Source]) -> Vec<Manifest> {
    let mut found = std::collections::BTreeMap::new();
    for directory in sources.iter().flat_map(|source| source.path.ancestors().skip(1)) {
        if let Ok(text) = fs::read_to_string(root().join(directory).join("Cargo.toml"))
            && text.contains("[package]")
        {
            found.insert(directory.display().to_string(), text);
        }
    }
    assert!(found.len() > 5, "the manifests were not found");
    found.into_iter().collect()
}

/// A complaint about each dependency that the crate in a directory does not use.
fn unused(directory: &str, manifest: &str, sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (section, names) in sections(manifest) {
        let own = |source: &&Source| belongs(&source.path, directory, section);
        let lines = sources.iter().filter(own).flat_map(|source| source.text.lines());
        let code: Vec<_> = lines.filter(|line| !line.trim_start().starts_with("//")).collect();
        for name in names {
            let path = name.replace('-', "_");
            if !code.iter().any(|line| mentions(line, &path)) {
                complaints.push(format!("{directory}/Cargo.toml: {section} {name}"));
            }
        }
    }
    complaints
}

/// Whether a file is one of the crate's that the section is for.
fn belongs(path: &Path, directory: &str, section: &str) -> bool {
    let Ok(inner) = path.strip_prefix(directory) else { return false };
    let build = inner == Path::new("build.rs");
    match section {
        "[build-dependencies]" => build,
        // Tests of a module are in its file or beside it.
        "[dev-dependencies]" => !build,
        _ => !build && !inner.starts_with("tests") && !inner.starts_with("benches"),
    }
}

/// Whether a line has a path that begins with the crate.
fn mentions(line: &str, name: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let begins = |(at, _): (usize, &str)| {
        let after = &line[at + name.len()..];
        let path = after.starts_with("::") || line.trim_start().starts_with("use ");
        path && !line[..at].ends_with(inside)
            && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_')
    };
    line.match_indices(name).any(begins)
}

fn sections(manifest: &str) -> Vec<(&'static str, Vec<String>)> {
    let all = ["[dependencies]", "[dev-dependencies]", "[build-dependencies]"];
    all.map(|section| (section, names(manifest, section))).into()
}

/// The keys of a section.
fn names(manifest: &str, section: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|line| *line != section).skip(1);
    let keys =
        lines.take_while(|line| !line.starts_with('[')).filter(|line| !line.starts_with('#'));
    let names = keys.filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| !name.is_empty() && !name.starts_with('}')).map(str::to_owned).collect()
}
