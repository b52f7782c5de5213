//! `--userns-remap`: whom the users and groups of containers are on the host.
//!
//! As in Docker, a user of the host is named, with a group if it is not the one of the same name, and what
//! counts are the ranges that `/etc/subuid` and `/etc/subgid` give to them. `default` is the user
//! `dockremap`, who is made if there is none.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use shim::launch;
use tree::{IdMap, IdRange};

/// The user that `default` stands for: Docker's.
const DEFAULT: &str = "dockremap";
/// As many ids as images use: `nobody` is 65534.
const LEAST: u32 = 65536;
/// As many ranges as the kernel takes.
const MOST: usize = 340;
/// Where ranges are given out that nobody chose.
const FIRST: u32 = 100_000;
/// How long a program may take to write a file in `/etc`.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whose ranges count.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Names {
    /// The user, by name and by number.
    user: [String; 2],
    /// The group, likewise.
    group: [String; 2],
}

/// Finds whom a word of `--userns-remap` means; nothing if containers are to have the host's users.
/// `etc` is `/etc`.
pub(super) fn find(word: &str, etc: &Path) -> anyhow::Result<Option<IdMap>> {
    if word.is_empty() {
        return Ok(None);
    }
    let read = |name: &str| fs::read_to_string(etc.join(name)).unwrap_or_default();
    if word == "default" && row(&read("passwd"), DEFAULT).is_none() {
        make_user()?;
    }
    let names = names(word, &read("passwd"), &read("group"))?;
    if names.user[1] == "0" {
        tracing::warn!("user namespaces: root cannot be remapped to itself; they are off");
        return Ok(None);
    }
    if names.user[0] == DEFAULT {
        give_ranges(etc)?;
    }
    map(&names, &read("subuid"), &read("subgid")).map(Some)
}

/// The user and the group of a word, by what `passwd` and `group` have.
fn names(word: &str, passwd: &str, group: &str) -> anyhow::Result<Names> {
    let parts: Vec<&str> = word.split(':').collect();
    let (user, own) = match parts[..] {
        [user] => (user, None),
        [user, group] => (user, Some(group)),
        _ => bail!("invalid user/group specification in --userns-remap: {word:?}"),
    };
    let user = if user == "default" { DEFAULT } else { user };
    let found = match (row(passwd, user), user.parse::<u32>()) {
        (Some(found), _) => found,
        (None, Ok(uid)) => bail!("--userns-remap: uid {uid} has no entry in /etc/passwd"),
        (None, Err(_)) => bail!("--userns-remap: there is no user {user:?} in /etc/passwd"),
    };
    // A number stands for the group of the same number, a name for that of the same name.
    let own = own.unwrap_or(user);
    let found_group = match (row(group, own), own.parse::<u32>()) {
        (Some(found), _) => found,
        (None, Ok(gid)) => bail!("--userns-remap: gid {gid} has no entry in /etc/group"),
        (None, Err(_)) => bail!("--userns-remap: there is no group {own:?} in /etc/group"),
    };
    Ok(Names { user: found, group: found_group })
}

/// Name and number of the one of `passwd` or `group` with this name, or this number if it is one.
fn row(text: &str, wanted: &str) -> Option<[String; 2]> {
    let column = usize::from(wanted.parse::<u32>().is_ok()) * 2;
    text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (name, id) = (*fields.first()?, *fields.get(2)?);
        (fields.get(column) == Some(&wanted)).then(|| [name.to_owned(), id.to_owned()])
    })
}

/// The map by what `subuid` and `subgid` have.
fn map(names: &Names, of_users: &str, of_groups: &str) -> anyhow::Result<IdMap> {
    let users = ranges("/etc/subuid", of_users, &[&names.user])?;
    let groups = ranges("/etc/subgid", of_groups, &[&names.group, &names.user])?;
    IdMap::new(users, groups).context("--userns-remap: the ranges have no root")
}

