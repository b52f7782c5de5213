//! Compose: three services with networks, volumes, health, conditions and a build, from their beginning
//! to their end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::busybox;
use crate::daemon::{Daemon, PATIENCE};
use crate::hub::Registry;
use crate::recorder::Recorder;

/// `db` is healthy, `fill` is done, then `web` is built and served; `tool` is there on demand.
const FILE: &str = r#"
services:
  db:
    image: 127.0.0.1:5000/base
    init: true
    command: [sh, -c, "echo full > /data/state; exec httpd -f -p 5432 -h /data"]
    volumes: ["data:/data"]
    networks: {back: {aliases: [store], ipv4_address: 10.94.0.9}}
    healthcheck: {test: [CMD, cat, /data/state], interval: 200ms, timeout: 10s, retries: 99}
  fill:
    image: 127.0.0.1:5000/base
    command: [sh, -c, "wget -qO /data/seen http://store:5432/state && echo filled"]
    volumes: ["data:/data"]
    networks: [back]
    depends_on: {db: {condition: service_healthy}}
  web:
    build: {context: ./web, target: served, args: {WORD: built}}
    init: true
    environment: ["MODE=${MODE:-first}"]
    expose: [8080]
    ports: ["80"]
    volumes: [/scratch]
    networks: [front, back]
    stop_grace_period: 30s
    labels: {tier: front}
    depends_on:
      db: {condition: service_healthy}
      fill: {condition: service_completed_successfully}
  tool:
    image: 127.0.0.1:5000/base
    command: echo tool
    network_mode: none
    profiles: [debug]
networks:
  front:
  back:
    internal: true
    ipam: {config: [{subnet: 10.94.0.0/24}]}
volumes:
  data:
    labels: {kind: test}
"#;

const DOCKERFILE: &str = "FROM 127.0.0.1:5000/base AS maker\nARG WORD=none\nRUN mkdir /www && echo $WORD >/www/word\n\
                          FROM 127.0.0.1:5000/base AS served\nCOPY --from=maker /www /www\nCOPY . /www/\n\
                          CMD [\"sh\", \"-c\", \"echo serving as $MODE; exec httpd -f -p 80 -h /www\"]\n\
                          FROM served AS other\nRUN exit 1\n";

/// A project on a daemon, and the registry that has its base image.
struct Project {
    daemon: Daemon,
    _registry: Registry,
}

impl Project {
    fn new() -> Self {
        let daemon = Daemon::start(&[]);
        let registry = Registry::open(&daemon);
        busybox::import(&daemon, "127.0.0.1:5000/base");
        daemon.docker_ok(&["push", "127.0.0.1:5000/base"]);
        daemon.docker_ok(&["rmi", "127.0.0.1:5000/base"]);
        let web = daemon.scratch.path("shop/web");
        fs::create_dir_all(&web).unwrap();
        fs::write(web.join("Dockerfile"), DOCKERFILE).unwrap();
        fs::write(web.join(".dockerignore"), "Dockerfile\nleft-out\n").unwrap();
        fs::write(web.join("left-out"), "").unwrap();
        fs::write(web.join("index.html"), "hello").unwrap();
        fs::write(daemon.scratch.path("shop/compose.yaml"), FILE).unwrap();
        Self { daemon, _registry: registry }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker-compose");
        command.args(["-p", "shop", "-f", &self.daemon.scratch.text("shop/compose.yaml")]);
        command.args(words).stdin(Stdio::null());
        command.env("DOCKER_HOST", format!("unix://{}", self.daemon.socket().display()));
        command.env("DOCKER_CONFIG", self.daemon.scratch.path("docker"));
        // The classic builder, by the client's own hand.
        command.env("DOCKER_BUILDKIT", "0").env("COMPOSE_DOCKER_CLI_BUILD", "0");
        // Compose 1.29 wants a field that Docker tells until this version.
        command.env("COMPOSE_API_VERSION", "1.44");
        command
    }

    fn ok(&self, words: &str) -> String {
        let words: Vec<_> = words.split(' ').collect();
        let (code, said) = run(&mut self.command(&words));
        assert_eq!(code, Some(0), "docker-compose {words:?}: {said}");
        said
    }

