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

#[test]
fn the_longest_and_the_shortest_match_of_a_pattern_are_told_apart() {
    for (text, wanted) in [
        ("${A#*l}", "lo"),
        ("${A##*l}", "o"),
        ("${A%l*}", "hel"),
        ("${A%%l*}", "he"),
        ("${A#?}", "ello"),
        ("${A%%?}", "hell"),
        ("${A#*}", "hello"),
        ("${A##*}", ""),
        ("${A#x}", "hello"),
        ("${PATH//b?n/x}", "/usr/local/x"),
        ("${PATH/l*l/x}", "/usr/x/bin"),
        ("${A//*/x}", "x"),
        ("${A//l*/.}", "he."),
        ("${A/./x}", "hello"),
        ("${EMPTY/*/x}", ""),
        ("${A//\\*/x}", "hello"),
    ] {
        assert_eq!(word(text), wanted, "{text}");
    }
}

#[test]
fn values_that_double_with_every_line_end_before_memory_does() {
    let mut value = "x".to_owned();
    let refused = (0..64).find_map(|_| {
        let variables = |name: &str| (name == "A").then(|| value.clone());
        match Lexer::new('\\').word("$A$A", &variables) {
            Ok(twice) => value = twice,
            Err(error) => return Some(error.to_string()),
        }
        None
    });
    assert!(refused.unwrap().ends_with("the words are too long"));
    let variables = |_: &str| Some(value.clone());
    let many = "$A".repeat(500_000);
    for text in [&many, &format!("\"{many}\""), &"${A+}".repeat(200_000)] {
        assert!(Lexer::new('\\').word(text, &variables).is_err());
    }
    // A replacement multiplies too.
    let error = Lexer::new('\\').word("${A//x/$A}", &|_| Some("x".repeat(1 << 18))).unwrap_err();
    assert!(error.to_string().ends_with("the words are too long"), "{error}");
    // And so do the words of one instruction together.
    let pairs = vec![("$A".to_owned(), "$A".to_owned()); 100_000];
    let env = crate::Instruction::Env(pairs);
    let expanded = env.expand(Lexer::new('\\'), &|_| Some("x".repeat(1 << 18)));
    assert_eq!(expanded.unwrap_err().to_string(), "the words are too long");
}

#[test]
fn a_pattern_of_many_wildcards_is_no_trap() {
    let value = "a".repeat(100_000);
    let variables = |_: &str| Some(value.clone());
    for text in ["${A#*a*a*a*a*b}", "${A%%b*a*a*a*a*}", "${A//*a*a*a*b/x}", "${A/a?a?b/x}"] {
        assert_eq!(Lexer::new('\\').word(text, &variables).unwrap(), value, "{text}");
    }
    let many = format!("${{A#{}}}", "*a".repeat(50_000));
    let error = Lexer::new('\\').word(&many, &variables).unwrap_err();
    assert!(error.to_string().ends_with("the pattern is too long"));
}
