//! What `ps`, `top` and `inspect` show of containers, as Docker shows it.

use serde_json::{Value, json};

use crate::daemon::{Client, Daemon};

const IMAGE: &str = "rnet/toolbox";

#[test]
fn each_filter_of_ps_chooses_as_docker_s_does() {
    let daemon = Daemon::start(&[]);
    let bind = format!("{}:/bound", daemon.scratch.text(""));
    let run = |name: &str, flags: &[&str], words: &[&str]| {
        let run = ["run", "-d", "--name", name, "--network", "none"];
        daemon.docker_ok(&[&run, flags, &[IMAGE], words].concat())
    };
    daemon.docker_ok(&["tag", IMAGE, "other:1"]);
    let id = run("c1", &["-v", "data:/data", "-v", &bind, "-l", "tier=front"], &["trap", "0"]);
    daemon.docker_ok(&["wait", &run("c2", &[], &["exit", "3"])]);
    let web = ["-p", "8080:80", "-p", "9000:53/udp", "--network", "bridge"];
    daemon.docker_ok(&[&["run", "-d", "--name", "c3"], &web[..], &["other:1", "httpd"]].concat());
    let image = daemon.docker_ok(&["images", "-q", "--no-trunc", IMAGE]);
    let (ancestor, bound) =
        (format!("ancestor={image}"), format!("volume={}", &bind[..bind.len() - 7]));
    let (short, bridge) =
        (format!("id={}", &id[..12]), daemon.docker_ok(&["network", "ls", "-qf", "name=bridge"]));
    let bridge = format!("network={bridge}");
    for (filter, shown) in [
        ("ancestor=rnet/toolbox", "c3 c2 c1"),
        ("ancestor=rnet/toolbox:latest", "c3 c2 c1"),
        ("ancestor=other:1", "c3 c2 c1"),
        ("ancestor=other", ""),
        (&ancestor, "c3 c2 c1"),
        ("before=c2", "c1"),
        ("since=c2", "c3"),
        ("health=none", "c3 c2 c1"),
        ("health=healthy", ""),
        ("isolation=process", "c3 c2 c1"),
        ("is-task=false", "c3 c2 c1"),
        ("is-task=true", ""),
        ("publish=8080", "c3"),
        ("publish=8000-8100/tcp", "c3"),
        ("publish=9000/udp", "c3"),
        ("publish=9000", ""),
        ("publish=80", ""),
        ("expose=80", "c3"),
        ("network=bridge", "c3"),
        (&bridge, "c3"),
        ("volume=data", "c1"),
        ("volume=/data", "c1"),
        (&bound, "c1"),
        ("exited=3", "c2"),
        ("exited=0", ""),
        ("label=tier=front", "c1"),
        ("label=tier", "c1"),
        ("name=c[12]", "c2 c1"),
        ("name=/c3", "c3"),
        ("status=exited", "c2"),
        (&short, "c1"),
    ] {
        for client in Client::ALL {
            let names = daemon.ok(client, &["ps", "-a", "-f", filter, "--format", "{{.Names}}"]);
            assert_eq!(names.replace('\n', " "), shown, "{client:?} {filter}");
        }
    }
    assert_eq!(daemon.docker_ok(&["ps", "-qf", "exited=3"]), "", "it does not run");
}

#[test]
fn a_filter_of_ps_with_a_value_that_it_cannot_have_is_refused() {
    let daemon = Daemon::start(&[]);
    for wrong in
        ["health=good", "status=up", "is-task=maybe", "publish=web", "exited=no", "bogus=1"]
    {
        let (_, error) = daemon.docker_err(&["ps", "-f", wrong]);
        assert!(
            error.contains(&format!("invalid filter '{}", wrong.split('=').next().unwrap())),
            "{error}"
        );
    }
}

