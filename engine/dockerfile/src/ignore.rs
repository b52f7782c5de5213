//! `.dockerignore`: which files of a context are left out.

use engine_error::{Error, Result};
use regex::bytes::{RegexSet, RegexSetBuilder};

/// The patterns of a file, in order: the last that matches counts.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
    /// All of them as one: a path is read once.
    all: RegexSet,
}

#[derive(Clone, Debug)]
struct Pattern {
    /// Whether it takes back in what an earlier one left out.
    negated: bool,
    text: String,
}

/// The most patterns: each is tried at each file.
const MOST: usize = 10_000;
/// The most memory that they may come to.
const LARGEST: usize = 32 << 20;

impl Ignore {
    /// Reads a file.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
        if lines.len() > MOST {
            return Err(Error::invalid(format!(".dockerignore has more than {MOST} patterns")));
        }
        let patterns = lines.into_iter().map(pattern).collect::<Result<Vec<_>>>()?;
        let expressions: Vec<_> = patterns.iter().map(|it| expression(&it.text)).collect();
        let set = |expressions: &[String]| {
            RegexSetBuilder::new(expressions).size_limit(LARGEST).build().map_err(drop)
        };
        let all = set(&expressions).map_err(|()| {
            let alone = |at: &usize| set(&expressions[*at..=*at]).is_err();
            match (0..patterns.len()).find(alone) {
                Some(at) => Error::invalid(format!(
                    "syntax error in pattern {:?} of .dockerignore",
                    patterns[at].text
                )),
                None => Error::invalid("the patterns of .dockerignore are too long together"),
            }
        })?;
        Ok(Self { patterns, all })
    }

    /// Whether a file is left out: it or a directory above it is.
    pub fn excludes(&self, path: &str) -> bool {
        let last = self.all.matches(path.as_bytes()).iter().next_back();
        last.is_some_and(|last| !self.patterns[last].negated)
    }

    /// Whether something below an excluded directory may be taken back in.
    pub fn may_include_below(&self, directory: &str) -> bool {
        let prefix = format!("{directory}/");
        self.patterns.iter().filter(|pattern| pattern.negated).any(|pattern| {
            let fixed = pattern.text.find(['*', '?', '[', '\\']);
            let fixed = &pattern.text[..fixed.unwrap_or(pattern.text.len())];
            fixed.starts_with(&prefix) || prefix.starts_with(fixed)
        })
    }

    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

fn pattern(line: &str) -> Result<Pattern> {
    let (negated, text) = match line.strip_prefix('!') {
        Some("") => return Err(Error::invalid("illegal exclusion pattern: \"!\"")),
        Some(rest) => (true, rest.trim()),
        None => (false, line),
    };
    let text = clean(text);
    let text = if text.len() > 1 { text.trim_start_matches('/') } else { &text };
    Ok(Pattern { negated, text: text.to_owned() })
}

