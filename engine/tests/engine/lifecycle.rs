//! Containers from creation to removal.

use std::time::Duration;

use cnm::{Kind, Protocol};
use engine::container::spec::{PublishedPort, RestartPolicy};
use engine::container::{
    Attach, ExecSpec, ExecStart, LogQuery, Remove, Spec, Status, WaitCondition, Waited,
};
use engine_error::Error;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::scene::{Scene, on_a_host_of_its_own, output, spec};

const FORCE: Remove = Remove { force: true, volumes: true, link: false };

async fn ended(wait: impl Future<Output = Waited>) -> i64 {
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it never ended").code
}

#[test]
fn a_container_on_the_default_bridge_runs_and_leaves_nothing() {
    let name = "lifecycle::a_container_on_the_default_bridge_runs_and_leaves_nothing";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        let spec = Spec {
            ports: vec![PublishedPort {
                port: 80,
                host_ports: (8080, 8080),
                ..PublishedPort::default()
            }],
            ..spec("httpd -p 80")
        };
        let id = scene.run("web", spec).await;
        let web = scene.engine.containers.find("web").unwrap();
        assert_eq!((web.state.status, web.id.as_str()), (Status::Running, id.as_str()));
        assert_eq!(web.endpoints[0].addresses.len(), 1);
        assert_eq!(web.ports.len(), 2, "both families: {:?}", web.ports);
        let answer = scene.get("127.0.0.1:8080").await;
        assert!(answer.starts_with("HTTP/1."), "{answer}");
        let stopped = scene.engine.containers.wait("web", WaitCondition::NotRunning).unwrap();
        scene.engine.containers.stop("web", Some(5), None).await.unwrap();
        ended(stopped).await;
        let again = scene.engine.containers.stop("web", None, None).await.unwrap_err();
        assert_eq!(again.kind(), Kind::NotModified);
        scene.engine.containers.remove("web", Remove::default()).await.unwrap();
        assert_eq!(
            scene.engine.containers.find("web").unwrap_err().to_string(),
            "No such container: web"
        );
        assert!(!output("ip", "-br link").contains("veth"));
        scene.end().await;
    });
}

#[test]
fn peers_find_each_other_by_name_as_their_first_instruction() {
    let name = "lifecycle::peers_find_each_other_by_name_as_their_first_instruction";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        scene.run("web", spec("httpd -p 80")).await;
        let text = scene.output_of("peer", spec("get http://web/hello")).await;
        assert!(text.contains("/hello"), "{text}");
        scene.end().await;
    });
}

#[test]
fn exit_codes_logs_and_events_are_those_of_the_process() {
    let name = "lifecycle::exit_codes_logs_and_events_are_those_of_the_process";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        let mut events = scene.engine.events.subscribe(Some(chrono::DateTime::UNIX_EPOCH));
        let spec = Spec { auto_remove: true, ..spec("exit 3") };
        let created = scene.create("three", spec).await;
        let wait = scene.engine.containers.wait(&created, WaitCondition::Removed).unwrap();
        scene.start("three").await.unwrap();
        assert_eq!(ended(wait).await, 3);
        let mut actions = Vec::new();
        while let Some(event) = events.next().await {
            let last = event.action == "destroy";
            if event.id == created || event.attributes.get("container") == Some(&created) {
                actions.push(format!("{} {}", event.kind, event.action));
            }
            if last {
                break;
            }
        }
        let expected = [
            "container create",
            "network connect",
            "container start",
            "container die",
            "network disconnect",
            "container destroy",
        ];
        assert_eq!(actions, expected);
        assert_eq!(scene.output_of("echo", self::spec("echo a b")).await, "a b\n");
        scene.end().await;
    });
}

