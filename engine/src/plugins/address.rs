//! Where a plugin listens: its socket lies in a directory, or a file there says where it is.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use engine_error::{Error, Result};

/// The longest name of a plugin.
const LONGEST: usize = 200;

/// As many files are looked at in the places for plugins that nobody named.
const MOST: usize = 1000;

/// How the files end that say where a plugin is.
const ENDINGS: [&str; 3] = ["sock", "spec", "json"];

/// Where a plugin listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A socket of this machine.
    Unix(PathBuf),
    /// A port, as `host:port`.
    Tcp(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
        }
    }
}

/// Looks for a plugin; nothing if there is none of the name.
pub(super) fn find(places: &[PathBuf], name: &str) -> Result<Option<Address>> {
    // A name is no path: nothing is looked at outside of the places.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-:".contains(&byte);
    if name.is_empty() || name.len() > LONGEST || name.starts_with('.') || !name.bytes().all(plain)
    {
        return Ok(None);
    }
    for place in places {
        for directory in [place.clone(), place.join(name)] {
            if let Some(address) = find_in(&directory, name)? {
                return Ok(Some(address));
            }
        }
    }
    Ok(None)
}

/// The names of all plugins that there may be.
pub(super) fn all(places: &[PathBuf]) -> Vec<String> {
    let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names = BTreeSet::new();
    for entry in places.iter().flat_map(|place| entries(place)).take(MOST) {
        let path = entry.path();
        let ends = path.extension().is_some_and(|end| ENDINGS.iter().any(|known| end == *known));
        let name = if ends { path.file_stem() } else { path.file_name() };
        let Some(name) = name.and_then(OsStr::to_str) else { continue };
        if ends || ENDINGS.iter().any(|end| path.join(format!("{name}.{end}")).exists()) {
            names.insert(name.to_owned());
        }
    }
    names.into_iter().collect()
}

fn find_in(directory: &Path, name: &str) -> Result<Option<Address>> {
    let socket = directory.join(format!("{name}.sock"));
    if fs::metadata(&socket).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        return Ok(Some(Address::Unix(socket)));
    }
    for (ending, read) in [("spec", spec as fn(&str) -> Result<Address>), ("json", json)] {
        let file = directory.join(format!("{name}.{ending}"));
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => continue,
            Err(error) => {
                return Err(Error::internal(format!("cannot read {}", file.display()), error));
            }
        };
        let wrong = |error: Error| Error::invalid(format!("{}: {error}", file.display()));
        return read(&text).map(Some).map_err(wrong);
    }
    Ok(None)
}

/// A file with nothing but a URL.
fn spec(text: &str) -> Result<Address> {
    let text = text.trim();
    let unknown = || Error::invalid(format!("`{text}` is no unix:// or tcp:// address"));
    match text.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Address::Unix(path.into())),
        Some(("tcp" | "http", authority)) if !authority.is_empty() => {
            Ok(Address::Tcp(authority.trim_end_matches('/').to_owned()))
        }
        _ => Err(unknown()),
    }
}

fn json(text: &str) -> Result<Address> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Described {
        addr: String,
        #[serde(rename = "TLSConfig")]
        tls: Option<serde_json::Value>,
    }
    let described: Described =
        serde_json::from_str(text).map_err(|error| Error::invalid(error.to_string()))?;
    if described.tls.is_some_and(|tls| !tls.is_null()) {
        return Err(Error::invalid(
            "TLSConfig: plugins are not asked over TLS by this version; have it listen on a socket \
             of this machine",
        ));
    }
    spec(&described.addr)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A directory that is gone with the value.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("rnet-places-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_plugin_is_found_by_its_socket_or_by_a_file_that_says_where_it_is() {
        let (first, second) = (Place::new("first"), Place::new("second"));
        let places = [first.0.clone(), second.0.clone()];
        let found = |name: &str| find(&places, name).unwrap().map(|address| address.to_string());
        assert_eq!(found("a"), None);
        let socket = second.0.join("a.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        assert_eq!(found("a"), Some(format!("unix://{}", socket.display())));
        fs::create_dir(second.0.join("b")).unwrap();
        fs::write(second.0.join("b/b.spec"), "tcp://127.0.0.1:9000\n").unwrap();
        assert_eq!(found("b").as_deref(), Some("tcp://127.0.0.1:9000"));
        let json = r#"{"Name": "c", "Addr": "unix:///run/c.sock", "TLSConfig": null}"#;
        fs::write(first.0.join("c.json"), json).unwrap();
        assert_eq!(found("c").as_deref(), Some("unix:///run/c.sock"));
        assert_eq!(all(&places), ["a", "b", "c"]);
        // What is no socket is none, and a name is no path.
        fs::write(first.0.join("d.sock"), "").unwrap();
        for name in ["d", "", "../second/a", ".a", "weave/net", "a\n"] {
            assert_eq!(found(name), None, "{name}");
        }
    }

    #[test]
    fn a_file_that_says_nothing_of_use_is_an_error_that_names_it() {
        let place = Place::new("wrong");
        let cases = [
            ("a.spec", "ftp://x", "`ftp://x` is no unix:// or tcp:// address"),
            ("b.spec", "unix://relative", "`unix://relative` is no unix:// or tcp:// address"),
            ("c.json", r#"{"Addr": "tcp://x:1", "TLSConfig": {"CAFile": "/ca"}}"#, "TLSConfig"),
            ("d.json", "{", "EOF while parsing"),
        ];
        for (file, text, said) in cases {
            fs::write(place.0.join(file), text).unwrap();
            let error = find(std::slice::from_ref(&place.0), &file[..1]).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(said), "{error}");
        }
    }
}
