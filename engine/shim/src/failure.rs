//! What a runtime says when it cannot start a process, in the words Docker's clients know.
//!
//! Clients decide by these words what their exit code is: "executable file not found" and "no such
//! file or directory" are 127, "permission denied" and "is a directory" 126.

use super::protocol::Failure;
use super::said;

/// What runc says of a program that is nowhere, or has no name.
const NOT_FOUND: &str = "executable file not found in $PATH";

/// Runc's beginning of all that it says about a program that cannot be started.
const SENTENCE: &str = "unable to start container process";

/// What a runtime left behind that failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remains<'a> {
    /// Its log.
    pub(super) log: &'a str,
    /// What it wrote to standard error: for one that keeps no log.
    pub(super) errors: &'a str,
    /// What it was to run.
    pub(super) program: &'a str,
    /// What is to be said if it said nothing.
    pub(super) fallback: &'a str,
}

impl Remains<'_> {
    /// The failure of a container's start.
    pub(super) fn of_create(self) -> Failure {
        let (message, code) = self.reason();
        let error = format!(
            "failed to create task for container: failed to create shim task: \
             OCI runtime create failed: runc create failed: {message}: unknown"
        );
        Failure { error, code }
    }

    /// The failure of an exec.
    pub(super) fn of_exec(self) -> Failure {
        let (message, code) = self.reason();
        Failure { error: format!("OCI runtime exec failed: exec failed: {message}: unknown"), code }
    }

    /// What the runtime said, translated, with its exit code.
    fn reason(self) -> (String, i32) {
        let said = said::reason(self.log).or_else(|| said::reason(self.errors));
        let message = translate(said.as_deref().unwrap_or(self.fallback), self.program);
        let code = code(&message);
        (message, code)
    }
}

/// crun's sentences about the executable become runc's; everything else keeps its words.
fn translate(message: &str, program: &str) -> String {
    for prefix in ["runc create failed: ", "runc run failed: ", "exec failed: "] {
        if let Some(rest) = message.strip_prefix(prefix) {
            return translate(rest, program);
        }
    }
    if message.starts_with(SENTENCE) {
        return message.to_owned();
    }
    match of_executable(message, program).or_else(|| of_directory(message)) {
        Some(sentence) => format!("{SENTENCE}: {sentence}"),
        None => format!("{SENTENCE}: {}", lower_first(message)),
    }
}

/// What crun says of a program, in runc's words.
fn of_executable(message: &str, program: &str) -> Option<String> {
    let named = |name: &str, cause: &str| {
        // Neither runtime finds a program without a name; crun says otherwise.
        let cause = if name.is_empty() { NOT_FOUND } else { cause };
        Some(format!("exec: \"{name}\": {cause}"))
    };
    if let Some((name, rest)) = quoted(message, "executable file `")
        && rest.trim_start().starts_with("not found")
    {
        if name.contains('/') {
            return named(name, &format!("stat {name}: no such file or directory"));
        }
        return named(name, NOT_FOUND);
    }
    if let Some((name, rest)) = quoted(message, "the path `") {
        // "exists but it is not executable", "is not a regular file"
        let known = ["is not executable", "is not a regular file"];
        if known.iter().any(|words| rest.contains(words)) {
            return named(name, "permission denied");
        }
    }
    if let Some(cause) = message.strip_prefix("open executable: ") {
        // What is no file at all, a directory say, is "not permitted".
        let cause =
            cause.to_ascii_lowercase().replace("operation not permitted", "permission denied");
        return named(program, &cause);
    }
    if let Some(cause) = message.strip_prefix("exec: ").filter(|rest| !rest.starts_with('"')) {
        return named(program, &cause.to_ascii_lowercase());
    }
    let prefixes = ["exec container process `", "open `", "exec `"];
    let (name, rest) = prefixes.iter().find_map(|prefix| quoted(message, prefix))?;
    named(name, &rest.trim_start_matches([':', ' ']).to_ascii_lowercase())
}