    /// The containers of a service, the newest first, as a template shows them.
    fn containers(&self, service: &str, template: &str) -> Vec<String> {
        let filter = format!("label=com.docker.compose.service={service}");
        let words = ["ps", "-a", "--no-trunc", "--filter", &filter, "--format", template];
        self.daemon.docker_ok(&words).lines().map(str::to_owned).collect()
    }

    /// What a program says in a service.
    fn inside(&self, service: &str, line: &str) -> String {
        let (code, said) = run(&mut self.command(&["exec", "-T", service, "sh", "-c", line]));
        assert_eq!(code, Some(0), "{service}: {line}: {said}");
        said.trim_end().to_owned()
    }

    /// Waits until a service has states.
    fn until(&self, service: &str, states: &[&str]) {
        let end = Instant::now() + PATIENCE;
        while self.containers(service, "{{.State}}") != states {
            assert!(
                Instant::now() < end,
                "{service}: {:?}",
                self.containers(service, "{{.Status}}")
            );
        }
    }
}

/// Exit code, and all that is said.
fn run(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().expect("docker-compose is installed");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn three_services_with_a_build_come_up_in_order_and_are_served() {
    let project = Project::new();
    let ok = |words: &str| project.ok(words);
    assert!(ok("config --services").contains("web\n"));
    assert!(ok("config").contains("service_healthy"));
    ok("pull db");
    let base = project.daemon.docker_ok(&["images", "-q", "127.0.0.1:5000/base"]);
    assert_eq!(base.lines().count(), 1);
    let said = ok("build --build-arg WORD=told web");
    assert!(said.contains("Successfully built") && !said.contains("exit 1"), "{said}");
    ok("up -d");
    assert_eq!(project.containers("tool", "{{.ID}}"), [""; 0]);
    project.until("db", &["running"]);
    project.until("fill", &["exited"]);
    assert!(project.containers("db", "{{.Status}}")[0].ends_with("(healthy)"));
    assert!(project.containers("fill", "{{.Status}}")[0].starts_with("Exited (0)"));
    assert_eq!(project.inside("db", "cat /data/seen"), "full");
    assert_eq!(project.inside("web", "cat /www/word; ls /www"), "told\nindex.html\nword");
    assert_eq!(project.inside("web", "wget -qO- http://store:5432/state"), "full");
    assert_eq!(project.inside("db", "wget -qO- http://web/"), "hello");
    let (code, _) = run(&mut project.command(&["exec", "-T", "web", "sh", "-c", "exit 7"]));
    assert_eq!(code, Some(7));
    let port = ok("port web 80");
    let port = port.trim().rsplit_once(':').unwrap().1;
    let url = format!("http://127.0.0.1:{port}/word");
    let served = project.daemon.beside("busybox", &["wget", "-qO-", &url]);
    assert_eq!(String::from_utf8_lossy(&served.stdout), "told\n");
    let logs = ok("logs --no-color");
    assert!(logs.contains("filled") && logs.contains("serving as first"), "{logs}");
    let last = ok("logs --no-color --tail=1 web");
    assert!(last.contains("serving as first") && !last.contains("filled"), "{last}");
    let shown = ok("ps");
    assert!(shown.contains("shop") && shown.contains("80/tcp"), "{shown}");
    assert_eq!(ok("ps -q web").trim(), project.containers("web", "{{.ID}}")[0]);
    let top = ok("top web");
    assert!(top.contains("httpd -f -p 80"), "{top}");
    assert!(ok("images").contains("127.0.0.1:5000/base"));
    ok("down -v --rmi all --remove-orphans");
    assert_nothing_left(&project.daemon);
}

/// Of a project nothing is left, and rnet's own image is all that there is.
fn assert_nothing_left(daemon: &Daemon) {
    assert_eq!(daemon.docker_ok(&["ps", "-aq"]), "");
    assert_eq!(daemon.docker_ok(&["volume", "ls", "-q"]), "");
    let networks = daemon.docker_ok(&["network", "ls", "--format", "{{.Name}}"]);
    assert_eq!(networks, "bridge\nhost\nnone");
    let images = daemon.docker_ok(&["images", "--format", "{{.Repository}}"]);
    let built = |name: &&str| name.starts_with("shop") || name.starts_with("127.0.0.1");
    assert_eq!(images.lines().find(built), None, "{images}");
}

#[test]
fn services_are_scaled_changed_ended_and_begun_again() {
    let project = Project::new();
    let ok = |words: &str| project.ok(words);
    ok("up -d --scale web=3");
    project.until("web", &["running"; 3]);
    let found = project.inside("db", "nslookup web 127.0.0.11 | grep -c 'Address: 10.94'");
    assert_eq!(found, "3");
    ok("up -d --scale web=1");
    project.until("web", &["running"]);
    // What is there already is left as it is, and what changes takes its volumes along.
    let ids = || ["db", "web"].map(|service| project.containers(service, "{{.ID}}")[0].clone());
    let before = ids();
    ok("up -d");
    assert_eq!(ids(), before);
    project.inside("web", "echo kept >/scratch/file");
    let (code, said) = run(project.command(&["up", "-d"]).env("MODE", "second"));
    assert_eq!(code, Some(0), "{said}");
    let after = ids();
    assert!(after[0] == before[0] && after[1] != before[1], "{before:?} {after:?}");
    assert_eq!(project.inside("web", "cat /scratch/file; echo $MODE"), "kept\nsecond");
    ok("restart -t 0 web");
    ok("pause web");
    project.until("web", &["paused"]);
    ok("unpause web");
    ok("stop -t 0 web");
    project.until("web", &["exited"]);
    ok("start web");
    project.until("web", &["running"]);
    ok("kill -s KILL db");
    project.until("db", &["exited"]);
    assert!(project.containers("db", "{{.Status}}")[0].starts_with("Exited (137)"));
    ok("rm -f db");
    assert_eq!(project.containers("db", "{{.ID}}"), [""; 0]);
    ok("up -d db");
    project.until("db", &["running"]);
    ok("build --no-cache --pull web");
    ok("up -d --force-recreate --no-deps web");
    assert_eq!(project.inside("web", "cat /www/word"), "built");
    ok("down -v -t 0 --rmi local");
    // Compose leaves the anonymous volumes of containers that it scaled away.
    project.daemon.docker_ok(&["volume", "prune", "-f"]);
    project.daemon.docker_ok(&["rmi", "127.0.0.1:5000/base"]);
    assert_nothing_left(&project.daemon);
}

#[test]
fn one_off_containers_profiles_and_events_are_compose_s() {
    let project = Project::new();
    let ok = |words: &str| project.ok(words);
    let recorder = Recorder::start(project.daemon.scratch.path("watch"), &project.daemon.socket());
    let mut watch = project.command(&["events", "--json"]);
    let mut watch =
        watch.env("DOCKER_HOST", recorder.url()).stdout(Stdio::piped()).spawn().unwrap();
    recorder.until("/events");
    let said = ok("run --rm -T web cat /www/word");
    assert!(said.contains("\nbuilt\n"), "{said}");
    // What it depends on came up before it, and it is gone without the others.
    assert_eq!(project.containers("web", "{{.ID}}"), [""; 0]);
    project.until("db", &["running"]);
    project.until("fill", &["exited"]);
    let words = [
        "run",
        "--rm",
        "-T",
        "--no-deps",
        "-e",
        "A=b",
        "-w",
        "/tmp",
        "web",
        "sh",
        "-c",
        "pwd; echo $A; exit 3",
    ];
    let (code, said) = run(&mut project.command(&words));
    assert!(code == Some(3) && said.contains("/tmp\nb\n"), "{code:?} {said}");
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    // One-off containers are not told of.
    while !seen.contains(&("fill".to_owned(), "die".to_owned())) {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        seen.push((text("service"), text("action")));
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
    for action in ["create", "start", "exec_create: cat /data/state", "health_status: healthy"] {
        assert!(seen.contains(&("db".to_owned(), action.to_owned())), "{action}: {seen:?}");
    }
    let (code, said) = run(&mut project.command(&["--profile", "debug", "up", "tool"]));
    assert!(code == Some(0) && said.contains("tool"), "{said}");
    project.until("tool", &["exited"]);
    ok("--profile debug down -v -t 0 --rmi all");
    assert_nothing_left(&project.daemon);
}
