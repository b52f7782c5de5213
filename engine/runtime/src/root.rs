//! What a root file system must be like before a runtime is let at it.
//!
//! Every container has mounts at `/proc`, `/sys` and `/dev`, and a runtime makes nodes and links in
//! `/dev`. An image with a link in such a place has some runtimes make all that wherever the link
//! leads, on the host if need be (CVE-2019-19921, CVE-2023-27561, CVE-2026-41579, CVE-2026-47766).
//! And what is mounted over `/proc` has them write a process's confinement into a stranger's file.
//! So it is looked at before, by descriptor, whichever runtime it is.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use super::RuntimeError;

/// Where a container has mounts that it does not ask for.
const PLACES: [&str; 3] = ["proc", "sys", "dev"];
/// As many links as the kernel follows on one way.
const MOST_LINKS: usize = 40;

/// Refuses a root in which a runtime could be led astray, given where the user's mounts go.
///
/// # Errors
/// [`RuntimeError::Invalid`] with the place.
pub fn check<'a>(
    rootfs: &Path,
    targets: impl IntoIterator<Item = &'a str>,
) -> Result<(), RuntimeError> {
    let failed = |error: Errno| RuntimeError::Io {
        action: "look at",
        path: rootfs.to_owned(),
        source: error.into(),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat2(CWD, rootfs, flags, Mode::empty(), ResolveFlags::empty()).map_err(failed)?;
    for place in PLACES {
        if !is_directory_or_nothing(&root, place).map_err(failed)? {
            return Err(RuntimeError::Invalid(format!(
                "the image cannot be run: its /{place} is not a directory, but a link or a file"
            )));
        }
    }
    let proc = path_of(&root, Path::new("/")).unwrap_or_default().join(PLACES[0]);
    // Who asks for a mount there is judged by what it is.
    for target in targets.into_iter().filter(|target| !Path::new(target).starts_with("/proc")) {
        if leads_below(&root, Path::new(target), &proc) {
            return Err(RuntimeError::Invalid(format!(
                "invalid mount {target:?}: in this image it leads to /proc"
            )));
        }
    }
    Ok(())
}

fn is_directory_or_nothing(root: &OwnedFd, place: &str) -> rustix::io::Result<bool> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match opened(root, OsStr::new(place), flags) {
        Err(Errno::NOENT) => Ok(true),
        file => Ok(FileType::from_raw_mode(fstat(file?)?.st_mode) == FileType::Directory),
    }
}

/// Whether a target is in a directory once its links are followed, or will be once it is made.
fn leads_below(root: &OwnedFd, target: &Path, directory: &Path) -> bool {
    let mut path = target.to_owned();
    for _ in 0..MOST_LINKS {
        let there = path.ancestors().find_map(|part| Some((part, path_of(root, part)?)));
        let Some((part, place)) = there else { return false };
        if place.starts_with(directory) {
            return true;
        }
        let missing = path.strip_prefix(part).unwrap_or(Path::new(""));
        if missing.components().any(|component| component == Component::ParentDir) {
            // Where that leads is known when it is made.
            return true;
        }
        let mut names = missing.components();
        // It is a link to nothing yet, or is missing itself.
        let link = names.next().and_then(|name| link_at(root, &part.join(name)));
        let Some(link) = link else { return place.join(missing).starts_with(directory) };
        path = part.join(link).join(names.as_path());
    }
    // The kernel follows no more either.
    false
}

/// Where a link of the root points to.
fn link_at(root: &OwnedFd, path: &Path) -> Option<PathBuf> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let link = opened(root, path.as_os_str(), flags).ok()?;
    let text = rustix::fs::readlinkat(&link, "", Vec::new()).ok()?;
    Some(PathBuf::from(OsString::from_vec(text.into_bytes())))
}

/// What the kernel calls the place that a path of the root leads to, if there is something.
fn path_of(root: &OwnedFd, path: &Path) -> Option<PathBuf> {
    let path = if path.as_os_str().is_empty() { OsStr::new(".") } else { path.as_os_str() };
    let file = opened(root, path, OFlags::PATH | OFlags::CLOEXEC).ok()?;
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

fn opened(root: &OwnedFd, path: &OsStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            // Something was renamed on the way, anywhere on the host.
            Err(Errno::AGAIN | Errno::INTR) => {}
            file => return file,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("rnet-root-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("proc")).unwrap();
            Self(path)
        }

        fn refuses(&self, targets: &[&str]) -> String {
            let refused = check(&self.0, targets.iter().copied());
            refused.map_or_else(|error| error.to_string(), |()| String::new())
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn cve_2019_19921_cve_2026_41579_a_place_of_the_runtime_that_is_a_link_is_refused() {
        for place in PLACES {
            let root = Root::new(place);
            assert_eq!(root.refuses(&["/etc/hosts"]), "", "what is missing is made");
            let path = root.0.join(place);
            let _ = fs::remove_dir(&path);
            for target in ["/", "/tmp", "..", "nowhere", "/etc"] {
                symlink(target, &path).unwrap();
                assert!(root.refuses(&[]).contains(&format!("its /{place} is not a directory")));
                fs::remove_file(&path).unwrap();
            }
            fs::write(&path, "").unwrap();
            assert!(root.refuses(&[]).contains(&format!("its /{place} is not a directory")));
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            assert_eq!(root.refuses(&[]), "");
        }
    }

    #[test]
    fn cve_2025_52881_a_mount_is_not_led_to_proc_by_a_link_of_the_image() {
        let root = Root::new("target");
        symlink("/proc", root.0.join("data")).unwrap();
        symlink("data/../proc/self", root.0.join("deep")).unwrap();
        symlink("loop", root.0.join("loop")).unwrap();
        symlink("/nowhere", root.0.join("dangling")).unwrap();
        symlink("/new/../proc", root.0.join("odd")).unwrap();
        fs::create_dir(root.0.join("process")).unwrap();
        for target in ["/data", "/data/", "/data/x/y", "/deep", "/x/../proc", "/deep/x", "/odd"] {
            assert!(root.refuses(&[target]).contains("leads to /proc"), "{target}");
        }
        for target in ["/etc/hosts", "/process", "/process/x", "/new/data", "/loop", "/dangling/x"]
        {
            assert_eq!(root.refuses(&[target]), "", "{target}");
        }
    }
}
