//! Logs that are rotated: their options, and reading over the files.

use std::path::Path;
use std::time::Instant;

use crate::daemon::{Client, Daemon, PATIENCE};

const IMAGE: &str = "rnet/toolbox";

#[test]
fn a_rotated_log_is_read_as_one() {
    let daemon = Daemon::start(&[]);
    for driver in ["json-file", "local"] {
        let create = ["run", "--name", driver, "--network", "none", "--log-driver", driver];
        let options = ["--log-opt", "max-size=8k", "--log-opt", "max-file=3"];
        daemon.docker_ok(&[&create[..], &options, &[IMAGE, "flood", "400"]].concat());
        let shown = ["inspect", "-f", "{{.HostConfig.LogConfig.Type}} {{.LogPath}}", driver];
        let shown = daemon.docker_ok(&shown);
        let (kind, path) = shown.split_once(' ').unwrap();
        assert_eq!(kind, driver);
        let log = Path::new(path);
        let sizes = || -> Vec<_> {
            let files = log.parent().unwrap().read_dir().unwrap().flatten();
            let files =
                files.filter(|file| file.file_name().to_str().unwrap().contains("-json.log"));
            files.filter_map(|file| Some(file.metadata().ok()?.len())).collect()
        };
        // The last one that is full may still be being compressed.
        let end = Instant::now() + PATIENCE;
        while sizes().len() != 3 && Instant::now() < end {
            std::thread::yield_now();
        }
        let sizes = sizes();
        assert_eq!(sizes.len(), 3, "{sizes:?}");
        assert!(sizes.iter().all(|size| *size < 16 << 10), "{sizes:?}");
        let current = std::fs::read_to_string(log).unwrap().lines().count();
        let tail = (current + 20).to_string();
        for client in Client::ALL {
            let all = daemon.ok(client, &["logs", driver]);
            let lines: Vec<_> = all.lines().collect();
            assert!(lines.len() > current + 20 && lines.len() < 400, "{}", lines.len());
            let last = daemon.ok(client, &["logs", "--tail", &tail, driver]);
            let wanted = &lines[lines.len() - current - 20..];
            assert_eq!(last.lines().collect::<Vec<_>>(), wanted, "{client:?} {driver}");
            let followed = daemon.ok(client, &["logs", "-f", "--tail", &tail, driver]);
            assert_eq!(followed, last, "{client:?} {driver}");
        }
    }
}

#[test]
fn options_of_logs_are_checked_at_create() {
    let daemon = Daemon::start(&[]);
    for (driver, option, text) in [
        ("json-file", "bogus=1", "unknown log opt 'bogus' for json-file log driver"),
        ("local", "tag=x", "unknown log opt 'tag' for log driver local"),
        ("json-file", "max-size=x", "failed to initialize logging driver: invalid size: 'x'"),
        ("json-file", "max-file=0", "max-file cannot be less than 1"),
        ("local", "max-file=x", "strconv.Atoi: parsing \"x\": invalid syntax"),
        (
            "nosuch",
            "max-file=1",
            "error looking up logging plugin nosuch: plugin \"nosuch\" not found",
        ),
    ] {
        for client in Client::ALL {
            let words = ["create", "--log-driver", driver, "--log-opt", option, IMAGE];
            let (code, _, error) = daemon.ask(client, &words);
            assert_ne!(code, Some(0), "{client:?} {driver} {option}");
            assert!(error.contains(text), "{client:?} {driver} {option}: {error}");
        }
    }
    assert_eq!(daemon.docker_ok(&["ps", "-aq"]), "");
}

#[test]
fn the_daemon_s_driver_is_that_of_its_containers() {
    let daemon = Daemon::start(&["--log-driver", "local", "--log-opt", "max-size=4k"]);
    daemon.docker_ok(&["run", "--name", "c1", "--network", "none", IMAGE, "echo", "hi"]);
    let format = "{{.HostConfig.LogConfig.Type}} {{json .HostConfig.LogConfig.Config}}";
    let shown = daemon.docker_ok(&["inspect", "-f", format, "c1"]);
    assert_eq!(shown, r#"local {"max-size":"4k"}"#);
    assert_eq!(daemon.docker_ok(&["logs", "c1"]), "hi");
}