#[test]
fn a_missing_program_is_127_and_leaves_the_container_created() {
    let name = "lifecycle::a_missing_program_is_127_and_leaves_the_container_created";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        scene.create("nope", spec("/nope")).await;
        let error = scene.start("nope").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        let nope = scene.engine.containers.find("nope").unwrap();
        assert_eq!((nope.state.status, nope.state.exit_code), (Status::Created, 127));
        assert!(!output("ip", "-br link").contains("veth"));
        assert!(!std::fs::read_to_string("/proc/mounts").unwrap().contains("merged"));
        scene.end().await;
    });
}

#[test]
fn a_container_that_was_made_beside_a_network_goes_when_that_fails() {
    let name = "lifecycle::a_container_that_was_made_beside_a_network_goes_when_that_fails";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        let sysctls = [("net.ipv4.no_such_thing".to_owned(), "1".to_owned())];
        let id = scene.create("odd", Spec { sysctls: sysctls.into(), ..spec("sleep 60") }).await;
        for _ in 0..10 {
            let error = scene.start("odd").await.unwrap_err().chain();
            assert!(error.contains("no_such_thing"), "{error}");
            for place in ["shim", "runtime", "ns"] {
                let directory = scene.dir.join("run").join(place);
                let left: Vec<_> = std::fs::read_dir(&directory).unwrap().collect();
                assert!(left.is_empty(), "{place}: {left:?}");
            }
            assert!(!output("ip", "-br link").contains("veth"));
            assert!(!output("ps", "-e -o args").contains("sleep 60"));
        }
        assert_eq!(scene.engine.containers.find(&id).unwrap().state.status, Status::Created);
        scene.run("even", spec("sleep 60")).await;
        scene.end().await;
    });
}

#[test]
fn a_taken_port_is_refused_in_dockers_words_and_takes_nothing() {
    let name = "lifecycle::a_taken_port_is_refused_in_dockers_words_and_takes_nothing";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        let published = |protocol| Spec {
            ports: vec![PublishedPort {
                port: 80,
                protocol,
                host_ports: (8080, 8080),
                ..PublishedPort::default()
            }],
            ..spec("sleep 60")
        };
        scene.run("first", published(Protocol::Tcp)).await;
        let refused = |error: Error| {
            let error = error.to_string();
            let begin = "failed to set up container networking: driver failed programming external \
                         connectivity on endpoint second (";
            let words = "Bind for 0.0.0.0:8080 failed: port is already allocated: container first";
            assert!(error.starts_with(begin) && error.contains(words), "{error}");
        };
        scene.create("second", published(Protocol::Tcp)).await;
        refused(scene.start("second").await.unwrap_err());
        assert_eq!(scene.engine.containers.find("second").unwrap().state.status, Status::Created);
        scene.run("third", published(Protocol::Udp)).await;
        scene.end().await;
    });
}

#[test]
fn a_process_that_ignores_sigterm_is_killed_after_the_timeout() {
    let name = "lifecycle::a_process_that_ignores_sigterm_is_killed_after_the_timeout";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        scene.run("stubborn", spec("ignore")).await;
        scene.engine.containers.stop("stubborn", Some(1), None).await.unwrap();
        assert_eq!(scene.engine.containers.find("stubborn").unwrap().state.exit_code, 137);
        scene.end().await;
    });
}

#[test]
fn a_policy_restarts_until_its_limit() {
    on_a_host_of_its_own("lifecycle::a_policy_restarts_until_its_limit", async |dir| {
        let scene = Scene::open(dir).await;
        let spec = Spec { restart: RestartPolicy::OnFailure(2), ..spec("exit 1") };
        let id = scene.create("again", spec).await;
        scene.start("again").await.unwrap();
        // Who waits is told of each end, as by Docker: of the first one, and of two more.
        let state = || scene.engine.containers.find("again").unwrap().state.clone();
        while state().status != Status::Exited {
            let wait = scene.engine.containers.wait(&id, WaitCondition::NotRunning).unwrap();
            assert_eq!(ended(wait).await, 1);
        }
        assert_eq!(state().restart_count, 2);
        scene.end().await;
    });
}

