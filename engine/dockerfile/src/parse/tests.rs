//! Dockerfiles and what is made of them, the errors in the words of the genuine engine.

use proptest::prelude::*;

use super::*;

fn steps(text: &str) -> Vec<Instruction> {
    let file = parse(&format!("FROM x\n{text}"), "Dockerfile");
    let file = file.unwrap_or_else(|error| panic!("{text}: {error}"));
    file.stages[0].steps.iter().map(|step| step.instruction.clone()).collect()
}

fn error(text: &str) -> String {
    parse(text, "E").map_or_else(|error| error.to_string(), |_| String::new())
}

/// Texts and what is wrong with them, as the genuine engine says it.
const WRONG: &[(&str, &str)] = &[
    ("", "the Dockerfile (E) cannot be empty"),
    ("# only\n", "failed to parse E: file with no instructions"),
    ("RUN x\n", "no build stage in current context"),
    ("FROM\n", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
    ("FROM a b\n", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
    (
        "FROM a AS 1x\n",
        "dockerfile parse error on line 1: invalid name for build stage: \"1x\", name can't start with a number or contain symbols",
    ),
    (
        "FROM a\nCOPY D2\n",
        "dockerfile parse error on line 2: COPY requires at least two arguments, but only one was provided. Destination could not be determined",
    ),
    (
        "FROM a\nNOPE x\n",
        "dockerfile parse error on line 2: unknown instruction: NOPE (did you mean COPY?)",
    ),
    (
        "FROM a\n\n# c\nENV\n",
        "dockerfile parse error on line 4: ENV requires at least one argument",
    ),
    ("FROM a\nENV a\n", "failed to parse E: ENV must have two arguments"),
    ("FROM a\nLABEL a\n", "failed to parse E: LABEL must have two arguments"),
    (
        "FROM a\nENV a=b c\n",
        "failed to parse E: Syntax error - can't find = in \"c\". Must be of the form: name=value",
    ),
    (
        "FROM a\nHEALTHCHECK\n",
        "dockerfile parse error on line 2: HEALTHCHECK requires at least one argument",
    ),
    (
        "FROM a\nHEALTHCHECK FOO x\n",
        "dockerfile parse error on line 2: Unknown type \"FOO\" in HEALTHCHECK (try CMD)",
    ),
    (
        "FROM a\nONBUILD ONBUILD RUN x\n",
        "dockerfile parse error on line 2: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
    ),
    (
        "FROM a\nONBUILD FROM x\n",
        "dockerfile parse error on line 2: FROM isn't allowed as an ONBUILD trigger",
    ),
    ("FROM a\nUSER\n", "dockerfile parse error on line 2: USER requires exactly one argument"),
    (
        "FROM a\nSHELL foo\n",
        "dockerfile parse error on line 2: SHELL requires the arguments to be in JSON form",
    ),
    (
        "FROM a\nVOLUME []\n",
        "dockerfile parse error on line 2: VOLUME requires at least one argument",
    ),
    (
        "FROM a\nCOPY --foo=9 /x /y\n",
        "dockerfile parse error on line 2: unknown flag: --foo (did you mean from?)",
    ),
    (
        "FROM a\nCOPY --from=a --from=b /x /y\n",
        "dockerfile parse error on line 2: duplicate flag specified: from",
    ),
    (
        "FROM a\nCOPY --chown /x /y\n",
        "dockerfile parse error on line 2: missing a value on flag: chown",
    ),
    ("FROM a\nRUN <<EOF\nx\n", "dockerfile parse error on line 2: unterminated heredoc"),
    (
        "# escape=x\nFROM a\n",
        "dockerfile parse error on line 1: invalid escape token 'x' does not match ` or \\",
    ),
    (
        "# escape=`\n# escape=`\nFROM a\n",
        "dockerfile parse error on line 2: only one escape parser directive can be used",
    ),
];

#[test]
fn what_is_wrong_is_told_with_its_line_in_docker_s_words() {
    for (text, wanted) in WRONG {
        assert_eq!(error(text), *wanted, "{text:?}");
    }
}

#[test]
fn lines_go_on_after_an_escape_and_comments_between_them_are_nothing() {
    let file = parse("# syntax=a\n\n  FROM x # y AS\n", "E");
    assert!(file.is_err(), "a number sign in a line is no comment");
    let file = parse("FROM x\nRUN a \\\n  # comment\n\n  b \\ \n c\\\\\nRUN d", "E").unwrap();
    let sources: Vec<_> = file.stages[0].steps.iter().map(|step| step.source.as_str()).collect();
    assert_eq!(sources, ["RUN a   b  c\\\\", "RUN d"]);
    assert_eq!(file.stages[0].steps[0].line, 2);
    assert_eq!(file.warnings.len(), 1);
    let file = parse("# escape=`\nFROM x\r\nRUN a `\r\n b\\\n", "E").unwrap();
    assert_eq!(file.stages[0].steps[0].source, "RUN a  b\\");
    assert_eq!((file.escape, file.stages[0].base.as_str()), ('`', "x"));
}

#[test]
fn commands_have_two_forms() {
    let of = |text: &str| match steps(text).remove(0) {
        Instruction::Run(run) => (run.command.words, run.command.shell),
        Instruction::Cmd(command) | Instruction::Entrypoint(command) => {
            (command.words, command.shell)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(of("RUN [\"a\", \"b c\"]"), (vec!["a".into(), "b c".into()], false));
    assert_eq!(of("RUN ['a']"), (vec!["['a']".into()], true));
    assert_eq!(of("CMD a  b"), (vec!["a  b".into()], true));
    assert_eq!(of("CMD"), (vec![], true));
    assert!(error("FROM x\nRUN [\"a\", 1]\n").contains("arrays must be comprised of strings only"));
}

#[test]
fn documents_are_taken_from_the_lines_after() {
    let text = "RUN <<EOF cat <<-'TWO'\na $x\nEOF\n\tb\n\tTWO\n\
                COPY <<file.txt f /d/\nhello\nfile.txt\nRUN echo '<<X'\n";
    let mut steps = steps(text).into_iter();
    let Some(Instruction::Run(run)) = steps.next() else { panic!("no RUN") };
    let texts: Vec<_> = run.documents.iter().map(|it| (it.text.as_str(), it.expand)).collect();
    assert_eq!(texts, [("a $x\n", true), ("b\n", false)]);
    let Some(Instruction::Copy(copy)) = steps.next() else { panic!("no COPY") };
    assert_eq!((copy.sources.len(), copy.documents.len(), copy.documents[0].0), (2, 1, 0));
    assert_eq!(copy.documents[0].1.text, "hello\n");
    let Some(Instruction::Run(run)) = steps.next() else { panic!("no second RUN") };
    assert!(run.documents.is_empty());
}

#[test]
fn flags_stand_before_arguments() {
    let Instruction::Copy(copy) = steps("COPY --from=a --chown=\"1:2\" --link a b c/").remove(0)
    else {
        panic!("no COPY")
    };
    assert_eq!(
        (copy.from.as_deref(), copy.chown.as_deref(), copy.unpack),
        (Some("a"), Some("1:2"), None)
    );
    assert_eq!((copy.sources, copy.destination), (vec!["a".into(), "b".into()], "c/".into()));
    let Instruction::Run(run) =
        steps("RUN --mount=type=cache,target=/a --mount=b ls --x").remove(0)
    else {
        panic!("no RUN")
    };
    assert_eq!((run.mounts.len(), run.command.words), (2, vec!["ls --x".to_owned()]));
}

#[test]
fn names_and_values_are_read_in_both_forms() {
    let env = |text: &str| match steps(text).remove(0) {
        Instruction::Env(pairs) => pairs,
        other => panic!("{other:?}"),
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        env("ENV a=b c=\"d e\" f=g\\ h"),
        [pair("a", "b"), pair("c", "\"d e\""), pair("f", "g\\ h")]
    );
    assert_eq!(env("ENV a  b c=d"), [pair("a", "b c=d")]);
    let Instruction::Arg(args) = steps("ARG a b=\"x y\"").remove(0) else { panic!("no ARG") };
    assert_eq!(args, [("a".to_owned(), None), ("b".to_owned(), Some("\"x y\"".to_owned()))]);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_without_panic(text in "\\PC{0,200}") {
        let _ = parse(&text, "E");
        let _ = parse(&format!("FROM x\n{text}"), "E");
        let _ = crate::Ignore::parse(&text).map(|ignore| ignore.excludes("a/b"));
        let _ = crate::words::Lexer::new('\\').split(&text, &|_| Some("v w".to_owned()));
    }

    #[test]
    fn any_instruction_is_read_or_refused_without_panic(
        name in "(RUN|COPY|ADD|ENV|LABEL|ARG|HEALTHCHECK|ONBUILD|VOLUME|EXPOSE|CMD)",
        rest in "[-a-z =\"'\\[\\]\\\\$<{}:/,\n]{0,60}",
    ) {
        if let Ok(file) = parse(&format!("FROM x\n{name} {rest}"), "E") {
            for step in &file.stages[0].steps {
                let expanded = step.instruction.expand(crate::words::Lexer::new('\\'), &|_| None);
                if let Ok(expanded) = expanded {
                    let _ = crate::config::apply(&mut serde_json::json!({}), &expanded, false);
                }
            }
        }
    }
}

#[test]
fn flags_that_would_do_nothing_are_refused_by_name() {
    for (line, name) in [
        ("COPY --parents a b c/", "COPY --parents"),
        ("ADD --keep-git-dir=true a b", "ADD --keep-git-dir"),
    ] {
        let error = parse(&format!("FROM x\n{line}\n"), "Dockerfile").unwrap_err().to_string();
        assert!(error.ends_with(&format!("{name} is not served by this builder")), "{error}");
    }
    steps("COPY --parents=false a b/");
    for (flag, wanted) in [("", None), ("--unpack", Some(true)), ("--unpack=false", Some(false))] {
        let Instruction::Add(add) = steps(&format!("ADD {flag} a b")).remove(0) else {
            panic!("no ADD")
        };
        assert_eq!(add.unpack, wanted);
    }
}
