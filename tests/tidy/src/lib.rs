//! The source tree as its checks see it: see `tests/`.
//!
//! What is measured here is measured on texts that are made up, too, so that every rule has failed once.

use std::fs;
use std::path::{Path, PathBuf};

/// The longest a file may be, in lines; one of tests is read, too.
const LONGEST_FILE: usize = 500;

/// The longest a function may be, in lines that are neither blank nor comments.
const LONGEST_FUNCTION: usize = 60;

/// A Rust file.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its path below the root of the workspace.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
}

impl Source {
    /// The complaint about its length, if it is too long.
    pub fn too_long(&self) -> Option<String> {
        let lines = self.text.lines().count();
        let long = lines > LONGEST_FILE;
        long.then(|| format!("{} has {lines} lines, {LONGEST_FILE} at most", self.path.display()))
    }

    /// A complaint about each function in it that is too long.
    pub fn long_functions(&self) -> Vec<String> {
        let lines: Vec<_> = self.text.lines().collect();
        let begins = (0..lines.len()).filter(|begin| is_function(lines[*begin]));
        let lengths = begins.map(|begin| (begin, length(&lines[begin..])));
        let long = lengths.filter(|(_, length)| *length > LONGEST_FUNCTION);
        let complaint = |(begin, length): (usize, usize)| {
            let (path, line) = (self.path.display(), begin + 1);
            format!("{path}:{line}: a function of {length} lines, {LONGEST_FUNCTION} at most")
        };
        long.map(complaint).collect()
    }
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the workspace is there")
}

/// All Rust files of the workspace.
pub fn sources() -> Vec<Source> {
    let (root, mut found) = (root(), Vec::new());
    let mut pending = vec![root.clone()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).expect("a readable directory").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    pending.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file is UTF-8");
                let path = path.strip_prefix(&root).expect("it is below the root").to_owned();
                found.push(Source { path, text });
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// Whether a function begins in this line.
fn is_function(line: &str) -> bool {
    let before = |word: &str| {
        word.starts_with("pub")
            || word.starts_with('"')
            || word.ends_with(')')
            || ["async", "const", "unsafe", "extern", "in"].contains(&word)
    };
    let mut words = line.split_whitespace().skip_while(|word| before(word));
    words.next() == Some("fn")
}

/// How many lines that say something there are to the end of the function that begins in the first one.
/// The formatter puts that end into the column of the beginning.
fn length(lines: &[&str]) -> usize {
    let indent = lines[0].len() - lines[0].trim_start().len();
    let ends = |line: &&&str| {
        let here = line.len() - line.trim_start().len() == indent && !line.trim().is_empty();
        here && (line.ends_with('}') || line.ends_with(';'))
    };
    let end = lines.iter().position(|line| ends(&line)).unwrap_or(lines.len() - 1);
    let says = |line: &&&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    lines[..=end].iter().filter(says).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: String) -> Source {
        Source { path: path.into(), text }
    }

    #[test]
    fn a_long_file_is_complained_about_wherever_it_is() {
        let text = |lines: usize| "//! x\n".repeat(lines);
        for path in ["cnm/src/a.rs", "cnm/src/a/tests.rs", "tests/netns/tests/a.rs"] {
            assert_eq!(source(path, text(500)).too_long(), None);
            let complaint = format!("{path} has 501 lines, 500 at most");
            assert_eq!(source(path, text(501)).too_long(), Some(complaint));
        }
    }

    #[test]
    fn a_long_function_is_complained_about_wherever_it_is() {
        let function = |head: &str, lines: usize| {
            let body = "        x();\n\n        // y\n".repeat(lines);
            format!("impl A {{\n    {head} {{\n{body}    }}\n}}\n")
        };
        for head in ["fn a()", "pub(crate) async fn a()", "pub(in crate::b) const fn a()"] {
            assert_eq!(source("a.rs", function(head, 58)).long_functions(), [""; 0]);
            let complaint = "a.rs:2: a function of 61 lines, 60 at most";
            assert_eq!(source("a.rs", function(head, 59)).long_functions(), [complaint]);
            assert_eq!(source("a/tests.rs", function(head, 59)).long_functions().len(), 1);
        }
        let short = "trait A {\n    fn a();\n    fn b() -> u32;\n}\n".repeat(61);
        assert_eq!(source("a.rs", short).long_functions(), [""; 0]);
    }
}
