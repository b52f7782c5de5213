//! Words and variables, by a table made with Docker's own.

use super::*;

fn variables(name: &str) -> Option<String> {
    let known = [("A", "hello"), ("PATH", "/usr/local/bin"), ("EMPTY", ""), ("TWO", "1 2")];
    known.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

fn word(text: &str) -> String {
    let word = Lexer::new('\\').word(text, &variables);
    word.unwrap_or_else(|error| format!("! {error}"))
}

#[test]
fn words_are_read_as_docker_reads_them() {
    for (text, wanted) in [
        ("a b", "a b"),
        ("'a $A'", "a $A"),
        ("\"a $A\"", "a hello"),
        ("\\$A", "$A"),
        ("\"\\$A \\x\"", "$A \\x"),
        ("$A$A", "hellohello"),
        ("${A}x", "hellox"),
        ("$Ax", ""),
        ("${A:-w}", "hello"),
        ("${NO:-w}", "w"),
        ("${NO-w}", "w"),
        ("${EMPTY-w}", ""),
        ("${EMPTY:-w$A}", "whello"),
        ("${A:+w}", "w"),
        ("${NO:+w}", ""),
        ("${EMPTY+w}", "w"),
        ("${NO:-${NO:-x}}", "x"),
        ("${A:?no}", "hello"),
        ("${PATH#*/}", "usr/local/bin"),
        ("${PATH##*/}", "bin"),
        ("${PATH%/*}", "/usr/local"),
        ("${PATH%%/*}", ""),
        ("${A/l/L}", "heLlo"),
        ("${A//l/L}", "heLLo"),
        ("$", "$"),
        ("a$", "a$"),
        ("$1", ""),
        ("\u{e4}$A", "\u{e4}hello"),
        ("a\\", "a"),
    ] {
        assert_eq!(word(text), wanted, "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_word_is_told_in_docker_s_words() {
    for (text, wanted) in [
        ("${NO:?err}", r#"failed to process "${NO:?err}": NO: err"#),
        ("${NO?}", r#"failed to process "${NO?}": NO: is not allowed to be unset"#),
        ("${EMPTY:?}", r#"failed to process "${EMPTY:?}": EMPTY: is not allowed to be empty"#),
        ("${x", "failed to process \"${x\": unsupported modifier (\u{fffd}) in substitution"),
        ("${", r#"failed to process "${": syntax error: missing '}'"#),
        ("${}", r#"failed to process "${}": syntax error: bad substitution"#),
        ("${A:x}", r#"failed to process "${A:x}": unsupported modifier (:x) in substitution"#),
        (
            "\"b",
            r#"failed to process "\"b": unexpected end of statement while looking for matching double-quote"#,
        ),
        (
            "'b",
            r#"failed to process "'b": unexpected end of statement while looking for matching single-quote"#,
        ),
    ] {
        assert_eq!(word(text), format!("! {wanted}"), "{text}");
    }
}

#[test]
fn a_variable_s_blanks_part_words_and_quoted_ones_do_not() {
    let split = |text| Lexer::new('\\').split(text, &variables).unwrap();
    assert_eq!(split("a $TWO \"$TWO\" b\\ c ''"), ["a", "1", "2", "1 2", "b c", ""]);
    assert_eq!(
        Lexer::raw('\\').split("'a b' $X \"c\\\" d\"", &variables).unwrap(),
        ["'a b'", "$X", "\"c\\\" d\""]
    );
}

#[test]
fn another_escape_character_escapes() {
    assert_eq!(Lexer::new('`').word("`$A \\$A", &variables).unwrap(), "$A \\hello");
}
