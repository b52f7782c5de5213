//! `top` with options: the host's `ps` is run with them, and what is the container's is kept.
//!
//! Its output is a table for people, so this is as good as Docker's own reading of it: the column
//! `PID` must be there, and only the last column may have blanks.

use std::collections::BTreeSet;
use std::io;
use std::process::{Command, Output};

use cnm::Kind;

use super::Processes;
use engine_error::{Error, Result};

/// The processes as `ps` shows them with these options, or nothing if the host has no `ps`.
pub(super) fn list(options: &str, pids: &BTreeSet<i32>) -> Result<Option<Processes>> {
    check(options)?;
    let failed = |error| Error::internal("cannot run ps", error);
    let only = pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let output = match run(options, Some(&format!("-q{only}"))) {
        // Some options cannot be had together with the choice of processes.
        Ok(output) if !output.status.success() => run(options, None).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        let first = error.lines().next().filter(|line| !line.is_empty());
        return Err(Error::invalid(format!("ps: {}", first.unwrap_or("it failed without a word"))));
    }
    read(&String::from_utf8_lossy(&output.stdout), pids).map(Some)
}

fn run(options: &str, only: Option<&str>) -> io::Result<Output> {
    let mut command = Command::new("ps");
    command.args(options.split_ascii_whitespace()).args(only).output()
}

/// Refuses a column that would go by the name of `PID` and be another.
fn check(options: &str) -> Result<()> {
    let words = options.split_ascii_whitespace().skip(1);
    let renamed = words.filter_map(|word| word.split_once('='));
    for (column, title) in renamed {
        if title.starts_with("PID") {
            return Err(Error::invalid(format!("specifying \"{column}={title}\" is not allowed")));
        }
    }
    Ok(())
}

/// Reads the table and keeps the rows of these processes, and of their threads.
fn read(text: &str, pids: &BTreeSet<i32>) -> Result<Processes> {
    let mut lines = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let titles = lines.next().unwrap_or_default();
    let missing = || Error::new(Kind::Internal, "Couldn't find PID field in ps output");
    let column = titles.iter().position(|title| *title == "PID").ok_or_else(missing)?;
    let mut processes = Vec::new();
    let mut kept = false;
    for fields in lines.filter(|fields| !fields.is_empty()) {
        let pid = fields.get(column).copied().unwrap_or_default();
        // A thread follows its process.
        if pid != "-" {
            let unexpected = |error| Error::internal(format!("Unexpected pid '{pid}'"), error);
            kept = pids.contains(&pid.parse::<i32>().map_err(unexpected)?);
        }
        if kept {
            processes.push(row(&fields, titles.len()));
        }
    }
    let titles = titles.into_iter().map(str::to_owned).collect();
    Ok(Processes { titles, processes })
}

/// The fields of a row; those that are too many belong to the last column.
fn row(fields: &[&str], columns: usize) -> Vec<String> {
    let (first, rest) = fields.split_at(fields.len().min(columns - 1));
    let last = (!rest.is_empty()).then(|| rest.join(" "));
    first.iter().map(|field| (*field).to_owned()).chain(last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_container_and_their_threads_are_kept() {
        let text = "USER   PID CMD\nroot     1 /sbin/init splash\nweb     12 httpd -p 80\n\
                    web      - -\nroot    13 sh\nroot     - -\n";
        let list = read(text, &BTreeSet::from([12])).unwrap();
        assert_eq!(list.titles, ["USER", "PID", "CMD"]);
        assert_eq!(list.processes, [["web", "12", "httpd -p 80"], ["web", "-", "-"]]);
    }

    #[test]
    fn a_table_without_process_ids_says_nothing_of_containers() {
        let error = |text| read(text, &BTreeSet::new()).unwrap_err().chain();
        assert_eq!(error("CMD\nsh\n"), "Couldn't find PID field in ps output");
        assert!(error("PID\nx\n").starts_with("Unexpected pid 'x'"));
        assert!(check("-o pid,cmd").is_ok());
        let error = check("-o cmd=PID").unwrap_err();
        assert_eq!(error.to_string(), "specifying \"cmd=PID\" is not allowed");
    }
}
