//! Recipes of the documentation, run word for word: namespaces stand for machines.
//!
//! A recipe is the `console` blocks of a page. `one# COMMAND` is what is typed on the machine `one`,
//! the lines after it are what is printed, where `…` stands for anything. What starts a daemon, and what an init
//! system does, is done by the laboratory instead; everything else is given to a shell of that machine.

use std::time::{Duration, Instant};

use crate::rack::NAMES;
use crate::{Rack, patient};

/// The longest until a machine knows what was done on another.
const PATIENCE: Duration = Duration::from_secs(10);

/// The steps of a page.
#[derive(Clone, Debug)]
pub struct Recipe(Vec<Step>);

/// A command, and what it prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it is typed.
    pub machine: String,
    /// What is typed.
    pub command: String,
    /// What is printed then, line by line.
    pub printed: Vec<String>,
}

impl Recipe {
    /// The steps of a page.
    pub fn read(page: &str) -> Self {
        let mut steps: Vec<Step> = Vec::new();
        let mut inside = false;
        for line in page.lines() {
            if line.starts_with("```") {
                inside = line == "```console";
            } else if inside {
                match line.split_once("# ").filter(|(place, _)| Self::is_place(place)) {
                    Some((machine, command)) => steps.push(Step {
                        machine: machine.to_owned(),
                        command: command.to_owned(),
                        printed: Vec::new(),
                    }),
                    None => steps.last_mut().unwrap().printed.push(line.to_owned()),
                }
            }
        }
        Self(steps)
    }

    fn is_place(text: &str) -> bool {
        NAMES.contains(&text) || text == "etcd"
    }

    /// Does all of it, and tells of each step with what it printed.
    pub fn run(&self, rack: &mut Rack, mut tell: impl FnMut(&Step, &str)) {
        for step in &self.0 {
            let printed = step.run(rack);
            tell(step, &printed);
        }
    }
}

impl Step {
    fn run(&self, rack: &mut Rack) -> String {
        let machine = NAMES.iter().position(|name| *name == self.machine);
        match (machine, self.command.as_str()) {
            (None, "systemctl stop etcd") => rack.etcd.kill_all(),
            (None, "systemctl start etcd") => rack.etcd.restart_all(),
            (None, command) => panic!("nobody does {command} on etcd's machine"),
            (Some(machine), "systemctl kill --signal KILL rnet") => {
                rack.machines[machine].daemon_mut().kill();
            }
            (Some(machine), "systemctl start rnet") => {
                rack.machines[machine].daemon_mut().restart();
            }
            (Some(machine), command) => match command.strip_prefix("rnet daemon ") {
                Some(flags) => {
                    let flags: Vec<_> = flags.trim_end_matches(" &").split(' ').collect();
                    rack.machines[machine].start(&flags);
                }
                None => return self.type_in(rack, machine),
            },
        }
        String::new()
    }

    /// Types it in, and again as long as it prints something else than it will: the machines tell each other
    /// what has happened, and nobody types as fast as this.
    fn type_in(&self, rack: &Rack, machine: usize) -> String {
        let start = Instant::now();
        loop {
            let (fine, printed) = rack.machines[machine].daemon().shell(&self.command);
            if fine && self.is(&printed) {
                return printed;
            }
            let (again, wanted) = (self.asks_only(), self.printed.join("\n"));
            assert!(
                again && start.elapsed() < patient(PATIENCE),
                "{}# {}\n{printed}\nand not\n{wanted}",
                self.machine,
                self.command
            );
        }
    }

    fn asks_only(&self) -> bool {
        let words = ["exec", "ls", "inspect", "check", "ps"];
        self.command.split(' ').any(|word| words.contains(&word))
    }

    /// Whether this is what is printed.
    fn is(&self, printed: &str) -> bool {
        resembles(printed, &self.printed.join("\n"))
    }
}

/// Whether a text is as it is written, where `…` stands for anything and blanks are as many as there are.
fn resembles(text: &str, wanted: &str) -> bool {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (text, wanted) = (squeeze(text), squeeze(wanted));
    let mut parts = wanted.split('…').map(str::trim);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut open = false;
    for part in parts {
        open = part.is_empty();
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    open || rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_steps_of_its_blocks() {
        let page = "Text\n\n```console\none# rnet ps\nID  NAME\n…\ntwo# true\n```\none# no\n";
        let step = |machine: &str, command: &str, printed: &[&str]| Step {
            machine: machine.to_owned(),
            command: command.to_owned(),
            printed: printed.iter().map(|line| (*line).to_owned()).collect(),
        };
        let steps = [step("one", "rnet ps", &["ID  NAME", "…"]), step("two", "true", &[])];
        assert_eq!(Recipe::read(page).0, steps);
    }

    #[test]
    fn an_ellipsis_stands_for_anything() {
        for (line, wanted) in [("a  b", "a b"), ("abc", "a…c"), ("abc", "…"), ("abc", "ab…")]
        {
            assert!(resembles(line, wanted), "{line} {wanted}");
        }
        for (line, wanted) in [("ab", "a"), ("abc", "a…d"), ("abcd", "a…c"), ("a", "b…")] {
            assert!(!resembles(line, wanted), "{line} {wanted}");
        }
    }
}
