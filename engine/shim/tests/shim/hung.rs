//! Runtimes that never answer: whoever waits for one is told so, and nobody else waits.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use runtime::{Runc, Runtime};
use shim::client::{ShimError, Shims};
use shim::protocol::{Gate, Streams};
use tokio::io::AsyncReadExt;

use super::{Container, OUTPUT, PATIENCE, anybody_in, exit_of, run, unframe};

/// As long as these tests let a runtime hang.
const LIMIT: Duration = Duration::from_millis(500);

/// Has the container's runtime never answer where this case of the shell is met by its arguments, or
/// a file that they name says `hangs`.
fn hang(container: &mut Container, case: &str) {
    let script = container.directory.join("hanging");
    let program = container.runtime.program().display();
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in {case}) sleep 1000;; esac\n\
         for file; do [ -f \"$file\" ] && grep -q hangs \"$file\" && sleep 1000; done\n\
         exec {program} \"$@\"\n"
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    container.config.runtime.program = script;
    container.config.runtime.limit = LIMIT;
}

/// What a start that fails says.
fn refused(container: &mut Container) -> String {
    match container.start(&[]) {
        Err(ShimError::Start(failure)) => failure.error,
        other => panic!("{other:?}"),
    }
}

fn wait_until_nobody_is_in(container: &Container) {
    let end = Instant::now() + PATIENCE;
    while anybody_in(&container.directory) {
        assert!(Instant::now() < end, "somebody stays");
        std::thread::yield_now();
    }
}

#[test]
fn a_runtime_that_hangs_at_a_create_is_killed_and_that_is_said() {
    let mut container = Container::new("hung-create", &["sleep"]);
    hang(&mut container, "*\" create \"*");
    let error = refused(&mut container);
    assert!(error.contains("the runtime did not answer within 500ms and was killed"), "{error}");
    wait_until_nobody_is_in(&container);
}

#[test]
fn a_runtime_that_hangs_at_a_start_is_killed_and_that_is_said() {
    let mut container = Container::new("hung-start", &["sleep"]);
    hang(&mut container, "*\" start \"*");
    container.config.runtime.gate = Gate::Command;
    let error = refused(&mut container);
    assert!(error.contains("did not answer within 500ms"), "{error}");
    wait_until_nobody_is_in(&container);
}

#[test]
fn a_runtime_that_hangs_at_a_removal_does_not_keep_the_shim() {
    let mut container = Container::new("hung-delete", &["exit", "3"]);
    hang(&mut container, "*\" delete \"*");
    container.start(&[]).unwrap();
    run(async {
        if let Ok(watch) = container.client().watch().await {
            watch.end().await;
        }
    });
    wait_until_nobody_is_in(&container);
    let exit = shim::client::exit(&container.config.directory).unwrap();
    assert_eq!(exit.code, 3);
}

#[test]
fn an_exec_whose_runtime_hangs_keeps_no_other_waiting() {
    let mut container = Container::new("hung-exec", &["sleep"]);
    hang(&mut container, "never");
    container.config.runtime.limit = Duration::from_secs(5);
    container.start(&[]).unwrap();
    let client = container.client();
    run(async {
        let mut watch = client.watch().await.unwrap();
        let hung = client.exec(container.exec("a", &["probe", "hangs"], OUTPUT, false));
        let others = async {
            for id in ["b", "c"] {
                let exec = container.exec(id, &["probe", "say", "hello"], OUTPUT, false);
                let mut stream = client.exec(exec).await.unwrap().stream.unwrap();
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).await.unwrap();
                assert_eq!(unframe(&bytes).0, b"hello\n");
                assert_eq!(exit_of(&mut watch, Some(id)).await.code, 0);
            }
            Instant::now()
        };
        let (hung, done) = tokio::join!(async { (hung.await, Instant::now()) }, others);
        assert!(done < hung.1, "the others waited for the one that hangs");
        let Err(ShimError::Start(failure)) = hung.0 else { panic!("{hung:?}") };
        assert!(failure.error.contains("did not answer within 5s"), "{}", failure.error);
        client.kill(libc::SIGKILL, None).await.unwrap();
        exit_of(&mut watch, None).await;
    });
}

#[test]
fn a_runtime_that_hangs_when_the_daemon_calls_it_is_killed() {
    let container = Container::new("hung-call", &[]);
    let script = container.directory.join("never");
    fs::write(&script, "#!/bin/sh\nsleep 1000 & sleep 1000\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Runc::new("never", &script).command(&container.directory);
    command.limit = LIMIT;
    let mut pause = shim::launch::command(&command);
    pause.current_dir(&container.directory).args(["pause", "x"]);
    let error = shim::launch::call(&mut pause, b"", command.limit).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    assert_eq!(error.to_string(), "it did not answer within 500ms");
    wait_until_nobody_is_in(&container);
}

#[test]
fn a_shim_that_was_stopped_is_not_waited_for() {
    let mut container = Container::new("hung-shim", &["sleep"]);
    container.config.runtime.limit = Duration::ZERO;
    // It takes what it is told, and says nothing.
    let silent = container.directory.join("silent");
    fs::write(&silent, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&silent, fs::Permissions::from_mode(0o755)).unwrap();
    container.shims = Shims::new(&silent);
    let error = container.start(&[]).unwrap_err();
    let ShimError::Io { source, .. } = error else { panic!("{error:?}") };
    assert_eq!(source.to_string(), "it does not answer");
    let nothing = Streams::default();
    let listener =
        std::os::unix::net::UnixListener::bind(container.config.directory.join("sock")).unwrap();
    let client = container.client().with_limit(LIMIT);
    let asked = run(async { client.attach(nothing).await });
    drop(listener);
    assert!(matches!(asked, Err(ShimError::Silent { .. })), "{asked:?}");
}