/// What crun says of a working directory, in runc's words.
fn of_directory(message: &str) -> Option<String> {
    let (path, rest) = ["chdir to `", "chdir `"].iter().find_map(|p| quoted(message, p))?;
    let cause = rest.trim_start_matches([':', ' ']).to_ascii_lowercase();
    Some(format!("chdir to cwd (\"{path}\") set in config.json failed: {cause}"))
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
    if says(&["executable file not found", "no such file or directory", "not a directory"]) {
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

    fn remains<'a>(log: &'a str, program: &'a str) -> Remains<'a> {
        Remains { log, errors: "", program, fallback: "?" }
    }

    /// What four runtimes said of the same mistakes: crun 1.8.1 of Debian 12, crun 1.28 of Debian
    /// unstable, runc 1.1.5 and 1.3.6; and one that is not there, which logs in a form of its own.
    const RECORDED: [(&str, [&str; 4], &str, i32); 5] = [
        (
            "nope",
            [
                r#"{"msg":"executable file `nope` not found in $PATH: No such file or directory","level":"error","time":"2026-11-29T09:04:15.090914Z"}"#,
                "{\n  \"msg\": \"executable file `nope` not found in $PATH: No such file or directory\",\n  \"level\": \"error\",\n  \"time\": \"2026-11-29T09:04:15.692563Z\"\n}\n",
                r#"{"level":"error","msg":"exec failed: unable to start container process: exec: \"nope\": executable file not found in $PATH","time":"2026-11-29T09:03:21Z"}"#,
                r#"time="2026-11-29T09:03:39Z" level=error msg="exec failed: unable to start container process: exec: \"nope\": executable file not found in $PATH""#,
            ],
            r#"exec: "nope": executable file not found in $PATH"#,
            127,
        ),
        (
            "/bin/nope",
            [
                r#"{"msg":"executable file `/bin/nope` not found in $PATH: No such file or directory","level":"error"}"#,
                "{\n  \"msg\": \"executable file `\\/bin\\/nope` not found: No such file or directory\",\n  \"level\": \"error\"\n}\n",
                r#"{"level":"error","msg":"exec failed: unable to start container process: exec: \"/bin/nope\": stat /bin/nope: no such file or directory"}"#,
                "note: the next one is what matters\n{\"lvl\":\"ERROR\",\"fields\":{\"message\":\"executable file `/bin/nope` not found\"}}\nbye",
            ],
            r#"exec: "/bin/nope": stat /bin/nope: no such file or directory"#,
            127,
        ),
        (
            "/etc/motd",
            [
                r#"{"msg":"open executable: Permission denied","level":"error"}"#,
                "{\n  \"msg\": \"the path `\\/etc\\/motd` exists but it is not executable: Operation not permitted\",\n  \"level\": \"error\"\n}\n",
                r#"{"level":"error","msg":"exec failed: unable to start container process: exec: \"/etc/motd\": permission denied"}"#,
                "the path `/etc/motd` exists but it is not executable: Operation not permitted\n",
            ],
            r#"exec: "/etc/motd": permission denied"#,
            126,
        ),
        (
            "/etc",
            [
                r#"{"msg":"open executable: Operation not permitted","level":"error"}"#,
                "{\n  \"msg\": \"the path `\\/etc` is not a regular file: Operation not permitted\",\n  \"level\": \"error\"\n}\n",
                r#"{"level":"error","msg":"exec failed: unable to start container process: exec: \"/etc\": permission denied"}"#,
                "the path `/etc` is not a regular file: Operation not permitted\n",
            ],
            r#"exec: "/etc": permission denied"#,
            126,
        ),
        (
            "/bin/true",
            [
                r#"{"msg":"chdir `/etc/motd`: Not a directory","level":"error"}"#,
                "{\n  \"msg\": \"chdir to `\\/etc\\/motd`: Not a directory\",\n  \"level\": \"error\"\n}\n",
                r#"{"level":"error","msg":"exec failed: unable to start container process: chdir to cwd (\"/etc/motd\") set in config.json failed: not a directory"}"#,
                "chdir to `/etc/motd`: Not a directory\n",
            ],
            r#"chdir to cwd ("/etc/motd") set in config.json failed: not a directory"#,
            127,
        ),
    ];

    #[test]
    fn one_mistake_has_one_text_and_one_code_whichever_runtime_tells_of_it() {
        for (program, logs, words, code) in RECORDED {
            for log in logs {
                let failure = remains(log, program).of_exec();
                let begin =
                    "OCI runtime exec failed: exec failed: unable to start container process";
                assert_eq!(failure.error, format!("{begin}: {words}: unknown"), "{log}");
                assert_eq!(failure.code, code, "{log}");
            }
        }
    }

    #[test]
    fn a_runtime_that_keeps_no_log_is_heard_by_what_it_wrote_to_standard_error() {
        let log = remains("", "x");
        let failure =
            Remains { errors: "level=error msg=\"permission denied\"", ..log }.of_create();
        assert_eq!(failure.code, 126);
        assert_eq!(
            failure.error,
            "failed to create task for container: failed to create shim task: OCI runtime create \
             failed: runc create failed: unable to start container process: permission denied: \
             unknown"
        );
    }

    #[test]
    fn a_program_in_a_form_that_the_kernel_does_not_know_is_named() {
        let failure =
            remains(r#"{"msg":"exec: Exec format error","level":"error"}"#, "/x").of_exec();
        assert!(failure.error.contains("exec: \"/x\": exec format error"), "{}", failure.error);
    }

    #[test]
    fn everything_else_is_128_with_the_runtimes_words() {
        let failure =
            Remains { fallback: "the runtime was killed", ..remains("", "x") }.of_create();
        assert_eq!(failure.code, 128);
        assert!(failure.error.contains("the runtime was killed"));
    }
}
