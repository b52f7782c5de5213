//! Who a container's process runs as: `-u` and `--group-add`, looked up in the image's own files.
//!
//! The files are the image's, so they are not trusted: they are opened without leaving the root
//! file system by any link (`openat2`, `RESOLVE_IN_ROOT`), read in bounded memory, and a number is
//! a number, whatever user the image gives that name to (CVE-2026-46680).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use super::RuntimeError;

/// How much of a file is read; images with longer ones are malformed or hostile.
const LONGEST_FILE: u64 = 16 << 20;
/// How much of a line is looked at. Groups with many members have long ones.
const LONGEST_LINE: u64 = 1 << 20;
/// Groups a process may be in: the kernel's own limit.
const MOST_GROUPS: usize = 65_536;
/// The highest id that does not turn negative somewhere (CVE-2024-40635).
const HIGHEST: u32 = i32::MAX.cast_unsigned();

/// A resolved user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// All groups: [`User::gid`], then further ones.
    pub groups: Vec<u32>,
    /// The home directory, for `HOME`; empty if the image does not say.
    pub home: String,
}

/// What `-u` says of a user or a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted<'a> {
    Default,
    Number(u32),
    Name(&'a str),
}

/// Resolves `-u` and `--group-add` against the image's `/etc/passwd` and `/etc/group`.
///
/// # Errors
/// [`RuntimeError::Invalid`] for a name that is not there and a number out of range.
pub fn resolve(rootfs: &Path, user: &str, groups: &[String]) -> Result<User, RuntimeError> {
    let (name, group) = match user.split_once(':') {
        Some((name, group)) => (name, wanted(group)?),
        None => (user, Wanted::Default),
    };
    let wanted_user = wanted(name)?;
    let mut resolved = User::default();
    let account = account(rootfs, wanted_user)?;
    let mut account_name = None;
    match (account, wanted_user) {
        (Some(account), _) => {
            (resolved.uid, resolved.gid) = (account.uid, account.gid);
            resolved.home = account.home;
            account_name = Some(account.name);
        }
        (None, Wanted::Number(uid)) => resolved.uid = uid,
        (None, Wanted::Default) => {}
        (None, Wanted::Name(name)) => return Err(unknown("user", name)),
    }
    if let Wanted::Number(gid) = group {
        resolved.gid = gid;
    }
    look_up_groups(rootfs, group, account_name.as_deref(), groups, &mut resolved)?;
    // A file that denies its group something must deny it to whoever changes to another group
    // (CVE-2022-36109).
    let gid = resolved.gid;
    resolved.groups.retain(|group| *group != gid);
    resolved.groups.insert(0, gid);
    Ok(resolved)
}

/// A line of `passwd`.
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

fn account(rootfs: &Path, wanted: Wanted<'_>) -> Result<Option<Account>, RuntimeError> {
    let mut found = None;
    each_line(rootfs, "etc/passwd", |line| {
        let mut fields = line.split(':');
        let (Some(name), Some(_), Some(uid), Some(gid)) =
            (fields.next(), fields.next(), number(fields.next()), number(fields.next()))
        else {
            return true;
        };
        let matches = match wanted {
            Wanted::Default => uid == 0,
            Wanted::Number(number) => uid == number,
            Wanted::Name(wanted) => name == wanted,
        };
        if matches {
            let home = fields.nth(1).unwrap_or_default().to_owned();
            found = Some(Account { name: name.to_owned(), uid, gid, home });
        }
        !matches
    })?;
    Ok(found)
}

