//! What is true of every source file.

use std::fs;

use tidy::{Source, root, sources};

/// The entries of the top level; files of text and dot files come on top.
const TOP_LEVEL: &[&str] =
    &["cnm", "drivers", "dns", "engine", "cni-adapter", "tests", "docs", "benches", "target"];

#[test]
fn every_file_says_what_it_is_for() {
    for Source { path, text } in sources() {
        assert!(text.starts_with("//!"), "{} does not open with a `//!` line", path.display());
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    let long: Vec<_> = sources().iter().filter_map(Source::too_long).collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn no_function_is_too_long_to_read() {
    let long: Vec<_> = sources().iter().flat_map(Source::long_functions).collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn modules_are_named_files() {
    for Source { path, .. } in sources() {
        assert!(!path.ends_with("mod.rs"), "{}: use `name.rs` beside `name/`", path.display());
    }
}

#[test]
fn lints_are_expected_with_a_reason_and_not_allowed() {
    for Source { path, text } in sources() {
        let bare = text.lines().any(|line| line.trim_start().starts_with(concat!("#[al", "low(")));
        assert!(!bare, "{}: use `#[expect(…, reason = …)]`", path.display());
    }
}

/// What each of the two libraries is not used for, as the other is (ADR 43).
const SUBJECTS_OF_THE_OTHER: &[&str] = &[
    concat!("rustix", "::event"),
    concat!("rustix", "::termios"),
    concat!("rustix", "::thread"),
    concat!("rustix", "::net::sockopt"),
    concat!("rustix", "::fs::flock"),
    concat!("SocketAddr", "Unix"),
    concat!("nix::", "dir::"),
    concat!("nix::fcntl::", "open"),
    concat!("nix::fcntl::", "Flock"),
    concat!("ControlMessage", "::ScmRights"),
];

#[test]
fn each_subject_has_one_library_that_calls_the_system() {
    for Source { path, text } in sources() {
        for subject in SUBJECTS_OF_THE_OTHER {
            assert!(!text.contains(subject), "{}: {subject}, see ADR 43", path.display());
        }
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME")];
    for Source { path, text } in sources() {
        for mark in marks {
            assert!(!text.contains(mark), "{} contains {mark}", path.display());
        }
    }
}

#[test]
fn the_top_level_is_the_agreed_one() {
    for entry in fs::read_dir(root()).expect("the workspace is readable").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let known = !directory || name.starts_with('.') || TOP_LEVEL.contains(&name.as_str());
        assert!(known, "{name} is not one of the top-level directories");
    }
}

#[test]
fn every_decision_has_a_number_of_its_own() {
    let mut numbers = std::collections::BTreeSet::new();
    for entry in fs::read_dir(root().join("docs/adr")).expect("there are decisions").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.split('-').next().unwrap_or_default().to_owned();
        let text = fs::read_to_string(entry.path()).expect("a decision is text");
        let title = format!("# {}. ", number.trim_start_matches('0'));
        assert!(text.starts_with(&title), "{name} does not open with `{title}`");
        assert!(numbers.insert(number), "{name}: another decision has this number");
    }
}
