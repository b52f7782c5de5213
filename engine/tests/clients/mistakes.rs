//! Bad input: one sentence that names the thing, the right exit code, and nothing is created.

use serde_json::json;

use crate::daemon::{Client, Daemon};

const IMAGE: &str = "rnet/toolbox";

/// All links and all elements of the firewall in the daemon's network namespace.
fn kernel(daemon: &Daemon) -> String {
    let links = daemon.beside("ip", &["-br", "link"]).stdout;
    let rules = daemon.beside("nft", &["list", "ruleset"]).stdout;
    String::from_utf8([links, rules].concat()).unwrap()
}

#[test]
fn a_network_that_cannot_be_is_not_created() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["network", "create", "--subnet", "10.91.0.0/24", "taken"]);
    let before = kernel(&daemon);
    for (flags, words) in [
        ("--subnet 10.0.0.300/24", &["10.0.0.300/24"][..]),
        ("--subnet 10.5.0.0/24 --gateway 10.6.0.1", &["10.6.0.1"]),
        ("--subnet 10.5.0.0/24 --ip-range 10.6.0.0/28", &["10.6.0.0/28"]),
        ("--subnet 10.91.0.0/25", &["Pool overlaps", "10.91.0.0/24", "taken", "--subnet"]),
        ("-d nope", &["nope"]),
        ("-o com.docker.network.bridge.enable_ice=true", &["enable_ice", "enable_icc"]),
        ("-o com.docker.network.driver.mtu=big", &["com.docker.network.driver.mtu", "big"]),
        ("-o com.docker.network.bridge.name=much-too-long-a-name", &["much-too-long-a-name"]),
    ] {
        let arguments: Vec<_> =
            ["network", "create"].into_iter().chain(flags.split(' ')).chain(["wrong"]).collect();
        for client in Client::ALL {
            let (code, out, error) = daemon.ask(client, &arguments);
            assert_eq!((code, out.as_str()), (Some(1), ""), "{client:?} {flags}");
            for word in words {
                assert!(error.contains(word), "{client:?} {flags}: {error}");
            }
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
    assert_eq!(kernel(&daemon), before);
    assert_eq!(daemon.docker_ok(&["network", "ls", "-q"]).lines().count(), 4);
}

#[test]
fn what_cannot_be_is_refused_in_dockers_words() {
    let daemon = Daemon::start(&[]);
    for (arguments, code, words) in [
        ("run --network container IMAGE true", 125, "invalid container format container:<name|id>"),
        (
            "run --name me --network container:me IMAGE true",
            125,
            "cannot join own network namespace",
        ),
        ("run --device /etc IMAGE true", 125, "custom device \"/etc\": not a device node"),
        ("events --since 20 --until 10", 1, "`since` time (20) cannot be after `until` time (10)"),
        ("rmi %", 1, "image name cannot be blank"),
    ] {
        let arguments: Vec<_> = arguments
            .split(' ')
            .map(|word| match word {
                "IMAGE" => IMAGE,
                "%" => " ",
                word => word,
            })
            .collect();
        let (is, _, error) = daemon.ask(Client::Docker, &arguments);
        assert!(is == Some(code) && error.contains(words), "{arguments:?}: {is:?} {error}");
    }
}

#[test]
fn an_exec_in_what_is_paused_names_it_as_the_client_does() {
    let daemon = Daemon::start(&[]);
    let id = daemon.docker_ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "none",
        IMAGE,
        "sleep",
        "99",
    ]);
    daemon.docker_ok(&["pause", "web"]);
    let reply = daemon.post(&format!("/containers/{id}/exec"), &json!({"Cmd": ["true"]}));
    assert!(reply.text().contains(&format!("Container {id} is paused")), "{}", reply.text());
    daemon.docker_ok(&["rm", "-f", "web"]);
}

#[test]
fn an_unknown_option_is_a_warning() {
    let daemon = Daemon::start(&[]);
    let body = json!({"Name": "n1", "Options": {"color": "blue"}});
    let reply = daemon.post("/networks/create", &body);
    assert_eq!(reply.status, 201);
    assert!(reply.json()["Warning"].as_str().unwrap().contains("color"), "{}", reply.text());
    let (code, _, error) =
        daemon.ask(Client::Rnet, &["network", "create", "-o", "color=blue", "n2"]);
    assert_eq!(code, Some(0));
    assert!(error.starts_with("WARNING: ") && error.contains("color"), "{error}");
}

