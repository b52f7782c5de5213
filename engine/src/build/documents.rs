//! Documents in a Dockerfile, as commands and as files.

use dockerfile::{Document, Run};

/// Where a step finds a script that names its interpreter.
pub(super) const SCRIPT: &str = "/dev/pipes/script";

/// The words that a `RUN` comes to. One document alone is the script; with others around it, or with
/// words, the shell is given all of them as they are written.
pub(super) fn words(run: &Run, shell: &[String]) -> Vec<String> {
    let mut words = run.command.resolve(shell);
    if run.command.shell && run.command.words.is_empty() {
        return shell.to_vec();
    }
    let Some(line) = words.last_mut().filter(|_| run.command.shell) else { return words };
    if let [only] = run.documents.as_slice()
        && is_alone(line, only)
    {
        if interpreter(run).is_some() {
            return vec![SCRIPT.to_owned()];
        }
        line.clone_from(&only.text);
        return words;
    }
    for document in &run.documents {
        line.push('\n');
        line.push_str(&document.text);
        line.push_str(&document.name);
    }
    words
}

/// Whether a line is nothing but the name of a document.
fn is_alone(line: &str, document: &Document) -> bool {
    let name = line.trim().strip_prefix("<<").map(|rest| rest.trim_start_matches('-'));
    let bare = |name: &str| name.trim_matches(['"', '\'']) == document.name;
    name.is_some_and(bare)
}

/// The program of a script that names one in its first line.
pub(super) fn interpreter(run: &Run) -> Option<&Document> {
    match run.documents.as_slice() {
        [only] if only.text.starts_with("#!") => {
            let line = run.command.words.first()?;
            is_alone(line, only).then_some(only)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use dockerfile::{Instruction, parse};

    use super::*;

    fn run(text: &str) -> Vec<String> {
        let file = parse(&format!("FROM x\n{text}"), "Dockerfile").unwrap();
        let Instruction::Run(run) = &file.stages[0].steps[0].instruction else { panic!("no RUN") };
        words(run, &["/bin/sh".to_owned(), "-c".to_owned()])
    }

    #[test]
    fn a_document_alone_is_the_script() {
        assert_eq!(run("RUN <<EOF\na\nb\nEOF\n"), ["/bin/sh", "-c", "a\nb\n"]);
        assert_eq!(run("RUN <<EOF\n#!/bin/x\na\nEOF\n"), [SCRIPT]);
        assert_eq!(run("RUN <<-'EOF'\n\ta\n\tEOF\n"), ["/bin/sh", "-c", "a\n"]);
    }

    #[test]
    fn documents_beside_words_are_the_shell_s() {
        let words = run("RUN cat <<A && cat <<B\na\nA\nb\nB\n");
        assert_eq!(words[2], "cat <<A && cat <<B\na\nA\nb\nB");
        assert_eq!(run("RUN [\"a\", \"b\"]\n"), ["a", "b"]);
        assert_eq!(run("RUN\n"), ["/bin/sh", "-c"]);
    }
}
