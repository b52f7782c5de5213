//! Logs that somebody else takes, beside what is kept of them here.

use std::io::Read;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;

use crate::daemon::{Client, Daemon, PATIENCE};

const IMAGE: &str = "rnet/toolbox";

#[test]
fn a_syslog_has_every_line_and_logs_shows_them_too() {
    let daemon = Daemon::start(&[]);
    let path = daemon.scratch.text("syslog");
    let syslog = UnixDatagram::bind(&path).unwrap();
    syslog.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = format!("syslog-address=unixgram://{path}");
    let mut buffer = [0; 4096];
    for client in Client::ALL {
        let run = ["run", "--name", "web", "--network", "none", "--log-driver", "syslog"];
        let options = [
            "--log-opt",
            &address,
            "--log-opt",
            "syslog-format=rfc5424",
            "--log-opt",
            "syslog-facility=local3",
            "--log-opt",
            "tag={{.Name}}/{{.ImageName}}",
        ];
        daemon.ok(client, &[&run[..], &options, &[IMAGE, "echo", "hello there"]].concat());
        let length = syslog.recv(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        // local3 is 19, and information 6.
        assert!(text.starts_with("<158>1 20"), "{client:?} {text}");
        assert!(text.contains(" web/rnet/toolbox "), "{client:?} {text}");
        assert!(text.ends_with(" - hello there\n"), "{client:?} {text}");
        assert_eq!(daemon.ok(client, &["logs", "web"]), "hello there", "{client:?}");
        let shown = daemon.ok(client, &["inspect", "-f", "{{.HostConfig.LogConfig.Type}}", "web"]);
        assert_eq!(shown, "syslog", "{client:?}");
        daemon.ok(client, &["rm", "web"]);
    }
}

#[test]
fn a_log_that_is_not_kept_here_cannot_be_read_here() {
    let daemon = Daemon::start(&[]);
    let path = daemon.scratch.text("syslog");
    let _syslog = UnixDatagram::bind(&path).unwrap();
    let address = format!("syslog-address=unixgram://{path}");
    let run = ["run", "--name", "web", "--network", "none", "--log-driver", "syslog"];
    let options = ["--log-opt", &address, "--log-opt", "cache-disabled=true"];
    daemon.docker_ok(&[&run[..], &options, &[IMAGE, "echo", "hi"]].concat());
    for client in Client::ALL {
        let (code, _, error) = daemon.ask(client, &["logs", "web"]);
        assert_eq!(code, Some(1), "{client:?}");
        let text = "configured logging driver does not support reading";
        assert!(error.contains(text), "{client:?} {error}");
    }
}

#[test]
fn a_container_whose_log_nobody_would_take_does_not_start() {
    let daemon = Daemon::start(&[]);
    let run = |name: &str, driver: &str, option: &str| {
        let run = ["run", "--name", name, "--network", "none", "--log-driver", driver];
        daemon.docker_err(&[&run[..], &["--log-opt", option, IMAGE, "true"]].concat())
    };
    let (code, error) = run("c1", "syslog", "syslog-address=tcp://127.0.0.1:9");
    let words = "failed to create task for container: failed to initialize logging driver: \
                 dial tcp 127.0.0.1:9: connect: connection refused";
    assert!(code == Some(125) && error.contains(words), "{code:?} {error}");
    let (code, error) = run("c2", "fluentd", "fluentd-address=127.0.0.1:9");
    assert!(code == Some(125) && error.contains("connection refused"), "{code:?} {error}");
    if !Path::new("/run/systemd/journal/socket").exists() {
        let (code, error) = run("c3", "journald", "tag=x");
        let words = "failed to initialize logging driver: journald is not enabled on this host";
        assert!(code == Some(125) && error.contains(words), "{code:?} {error}");
    }
    let (code, error) = run("c4", "syslog", "max-size=1k");
    let words = "unknown log opt 'max-size' for syslog log driver";
    assert!(code == Some(125) && error.contains(words), "{code:?} {error}");
}

#[test]
fn a_fluentd_has_every_line_and_one_that_hangs_holds_nobody_up() {
    let daemon = Daemon::start(&[]);
    let path = daemon.scratch.text("fluentd");
    let fluentd = UnixListener::bind(&path).unwrap();
    let address = format!("fluentd-address=unix://{path}");
    let run = ["run", "-d", "--name", "web", "--network", "none", "--log-driver", "fluentd"];
    let options =
        ["--log-opt", &address, "--log-opt", "tag=web", "--log-opt", "labels=a", "-l", "a=b"];
    daemon.docker_ok(&[&run[..], &options, &[IMAGE, "flood", "20000"]].concat());
    // It takes nothing, and the container comes to its end nevertheless.
    let (mut stream, _) = fluentd.accept().unwrap();
    assert_eq!(daemon.docker_ok(&["wait", "web"]), "0");
    let mut text = vec![0; 4096];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(text[..6], *b"\x93\xd9\x03web");
    let has = |part: &[u8]| text.windows(part.len()).any(|window| window == part);
    assert!(has(b"\xd9\x0econtainer_name\xd9\x04/web"));
    assert!(has(b"\xd9\x01a\xd9\x01b") && has(b"\xd9\x06source\xd9\x06stdout"));
    assert_eq!(daemon.docker_ok(&["logs", "--tail", "1", "web"]).lines().count(), 1);
}
