//! Input and output of containers and execs, over pipes and terminals.

use super::*;

#[test]
fn execs_run_side_by_side_with_stdio_of_their_own() {
    with_each_runtime("exec", &["sleep"], |mut container| {
        container.start(&[]).unwrap();
        let client = container.client();
        run(async {
            let mut watch = client.watch().await.unwrap();
            let first = client.exec(container.exec("a", &["probe", "cat"], ALL, false)).await;
            let second = client.exec(container.exec("b", &["probe", "cat"], ALL, false)).await;
            let (first, second) = (first.unwrap(), second.unwrap());
            assert_eq!(client.status().await.unwrap().execs.len(), 2);
            for (started, text) in [(second, "two"), (first, "one")] {
                let mut stream = started.stream.unwrap();
                stream.write_all(text.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).await.unwrap();
                assert_eq!(unframe(&bytes).0, text.as_bytes());
            }
            exit_of(&mut watch, Some("b")).await;
            exit_of(&mut watch, Some("a")).await;
            let quiet = container.exec("c", &["probe", "exit", "7"], Streams::default(), false);
            assert!(client.exec(quiet).await.unwrap().stream.is_none());
            assert_eq!(exit_of(&mut watch, Some("c")).await.code, 7);
            let status = client.status().await.unwrap();
            assert_eq!(status.exits.len(), 3);
            let missing = container.exec("d", &["nope"], OUTPUT, false);
            let Err(ShimError::Start(failure)) = client.exec(missing).await else { panic!() };
            assert_eq!(
                failure.error,
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \
                 \"nope\": executable file not found in $PATH: unknown"
            );
            assert_eq!(failure.code, 127);
            client.kill(libc::SIGKILL, None).await.unwrap();
            assert_eq!(exit_of(&mut watch, None).await.code, 137);
        });
    });
}

#[test]
fn a_terminal_has_a_size_and_one_merged_stream() {
    with_each_runtime("tty", &["cat"], |mut container| {
        container.config.tty = true;
        container.config.console_size = Some((20, 70));
        container.config.stdin = Stdin::Open;
        container.start(&[]).unwrap();
        let client = container.client();
        run(async {
            let mut watch = client.watch().await.unwrap();
            let size = client.exec(container.exec("s", &["probe", "size"], OUTPUT, true)).await;
            let mut text = String::new();
            size.unwrap().stream.unwrap().read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "33x44\r\n");
            client.resize(50, 90, None).await.unwrap();
            let mut terminal = client.attach(ALL).await.unwrap();
            terminal.write_all(b"typed\n\x04").await.unwrap();
            let mut text = String::new();
            terminal.read_to_string(&mut text).await.unwrap();
            assert!(text.contains("typed\r\n"), "{text:?}");
            assert_eq!(exit_of(&mut watch, None).await.code, 0);
        });
        assert!(container.log("stdout").contains("typed\r\n"));
    });
}

#[test]
fn input_ends_when_it_is_to_end_and_not_before() {
    let mut container = Container::new("stdin", &["cat"]);
    container.config.stdin = Stdin::Open;
    container.start(&[]).unwrap();
    let client = container.client();
    run(async {
        let mut watch = client.watch().await.unwrap();
        for text in ["first", "second"] {
            let mut stream = client.attach(ALL).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut frame = vec![0; 8 + text.len()];
            stream.read_exact(&mut frame).await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(
                stream.read_u8().await.unwrap_err().kind(),
                std::io::ErrorKind::UnexpectedEof
            );
        }
        assert!(client.status().await.unwrap().pid.is_some());
        client.kill(libc::SIGKILL, None).await.unwrap();
        exit_of(&mut watch, None).await;
    });
    let mut container = Container::new("once", &["cat"]);
    container.config.stdin = Stdin::Once;
    let (ours, theirs) = UnixStream::pair().unwrap();
    container.config.attached = vec![ALL];
    container.start(&[theirs.into()]).unwrap();
    (&ours).write_all(b"last").unwrap();
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    (&ours).read_to_end(&mut bytes).unwrap();
    assert_eq!(unframe(&bytes).0, b"last");
}

#[test]
fn a_reader_that_waits_loses_nothing() {
    let mut container = Container::new("flood", &["flood", "100000"]);
    let (slow, theirs) = UnixStream::pair().unwrap();
    let (quick, others) = UnixStream::pair().unwrap();
    container.config.attached = vec![OUTPUT, OUTPUT];
    container.start(&[theirs.into(), others.into()]).unwrap();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        (&quick).read_to_end(&mut bytes).unwrap();
        unframe(&bytes).0.len()
    });
    let mut bytes = Vec::new();
    (&slow).read_to_end(&mut bytes).unwrap();
    assert_eq!(unframe(&bytes).0.len(), 6_400_000);
    assert_eq!(reader.join().unwrap(), 6_400_000);
    assert_eq!(container.log("stdout").len(), 6_400_000);
}
