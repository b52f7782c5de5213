//! Platforms: `os[/architecture[/variant]]`, in Go's words, and which of several fits.

use std::fmt;
use std::str::FromStr;

use super::Platform;
use engine_error::{Error, Result};

impl Platform {
    /// The platform of this host.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", ""),
            other => (other, ""),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// How well an image for `offered` serves this platform; nothing if not at all. Less is
    /// better.
    pub(super) fn rank(&self, offered: &Self) -> Option<u32> {
        let offered = offered.normal();
        let wanted = self.normal();
        if offered.os != wanted.os || offered.architecture != wanted.architecture {
            return None;
        }
        if offered.variant == wanted.variant {
            return Some(0);
        }
        if wanted.variant.is_empty() {
            // What is built for a later amd64 may use instructions this one has not.
            return (wanted.architecture != "amd64").then_some(50);
        }
        if offered.variant.is_empty() {
            return Some(100);
        }
        // v7 runs what was built for v6 and v5, not the other way round.
        let number = |variant: &str| variant.trim_start_matches('v').parse::<u32>().ok();
        number(&wanted.variant)?.checked_sub(number(&offered.variant)?)
    }

    fn normal(&self) -> Self {
        let (architecture, variant) = match (self.architecture.as_str(), self.variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", "v8"),
            ("armhf" | "arm", "" | "7") => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("i386" | "i686", _) => ("386", ""),
            other => other,
        };
        Self {
            os: self.os.to_ascii_lowercase(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!(
                "{text:?} is an invalid platform: use os/architecture, as in linux/amd64"
            ))
        };
        let valid = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| valid(part)) {
            return Err(wrong());
        }
        let host = Self::host();
        let platform = match parts[..] {
            ["linux"] => host,
            [architecture] => Self { architecture: architecture.to_owned(), ..host }.bare(),
            [os, architecture] => {
                Self { os: os.to_owned(), architecture: architecture.to_owned(), ..host }.bare()
            }
            [os, architecture, variant] => Self {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: variant.to_owned(),
            },
            _ => return Err(wrong()),
        };
        Ok(platform.normal())
    }
}

impl Platform {
    fn bare(mut self) -> Self {
        self.variant.clear();
        self
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        // Docker leaves out the variant that every arm64 is.
        let silent =
            self.variant.is_empty() || (self.architecture == "arm64" && self.variant == "v8");
        if silent { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(wanted: &str, offered: &str) -> Option<u32> {
        let wanted: Platform = wanted.parse().unwrap();
        wanted.rank(&offered.parse().unwrap())
    }

    #[test]
    fn the_nearest_variant_wins() {
        assert_eq!(rank("linux/amd64", "linux/x86_64"), Some(0));
        assert_eq!(rank("linux/arm64", "linux/arm64/v8"), Some(0));
        assert_eq!(rank("linux/arm/v7", "linux/arm/v6"), Some(1));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("linux/amd64", "linux/amd64/v3"), None);
        assert_eq!(rank("linux/amd64", "linux/arm64"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
    }

    #[test]
    fn platforms_are_spelled_as_in_go() {
        assert_eq!("linux/aarch64".parse::<Platform>().unwrap().to_string(), "linux/arm64");
        assert_eq!("linux/386".parse::<Platform>().unwrap().to_string(), "linux/386");
        for wrong in ["", "a/b/c/d", "linux/", "linux/am d64"] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong}");
        }
    }
}
