//! Stages, and which of them a build needs.

use std::collections::BTreeSet;

use engine_error::{Error, Result};

use crate::instruction::{Instruction, Step};

/// A Dockerfile.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dockerfile {
    /// The escape character.
    pub escape: char,
    /// `ARG` before the first `FROM`.
    pub arguments: Vec<Step>,
    /// The stages.
    pub stages: Vec<Stage>,
    /// What is allowed and should not be.
    pub warnings: Vec<String>,
}

/// `FROM` and what follows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stage {
    /// The line of `FROM`.
    pub line: usize,
    /// `FROM`, as it is written.
    pub source: String,
    /// The image or stage it begins with, before variables are put in.
    pub base: String,
    /// `AS`, in lower case.
    pub name: Option<String>,
    /// `--platform`.
    pub platform: Option<String>,
    /// What follows.
    pub steps: Vec<Step>,
}

impl Dockerfile {
    /// The stage that `--target` means; the last if it is empty.
    pub fn target(&self, wanted: &str) -> Result<usize> {
        if wanted.is_empty() {
            return Ok(self.stages.len().saturating_sub(1));
        }
        self.named(wanted, self.stages.len()).ok_or_else(|| {
            let quoted = crate::words::quoted(wanted);
            Error::invalid(format!("target stage {quoted} could not be found"))
        })
    }

    /// The stage of a name or number among the first so many. The last of a name counts.
    pub fn named(&self, wanted: &str, before: usize) -> Option<usize> {
        let number = || wanted.parse::<usize>().ok().filter(|number| *number < before);
        self.by_name(wanted, before).or_else(number)
    }

    /// The stage of a name among the first so many; numbers mean nothing.
    pub fn by_name(&self, wanted: &str, before: usize) -> Option<usize> {
        let is = |stage: &Stage| {
            stage.name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(wanted))
        };
        self.stages[..before.min(self.stages.len())].iter().rposition(is)
    }

    /// The stages that a stage needs, itself included, in order; `bases` are the names after `FROM`
    /// with their variables put in.
    pub fn needed(&self, target: usize, bases: &[String]) -> BTreeSet<usize> {
        let mut needed = BTreeSet::new();
        let mut open = vec![target];
        while let Some(stage) = open.pop() {
            if needed.insert(stage) {
                open.extend(self.needs(stage, bases));
            }
        }
        needed
    }

    /// The stages that a stage itself takes something of.
    pub fn needs(&self, at: usize, bases: &[String]) -> BTreeSet<usize> {
        let mut needs: BTreeSet<usize> =
            bases.get(at).and_then(|base| self.by_name(base, at)).into_iter().collect();
        for source in self.stages[at].steps.iter().flat_map(|step| sources(&step.instruction)) {
            if source.contains('$') {
                // Which one it is turns out later.
                needs.extend(0..at);
            } else {
                needs.extend(self.named(&source, at));
            }
        }
        needs
    }
}

/// What an instruction takes files from.
fn sources(instruction: &Instruction) -> Vec<String> {
    match instruction {
        Instruction::Copy(transfer) | Instruction::Add(transfer) => {
            transfer.from.iter().cloned().collect()
        }
        Instruction::Run(run) => {
            let options = run.mounts.iter().flat_map(|mount| mount.split(','));
            options.filter_map(|option| Some(option.strip_prefix("from=")?.to_owned())).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn file() -> Dockerfile {
        let text = "FROM a AS one\nFROM one AS two\nFROM b AS three\nCOPY --from=one /x /y\n\
                    FROM c AS Four\nRUN --mount=type=bind,from=2,target=/x true\n";
        parse(text, "Dockerfile").unwrap()
    }

    #[test]
    fn only_what_a_target_takes_something_of_is_needed() {
        let file = file();
        let bases: Vec<_> = file.stages.iter().map(|stage| stage.base.clone()).collect();
        let needed =
            |name| file.needed(file.target(name).unwrap(), &bases).into_iter().collect::<Vec<_>>();
        assert_eq!(needed(""), [0, 2, 3]);
        assert_eq!(needed("two"), [0, 1]);
        assert_eq!(needed("FOUR"), [0, 2, 3]);
        assert_eq!(needed("1"), [0, 1]);
    }

    #[test]
    fn a_target_that_is_not_there_is_named() {
        let error = file().target("nope").unwrap_err();
        assert_eq!(error.to_string(), "target stage \"nope\" could not be found");
        assert!(file().target("9").is_err());
    }

    #[test]
    fn a_source_that_is_not_known_yet_needs_all_that_is_before() {
        let text = "FROM a AS x\nFROM b AS y\nFROM c\nCOPY --from=$WHICH /x /y\n";
        let file = parse(text, "Dockerfile").unwrap();
        let bases = vec![String::new(); 3];
        assert_eq!(file.needed(2, &bases).len(), 3);
    }
}
