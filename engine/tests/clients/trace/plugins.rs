//! The client's plugins, buildx and compose, as they are: Debian's, which `make plugins` fetches.

use std::path::Path;

use super::{Scene, check};
use crate::hub::Registry;

/// Two services that know each other by a network, have a volume, and wait for each other's health.
const PROJECT: &str = "\
name: proj
services:
  db:
    image: bb:1
    init: true
    command: [sh, -c, \"echo served; echo ready >/data/state; exec httpd -f -p 80 -h /data\"]
    volumes: [\"data:/data\"]
    networks: [front]
    healthcheck: {test: [CMD, cat, /data/state], interval: 100ms, timeout: 10s, retries: 99}
  web:
    image: bb:1
    init: true
    command: [sh, -c, \"wget -qO- http://db/state; exec sleep 1000\"]
    ports: [\"18080:80\"]
    networks: [front]
    stop_grace_period: 20s
    depends_on: {db: {condition: service_healthy}}
networks:
  front:
    labels: {kind: test}
volumes:
  data:
";

/// What ends by itself.
const JOB: &str = "\
name: job
services:
  job:
    image: bb:1
    command: [sh, -c, \"echo done; exit 4\"]
    network_mode: none
";

/// What is to be built.
const BUILT: &str = "\
name: built
services:
  served:
    build: ctx
    image: tt:9
";

impl Scene {
    /// A scene whose client has the plugins, with a context to build and a project.
    fn with_plugins() -> Self {
        let scene = Self::with_context();
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/cli-plugins");
        assert!(built.join("docker-buildx").exists(), "the client's plugins: make plugins");
        std::fs::create_dir_all(scene.scratch.path("docker")).unwrap();
        std::os::unix::fs::symlink(built, scene.scratch.path("docker/cli-plugins")).unwrap();
        for (name, text) in [("compose.yaml", PROJECT), ("job.yaml", JOB), ("built.yaml", BUILT)] {
            std::fs::write(scene.scratch.path(name), text).unwrap();
        }
        scene
    }
}

#[test]
fn compose_asks_and_shows_what_it_does_with_docker() {
    check(&Scene::with_plugins(), "compose.txt");
}

/// Docker would build. That there is no `BuildKit` here, and what to do instead, is told by the client itself.
#[test]
fn buildx_asks_what_it_does_with_docker_and_shows_what_to_do_instead() {
    check(&Scene::with_plugins(), "buildx.txt");
}

#[test]
fn imagetools_finds_in_a_registry_what_was_pushed() {
    let scene = Scene::with_plugins();
    let daemon = scene.daemon.as_ref().expect("the registry is in its namespace");
    let _registry = Registry::open(daemon);
    let name = format!("{}/bb:1", Registry::OPEN);
    daemon.docker_ok(&["tag", "bb:1", &name]);
    daemon.docker_ok(&["push", "-q", &name]);
    let imagetools = |words: &[&str]| {
        let mut command = daemon.beside_command("docker", &["buildx", "imagetools"]);
        command.env("DOCKER_HOST", scene.recorder.url()).args(words);
        let output = command.env("DOCKER_CONFIG", scene.scratch.path("docker")).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    };
    let template = "{{json .Manifest.Digest}} {{json .Image.OS}}";
    let digests = || daemon.docker_ok(&["inspect", "-f", "{{join .RepoDigests \" \"}}", "bb:1"]);
    let pushed = digests().split_once('@').unwrap().1.to_owned();
    let shown = imagetools(&["inspect", &name]);
    assert!(shown.contains(&name) && shown.contains(&pushed), "{shown}");
    let shown = imagetools(&["inspect", "--format", template, &name]);
    assert_eq!(shown.trim(), format!("\"{pushed}\" \"linux\""));
    // An index of it under another name, which the daemon pulls.
    let other = format!("{}/bb:2", Registry::OPEN);
    imagetools(&["create", "-t", &other, &name]);
    daemon.docker_ok(&["rmi", "bb:1", &name]);
    daemon.docker_ok(&["pull", "-q", &other]);
    assert_eq!(daemon.docker_ok(&["run", "--rm", &other, "echo", "there"]), "there");
}
