//! When a container's log is rotated: the options `max-size` and `max-file`.

use std::collections::BTreeMap;

use engine_error::{Error, Result};

/// Docker's `json-file` has no such limit; ours is that of Docker's `local`.
const MAX_SIZE: u64 = 20 << 20;

/// How many log files are kept.
const MAX_FILES: u32 = 5;

/// The limits of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// The size at which a file is closed, in bytes; zero for none.
    pub(crate) max_size: u64,
    /// How many files there are at most.
    pub(crate) max_files: u32,
}

impl Rotation {
    /// Reads a container's options; those it does not have are the daemon's.
    pub(crate) fn of(
        own: &BTreeMap<String, String>,
        daemon: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let option = |key: &str| own.get(key).or_else(|| daemon.get(key)).map(String::as_str);
        let wrong = |reason: String| {
            Error::invalid(format!("failed to initialize logging driver: {reason}"))
        };
        let max_size = match option("max-size") {
            None => MAX_SIZE,
            Some("-1") => 0,
            Some(text) => bytes(text).ok_or_else(|| wrong(format!("invalid size: '{text}'")))?,
        };
        let max_files = match option("max-file").map(|text| (text, text.parse::<i64>())) {
            None => MAX_FILES,
            Some((text, Err(_))) => {
                return Err(wrong(format!("strconv.Atoi: parsing \"{text}\": invalid syntax")));
            }
            Some((_, Ok(..1))) => return Err(wrong("max-file cannot be less than 1".to_owned())),
            Some((_, Ok(count))) => u32::try_from(count).unwrap_or(u32::MAX),
        };
        Ok(Self { max_size, max_files })
    }
}

/// `10m`, `1g`, `512k`, `100`: in bytes.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let bare = lower.strip_suffix('b').unwrap_or(&lower);
    let (number, unit) = match bare.as_bytes().last()? {
        b'k' => (&bare[..bare.len() - 1], 1 << 10),
        b'm' => (&bare[..bare.len() - 1], 1 << 20),
        b'g' => (&bare[..bare.len() - 1], 1 << 30),
        _ => (bare, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("10m"), Some(10 << 20));
        assert_eq!(bytes("1GB"), Some(1 << 30));
        assert_eq!(bytes("77"), Some(77));
        assert_eq!(bytes("m"), None);
        assert_eq!(bytes(""), None);
    }

    #[test]
    fn a_container_s_options_come_before_the_daemon_s() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let daemon = map(&[("max-size", "1m"), ("max-file", "3")]);
        let rotation = Rotation::of(&map(&[("max-size", "2k")]), &daemon).unwrap();
        assert_eq!(rotation, Rotation { max_size: 2048, max_files: 3 });
        let error = Rotation::of(&map(&[("max-file", "0")]), &daemon).unwrap_err().to_string();
        assert!(error.ends_with("max-file cannot be less than 1"), "{error}");
    }
}
