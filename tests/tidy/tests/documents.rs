//! Documents that name tests name those that there are.

use std::fs;
use std::path::Path;

use tidy::{Source, root, sources};

/// What tells which test shows what.
const TESTING: &str = "docs/testing.md";
/// What tells the same of holes that others have had, each test by its whole name.
const SECURITY: &str = "docs/security.md";
/// How names of tests begin that are called by a hole.
const HOLES: [&str; 3] = ["cve_", "ghsa_", "moby_"];

/// A test: the file that it is in, and its name.
struct Test<'s> {
    path: &'s Path,
    name: &'s str,
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let (root, sources) = (root(), sources());
    let tests: Vec<_> = sources.iter().flat_map(tests_of).collect();
    let mut lies = Vec::new();
    for document in [TESTING, SECURITY] {
        let text = fs::read_to_string(root.join(document)).expect("the document is there");
        lies.extend(lies_of(&text, &tests).into_iter().map(|lie| format!("{document}: {lie}")));
    }
    assert!(lies.is_empty(), "there is no such test:\n{}", lies.join("\n"));
}

#[test]
fn every_test_that_is_called_by_a_hole_is_told_of_by_its_whole_name() {
    let (root, sources) = (root(), sources());
    let text = fs::read_to_string(root.join(SECURITY)).expect("the document is there");
    assert!(!text.contains('…'), "{SECURITY} shortens a name");
    let named: Vec<_> = spans(&text).flat_map(|span| span.split([' ', ':'])).collect();
    let tests = sources.iter().flat_map(tests_of);
    let of_holes = tests.filter(|test| HOLES.iter().any(|hole| test.name.starts_with(hole)));
    let untold: Vec<_> =
        of_holes.map(|test| test.name).filter(|name| !named.contains(name)).collect();
    assert!(untold.is_empty(), "{SECURITY} does not tell of {}", untold.join(", "));
}

#[test]
fn a_name_of_no_test_is_found() {
    let text =
        "//! x\n#[test]\nfn a_file_is_read_to_its_end() {}\nfn a_helper_of_it_is_none() {}\n";
    let path = "engine/shim/tests/shim/hostile.rs".into();
    let source = Source { path, text: text.to_owned() };
    let tests = tests_of(&source);
    let lies = |spans: &str| lies_of(&format!("| promise | {spans}, `x` |\n"), &tests).len();
    for true_one in [
        "shim hostile::a_file_is_read_to_its_end",
        "hostile::tests::a_file_is…",
        "hostile.rs a_file_is_read_to_its_end",
        "a_file_is_read_to_its_end",
        "shim …read_to_its_end",
        "net.ipv4.ip_forward",
        "hostile::tests",
    ] {
        assert_eq!(lies(&format!("`{true_one}`")), 0, "{true_one}");
    }
    for lie in [
        "shim hostile::a_helper_of_it_is_none",
        "shim hostile::a_file_is_read",
        "clients hostile::a_file_is_read_to_its_end",
        "shim a_file_was…",
    ] {
        assert_eq!(lies(&format!("`{lie}`")), 1, "{lie}");
    }
    assert_eq!(lies("`shim hostile::tests` (all: it says why)"), 0);
    assert_eq!(lies("`runtime root::tests` (all)"), 1);
}

/// The tests of a file.
fn tests_of(source: &Source) -> Vec<Test<'_>> {
    let (mut tests, mut marked) = (Vec::new(), false);
    let by_macro = source.text.contains("macro_rules!");
    for line in source.text.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some(name) = function(line) {
            if marked {
                tests.push(Test { path: &source.path, name });
            }
            marked = false;
        } else if let Some(name) = case(line).filter(|_| by_macro) {
            tests.push(Test { path: &source.path, name });
        }
    }
    tests
}

/// The name that a line gives to a macro, which makes a test of it.
fn case(line: &str) -> Option<&str> {
    let (name, rest) = line.split_at(line.find([',', ':'])?);
    let plain =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    let alone = rest == "," || rest.starts_with(": ");
    (alone && name.contains('_') && name.chars().all(plain)).then_some(name)
}

/// The name of the function that begins in a line.
fn function(line: &str) -> Option<&str> {
    let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

/// The names in a document that no test has where they say that it is.
fn lies_of<'t>(text: &'t str, tests: &[Test<'_>]) -> Vec<&'t str> {
    let of_one = text.lines().flat_map(spans);
    let lies = of_one.filter(|span| names_a_test(span) && !is_true(span, tests));
    let of_all = text.lines().flat_map(places);
    lies.chain(of_all.filter(|place| !has_tests(place, tests))).collect()
}

/// What stands between backticks before `(all`: the place of several tests.
fn places(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("` (all").filter_map(|(end, _)| line[..end].rsplit('`').next())
}

fn has_tests(place: &str, tests: &[Test<'_>]) -> bool {
    let place: Vec<_> = place.split([' ', ':']).filter(|part| !part.is_empty()).collect();
    tests.iter().any(|test| is_at(test, &place))
}

/// What stands between backticks.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn parts(span: &str) -> (Vec<&str>, &str) {
    let mut parts: Vec<_> = span.split(' ').flat_map(|word| word.split("::")).collect();
    let name = parts.pop().unwrap_or_default();
    (parts, name)
}

/// Whether a span is the name of a test, and not of something else that is written with underscores.
fn names_a_test(span: &str) -> bool {
    let (place, name) = parts(span);
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '…';
    let words = name.matches('_').count() + 1;
    name.chars().all(plain) && words >= if place.is_empty() { 5 } else { 3 }
}

fn is_true(span: &str, tests: &[Test<'_>]) -> bool {
    let (place, name) = parts(span);
    tests.iter().any(|test| is_called(test, name) && is_at(test, &place))
}

/// Whether a name is a test's, or what there is of it besides an ellipsis.
fn is_called(test: &Test<'_>, name: &str) -> bool {
    match (name.strip_prefix('…'), name.strip_suffix('…')) {
        (Some(end), _) => test.name.ends_with(end),
        (None, Some(start)) => test.name.starts_with(start),
        (None, None) => test.name == name,
    }
}

/// Whether a test is where a name has it: each crate, program and module before it is in its path.
fn is_at(test: &Test<'_>, place: &[&str]) -> bool {
    let path = test.path.with_extension("");
    let inside = |part: &str| {
        let part = part.strip_suffix(".rs").unwrap_or(part);
        part == "tests" || part.contains('…') || path.iter().any(|known| known == part)
    };
    place.iter().all(|part| part.split('/').all(inside))
}