#[test]
fn top_shows_the_columns_that_options_of_ps_ask_for() {
    let daemon = Daemon::start(&[]);
    let run = ["run", "-d", "--name", "c1", "--network", "none", IMAGE, "sleep", "infinity"];
    daemon.docker_ok(&run);
    let pid = daemon.docker_ok(&["inspect", "-f", "{{.State.Pid}}", "c1"]);
    for client in Client::ALL {
        let top = |options: &[&str]| {
            let table = daemon.ok(client, &[&["top", "c1"], options].concat());
            let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            lines.map(|words| words.join(" ")).collect::<Vec<_>>()
        };
        let row = format!("{pid} sleep infinity");
        assert_eq!(top(&["-o", "pid,args"]), ["PID COMMAND", &row], "{client:?}");
        assert_eq!(top(&["-eo", "pid,args"]), ["PID COMMAND", &row], "{client:?}");
        let (all, forest) = (top(&["aux"]), top(&["-ef", "f"]));
        assert!(all[0].starts_with("USER PID %CPU %MEM") && all.len() == 2, "{client:?} {all:?}");
        assert!(forest[1].contains("sleep infinity") && forest.len() == 2, "{client:?} {forest:?}");
        assert!(top(&[])[0].starts_with("UID PID PPID C STIME"), "{client:?}");
        for (options, message) in [
            (["-o", "args"], "Couldn't find PID field in ps output"),
            (["-o", "nosuch"], "ps: error: unknown user-defined format specifier"),
            (["-o", "args=PID"], "specifying \"args=PID\" is not allowed"),
        ] {
            let (code, _, error) = daemon.ask(client, &[&["top", "c1"], &options[..]].concat());
            assert_eq!(code, Some(1), "{client:?} {options:?}");
            assert!(error.contains(message), "{client:?} {options:?}: {error}");
        }
    }
}

#[test]
fn inspect_lists_the_execs_that_have_not_ended() {
    let daemon = Daemon::start(&[]);
    let run = ["run", "-d", "--name", "c1", "--network", "none", IMAGE, "sleep", "infinity"];
    daemon.docker_ok(&run);
    let ids = || daemon.get("/containers/c1/json").json()["ExecIDs"].clone();
    assert_eq!(ids(), Value::Null);
    let exec = json!({"Cmd": ["sleep", "infinity"]});
    let exec = daemon.post("/containers/c1/exec", &exec).json()["Id"].clone();
    let id = exec.as_str().unwrap();
    assert_eq!(daemon.post(&format!("/exec/{id}/start"), &json!({"Detach": true})).status, 200);
    assert_eq!(ids(), json!([id]));
    daemon.docker_ok(&["exec", "c1", "true"]);
    assert_eq!(ids(), json!([id]));
    daemon.docker_ok(&["restart", "-t", "0", "c1"]);
    assert_eq!(ids(), Value::Null);
}

#[test]
fn templates_show_what_is_null_as_docker_s_types_do() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["create", "--name", "c1", IMAGE]);
    daemon.docker_ok(&["volume", "create", "v1"]);
    for (name, format) in [
        ("c1", "{{.ExecIDs}}"),
        ("c1", "{{.HostConfig.Binds}} {{len .HostConfig.Binds}}"),
        ("c1", "{{json .HostConfig.Binds}}"),
        ("c1", "{{.HostConfig.CapAdd}}|{{.HostConfig.PortBindings}}|{{.NetworkSettings.Ports}}"),
        ("c1", "{{.Config.OnBuild}}|{{.Config.Volumes}}|{{.Config.Env}}|{{.Mounts}}"),
        ("c1", "{{range .HostConfig.Links}}x{{else}}none{{end}}"),
        (
            "c1",
            "{{with .NetworkSettings.Networks.bridge}}{{.Aliases}}{{.Links}}{{.DriverOpts}}{{end}}",
        ),
        ("v1", "{{.Options}}{{.Labels}}"),
        (IMAGE, "{{.RepoTags}} {{.RepoDigests}}"),
    ] {
        let [docker, rnet] =
            Client::ALL.map(|client| daemon.ok(client, &["inspect", "-f", format, name]));
        assert_eq!(docker, rnet, "{format}");
    }
}
