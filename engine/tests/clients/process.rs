//! The daemon as a process: flags, files, signals.

use std::io::BufReader;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::daemon::{Daemon, Reply, Scratch, isolated, read_chunk, run, standard_flags};

const RNET: &str = env!("CARGO_BIN_EXE_rnet");

fn validate(file: &str, flags: &[&str]) -> (Option<i32>, String, String) {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("daemon.json"), file).unwrap();
    let path = scratch.text("daemon.json");
    let fixed = ["daemon", "--validate", "--config-file", &path];
    let (code, out, error) = run(Path::new(RNET), &[&fixed[..], flags].concat());
    (code, out, error.replace(&path, "FILE"))
}

#[test]
fn a_good_configuration_is_said_to_be_ok() {
    let (code, out, _) = validate(r#"{"bip": "10.1.0.1/24", "live-restore": true}"#, &["-D"]);
    assert_eq!((code, out.as_str()), (Some(0), "configuration OK"));
}

#[test]
fn a_bad_configuration_ends_before_anything_is_touched() {
    for (file, flags, message) in [
        (
            r#"{"nope": 1}"#,
            &[][..],
            "rnet daemon: unable to configure the daemon with file FILE: the following directives \
             don't match any configuration option: nope",
        ),
        (
            r#"{"mtu": 1400}"#,
            &["--mtu", "1300"][..],
            "rnet daemon: unable to configure the daemon with file FILE: the following directives \
             are specified both as a flag and in the configuration file: mtu: (from flag: 1300, \
             from file: 1400)",
        ),
        (
            "{}",
            &["-H", "tcp://0.0.0.0:2375"][..],
            "rnet daemon: tcp://0.0.0.0:2375 would let anyone become root: TCP needs --tlsverify \
             with --tlscacert, --tlscert and --tlskey, or listen on a unix socket",
        ),
    ] {
        let (code, out, error) = validate(file, flags);
        assert_eq!((code, out.as_str(), error.as_str()), (Some(1), "", message));
    }
    let (code, _, error) = validate("{}", &["--no-such-flag"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("--no-such-flag"), "{error}");
}

#[test]
fn a_term_ends_the_daemon_and_takes_its_files_along() {
    let mut daemon = Daemon::start(&[]);
    let mode = daemon.socket().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    assert!(daemon.scratch.path("pid").exists());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), Some(0));
    assert!(!daemon.socket().exists() && !daemon.scratch.path("pid").exists());
}

#[test]
fn two_daemons_do_not_share_a_socket() {
    let daemon = Daemon::start(&[]);
    let other = Scratch::new();
    let mut flags = standard_flags(&other);
    flags.truncate(6);
    let host = format!("unix://{}", daemon.socket().display());
    let output = isolated(RNET).arg("daemon").args(flags).args(["-H", &host]).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("another daemon answers there"), "{log}");
    assert_eq!(daemon.get("/_ping").status, 200);
}

#[test]
fn a_second_daemon_in_the_network_namespace_is_told_of_the_first() {
    let daemon = Daemon::start(&[]);
    let other = Scratch::new();
    let mut command = Command::new("nsenter");
    command.args(["-t", &daemon.id(), "-n", "-m", RNET, "daemon"]);
    let output = command.args(standard_flags(&other)).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{log}");
    for text in ["process ", &daemon.id(), &daemon.scratch.text("data"), "of its own"] {
        assert!(log.contains(text), "{text}: {log}");
    }
    let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", daemon.id())).unwrap();
    let left: Vec<_> = mounts.lines().filter(|line| line.contains(&other.text("run"))).collect();
    assert_eq!(left, [""; 0], "a daemon that was refused leaves its mounts");
    assert_eq!(daemon.get("/_ping").status, 200);
}

#[test]
fn a_dead_daemon_s_socket_and_pidfile_are_no_obstacle() {
    let scratch = Scratch::new();
    drop(UnixListener::bind(scratch.path("sock")).unwrap());
    std::fs::write(scratch.path("pid"), "1").unwrap();
    let daemon = Daemon::start_in(scratch, RNET, &["daemon"], &[]);
    assert_eq!(daemon.get("/_ping").status, 200);
}

