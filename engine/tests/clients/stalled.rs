//! Clients that stand still in the middle of what they send or are sent: nobody else notices, and those
//! who need their places get them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;

use crate::daemon::Daemon;
use crate::hung::{check_lives, life, until};

const IMAGE: &str = "rnet/toolbox";
/// How many of one kind are served at the same time, each on a thread of that name.
pub const PLACES: usize = 64;
const THREADS: [&str; 5] = ["load", "import", "build", "save", "copy"];
/// What clients begin to send and never end, and how many of them do. They are more than there are
/// places, and all together more than threads that requests share.
const SENT: [(&str, usize); 4] = [
    ("POST /images/load", 160),
    ("POST /images/create?fromSrc=-", 160),
    ("POST /build", 160),
    ("PUT /containers/cc/archive?path=/", 70),
];
/// What clients ask for and do not read.
const ASKED: [(&str, usize); 2] =
    [("GET /images/get?names=large", 70), ("GET /containers/cc/export", 70)];

/// The beginning of an archive.
pub fn archive() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("file").unwrap();
    header.set_size(1 << 20);
    header.set_mode(0o644);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// Sends the beginning of a request, with all or nothing of its body to come.
pub fn begin(daemon: &Daemon, what: &str, body: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let length = if body.is_empty() { 0 } else { 1 << 20 };
    let head = format!("{what} HTTP/1.1\r\nHost: docker\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream
}

fn stalled(daemon: &Daemon) -> Vec<UnixStream> {
    let archive = archive();
    let sent = SENT.iter().map(|kind| (kind, archive.as_slice()));
    let all = sent.chain(ASKED.iter().map(|kind| (kind, &b""[..])));
    all.flat_map(|((what, count), body)| (0..*count).map(|_| begin(daemon, what, body))).collect()
}

/// How many threads of the daemon have a name.
pub fn threads(daemon: &Daemon, name: &str) -> usize {
    let all = fs::read_dir(format!("/proc/{}/task", daemon.id())).unwrap().flatten();
    let named = |path| fs::read_to_string(path).is_ok_and(|found| found.trim_end() == name);
    all.filter(|thread| named(thread.path().join("comm"))).count()
}

#[test]
fn clients_that_stand_still_hold_up_nobody_and_give_their_places_to_others() {
    let daemon = Daemon::start_with_descriptors(4096, &[]);
    let usual = life(&daemon, "bridge");
    daemon.docker_ok(&["create", "--name", "cc", "--network", "none", IMAGE, "true"]);
    let [large, saved, out, context] =
        ["large", "saved", "out", "context"].map(|name| daemon.scratch.text(name));
    let mut noise = vec![0; 8 << 20];
    File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    fs::write(&large, noise).unwrap();
    fs::create_dir(&context).unwrap();
    fs::write(daemon.scratch.path("context/Dockerfile"), "FROM scratch\nLABEL a=b\n").unwrap();
    daemon.docker_ok(&["cp", &large, "cc:/large"]);
    daemon.docker_ok(&["commit", "cc", "large"]);
    daemon.docker_ok(&["save", "-o", &saved, "large"]);
    let clients = stalled(&daemon);
    let full = || THREADS.iter().all(|name| threads(&daemon, name) == PLACES);
    assert!(until(full), "not all places are taken, or there are more");
    assert_eq!(daemon.get("/info").status, 200);
    check_lives(&daemon, usual);
    thread::scope(|scope| {
        let daemon = &daemon;
        let classic = move |arguments: &[&str]| {
            let mut command = daemon.docker_command(arguments);
            let output = command.env("DOCKER_BUILDKIT", "0").output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "docker {arguments:?}: {error}");
        };
        let again = saved.clone();
        scope.spawn(move || classic(&["load", "-i", &again]));
        scope.spawn(move || classic(&["import", &saved, "imported"]));
        scope.spawn(move || classic(&["build", "-t", "built", &context]));
        scope.spawn(move || classic(&["save", "-o", &out, IMAGE]));
        scope.spawn(move || classic(&["cp", &large, "cc:/again"]));
    });
    drop(clients);
    let none = || THREADS.iter().all(|name| threads(&daemon, name) == 0);
    assert!(until(none), "threads go on without their clients");
}
