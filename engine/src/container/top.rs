//! `top`: the processes of a container, read from the host's `/proc`; with options, by the host's
//! `ps`.

mod ps;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Local, TimeDelta, Utc};
use nix::unistd::{SysconfVar, Uid, User, sysconf};

use super::Containers;
use super::Processes;
use engine_error::{Error, Result};

/// Where controllers of cgroup v1 are mounted, one of which every container is in.
const V1: [&str; 3] = ["pids", "memory", "freezer"];

impl Containers {
    /// The processes of a container, in the columns that options of `ps` ask for. Blocks.
    pub fn top(&self, key: &str, options: &str) -> Result<Processes> {
        let container = self.registry.find(key)?.get();
        if !container.state.has_process() {
            return Err(Error::conflict(format!("container {} is not running", container.id)));
        }
        let pids = members(container.state.pid)
            .map_err(|error| Error::internal("cannot list the processes of a container", error))?;
        if !options.trim().is_empty()
            && let Some(processes) = ps::list(options, &pids)?
        {
            return Ok(processes);
        }
        let clock = Clock::read();
        let titles = "UID PID PPID C STIME TTY TIME CMD".split(' ').map(str::to_owned).collect();
        // A process that ended meanwhile is left out.
        let processes = pids.into_iter().filter_map(|pid| row(pid, &clock)).collect();
        Ok(Processes { titles, processes })
    }
}

/// When the host booted, and how its clock ticks.
struct Clock {
    booted: DateTime<Utc>,
    ticks: u64,
    now: DateTime<Utc>,
}

impl Clock {
    fn read() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let booted = text.lines().find_map(|line| line.strip_prefix("btime "));
        let seconds = booted.and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        Self {
            booted: DateTime::from_timestamp(seconds, 0).unwrap_or_default(),
            ticks: u64::try_from(ticks).unwrap_or(100).max(1),
            now: Utc::now(),
        }
    }

    fn span(&self, ticks: u64) -> TimeDelta {
        TimeDelta::milliseconds(i64::try_from(ticks * 1000 / self.ticks).unwrap_or(i64::MAX))
    }
}

/// The processes in the cgroup of a process, and below it.
fn members(pid: i32) -> std::io::Result<BTreeSet<i32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let mut pids = BTreeSet::new();
    collect(&directory(&text), &mut pids)?;
    Ok(pids)
}

/// The directory of a cgroup, from the text of `/proc/<pid>/cgroup`.
fn directory(text: &str) -> PathBuf {
    let root = Path::new("/sys/fs/cgroup");
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let relative = path.trim_start_matches('/');
        if let Some(name) = controllers.split(',').find(|name| V1.contains(name)) {
            let joint = root.join(controllers);
            let mount = if joint.is_dir() { joint } else { root.join(name) };
            return mount.join(relative);
        }
        if controllers.is_empty() && root.join("cgroup.controllers").exists() {
            return root.join(relative);
        }
    }
    root.to_owned()
}

fn collect(directory: &Path, pids: &mut BTreeSet<i32>) -> std::io::Result<()> {
    let text = fs::read_to_string(directory.join("cgroup.procs"))?;
    pids.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok()));
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids)?;
        }
    }
    Ok(())
}

/// One process in the columns of `ps -ef`.
fn row(pid: i32, clock: &Clock) -> Option<Vec<String>> {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let stat = fs::read_to_string(directory.join("stat")).ok()?;
    // The name may hold anything, blanks and brackets too: it ends at the last bracket.
    let (head, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |place: usize| fields.get(place).and_then(|text| text.parse::<u64>().ok());
    let (used, begun) = (number(11)? + number(12)?, number(19)?);
    let started = clock.booted + clock.span(begun);
    let lived = (clock.now - started).num_milliseconds().max(1);
    let share = clock.span(used).num_milliseconds() * 100 / lived;
    let name = head.split_once('(').map_or("", |(_, name)| name);
    Some(vec![
        owner(&directory)?,
        pid.to_string(),
        fields.get(1)?.to_string(),
        share.clamp(0, 99).to_string(),
        begin(started, clock.now),
        terminal(number(4)?),
        duration(clock.span(used).num_seconds()),
        command(&directory, name),
    ])
}

fn owner(directory: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let uid = fs::metadata(directory).ok()?.uid();
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    Some(user.map_or_else(|| uid.to_string(), |user| user.name))
}

fn begin(started: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let local = started.with_timezone(&Local);
    let format = if now - started < TimeDelta::hours(24) { "%H:%M" } else { "%b%d" };
    local.format(format).to_string()
}

/// The name of a terminal by its device number.
fn terminal(device: u64) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".to_owned(),
    }
}

fn duration(seconds: i64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn command(directory: &Path, name: &str) -> String {
    let text = fs::read(directory.join("cmdline")).unwrap_or_default();
    let words: Vec<_> = text
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    if words.is_empty() { format!("[{name}]") } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_row() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let row = row(pid, &Clock::read()).unwrap();
        assert_eq!(row.len(), 8);
        assert_eq!(row[1], pid.to_string());
        assert!(row[7].contains("engine"), "{row:?}");
    }

    #[test]
    fn terminals_are_named_by_their_numbers() {
        assert_eq!(terminal(0), "?");
        assert_eq!(terminal(136 << 8 | 3), "pts/3");
    }
}