/// The ranges of the first of some owners who has any, one after the other.
fn ranges(file: &str, text: &str, owners: &[&[String; 2]]) -> anyhow::Result<Vec<IdRange>> {
    let mut given = Vec::new();
    for owner in owners {
        given = given_to(file, text, owner)?;
        if !given.is_empty() {
            break;
        }
    }
    let name = &owners[0][0];
    if given.is_empty() {
        bail!(
            "--userns-remap: {file} has no range for {name:?}: add a line like {name}:{FIRST}:{LEAST}"
        );
    }
    check(file, name, &given)?;
    let mut inside: u32 = 0;
    let mut all = Vec::with_capacity(given.len());
    for (outside, count) in given {
        // Together they are no more than there are ids: they do not overlap.
        all.push(IdRange { inside, outside, count });
        inside = inside.saturating_add(count);
    }
    Ok(all)
}

/// First and number of the ranges of an owner.
fn given_to(file: &str, text: &str, owner: &[String; 2]) -> anyhow::Result<Vec<(u32, u32)>> {
    let mut given = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, first, count] = fields[..] else { continue };
        if !owner.iter().any(|known| known == name) {
            continue;
        }
        let (Ok(first), Ok(count)) = (first.parse(), count.parse()) else {
            bail!("--userns-remap: {file} has a range that is none: {line:?}");
        };
        given.push((first, count));
    }
    Ok(given)
}

fn check(file: &str, name: &str, given: &[(u32, u32)]) -> anyhow::Result<()> {
    let of = |&(first, count): &(u32, u32)| {
        let last = u64::from(first) + u64::from(count.max(1)) - 1;
        (u64::from(first), last)
    };
    let mut sorted: Vec<_> = given.iter().map(of).collect();
    sorted.sort_unstable();
    for pair in sorted.windows(2) {
        if pair[1].0 <= pair[0].1 {
            bail!(
                "--userns-remap: ranges of {name:?} in {file} overlap: {}-{} and {}-{}",
                pair[0].0,
                pair[0].1,
                pair[1].0,
                pair[1].1
            );
        }
    }
    if sorted.first().is_some_and(|(first, _)| *first == 0) {
        bail!("--userns-remap: a range of {name:?} in {file} has the host's root in it");
    }
    // The last number is no id.
    if sorted.last().is_some_and(|(_, last)| *last >= u64::from(u32::MAX)) {
        bail!("--userns-remap: a range of {name:?} in {file} has numbers that are no ids");
    }
    if given.len() > MOST {
        bail!("--userns-remap: {name:?} has more than {MOST} ranges in {file}");
    }
    let sum: u64 = given.iter().map(|(_, count)| u64::from(*count)).sum();
    if sum < u64::from(LEAST) {
        bail!(
            "--userns-remap: the ranges of {name:?} in {file} are too small: images use {LEAST} ids, \
             and they have {sum}"
        );
    }
    Ok(())
}

/// Makes the user of `default`, who cannot log in.
fn make_user() -> anyhow::Result<()> {
    let arguments =
        ["--system", "--user-group", "--no-create-home", "--shell", "/bin/false", DEFAULT];
    run("useradd", &arguments).with_context(|| {
        format!(
            "--userns-remap default: cannot make the user {DEFAULT}: make it with its group, with \
             lines like {DEFAULT}:{FIRST}:{LEAST} in /etc/subuid and /etc/subgid"
        )
    })
}

/// Gives the user of `default` ranges that nobody has, where it has none.
fn give_ranges(etc: &Path) -> anyhow::Result<()> {
    for (file, option) in [("subuid", "--add-subuids"), ("subgid", "--add-subgids")] {
        let path = etc.join(file);
        let opened = OpenOptions::new().create(true).append(true).open(&path);
        opened.with_context(|| format!("cannot open {}", path.display()))?;
        let text = fs::read_to_string(&path).unwrap_or_default();
        if text.lines().any(|line| line.split(':').next() == Some(DEFAULT)) {
            continue;
        }
        let first = free(&text);
        let range = format!("{first}-{}", u64::from(first) + u64::from(LEAST) - 1);
        run("usermod", &[option, &range, DEFAULT]).with_context(|| {
            format!(
                "--userns-remap default: cannot give {DEFAULT} a range: add the line \
                 {DEFAULT}:{first}:{LEAST} to {}",
                path.display()
            )
        })?;
    }
    Ok(())
}

