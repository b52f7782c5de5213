//! What happens to containers when a process of ours is killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cnm::NetworkSpec;
use engine::container::spec::PublishedPort;
use engine::container::{EndpointSpec, Remove, Spec, Status, WaitCondition};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::scene::{Scene, on_a_host_of_its_own, output, settings, spec};

/// Where a process that is a daemon only to be killed finds its directory.
const VICTIM: &str = "RNET_TEST_VICTIM";

fn web() -> Spec {
    Spec {
        ports: vec![PublishedPort {
            port: 80,
            host_ports: (8080, 8080),
            ..PublishedPort::default()
        }],
        ..spec("httpd -p 80")
    }
}

/// Opens an engine in another process, starts two containers with it, and kills it.
async fn killed_daemon(dir: &Path) {
    killed("recovery::victim", dir).await;
}

/// Has a test be a daemon in another process, and kills it when it is ready.
async fn killed(victim: &str, dir: &Path) {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", victim, "--nocapture"])
        .env(VICTIM, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Victim(child);
    let stdout = tokio::process::ChildStdout::from_std(child.0.stdout.take().unwrap()).unwrap();
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains("ready to die") {
            child.0.kill().unwrap();
            return;
        }
    }
    panic!("the daemon ended by itself");
}

struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test by itself: the daemon that [`killed_daemon`] kills.
#[test]
fn victim() {
    let Some(dir) = std::env::var_os(VICTIM).map(PathBuf::from) else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let scene = Scene::open(dir).await;
        scene.run("web", web()).await;
        scene.run("trap", spec("trap 5")).await;
        println!("ready to die");
        std::future::pending::<()>().await;
    });
}

/// Not a test by itself: a daemon whose containers depend on one another.
#[test]
fn victim_with_ties() {
    let Some(dir) = std::env::var_os(VICTIM).map(PathBuf::from) else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let scene = Scene::open(dir).await;
        scene.run("first", spec("trap 5")).await;
        scene.run("second", sharing("first")).await;
        scene.run("goes", spec("trap 5")).await;
        scene.run("links", Spec { links: vec!["goes:it".to_owned()], ..spec("trap 5") }).await;
        let force = Remove { force: true, ..Remove::default() };
        scene.engine.containers.remove("goes", force).await.unwrap();
        println!("ready to die");
        std::future::pending::<()>().await;
    });
}

/// A container in the network namespace of another.
fn sharing(other: &str) -> Spec {
    Spec { network_mode: format!("container:{other}").into(), ..spec("trap 5") }
}

/// The network namespace of a container's process.
fn namespace_of(scene: &Scene, name: &str) -> PathBuf {
    let pid = scene.engine.containers.find(name).unwrap().state.pid;
    std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap()
}

#[test]
fn a_third_container_shares_the_sandbox_after_a_kill() {
    let name = "recovery::a_third_container_shares_the_sandbox_after_a_kill";
    on_a_host_of_its_own(name, async |dir| {
        killed("recovery::victim_with_ties", &dir).await;
        let scene = Scene::open(dir).await;
        let second = scene.engine.containers.find("second").unwrap();
        let first = scene.engine.containers.find("first").unwrap();
        assert_eq!(second.sandbox_key, first.sandbox_key);
        scene.run("third", sharing("second")).await;
        let shared = namespace_of(&scene, "first");
        assert_eq!(namespace_of(&scene, "second"), shared);
        assert_eq!(namespace_of(&scene, "third"), shared);
        assert_ne!(std::fs::read_link("/proc/self/ns/net").unwrap(), shared);
        // The second one keeps the namespace when the first one is gone.
        let force = Remove { force: true, ..Remove::default() };
        scene.engine.containers.remove("first", force).await.unwrap();
        let error = scene.try_run("fourth", sharing("first")).await.unwrap_err().to_string();
        assert!(error.contains("No such container: first"), "{error}");
        scene.end().await;
    });
}

#[test]
fn a_link_to_a_container_that_is_gone_keeps_nothing_from_working() {
    let name = "recovery::a_link_to_a_container_that_is_gone_keeps_nothing_from_working";
    on_a_host_of_its_own(name, async |dir| {
        killed("recovery::victim_with_ties", &dir).await;
        let scene = Scene::open(dir).await;
        let links = scene.engine.containers.find("links").unwrap();
        assert_eq!((links.state.status, links.state.error.as_str()), (Status::Running, ""));
        let network = NetworkSpec { name: "n1".to_owned(), ..NetworkSpec::default() };
        scene
            .blocking(move |engine| {
                engine.networks.create(&network)?;
                engine.containers.connect("n1", "links", EndpointSpec::default())?;
                engine.containers.rename("links", "other")?;
                engine.containers.disconnect("n1", "other", false)
            })
            .await
            .unwrap_or_else(|error| panic!("{}", error.chain()));
        let hosts = std::fs::read_to_string(&links.paths.hosts).unwrap();
        assert!(!hosts.contains("goes"), "{hosts}");
        scene.end().await;
    });
}

