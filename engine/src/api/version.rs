//! Versions of the API: which a request is in, and which are served.

use std::fmt;

use engine_error::{Error, Result};

/// A version 1.x.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u16);

/// The newest version served, that of requests without one.
pub const NEWEST: Version = Version(51);

/// The oldest version served.
pub const OLDEST: Version = Version(24);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}", self.0)
    }
}

/// The version of a path's first segment, if it is one: `v1.41`.
pub fn of_segment(segment: &str) -> Result<Option<Version>> {
    let Some(text) = segment.strip_prefix('v') else { return Ok(None) };
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Ok(None);
    }
    let parts: Vec<u64> = text.split('.').map(|part| part.parse().unwrap_or(0)).collect();
    let part = |place: usize| parts.get(place).copied().unwrap_or(0);
    let (major, minor) = (part(0), part(1));
    let more = parts.iter().skip(2).any(|part| *part > 0);
    if (major, minor, more) > (1, NEWEST.0.into(), false) {
        return Err(Error::invalid(format!(
            "client version {text} is too new. Maximum supported API version is {NEWEST}"
        )));
    }
    if (major, minor) < (1, OLDEST.0.into()) {
        return Err(Error::invalid(format!(
            "client version {text} is too old. Minimum supported API version is {OLDEST}, please \
             upgrade your client to a newer version"
        )));
    }
    Ok(Some(Version(u16::try_from(minor).unwrap_or(NEWEST.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_served_versions_are_accepted() {
        let check = |segment: &str| of_segment(segment).map_err(|error| error.to_string());
        assert_eq!(check("v1.41"), Ok(Some(Version(41))));
        assert_eq!(check("v1.24"), Ok(Some(OLDEST)));
        assert_eq!(check("volumes"), Ok(None));
        assert_eq!(check("version"), Ok(None));
        assert_eq!(
            check("v1.99"),
            Err("client version 1.99 is too new. Maximum supported API version is 1.51".to_owned())
        );
        assert_eq!(
            check("v1.20"),
            Err("client version 1.20 is too old. Minimum supported API version is 1.24, please \
                 upgrade your client to a newer version"
                .to_owned())
        );
        assert!(check("v2").is_err());
        assert!(check("v1.2.3").is_err());
        assert!(check("v1").unwrap_err().starts_with("client version 1 is too old."));
        assert!(check("v1.51.1").unwrap_err().starts_with("client version 1.51.1 is too new."));
        assert_eq!(check("v1.40.0"), Ok(Some(Version(40))));
    }
}
