//! What runtimes say, in whichever form, reaches the client with the code it stands for.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use shim::client::ShimError;
use shim::protocol::Failure;

use super::Container;

/// How a start fails whose runtime is this script; `$log` is its log.
fn failure(name: &str, script: &str) -> Failure {
    let mut container = Container::new(name, &["sleep"]);
    let path = container.directory.join("made-up");
    let text = format!(
        "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" = --log ] && log=$2; [ \"$1\" = delete ] && exit 0; \
         shift; done\n{script}\nexit 1\n"
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    container.config.runtime.program = path;
    match container.start(&[]) {
        Err(ShimError::Start(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

const MISSING: &str = "failed to create task for container: failed to create shim task: OCI runtime create failed: \
     runc create failed: unable to start container process: exec: \"nope\": executable file not \
     found in $PATH: unknown";

#[test]
fn an_error_over_several_lines_is_not_its_last_brace() {
    let log = "cat >$log <<'E'\n{\n  \"msg\": \"executable file `nope` not found in $PATH: No such \
               file or directory\",\n  \"level\": \"error\"\n}\nE";
    assert_eq!(failure("lines", log), Failure { error: MISSING.to_owned(), code: 127 });
}

#[test]
fn a_runtime_that_logs_in_a_form_of_its_own_is_understood() {
    let log = "echo 'starting up' >$log\necho '{\"lvl\":\"ERROR\",\"fields\":{\"message\":\"executable \
               file `nope` not found\"}}' >>$log\necho 'level=info msg=\"over\"' >>$log";
    assert_eq!(failure("own-form", log), Failure { error: MISSING.to_owned(), code: 127 });
}

#[test]
fn a_runtime_without_a_log_is_understood_by_its_standard_error() {
    let words = "echo 'time=\"x\" level=error msg=\"exec: \\\"nope\\\": permission denied\"' >&2";
    let failure = failure("stderr", words);
    assert!(failure.error.ends_with("exec: \"nope\": permission denied: unknown"), "{failure:?}");
    assert_eq!(failure.code, 126);
}

#[test]
fn a_runtime_that_says_nothing_is_told_of_by_its_code() {
    let failure = failure("silent", "exit 7");
    assert!(failure.error.contains("the runtime ended with code 7"), "{failure:?}");
    assert_eq!(failure.code, 128);
}