/// Go's `filepath.Clean`: the shortest path that means the same.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// A pattern as an expression, which matches a path if the pattern is it or a directory above.
fn expression(pattern: &str) -> String {
    // Any byte, and any but the one that parts names: what is between two letters is whole letters.
    const ANY: &str = "(?s-u:.)*";
    const WITHIN: &str = "(?-u:[^/])*";
    let mut expression = String::from("^");
    let mut letters = pattern.chars().peekable();
    let mut class = false;
    while let Some(letter) = letters.next() {
        match letter {
            '*' if !class && letters.next_if_eq(&'*').is_some() => {
                // `**/` is `**`: it may be no directory at all.
                letters.next_if_eq(&'/');
                let last = letters.peek().is_none();
                let above = format!("(?:{ANY}/)?");
                expression.push_str(if last { ANY } else { &above });
            }
            '*' if !class => expression.push_str(WITHIN),
            '?' if !class => expression.push_str("[^/]"),
            '[' if !class => {
                class = true;
                expression.push('[');
                expression.extend(letters.next_if_eq(&'^'));
            }
            ']' if class => {
                class = false;
                expression.push(']');
            }
            '-' if class => expression.push('-'),
            '\\' => {
                let escaped = letters.next().unwrap_or('\\');
                expression.push_str(&regex::escape(&escaped.to_string()));
            }
            other => expression.push_str(&regex::escape(&other.to_string())),
        }
    }
    expression.push_str("(?:/|$)");
    expression
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Patterns, a path, and whether it is left out; mostly those of Docker's own matcher.
    const TABLE: &[(&str, &str, bool)] = &[
        ("**", "file", true),
        ("**", "dir/file", true),
        ("**/", "file", true),
        ("**/**", "dir/file", true),
        ("dir/**", "dir/file", true),
        ("dir/**", "dir/dir2/file", true),
        ("dir/**", "dir2/file", false),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/*", "dir/dir2/dir2/file", true),
        ("**file", "file", true),
        ("**file", "dir/dir/file", true),
        ("**/file", "dir/file", true),
        ("**file*", "dir/file.txt", true),
        ("a**/*.txt", "a/file.txt", true),
        ("a**/*.txt", "a/dir/file.txt", true),
        ("a/*.txt", "a/dir/file.txt", false),
        ("a/*.txt", "a/file.txts", false),
        ("a[b-d]e", "ae", false),
        ("a[b-d]e", "ace", true),
        ("a[^b-d]e", "aze", true),
        ("a[^b-d]e", "abe", false),
        ("a[.]e", "a.e", true),
        (".*", ".foo", true),
        (".*", "foo", false),
        ("abc.def", "abcdef", false),
        ("abc.def", "abc.def", true),
        ("abc?def", "abcZdef", true),
        ("abc?def", "abcdef", false),
        ("a\\*b", "a*b", true),
        ("a\\*b", "axb", false),
        ("a(b)c/def", "a(b)c/def", true),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        (
            "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
            "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
            true,
        ),
        ("/docs", "docs/a", true),
        ("docs", "docs/a/b", true),
        ("docs/", "docs/a", true),
        ("./docs", "docs", true),
        ("*.md\n!README.md", "README.md", false),
        ("*.md\n!README.md", "a.md", true),
        ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
        ("docs\n!docs/keep", "docs/keep", false),
        ("docs\n!docs/keep", "docs/other", true),
        ("!docs/keep\ndocs", "docs/keep", true),
        ("# docs", "docs", false),
        ("\u{feff}docs", "docs", true),
        (" docs ", "docs", true),
        ("*\n!a", "a", false),
        ("*\n! a", "a", false),
    ];

    #[test]
    fn files_are_left_out_as_docker_leaves_them_out() {
        for (patterns, path, wanted) in TABLE {
            let ignore = Ignore::parse(patterns).unwrap();
            assert_eq!(ignore.excludes(path), *wanted, "{patterns:?} {path}");
        }
    }

    #[test]
    fn a_pattern_of_many_wildcards_at_a_deep_path_is_no_trap() {
        let path = "a/".repeat(2000);
        let ignore = Ignore::parse(&format!("{}b\n{}b\n", "**/a".repeat(100), "*a".repeat(100)));
        assert!(!ignore.unwrap().excludes(&path));
        let long = format!("**/{}\n", "a**/".repeat(20)).repeat(9000);
        let error = Ignore::parse(&long).unwrap_err().to_string();
        assert_eq!(error, "the patterns of .dockerignore are too long together");
    }

    #[test]
    fn wrong_patterns_are_refused() {
        assert_eq!(Ignore::parse("!").unwrap_err().to_string(), "illegal exclusion pattern: \"!\"");
        assert!(Ignore::parse("a[b").is_err());
    }

    #[test]
    fn a_directory_is_entered_if_something_in_it_may_come_back() {
        let ignore = Ignore::parse("docs\n!docs/a/*.md").unwrap();
        assert!(ignore.may_include_below("docs"));
        assert!(ignore.may_include_below("docs/a"));
        assert!(!ignore.may_include_below("other"));
        assert!(Ignore::parse("*\n!**/x").unwrap().may_include_below("any"));
    }

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        for (path, wanted) in
            [("a//b/../c/.", "a/c"), ("/../a", "/a"), ("../a", "../a"), ("", "."), ("a/..", ".")]
        {
            assert_eq!(clean(path), wanted, "{path}");
        }
    }
}
