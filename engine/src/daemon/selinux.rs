//! SELinux: what a daemon that sets no labels must not be taken for.

use std::path::Path;

/// Where a kernel that has SELinux switched on tells of it.
pub(super) const PLACE: &str = "/sys/fs/selinux/enforce";

/// Why a daemon that is to set labels does not start, if the kernel looks at labels.
pub(super) fn refusal(asked: bool, place: &Path) -> Option<&'static str> {
    (asked && place.exists()).then_some(
        "--selinux-enabled: this kernel has SELinux, and labels of containers are not supported; \
         without the option containers and binds keep the labels that they have",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_nobody_sets_are_promised_nowhere_they_would_count() {
        let there = std::env::temp_dir();
        assert!(refusal(true, &there).unwrap().starts_with("--selinux-enabled: "));
        assert_eq!(refusal(false, &there), None, "as in Docker without the option");
        assert_eq!(refusal(true, Path::new("/nonexistent")), None, "as in Docker, with a warning");
    }
}
