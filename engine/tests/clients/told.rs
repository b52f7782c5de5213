//! Events: which are told, with which attributes, and how they are written.

use crate::daemon::{Client, Daemon};

const IMAGE: &str = "rnet/toolbox";

/// What was told of a kind of object, with ids replaced.
fn told(daemon: &Daemon, kind: &str, format: &str) -> Vec<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let until = (now.as_secs() + 1).to_string();
    let filter = format!("type={kind}");
    let events = ["events", "--since", "0", "--until", &until, "-f", &filter, "--format", format];
    daemon.docker_ok(&events).lines().map(str::to_owned).collect()
}

#[test]
fn volumes_tell_of_their_lives_and_of_their_containers() {
    let daemon = Daemon::start(&[]);
    for name in ["v1", "v1", "v2"] {
        daemon.docker_ok(&["volume", "create", name]);
    }
    let create = ["create", "--name", "c1", "--network", "none", "-v", "v1:/a", "-v", "v2:/b:ro"];
    let id = daemon.docker_ok(&[&create[..], &["-v", "/c", IMAGE, "true"]].concat());
    daemon.docker_ok(&["start", "-a", "c1"]);
    daemon.docker_ok(&["rm", "-v", "c1"]);
    daemon.docker_ok(&["volume", "rm", "v1"]);
    daemon.docker_ok(&["volume", "prune", "-af"]);
    let format = "{{.Action}} {{with .Actor}}{{.ID}}{{range $k, $v := .Attributes}} {{$k}}={{$v}}{{end}}{{end}}";
    let anonymous = |line: &str| {
        line.split(' ')
            .map(|word| if word.len() == 64 { "ID" } else { word })
            .collect::<Vec<_>>()
            .join(" ")
    };
    let told: Vec<_> = told(&daemon, "volume", format)
        .iter()
        .map(|line| anonymous(&line.replace(&id, "C1")))
        .collect();
    let mounted = "container=C1 destination=";
    assert_eq!(
        told,
        [
            "create v1 driver=local".to_owned(),
            "create v2 driver=local".to_owned(),
            "create ID driver=local".to_owned(),
            format!("mount v1 {mounted}/a driver=local propagation= read/write=true"),
            format!("mount v2 {mounted}/b driver=local propagation= read/write=false"),
            format!("mount ID {mounted}/c driver=local propagation= read/write=true"),
            "unmount v1 container=C1 driver=local".to_owned(),
            "unmount v2 container=C1 driver=local".to_owned(),
            "unmount ID container=C1 driver=local".to_owned(),
            "destroy ID driver=local".to_owned(),
            "destroy v1 driver=local".to_owned(),
            "destroy v2 driver=local".to_owned(),
            "prune  reclaimed=0".to_owned(),
        ]
    );
}

#[test]
fn images_tell_of_their_names_and_of_transfers() {
    let daemon = Daemon::start(&[]);
    let archive = daemon.scratch.text("image.tar");
    let empty = daemon.scratch.path("empty.tar");
    std::fs::write(&empty, [0; 1024]).unwrap();
    let import = ["import", "-c", "LABEL a=b", empty.to_str().unwrap(), "mine"];
    let id = daemon.docker_ok(&import);
    let comment = ["history", "--format", "{{.Comment}}", "mine"];
    assert_eq!(daemon.docker_ok(&comment), "Imported from -");
    daemon.docker_ok(&["tag", "mine", "other:1"]);
    daemon.docker_ok(&["rmi", "other:1"]);
    daemon.docker_ok(&["save", "-o", &archive, "mine"]);
    daemon.docker_ok(&["load", "-i", &archive]);
    daemon.docker_ok(&["rmi", "mine"]);
    let format = "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}} {{.Actor.Attributes.a}}";
    let told: Vec<_> =
        told(&daemon, "image", format).iter().map(|line| line.replace(&id, "ID")).collect();
    assert_eq!(
        told,
        [
            "import ID ID b",
            "tag ID other:1 b",
            "untag ID ID b",
            "save ID ID b",
            "load ID ID b",
            "untag ID ID <no value>",
            "delete ID ID <no value>",
        ]
    );
}

#[test]
fn an_exec_s_command_is_in_its_events_as_docker_writes_it() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "c1", "--network", "none", IMAGE, "trap", "0"]);
    daemon.docker_ok(&["exec", "c1", "true"]);
    daemon.docker_ok(&["exec", "c1", "echo", "a", "b"]);
    let told = told(&daemon, "container", "{{.Action}}|");
    let execs: Vec<_> = told.iter().filter(|line| line.starts_with("exec_c")).collect();
    assert_eq!(execs, ["exec_create: true |", "exec_create: echo a b|"]);
}

#[test]
fn both_clients_write_the_same_text_of_an_event() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["volume", "create", "v1"]);
    daemon.docker_ok(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-l",
        "b=c",
        "-v",
        "v1:/a",
        IMAGE,
        "true",
    ]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let until = (now.as_secs() + 1).to_string();
    let events = ["events", "--since", "0", "--until", &until];
    for (zone, end) in [("UTC", "Z"), ("Asia/Kolkata", "+05:30"), ("", "")] {
        for format in [&[][..], &["--format", "json"], &["--format", "{{json .}}"]] {
            let [docker, rnet] = Client::ALL.map(|client| {
                let words = [&events[..], format].concat();
                let output = daemon.client(client, &words).env("TZ", zone).output().unwrap();
                String::from_utf8(output.stdout).unwrap()
            });
            let time = docker.split(' ').next().unwrap();
            assert!(!format.is_empty() || time.ends_with(end), "{docker}");
            assert_eq!(docker, rnet, "{zone} {format:?}");
        }
    }
}
