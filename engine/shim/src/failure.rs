//! What a runtime says when it cannot start a process, in the words Docker's clients know.
//!
//! Clients decide by these words what their exit code is: "executable file not found" and "no such
//! file or directory" are 127, "permission denied" and "is a directory" 126.

use super::protocol::Failure;

/// The failure of a container's start, from the runtime's log; `program` is what it was to run.
pub(super) fn of_create(log: &str, program: &str, fallback: &str) -> Failure {
    let (message, code) = reason(log, program, fallback);
    let error = format!(
        "failed to create task for container: failed to create shim task: \
         OCI runtime create failed: runc create failed: {message}: unknown"
    );
    Failure { error, code }
}

/// The failure of an exec.
pub(super) fn of_exec(log: &str, program: &str, fallback: &str) -> Failure {
    let (message, code) = reason(log, program, fallback);
    Failure { error: format!("OCI runtime exec failed: exec failed: {message}: unknown"), code }
}

/// The last error of a log in JSON lines, translated, with its exit code.
fn reason(log: &str, program: &str, fallback: &str) -> (String, i32) {
    let message = log
        .lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|line| line["level"] == "error" || line["level"] == "fatal")
        .and_then(|line| line["msg"].as_str().map(str::to_owned))
        .or_else(|| log.lines().rev().find(|line| !line.is_empty()).map(str::to_owned))
        .unwrap_or_else(|| fallback.to_owned());
    let message = translate(message.trim(), program);
    let code = code(&message);
    (message, code)
}

/// crun's sentences about the executable become runc's; everything else keeps its words.
fn translate(message: &str, program: &str) -> String {
    const SENTENCE: &str = "unable to start container process";
    for prefix in ["runc create failed: ", "runc run failed: ", "exec failed: "] {
        if let Some(rest) = message.strip_prefix(prefix) {
            return translate(rest, program);
        }
    }
    if message.starts_with(SENTENCE) {
        return message.to_owned();
    }
    if let Some((name, rest)) = quoted(message, "executable file `")
        && rest.trim_start().starts_with("not found")
    {
        let cause = if name.contains('/') {
            format!("stat {name}: no such file or directory")
        } else {
            "executable file not found in $PATH".to_owned()
        };
        return format!("{SENTENCE}: exec: \"{name}\": {cause}");
    }
    if let Some(cause) = message.strip_prefix("open executable: ") {
        // What is no file at all, a directory say, is "not permitted".
        let cause =
            cause.to_ascii_lowercase().replace("operation not permitted", "permission denied");
        return format!("{SENTENCE}: exec: \"{program}\": {cause}");
    }
    if let Some((path, rest)) = quoted(message, "chdir `") {
        let cause = rest.trim_start_matches([':', ' ']).to_ascii_lowercase();
        return format!("{SENTENCE}: chdir to cwd (\"{path}\") set in config.json failed: {cause}");
    }
    for prefix in ["exec container process `", "open `", "exec `"] {
        if let Some((name, rest)) = quoted(message, prefix) {
            let cause = rest.trim_start_matches([':', ' ']).to_ascii_lowercase();
            return format!("{SENTENCE}: exec: \"{name}\": {cause}");
        }
    }
    format!("{SENTENCE}: {}", lower_first(message))
}

/// The name between a prefix and the next backquote or apostrophe, and what follows.
fn quoted<'a>(message: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let rest = &message[message.find(prefix)? + prefix.len()..];
    let end = rest.find(['`', '\''])?;
    Some((&rest[..end], &rest[end + 1..]))
}

/// libc's errors begin with a capital; Go's do not.
fn lower_first(message: &str) -> String {
    const KNOWN: [&str; 4] =
        ["Permission denied", "No such file or directory", "Is a directory", "Not a directory"];
    KNOWN
        .iter()
        .fold(message.to_owned(), |text, known| text.replace(known, &known.to_ascii_lowercase()))
}

fn code(message: &str) -> i32 {
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["chdir to cwd"]) {
        126
    } else if says(&["executable file not found", "no such file or directory", "not a directory"]) {
        127
    } else if says(&["permission denied", "is a directory"]) {
        126
    } else {
        128
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(log: &str, error: &str, code: i32) {
        assert_eq!(of_exec(log, "nope", "?"), Failure { error: error.to_owned(), code });
    }

    #[test]
    fn a_missing_executable_is_127_whichever_runtime_says_so() {
        let text = "OCI runtime exec failed: exec failed: unable to start container process: \
                    exec: \"nope\": executable file not found in $PATH: unknown";
        check(
            r#"{"msg":"executable file `nope` not found in $PATH: No such file or directory","level":"error"}"#,
            text,
            127,
        );
        check(
            r#"{"level":"error","msg":"exec failed: unable to start container process: exec: \"nope\": executable file not found in $PATH"}"#,
            text,
            127,
        );
    }

    #[test]
    fn a_missing_working_directory_is_126() {
        check(
            r#"{"msg":"chdir `/nx`: No such file or directory","level":"error"}"#,
            "OCI runtime exec failed: exec failed: unable to start container process: \
             chdir to cwd (\"/nx\") set in config.json failed: no such file or directory: unknown",
            126,
        );
    }

    #[test]
    fn a_file_that_cannot_be_executed_is_126() {
        let failure = of_create(
            r#"{"msg":"exec container process `/etc/passwd`: Permission denied","level":"error"}"#,
            "/etc/passwd",
            "?",
        );
        assert_eq!(failure.code, 126);
        assert_eq!(
            failure.error,
            "failed to create task for container: failed to create shim task: OCI runtime create \
             failed: runc create failed: unable to start container process: exec: \
             \"/etc/passwd\": permission denied: unknown"
        );
    }

    #[test]
    fn everything_else_is_128_with_the_runtimes_words() {
        let failure = of_create("", "x", "the runtime was killed");
        assert_eq!(failure.code, 128);
        assert!(failure.error.contains("the runtime was killed"));
    }
}