#[test]
fn who_attaches_before_the_start_gets_the_first_byte_and_gives_input() {
    let name = "lifecycle::who_attaches_before_the_start_gets_the_first_byte_and_gives_input";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        let spec = Spec { open_stdin: true, stdin_once: true, ..spec("cat") };
        scene.create("cat", spec).await;
        let attach =
            Attach { stdin: true, stdout: true, stderr: true, stream: true, ..Attach::default() };
        let mut attached = scene.engine.containers.attach("cat", attach).await.unwrap();
        scene.start("cat").await.unwrap();
        attached.stream.write_all(b"hello\n").await.unwrap();
        attached.stream.shutdown().await.unwrap();
        let mut bytes = Vec::new();
        attached.stream.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, b"\x01\0\0\0\0\0\0\x06hello\n");
        scene.end().await;
    });
}

#[test]
fn exec_runs_beside_and_its_code_is_known_when_its_output_ends() {
    let name = "lifecycle::exec_runs_beside_and_its_code_is_known_when_its_output_ends";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        scene.run("web", spec("sleep 60")).await;
        for (command, code) in [("echo hi", 0), ("exit 7", 7), ("/nope", 127)] {
            let spec = ExecSpec {
                command: command.split(' ').map(str::to_owned).collect(),
                stdout: true,
                stderr: true,
                ..ExecSpec::default()
            };
            let id = scene.engine.containers.exec_create("web", spec).unwrap();
            let attached =
                scene.engine.containers.exec_start(&id, ExecStart::default()).await.unwrap();
            let mut bytes = Vec::new();
            attached.unwrap().stream.read_to_end(&mut bytes).await.unwrap();
            let view = scene.engine.containers.exec(&id).unwrap();
            assert_eq!((view.exit_code, view.running), (Some(code), false), "{command}");
            if command == "echo hi" {
                assert_eq!(bytes, b"\x01\0\0\0\0\0\0\x03hi\n");
            }
        }
        let processes = scene.blocking(|engine| engine.containers.top("web", "")).await.unwrap();
        assert!(processes.processes[0][7].contains("sleep"), "{processes:?}");
        scene.end().await;
    });
}

#[test]
fn following_a_log_ends_with_the_container() {
    on_a_host_of_its_own("lifecycle::following_a_log_ends_with_the_container", async |dir| {
        let scene = Scene::open(dir).await;
        scene.run("web", spec("httpd -p 80")).await;
        let query = LogQuery { stdout: true, stderr: true, follow: true, ..LogQuery::default() };
        let log = scene.engine.containers.logs("web", query).unwrap();
        scene.engine.containers.remove("web", FORCE).await.unwrap();
        let lines = tokio::time::timeout(Duration::from_secs(10), log.collect::<Vec<_>>()).await;
        assert!(lines.is_ok(), "the log goes on");
        scene.end().await;
    });
}

#[test]
fn a_start_without_a_namespace_leaves_nothing_for_a_shim() {
    let name = "lifecycle::a_start_without_a_namespace_leaves_nothing_for_a_shim";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        let run = scene.dir.join("run");
        let (pins, aside) = (run.join("ns"), run.join("aside"));
        nix::mount::umount2(&pins, nix::mount::MntFlags::MNT_DETACH).unwrap();
        std::fs::rename(&pins, &aside).unwrap();
        std::fs::write(&pins, "").unwrap();
        scene.create("web", spec("sleep 1000")).await;
        scene.start("web").await.unwrap_err();
        assert_eq!(std::fs::read_dir(run.join("shim")).unwrap().count(), 0);
        std::fs::remove_file(&pins).unwrap();
        std::fs::rename(&aside, &pins).unwrap();
        scene.start("web").await.unwrap_or_else(|error| panic!("{}", error.chain()));
        scene.end().await;
    });
}