#[test]
fn under_the_name_dockerd_its_flags_are_taken() {
    let scratch = Scratch::new();
    let dockerd = scratch.path("dockerd");
    symlink(RNET, &dockerd).unwrap();
    let flags = [
        "--containerd=/run/containerd/containerd.sock",
        "--userland-proxy=false",
        "--iptables",
        "--storage-driver=vfs",
        "--default-address-pool=base=10.123.0.0/16,size=24",
        "--bip=10.122.0.1/24",
        "-D",
    ];
    let daemon = Daemon::start_in(scratch, dockerd.to_str().unwrap(), &[], &flags);
    let info = daemon.get("/info").json();
    assert_eq!(info["Debug"], true);
    assert_eq!(info["Driver"], "vfs");
    assert_eq!(info["DefaultAddressPools"][0]["Base"], "10.123.0.0/16");
    let warnings = info["Warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].as_str().unwrap().starts_with("--containerd does not apply"));
    let bridge = daemon.get("/networks/bridge").json();
    assert_eq!(bridge["IPAM"]["Config"][0]["Gateway"], "10.122.0.1");
}

/// A daemon at a TCP port, and certificates of all kinds in its directory.
pub fn tls_daemon() -> Daemon {
    let scratch = Scratch::new();
    let script = "set -e; cd $1
        make() { openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=$1 -keyout $1.key \
                 -out $1.pem $2 2>/dev/null; }
        make ca; make strangers
        sign() { openssl req -newkey rsa:2048 -nodes -subj /CN=$1 -keyout $1.key -out $1.csr 2>/dev/null
                 echo \"subjectAltName=IP:127.0.0.1\" > ext
                 openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -days 2 \
                 -extfile ext -out $1.pem 2>/dev/null; }
        sign server ca; sign client ca; sign stranger strangers";
    let made = Command::new("sh").args(["-c", script, "sh", &scratch.text("")]).status().unwrap();
    assert!(made.success(), "openssl is installed");
    let (ca, certificate, key) =
        (scratch.text("ca.pem"), scratch.text("server.pem"), scratch.text("server.key"));
    let flags = [
        "-H=tcp://127.0.0.1:2376",
        "--tlsverify",
        "--tlscacert",
        &ca,
        "--tlscert",
        &certificate,
        "--tlskey",
        &key,
    ];
    Daemon::start_in(scratch, RNET, &["daemon"], &flags)
}

#[test]
fn a_context_can_leave_it_open_whether_the_daemon_is_the_right_one() {
    let daemon = tls_daemon();
    let pid = std::fs::read_to_string(daemon.scratch.path("pid")).unwrap();
    let path = |file: &str| daemon.scratch.text(file);
    let rnet = |words: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args([&format!("--net=/proc/{pid}/ns/net"), RNET]).args(words);
        command.env("DOCKER_CONFIG", path("config")).env_remove("DOCKER_HOST");
        command.env_remove("RNET_HOST").output().unwrap()
    };
    for skip in ["true", "false"] {
        // Whoever signed the daemon's certificate is not the one who is trusted.
        let docker = format!(
            "host=tcp://127.0.0.1:2376,ca={},cert={},key={},skip-tls-verify={skip}",
            path("strangers.pem"),
            path("client.pem"),
            path("client.key")
        );
        let made = rnet(&["context", "create", skip, "--docker", &docker]);
        assert!(made.status.success(), "{made:?}");
        let asked = rnet(&["--context", skip, "version", "--format", "{{.Server.APIVersion}}"]);
        assert_eq!(asked.status.success(), skip == "true", "{asked:?}");
    }
}

#[test]
fn tcp_is_for_clients_with_a_certificate() {
    let daemon = tls_daemon();
    let pid = std::fs::read_to_string(daemon.scratch.path("pid")).unwrap();
    let client = |name: &str| {
        let path = |file: &str| daemon.scratch.text(file);
        let mut command = Command::new("nsenter");
        command.args([
            &format!("--net=/proc/{pid}/ns/net"),
            "docker",
            "-H",
            "tcp://127.0.0.1:2376",
        ]);
        command.args(["--tlsverify", "--tlscacert", &path("ca.pem")]);
        command.args(["--tlscert", &path(&format!("{name}.pem"))]);
        command.args(["--tlskey", &path(&format!("{name}.key"))]);
        command.args(["version", "--format", "{{.Server.APIVersion}}"]).output().unwrap()
    };
    let welcome = client("client");
    let error = String::from_utf8_lossy(&welcome.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&welcome.stdout).trim(), "1.51", "{error}");
    assert!(!client("stranger").status.success());
}

#[test]
fn a_reply_under_way_is_whole_though_the_daemon_is_told_to_end() {
    let mut daemon = Daemon::start(&[]);
    let run = ["run", "-d", "--name", "c1", "--network", "none", "rnet/toolbox", "flood", "20000"];
    daemon.docker_ok(&run);
    daemon.docker_ok(&["wait", "c1"]);
    let path = "/containers/c1/logs?stdout=1";
    let whole = daemon.get(path).body.len();
    assert!(whole > 1_000_000, "more than a socket holds: {whole}");
    let stream = daemon.open("GET", path, "Connection: close\r\n", b"");
    let mut reader = BufReader::new(stream);
    let head = Reply::read_head(&mut reader);
    assert_eq!(head.status, 200);
    daemon.docker_ok(&["rm", "c1"]);
    daemon.signal(Signal::SIGTERM);
    let mut length = 0;
    while let Some(chunk) = read_chunk(&mut reader) {
        length += chunk.len();
    }
    assert_eq!(length, whole);
    assert_eq!(daemon.wait(), Some(0));
}