/// The group of `-u`, the groups the user is a member of, and those of `--group-add`.
fn look_up_groups(
    rootfs: &Path,
    group: Wanted<'_>,
    account: Option<&str>,
    added: &[String],
    resolved: &mut User,
) -> Result<(), RuntimeError> {
    let mut missing: Vec<&str> = Vec::new();
    for added in added {
        match wanted(added)? {
            Wanted::Number(gid) => resolved.groups.push(gid),
            Wanted::Name(name) => missing.push(name),
            Wanted::Default => {}
        }
    }
    let mut primary = match group {
        Wanted::Name(name) => Some(name),
        _ => None,
    };
    // An explicit group is the only one, as Docker has it.
    let memberships = account.filter(|_| group == Wanted::Default);
    if primary.is_some() || memberships.is_some() || !missing.is_empty() {
        let mut too_many = false;
        each_line(rootfs, "etc/group", |line| {
            let mut fields = line.splitn(4, ':');
            let (Some(name), Some(_), Some(gid)) =
                (fields.next(), fields.next(), number(fields.next()))
            else {
                return true;
            };
            if primary == Some(name) {
                resolved.gid = gid;
                primary = None;
            }
            let members = fields.next().unwrap_or_default();
            let is_member =
                memberships.is_some_and(|user| members.split(',').any(|member| member == user));
            let known = missing.len();
            missing.retain(|missing| *missing != name);
            if is_member || missing.len() < known {
                resolved.groups.push(gid);
                too_many = resolved.groups.len() > MOST_GROUPS;
            }
            !too_many
        })?;
        if too_many {
            return Err(RuntimeError::Invalid(format!("a user in more than {MOST_GROUPS} groups")));
        }
    }
    if let Some(name) = primary.or(missing.first().copied()) {
        return Err(unknown("group", name));
    }
    resolved.groups.sort_unstable();
    resolved.groups.dedup();
    Ok(())
}

/// A number is never looked up as a name.
fn wanted(text: &str) -> Result<Wanted<'_>, RuntimeError> {
    if text.is_empty() {
        return Ok(Wanted::Default);
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Wanted::Name(text));
    }
    match text.parse() {
        Ok(id) if id <= HIGHEST => Ok(Wanted::Number(id)),
        _ => Err(RuntimeError::Invalid(format!(
            "uids and gids must be in range 0-{HIGHEST}: {text:?}"
        ))),
    }
}

fn number(field: Option<&str>) -> Option<u32> {
    field?.parse().ok().filter(|id| *id <= HIGHEST)
}

fn unknown(what: &str, name: &str) -> RuntimeError {
    RuntimeError::Invalid(format!(
        "unable to find {what} {name}: no matching entries in {} file",
        if what == "user" { "passwd" } else { "group" }
    ))
}

/// Calls `take` with each line of a file in the image until it returns false. A missing file has
/// no lines; a line that is too long is passed over.
fn each_line(
    rootfs: &Path,
    name: &str,
    mut take: impl FnMut(&str) -> bool,
) -> Result<(), RuntimeError> {
    let failed = |source| RuntimeError::Io { action: "read", path: rootfs.join(name), source };
    let file = match open(rootfs, name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let mut reader = BufReader::new(file.take(LONGEST_FILE));
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(failed)?;
        if read == 0 {
            break;
        }
        if line.last() != Some(&b'\n') && read as u64 == LONGEST_LINE {
            reader.skip_until(b'\n').map_err(failed)?;
            continue;
        }
        if let Ok(text) = std::str::from_utf8(&line)
            && !take(text.trim_end_matches(['\n', '\r']))
        {
            return Ok(());
        }
    }
    if reader.get_ref().limit() == 0 {
        return Err(RuntimeError::Invalid(format!("/{name} of the image is longer than 16 MiB")));
    }
    Ok(())
}

