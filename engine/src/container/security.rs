//! `--security-opt`: what confines a container beside its namespaces.

use super::{Container, Containers, Spec};
use cnm::options::boolean;
use engine_error::{Error, Result};
use runtime::spec::Seccomp;

/// All options of a container, understood.
#[derive(Debug, Default)]
pub(super) struct SecurityOptions {
    pub(super) seccomp: Option<Seccomp>,
    /// The AppArmor profile that was asked for.
    pub(super) apparmor: Option<String>,
    pub(super) no_new_privileges: Option<bool>,
    pub(super) unconfined_paths: bool,
    pub(super) writable_cgroups: Option<bool>,
}

impl SecurityOptions {
    /// Reads the options as Docker does; a later one overrules an earlier one.
    pub(super) fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        for option in options {
            parsed.take(option)?;
        }
        Ok(parsed)
    }

    fn take(&mut self, option: &str) -> Result<()> {
        match option {
            "no-new-privileges" => {
                self.no_new_privileges = Some(true);
                return Ok(());
            }
            "writable-cgroups" => {
                self.writable_cgroups = Some(true);
                return Ok(());
            }
            // What `label=disable` was once.
            "disable" => return Ok(()),
            _ => {}
        }
        let invalid =
            |step: u8| Err(Error::invalid(format!("invalid --security-opt {step}: {option:?}")));
        let Some((key, value)) = option.split_once('=').or_else(|| option.split_once(':')) else {
            return invalid(1);
        };
        match (key, value) {
            ("seccomp", "unconfined") => self.seccomp = Some(Seccomp::Unconfined),
            ("seccomp", "builtin") => self.seccomp = Some(Seccomp::Default),
            ("seccomp", profile) => self.seccomp = Some(Seccomp::Profile(profile.to_owned())),
            ("apparmor", profile) => self.apparmor = Some(profile.to_owned()),
            ("no-new-privileges", flag) => match boolean(flag) {
                Some(flag) => self.no_new_privileges = Some(flag),
                None => return invalid(2),
            },
            ("systempaths", "unconfined") => self.unconfined_paths = true,
            // The words only, as with Docker: not what else may mean them.
            ("writable-cgroups", "true") => self.writable_cgroups = Some(true),
            ("writable-cgroups", "false") => self.writable_cgroups = Some(false),
            // Labels are SELinux's, and as in a Docker without `--selinux-enabled` nothing has any.
            ("label", _) => {}
            _ => return invalid(2),
        }
        Ok(())
    }
}

impl Containers {
    /// The AppArmor profile of a container, loaded if it is ours. Blocks.
    pub(super) fn apparmor(
        &self,
        spec: &Spec,
        options: &SecurityOptions,
    ) -> Result<Option<String>> {
        let asked = options.apparmor.as_deref();
        Ok(self.runner.host.apparmor.profile(asked, spec.privileged)?)
    }

    /// What to tell who asks for an AppArmor profile that this kernel cannot give. Docker is silent.
    pub(super) fn discarded_profile(&self, spec: &Spec) -> Result<Option<String>> {
        let asked = SecurityOptions::parse(&spec.security_options)?.apparmor;
        let asked = asked.filter(|name| !matches!(&**name, "" | "unconfined"));
        let apparmor = &self.runner.host.apparmor;
        let missing = asked.filter(|name| apparmor.name_for(Some(name), spec.privileged).is_none());
        Ok(missing.map(|name| {
            format!("The AppArmor profile {name} is discarded: there is no AppArmor to enforce it.")
        }))
    }

    /// The AppArmor profile that a container has or will have, for `inspect`.
    pub fn apparmor_of(&self, container: &Container) -> String {
        let spec = &container.spec;
        let options = SecurityOptions::parse(&spec.security_options).unwrap_or_default();
        let apparmor = &self.runner.host.apparmor;
        let name = apparmor.name_for(options.apparmor.as_deref(), spec.privileged);
        name.unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<SecurityOptions> {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        SecurityOptions::parse(&options)
    }

    #[test]
    fn an_option_that_is_not_understood_is_named_in_dockers_words() {
        for (option, step) in [
            ("nope=1", 2),
            ("nope", 1),
            ("seccomp", 1),
            ("apparmor", 1),
            ("no-new-privileges=perhaps", 2),
            ("systempaths=confined", 2),
            ("writable-cgroups=1", 2),
            ("writeable-cgroups=true", 2),
        ] {
            let error = parse(&[option]).unwrap_err().to_string();
            assert_eq!(error, format!("invalid --security-opt {step}: \"{option}\""));
        }
    }

    #[test]
    fn options_are_read_as_docker_reads_them() {
        let options = ["no-new-privileges", "apparmor:own:x", "label=type:t", "label:disable"];
        let parsed = parse(&[&options[..], &["disable"]].concat()).unwrap();
        assert_eq!(parsed.apparmor.as_deref(), Some("own:x"));
        assert_eq!((parsed.no_new_privileges, parsed.seccomp), (Some(true), None));
        let parsed = parse(&["no-new-privileges:True", "no-new-privileges=0"]).unwrap();
        assert_eq!(parsed.no_new_privileges, Some(false));
        // A profile has both separators in it.
        let parsed = parse(&["seccomp={\"a\": \"b=c\"}"]).unwrap();
        assert_eq!(parsed.seccomp, Some(Seccomp::Profile("{\"a\": \"b=c\"}".to_owned())));
    }
}
