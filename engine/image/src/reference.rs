//! Names of images: `[host[:port]/]path[:tag][@digest]`, read the way Docker's clients write
//! them.
//!
//! A name has a canonical form (`docker.io/library/nginx:1`) and a familiar one (`nginx:1`).
//! Everything here is pure.

mod pattern;

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;
use engine_error::{Error, Result};

pub use self::pattern::{BadPattern, Pattern};

/// The registry of names that do not say one.
pub const DEFAULT_DOMAIN: &str = "docker.io";

const LONGEST_NAME: usize = 255;

/// A parsed name of an image. [`fmt::Display`] is the familiar form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses a familiar or canonical name. Neither tag nor digest is added.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(invalid(text));
        }
        if is_identifier(text) {
            return Err(Error::invalid(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(rest);
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(invalid(text));
        }
        let (domain, path) = split_domain(name);
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(Error::invalid(format!(
                "invalid reference format: repository name ({path}) must be lowercase"
            )));
        }
        if !is_domain(domain) || !is_path(&path) {
            return Err(invalid(text));
        }
        if domain.len() + 1 + path.len() > LONGEST_NAME {
            return Err(Error::invalid(format!(
                "repository name must not be more than {LONGEST_NAME} characters"
            )));
        }
        Ok(Self { domain: domain.to_owned(), path, tag: tag.map(str::to_owned), digest })
    }

    /// The same with the tag `latest`, unless it has a tag or a digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// The same repository with another tag.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        if !is_tag(tag) {
            return Err(Error::invalid(format!("invalid tag format: {tag:?}")));
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository with a digest in place of a tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same without digest.
    #[must_use]
    pub fn without_digest(&self) -> Self {
        Self { digest: None, ..self.clone() }
    }

    /// The registry: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/nginx`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// `nginx`, `localhost:5000/a/b`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.canonical_name();
        }
        // `library/a/b` keeps its prefix: without it the name would mean something else.
        let short = match self.path.strip_prefix("library/") {
            Some(short) if !short.contains('/') => short,
            _ => &self.path,
        };
        // So would a path that begins as the name of a registry does, or looks like an id.
        let (domain, path) = split_domain(short);
        if is_identifier(short) || domain != DEFAULT_DOMAIN || path != self.path {
            return self.canonical_name();
        }
        short.to_owned()
    }

    /// `docker.io/library/nginx`.
    pub fn canonical_name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// `docker.io/library/nginx:1`.
    pub fn canonical(&self) -> String {
        self.with_suffix(self.canonical_name())
    }

    /// Whether a pattern of a `reference` filter means this name: Go's `path.Match` on the
    /// familiar and canonical forms, with and without tag.
    pub fn matches(&self, pattern: &str) -> Result<bool, BadPattern> {
        let pattern = Pattern::parse(pattern)?;
        let forms =
            [self.to_string(), self.familiar_name(), self.canonical(), self.canonical_name()];
        Ok(forms.iter().any(|form| pattern.matches(form)))
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.familiar_name()))
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

fn invalid(text: &str) -> Error {
    Error::invalid(format!(
        "invalid reference format: {text:?} is not [REGISTRY/]NAME[:TAG][@DIGEST]"
    ))
}

fn parse_digest(text: &str) -> Result<Digest> {
    text.parse().map_err(|_| {
        let algorithm = text.split_once(':').map_or("", |(algorithm, _)| algorithm);
        match algorithm {
            "sha384" | "sha512" => Error::invalid(format!(
                "digest algorithm {algorithm} is not supported: use a sha256 digest"
            )),
            _ => invalid(text),
        }
    })
}

fn is_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A colon after the last slash starts a tag; one before it is a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    let start = text.rfind('/').map_or(0, |slash| slash + 1);
    match text[start..].find(':') {
        Some(colon) => (&text[..start + colon], Some(&text[start + colon + 1..])),
        None => (text, None),
    }
}

/// The first part is a registry if it looks like a host: a dot, a colon, `localhost`, or a
/// capital letter, which no repository has.
fn split_domain(name: &str) -> (&str, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        return (domain, format!("library/{path}"));
    }
    (domain, path.to_owned())
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    matches!(bytes.first(), Some(&first) if word(first))
        && bytes.len() <= 128
        && bytes.iter().all(|&byte| word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_domain(domain: &str) -> bool {
    if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        return address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':')
            && !address.is_empty()
            && port.strip_prefix(':').map_or(port.is_empty(), is_port);
    }
    let (host, port) = match domain.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (domain, None),
    };
    port.is_none_or(is_port) && host.split('.').all(is_label)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn is_path(path: &str) -> bool {
    path.split('/').all(is_component)
}

/// `[a-z0-9]+` joined by one of `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let letter = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let edges = component.bytes().next().is_some_and(letter)
        && component.bytes().next_back().is_some_and(letter);
    edges
        && component.split(|c: char| c.is_ascii() && letter(c as u8)).all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
        })
}

#[cfg(test)]
mod tests;