/// Opens a regular file below the root, following links as the container would. What is there is
/// looked at before it is opened: to open a device may do something, and to open a pipe may wait.
fn open(rootfs: &Path, name: &str) -> io::Result<File> {
    let root = File::open(rootfs)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = loop {
        match openat2(&root, name, flags, Mode::empty(), resolve) {
            // Something was renamed on the way, anywhere on the host.
            Err(Errno::AGAIN | Errno::INTR) => {}
            found => break found?,
        }
    };
    if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rustix::fs::inotify;

    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, passwd: &str, group: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("rnet-user-{name}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("etc")).unwrap();
            std::fs::write(path.join("etc/passwd"), passwd).unwrap();
            std::fs::write(path.join("etc/group"), group).unwrap();
            Self(path)
        }

        fn check(&self, user: &str, added: &[&str]) -> Result<(u32, u32, Vec<u32>), String> {
            let added: Vec<String> = added.iter().map(ToString::to_string).collect();
            resolve(&self.0, user, &added)
                .map(|user| (user.uid, user.gid, user.groups))
                .map_err(|error| error.to_string())
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// The most memory that this process has had, in KiB.
    fn peak() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/srv/web:/bin/sh\n\
                          1000:x:0:0:trap:/root:/bin/sh\nuser:x:1001:1001::/home/user:\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\nwheel:x:10:user,web\ndocker:x:999:user\n";

    #[test]
    fn cve_2026_30892_users_resolve_as_docker_resolves_them() {
        let root = Root::new("table", PASSWD, GROUP);
        assert_eq!(root.check("", &[]), Ok((0, 0, vec![0])));
        assert_eq!(root.check("1", &[]), Ok((1, 0, vec![0])));
        assert_eq!(root.check("1:", &[]), Ok((1, 0, vec![0])));
        assert_eq!(root.check(":1", &[]), Ok((0, 1, vec![1])));
        assert_eq!(root.check("web", &[]), Ok((33, 33, vec![33, 10])));
        assert_eq!(root.check("1001", &[]), Ok((1001, 1001, vec![1001, 10, 999])));
        assert_eq!(root.check("user:web", &[]), Ok((1001, 33, vec![33])));
        assert_eq!(root.check("5:6", &["wheel", "77"]), Ok((5, 6, vec![6, 10, 77])));
        assert_eq!(resolve(&root.0, "web", &[]).unwrap().home, "/srv/web");
    }

    #[test]
    fn cve_2026_46680_a_number_is_never_a_name() {
        let root = Root::new("number", PASSWD, GROUP);
        assert_eq!(root.check("1000", &[]), Ok((1000, 0, vec![0])));
    }

    #[test]
    fn cve_2024_40635_ids_out_of_range_are_refused_and_never_wrap() {
        let root = Root::new("range", PASSWD, GROUP);
        for user in ["4294967296", "-1", "2147483648", "0:4294967296", "99999999999999999999"] {
            let error = root.check(user, &[]).unwrap_err();
            assert!(error.contains("must be in range"), "{user}: {error}");
        }
        for user in ["0x1", "nobody-here", "0:nogroup"] {
            assert!(root.check(user, &[]).unwrap_err().contains("unable to find"), "{user}");
        }
        assert!(root.check("0", &["nogroup"]).unwrap_err().contains("nogroup"));
    }

    #[test]
    fn an_image_cannot_point_outside() {
        let root = Root::new("link", "", "");
        std::fs::remove_file(root.0.join("etc/passwd")).unwrap();
        let outside = root.0.with_extension("outside");
        std::fs::write(&outside, "spy:x:7:7::/:\n").unwrap();
        std::os::unix::fs::symlink(&outside, root.0.join("etc/passwd")).unwrap();
        assert!(root.check("spy", &[]).is_err());
        std::fs::remove_file(outside).unwrap();
    }

    #[test]
    fn a_pipe_of_an_image_is_not_opened() {
        let root = Root::new("pipe", "", "");
        let path = root.0.join("etc/passwd");
        std::fs::remove_file(&path).unwrap();
        let mode = Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, mode, 0).unwrap();
        let opened = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&opened, &path, inotify::WatchFlags::OPEN).unwrap();
        assert_eq!(root.check("web", &[]).unwrap_err(), format!("cannot read {}", path.display()));
        assert_eq!(rustix::io::read(&opened, &mut [0; 256]), Err(Errno::AGAIN));
    }

    #[test]
    fn cve_2026_47262_hostile_files_are_read_in_bounded_memory() {
        let root = Root::new("hostile", PASSWD, GROUP);
        let before = peak();
        for file in ["group", "passwd"] {
            // One line without an end.
            let endless = File::create(root.0.join("etc").join(file)).unwrap();
            endless.set_len(1 << 30).unwrap();
            let error = root.check("user", &[]).unwrap_err();
            assert!(error.contains(&format!("/etc/{file} of the image is longer than 16 MiB")));
        }
        // Many lines.
        let lines = "someone:x:5:5::/:\n".repeat(1 << 20);
        std::fs::write(root.0.join("etc/passwd"), lines).unwrap();
        assert!(root.check("else", &[]).unwrap_err().contains("longer than 16 MiB"));
        let more = peak() - before;
        assert!(more < 64 << 10, "{more} KiB more at its peak");
    }

    #[test]
    fn an_image_without_the_files_has_root_only() {
        let root = Root::new("none", "", "");
        std::fs::remove_dir_all(root.0.join("etc")).unwrap();
        assert_eq!(root.check("", &[]), Ok((0, 0, vec![0])));
        assert_eq!(root.check("7:8", &[]), Ok((7, 8, vec![8])));
        assert!(root.check("web", &[]).is_err());
    }
}