#[test]
fn a_killed_daemon_is_not_missed_and_the_next_one_adopts_everything() {
    let name = "recovery::a_killed_daemon_is_not_missed_and_the_next_one_adopts_everything";
    on_a_host_of_its_own(name, async |dir| {
        killed_daemon(&dir).await;
        let scene = Scene { engine: killed_then_opened(&dir).await, dir };
        let web = scene.engine.containers.find("web").unwrap();
        assert_eq!((web.state.status, web.ports.len()), (Status::Running, 2));
        assert!(scene.get("127.0.0.1:8080").await.starts_with("HTTP/1."));
        let text = scene.output_of("peer", spec("get http://web/hello")).await;
        assert!(text.contains("/hello"), "{text}");
        scene.engine.containers.stop("trap", Some(5), None).await.unwrap();
        assert_eq!(scene.engine.containers.find("trap").unwrap().state.exit_code, 5);
        let force = Remove { force: true, ..Remove::default() };
        scene.engine.containers.remove("web", force).await.unwrap();
        assert!(!output("ip", "-br link").contains("veth"));
        scene.end().await;
    });
}

async fn killed_then_opened(dir: &Path) -> std::sync::Arc<engine::core::Engine> {
    // While nobody is there: the port answers.
    let answer = tokio::net::TcpStream::connect("127.0.0.1:8080").await;
    assert!(answer.is_ok(), "{answer:?}");
    let engine = engine::core::Engine::open(settings(dir)).await;
    engine.unwrap_or_else(|error| panic!("{}", error.chain()))
}

#[test]
fn an_exit_that_no_daemon_saw_is_known_to_the_next_one() {
    let name = "recovery::an_exit_that_no_daemon_saw_is_known_to_the_next_one";
    on_a_host_of_its_own(name, async |dir| {
        killed_daemon(&dir).await;
        let shims = dir.join("run/shim");
        let mut ended = 0;
        for entry in std::fs::read_dir(&shims).unwrap().flatten() {
            let bundle = std::fs::read_to_string(entry.path().join("config.json")).unwrap();
            if bundle.contains("\"trap\"") {
                let client = shim::client::ShimClient::new(entry.path());
                let pid = client.status().await.unwrap().pid.unwrap();
                kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
                let mut watch = client.watch().await.ok();
                while let Some(events) = &mut watch
                    && events.next().await.is_some()
                {}
                ended += 1;
            }
        }
        assert_eq!(ended, 1);
        let scene = Scene::open(dir).await;
        let trap = scene.engine.containers.find("trap").unwrap();
        assert_eq!((trap.state.status, trap.state.exit_code), (Status::Exited, 5));
        assert!(trap.sandbox.is_none());
        assert_eq!(output("ip", "-br link").matches("veth").count(), 1);
        scene.end().await;
    });
}

#[test]
fn a_container_whose_shim_was_killed_is_ended_and_cleaned_up() {
    let name = "recovery::a_container_whose_shim_was_killed_is_ended_and_cleaned_up";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        scene.run("web", web()).await;
        let pid = scene.engine.containers.find("web").unwrap().state.pid;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        let wait = scene.engine.containers.wait("web", WaitCondition::NotRunning).unwrap();
        kill(Pid::from_raw(parent.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
        assert_eq!(tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap().code, 255);
        assert!(!output("ip", "-br link").contains("veth"));
        assert!(!std::fs::read_to_string("/proc/mounts").unwrap().contains("merged"));
        scene.end().await;
    });
}

#[test]
fn names_are_answered_again_200_ms_after_the_resolver_was_killed() {
    let name = "recovery::names_are_answered_again_200_ms_after_the_resolver_was_killed";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        scene.run("web", web()).await;
        // A busy machine may delay any one of them; the promise is about rnet, not about the machine.
        let mut gaps = Vec::new();
        while gaps.len() < 10 && gaps.iter().all(|gap| *gap > Duration::from_millis(200)) {
            gaps.push(gap_after_a_kill(&scene).await);
        }
        assert!(gaps.last().is_some_and(|gap| *gap <= Duration::from_millis(200)), "{gaps:?}");
        let text = scene.output_of("peer", spec("get http://web/hello")).await;
        assert!(text.contains("/hello"), "{text}");
        scene.end().await;
    });
}

/// Kills the resolver; how long it takes until another one serves the same sandboxes and ports.
async fn gap_after_a_kill(scene: &Scene) -> Duration {
    let socket = scene.dir.join("run/dns.sock");
    let before = dns::client::Client::connect(&socket).unwrap().status().unwrap();
    kill(Pid::from_raw(before.pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
    let begun = Instant::now();
    loop {
        let status = dns::client::Client::connect(&socket).and_then(|client| client.status());
        if let Ok(after) = status
            && after.pid != before.pid
            && after.sandboxes.len() == before.sandboxes.len()
            && after.ports.len() == before.ports.len()
        {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "it does not come back");
        tokio::task::yield_now().await;
    }
}