/// The first id behind all ranges that are given out.
fn free(text: &str) -> u32 {
    let end = |line: &str| {
        let mut numbers = line.trim().split(':').skip(1).map(str::parse::<u32>);
        numbers.next()?.ok()?.checked_add(numbers.next()?.ok()?)
    };
    text.lines().filter_map(end).max().unwrap_or(FIRST).max(FIRST)
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let called = launch::call(Command::new(program).args(arguments), b"", PATIENCE);
    let called = called.with_context(|| format!("cannot run {program}"))?;
    if !called.status.success() {
        bail!("{program}: {}", called.errors.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nweb:x:501:502::/:/bin/false\n\
                          solo:x:503:1::/:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:502:\nstaff:x:501:\nothers:x:600:\n";

    fn of(word: &str, users: &str, groups: &str) -> Result<IdMap, String> {
        let names = names(word, PASSWD, GROUP).map_err(|error| error.to_string())?;
        map(&names, users, groups).map_err(|error| error.to_string())
    }

    #[test]
    fn a_user_and_a_group_are_known_by_name_and_by_number() {
        let (users, groups) = ("web:200000:65536", "web:300000:65536\nothers:400000:65536");
        for (word, root) in [
            ("web", (200_000, 300_000)),
            ("web:web", (200_000, 300_000)),
            ("501:502", (200_000, 300_000)),
            ("501", (200_000, 300_000)),
            ("web:others", (200_000, 400_000)),
            ("501:600", (200_000, 400_000)),
        ] {
            assert_eq!(of(word, users, groups).unwrap().root(), root, "{word}");
        }
        let by_number = of("web", "501:7000:70000", "# groups\n502:8000:70000").unwrap();
        assert_eq!(by_number.root(), (7000, 8000));
    }

    #[test]
    fn ranges_of_one_owner_are_put_one_after_the_other() {
        let map = of("web", "web:500000:40000\nx:1:2\nweb:200000:40000", "web:1:65536").unwrap();
        assert_eq!(map.outside(39_999, 0).unwrap().0, 539_999);
        assert_eq!(map.outside(40_000, 0).unwrap().0, 200_000);
    }

    #[test]
    fn what_is_no_user_and_no_group_is_named() {
        for (word, words) in [
            ("a:b:c", "invalid user/group specification in --userns-remap: \"a:b:c\""),
            ("nope", "there is no user \"nope\" in /etc/passwd"),
            ("77", "uid 77 has no entry in /etc/passwd"),
            ("web:nope", "there is no group \"nope\" in /etc/group"),
            ("web:77", "gid 77 has no entry in /etc/group"),
            ("solo", "there is no group \"solo\" in /etc/group"),
        ] {
            let refused = of(word, "", "").unwrap_err();
            assert!(refused.contains(words), "{word}: {refused}");
        }
    }

    #[test]
    fn ranges_that_overlap_or_are_too_small_are_refused_by_name() {
        let good = "web:200000:65536";
        for (users, groups, words) in [
            ("", good, "/etc/subuid has no range for \"web\""),
            (good, "", "/etc/subgid has no range for \"web\""),
            ("web:200000:1000", good, "\"web\" in /etc/subuid are too small"),
            (
                "web:200000:65536\nweb:265535:9",
                good,
                "ranges of \"web\" in /etc/subuid overlap: 200000-265535 and 265535-265543",
            ),
            (good, "web:0:65536", "\"web\" in /etc/subgid has the host's root in it"),
            (good, "web:4294900000:70000", "has numbers that are no ids"),
            ("web:x:65536", good, "/etc/subuid has a range that is none: \"web:x:65536\""),
        ] {
            let refused = of("web", users, groups).unwrap_err();
            assert!(refused.contains(words), "{words}: {refused}");
        }
    }

    #[test]
    fn a_range_that_nobody_chose_begins_behind_all_others() {
        assert_eq!(free(""), FIRST);
        assert_eq!(free("a:100000:65536\nb:165536:65536\nbroken\n"), 231_072);
    }
}