/// A daemon with a network, a container that publishes 8080, and a program of the host on 8081.
fn crowded() -> Daemon {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["network", "create", "--subnet", "10.91.0.0/24", "n1"]);
    daemon.docker_ok(&["network", "create", "auto"]);
    daemon.docker_ok(&["run", "-d", "--name", "first", "--network", "n1", "-p", "8080:80", IMAGE]);
    let server = ["--network", "host", IMAGE, "httpd", "-p", "8081"];
    daemon.docker_ok(&[&["run", "-d", "--name", "server"][..], &server].concat());
    let get = ["run", "--rm", "--network", "host", IMAGE, "get", "http://127.0.0.1:8081/"];
    while daemon.ask(Client::Rnet, &get).0 != Some(0) {}
    daemon
}

#[test]
fn a_container_that_can_never_be_is_not_created() {
    let daemon = crowded();
    let before = kernel(&daemon);
    for (flags, words) in [
        ("-p 99999:80", &["invalid hostPort: 99999"][..]),
        ("--network n1 --ip 10.99.0.5", &["10.99.0.5", "10.91.0.0/24", "no configured subnet"]),
        ("--ip 10.91.0.9", &["user specified IP address is supported on user defined networks"]),
        ("--network auto --ip 10.91.0.9", &["only when connecting to networks with user conf"]),
        ("--network-alias other", &["network-scoped alias"]),
        ("--link nothere:x", &["could not get container for nothere: No such container: nothere"]),
        ("-P --network container:first", &["port publishing and the container type network mode"]),
        ("--expose 1 --network container:first", &["port exposing and the container type network"]),
        ("--link first:x --network container:first", &["can't be used with links"]),
        ("--network n1 --ip bad", &["invalid IPv4 address: bad"]),
        ("--network n1 --mac-address zz", &["zz"]),
        ("--name first", &["The container name \"/first\" is already in use"]),
        ("--nope", &["unknown flag: --nope"]),
        ("--restart sometimes", &["sometimes"]),
    ] {
        for client in Client::ALL {
            let named = if flags.starts_with("--name") { "" } else { "--name wrong " };
            let line = format!("run -d {named}{flags} {IMAGE}");
            let (code, _, error) = daemon.ask(client, &line.split(' ').collect::<Vec<_>>());
            assert_eq!(code, Some(125), "{client:?} {flags}: {error}");
            for word in words {
                assert!(error.contains(word), "{client:?} {flags}: {error}");
            }
            let all = daemon.docker_ok(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
            assert_eq!(all, "server running\nfirst running", "{client:?} {flags}");
        }
    }
    assert_eq!(kernel(&daemon), before);
}

#[test]
fn what_is_only_taken_now_is_created_with_a_warning_and_fails_at_its_start() {
    let daemon = crowded();
    let before = kernel(&daemon);
    let networking = "failed to set up container networking: ";
    for (flags, words) in [
        (
            "-p 8081:80",
            &[networking, ":8081", "address already in use by a program of the host"][..],
        ),
        (
            "-p 8080:80",
            &[networking, "Bind for", ":8080 failed: port is already allocated", "container first"],
        ),
        ("--network nonet", &[networking, "network nonet not found"]),
        ("--network n1 --ip 10.91.0.2", &[networking, "Address already in use: 10.91.0.2"]),
        (
            "--network container:nope",
            &["joining network namespace of container: No such container: nope"],
        ),
    ] {
        for client in Client::ALL {
            let line = format!("run -d --name wrong {flags} {IMAGE}");
            let (code, _, error) = daemon.ask(client, &line.split(' ').collect::<Vec<_>>());
            assert_eq!(code, Some(125), "{client:?} {flags}: {error}");
            for word in words {
                assert!(error.contains(word), "{client:?} {flags}: {error}");
            }
            assert!(error.contains("WARNING: It cannot be started"), "{client:?} {flags}: {error}");
            let format = "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}";
            let state = daemon.docker_ok(&["inspect", "-f", format, "wrong"]);
            assert!(state.starts_with("created 128 "), "{client:?} {flags}: {state}");
            assert!(state.contains(words[words.len() - 1]), "{client:?} {flags}: {state}");
            daemon.docker_ok(&["rm", "wrong"]);
            let line = line.replace("run -d", "run --rm");
            daemon.ask(client, &line.split(' ').collect::<Vec<_>>());
            let all = daemon.docker_ok(&["ps", "-a", "--format", "{{.Names}}"]);
            assert_eq!(all, "server\nfirst", "{client:?} {flags}: --rm");
        }
    }
    assert_eq!(kernel(&daemon), before);
}

#[test]
fn a_successor_is_created_while_the_one_that_it_replaces_runs() {
    let daemon = crowded();
    let next = ["--network", "later", "-p", "8080:80", IMAGE];
    daemon.docker_ok(&[&["create", "--name", "next"][..], &next].concat());
    daemon.docker_ok(&["network", "create", "later"]);
    daemon.docker_ok(&["rm", "-f", "first"]);
    daemon.docker_ok(&["start", "next"]);
    let format = "{{.State.Status}} {{(index .NetworkSettings.Networks \"later\").IPAddress}}";
    let state = daemon.docker_ok(&["inspect", "-f", format, "next"]);
    assert!(state.starts_with("running 1"), "{state}");
}

#[test]
fn what_is_unknown_is_named() {
    let daemon = Daemon::start(&[]);
    for line in [
        "stop", "kill", "rm", "start", "logs", "wait", "pause", "unpause", "port", "top",
        "restart", "attach",
    ] {
        for client in Client::ALL {
            let (code, _, error) = daemon.ask(client, &[line, "nope"]);
            assert_eq!(code, Some(1), "{line}");
            let before = if line == "kill" { "cannot kill container: nope: " } else { "" };
            let words = format!("Error response from daemon: {before}No such container: nope");
            assert!(error.starts_with(&words), "{client:?} {line}: {error}");
        }
    }
    for client in Client::ALL {
        let (_, _, error) = daemon.ask(client, &["start", "nope"]);
        assert!(error.ends_with("Error: failed to start containers: nope"), "{error}");
        let (code, _, error) = daemon.ask(client, &["create", "-p", "x:1", IMAGE]);
        assert_eq!(code, Some(125), "{error}");
        daemon.ok(client, &["create", "--name", "twice", IMAGE]);
        let (code, _, error) = daemon.ask(client, &["create", "--name", "twice", IMAGE]);
        assert_eq!(code, Some(1), "{client:?} {error}");
        assert!(error.starts_with("Error response from daemon: Conflict."), "{error}");
        daemon.ok(client, &["rm", "twice"]);
    }
    let reply = daemon.post("/containers/create", &json!({"Image": "a//b"}));
    assert_eq!(reply.status, 400);
    assert!(reply.message().contains("\"a//b\""), "{}", reply.message());
}

#[test]
fn a_program_that_is_missing_is_told_once() {
    let daemon = Daemon::start(&[]);
    for client in Client::ALL {
        for run in [&["run"][..], &["run", "--rm"]] {
            let words = [run, &["--network", "none", IMAGE, "nope"]].concat();
            let (code, _, error) = daemon.ask(client, &words);
            assert_eq!(code, Some(127));
            assert_eq!(error.matches("failed to create task").count(), 1, "{error}");
            assert!(!error.contains("Error waiting for container"), "{error}");
        }
    }
}

#[test]
fn errors_that_docker_words_are_worded_so() {
    let daemon = Daemon::start(&[]);
    let id = daemon.docker_ok(&["create", "--name", "c1", IMAGE]);
    daemon.docker_ok(&["create", "--name", "c2", IMAGE]);
    let broken = daemon.scratch.text("broken.tar");
    std::fs::write(&broken, "broken").unwrap();
    for client in Client::ALL {
        let fails = |words: &[&str]| {
            let (code, _, error) = daemon.ask(client, words);
            assert_ne!(code, Some(0), "{client:?} {words:?}");
            error
        };
        let error = fails(&["rename", "c2", "c1"]);
        let text = format!(
            "Error when allocating new name: Conflict. The container name \"/c1\" is already in use \
             by container \"{id}\""
        );
        assert!(error.contains(&text), "{client:?}: {error}");
        for (volume, text) in [
            (
                "/:/",
                "invalid volume specification: '/:/': invalid mount config for type \"bind\": \
                 invalid specification: destination can't be '/'",
            ),
            ("a:b:c:d", "invalid volume specification: 'a:b:c:d'"),
            (
                "/x:y",
                "invalid volume specification: '/x:y': invalid mount config for type \"bind\": \
                 invalid mount path: 'y' mount path must be absolute",
            ),
            (
                "a?b:/x",
                "create a?b: \"a?b\" includes invalid characters for a local volume name, only \
                 \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed",
            ),
            ("/x:/y:bogus", "invalid mode: bogus"),
        ] {
            let error = fails(&["create", "-v", volume, IMAGE]);
            assert!(error.contains(text), "{client:?} {volume}: {error}");
        }
    }
    let (_, _, error) = daemon.ask(Client::Rnet, &["load", "-i", &broken]);
    assert!(error.contains(&broken), "{error}");
}
