//! `--security-opt`: what a user wants of seccomp and of the kernel's security modules.

use engine_error::{Error, Result};
use runtime::spec::Seccomp;

/// `--security-opt`, understood.
#[derive(Debug, Default)]
pub(super) struct SecurityOptions {
    pub(super) seccomp: Option<Seccomp>,
    pub(super) apparmor: Option<String>,
    pub(super) no_new_privileges: Option<bool>,
    pub(super) unconfined_paths: bool,
}

impl SecurityOptions {
    pub(super) fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        for option in options {
            let (key, value) = option.split_once(['=', ':']).unwrap_or((option, "true"));
            match (key, value) {
                ("seccomp", "unconfined") => parsed.seccomp = Some(Seccomp::Unconfined),
                ("seccomp", "builtin") => parsed.seccomp = Some(Seccomp::Default),
                ("seccomp", profile) => parsed.seccomp = Some(Seccomp::Profile(profile.to_owned())),
                ("apparmor", profile) => parsed.apparmor = Some(profile.to_owned()),
                ("no-new-privileges", flag @ ("true" | "false")) => {
                    parsed.no_new_privileges = Some(flag == "true");
                }
                ("systempaths", "unconfined") => parsed.unconfined_paths = true,
                // Without SELinux a label changes nothing.
                ("label", _) => {}
                _ => return Err(Error::invalid(format!("invalid --security-opt: \"{option}\""))),
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_security_option_is_named() {
        let error = SecurityOptions::parse(&["nope=1".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "invalid --security-opt: \"nope=1\"");
    }
}
