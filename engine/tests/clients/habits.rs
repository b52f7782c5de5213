//! What people and programs are used to from Docker, each once found missing here.

use std::io::Write;
use std::process::Stdio;

use serde_json::json;

use crate::daemon::{Client, Daemon};

const IMAGE: &str = "rnet/toolbox";

#[test]
fn input_that_nobody_reads_does_not_fail_a_run_or_an_exec() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "c1", "--network", "none", IMAGE, "trap", "0"]);
    for client in Client::ALL {
        for words in [
            &["run", "--rm", "-i", "--network", "none", IMAGE, "echo", "done"][..],
            &["exec", "-i", "c1", "echo", "done"],
        ] {
            let mut child = daemon
                .client(client, words)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut input = child.stdin.take().unwrap();
            let flood = std::thread::spawn(move || while input.write_all(&[0; 4096]).is_ok() {});
            let output = child.wait_with_output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(
                (output.status.code(), error.as_str()),
                (Some(0), ""),
                "{client:?} {words:?}"
            );
            assert_eq!(output.stdout, b"done\n", "{client:?} {words:?}");
            flood.join().unwrap();
        }
    }
}

#[test]
fn another_container_that_is_missing_is_not_taken_for_a_missing_image() {
    let daemon = Daemon::start(&[]);
    let host = json!({"VolumesFrom": ["nosuch"]});
    let reply = daemon.post("/containers/create", &json!({"Image": IMAGE, "HostConfig": host}));
    assert_eq!(reply.status, 400, "{host}");
    assert_eq!(reply.message(), "No such container: nosuch", "{host}");
    assert_eq!(daemon.docker_ok(&["ps", "-aq"]), "");
}

#[test]
fn an_image_of_another_platform_is_not_the_image() {
    let daemon = Daemon::start(&[]);
    let path = "/containers/create?platform=linux/riscv64";
    let reply = daemon.post(path, &json!({"Image": IMAGE}));
    assert_eq!(reply.status, 404);
    assert!(reply.message().contains("does not match the specified platform"), "{}", reply.text());
}

#[test]
fn cgroup_namespaces_are_the_container_s_or_the_host_s() {
    let daemon = Daemon::start(&[]);
    let cgroups = |mode: &str| {
        let flags = ["run", "--rm", "--network", "none", "--cgroupns", mode, IMAGE];
        daemon.docker_ok(&[&flags[..], &["cat", "/proc/self/cgroup"]].concat())
    };
    let has_path = |text: &str| text.lines().any(|line| line.len() > line.rfind(':').unwrap() + 40);
    let (private, host) = (cgroups("private"), cgroups("host"));
    assert!(!has_path(&private), "{private}");
    assert!(has_path(&host), "{host}");
}

#[test]
fn a_process_is_in_its_own_group_too() {
    let daemon = Daemon::start(&[]);
    let id = |flags: &[&str]| {
        let run = ["run", "--rm", "--network", "none"];
        daemon.docker_ok(&[&run, flags, &[IMAGE, "id"]].concat())
    };
    assert!(id(&["--group-add", "55"]).ends_with("groups=0,55"));
    assert!(id(&["-u", "12:34"]).ends_with("groups=34"));
}

#[test]
fn an_exec_as_nobody_known_is_refused_before_it_is_made() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "c1", "--network", "none", IMAGE, "trap", "0"]);
    for client in Client::ALL {
        let (code, out, error) = daemon.ask(client, &["exec", "-u", "nosuch", "c1", "id"]);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{client:?}");
        assert!(error.contains("unable to find user nosuch: no matching entries in passwd file"));
    }
}

#[test]
fn an_exec_knows_the_users_that_the_container_has() {
    let daemon = Daemon::start(&[]);
    let passwd = daemon.scratch.path("passwd");
    std::fs::write(&passwd, "web:x:33:44::/srv:/bin/sh\n").unwrap();
    let bind = format!("{}:/etc/passwd", passwd.display());
    let run = ["run", "-d", "--name", "c1", "--network", "none", "-v", &bind, IMAGE, "trap", "0"];
    daemon.docker_ok(&run);
    let id = daemon.docker_ok(&["exec", "-u", "web", "c1", "id"]);
    assert!(id.starts_with("uid=33 gid=44"), "{id}");
}

#[test]
fn ports_of_a_container_on_the_host_s_network_are_warned_about() {
    let daemon = Daemon::start(&[]);
    let (_, _, error) =
        daemon.ask(Client::Docker, &["create", "--network", "host", "-p", "8080:80", IMAGE]);
    assert!(
        error.contains("Published ports are discarded when using host network mode"),
        "{error}"
    );
}

#[test]
fn an_empty_entrypoint_drops_the_image_s_command() {
    let daemon = Daemon::start(&[]);
    let (code, error) = daemon.docker_err(&["run", "--rm", "--entrypoint", "", IMAGE]);
    assert_eq!(code, Some(125));
    assert!(error.contains("no command specified"), "{error}");
    let run = ["run", "--rm", "--network", "none", "--entrypoint", "", IMAGE, "/bin/echo", "hi"];
    assert_eq!(daemon.docker_ok(&run), "hi");
    let (code, error) = daemon.docker_err(&["run", "--rm", "--network", "none", IMAGE, ""]);
    assert_eq!(code, Some(127));
    assert!(error.contains("exec: \"\": executable file not found in $PATH"), "{error}");
}

#[test]
fn everything_unused_can_be_pruned() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["create", "--name", "c1", IMAGE]);
    let told = daemon.docker_ok(&["system", "prune", "-f"]);
    assert!(told.contains("Total reclaimed space"), "{told}");
    assert_eq!(daemon.docker_ok(&["ps", "-aq"]), "");
}

#[test]
fn an_upload_that_is_refused_is_read_to_its_end() {
    let daemon = Daemon::start(&[]);
    let reply = daemon.send("PUT", "/containers/nope/archive?path=/", "", &vec![0; 3_000_000]);
    assert_eq!(reply.status, 404);
    assert_eq!(reply.message(), "No such container: nope");
}

#[test]
fn old_clients_find_the_configuration_of_an_image_twice() {
    let daemon = Daemon::start(&[]);
    let image = daemon.get("/v1.38/images/rnet/toolbox/json").json();
    assert_eq!(image["ContainerConfig"], image["Config"]);
    let image = daemon.get("/v1.45/images/rnet/toolbox/json").json();
    assert_eq!(image.get("ContainerConfig"), None);
}

#[test]
fn old_clients_did_not_find_the_host_name_among_aliases_nor_any_before_a_start() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["network", "create", "n1"]);
    let create = ["create", "--name", "cc", "-h", "me", "--network", "n1", IMAGE, "cat"];
    let id = daemon.docker_ok(&create);
    let aliases = |version: &str| {
        let told = daemon.get(&format!("/{version}/containers/cc/json")).json();
        told["NetworkSettings"]["Networks"]["n1"]["Aliases"].clone()
    };
    for _ in 0..2 {
        assert_eq!(aliases("v1.44"), json!([id[..12], "me"]));
        assert_eq!(aliases("v1.45"), json!(null));
        daemon.docker_ok(&["start", "cc"]);
    }
    daemon.docker_ok(&["rm", "-f", "cc"]);
}

#[test]
fn programs_can_tell_that_they_are_in_a_container() {
    let daemon = Daemon::start(&[]);
    let run = ["run", "--rm", "--network", "none", IMAGE, "cat", "/.dockerenv"];
    assert_eq!(daemon.docker_ok(&run), "");
}

#[test]
fn an_empty_volume_gets_what_the_image_has_there() {
    use std::os::unix::fs::MetadataExt;

    let daemon = Daemon::start(&[]);
    let tree = daemon.scratch.path("tree");
    std::fs::create_dir_all(tree.join("srv/data/deep")).unwrap();
    std::fs::write(tree.join("srv/data/deep/file"), "mine").unwrap();
    std::os::unix::fs::symlink("/srv/data", tree.join("link")).unwrap();
    std::os::unix::fs::symlink("../../../../../../etc", tree.join("out")).unwrap();
    let files = daemon.scratch.text("files.tar");
    let tar = ["-C", tree.to_str().unwrap(), "--owner=33", "--group=44", "-cf", &files, "."];
    assert!(std::process::Command::new("tar").args(tar).status().unwrap().success());
    daemon.docker_ok(&["import", "-c", "CMD /none", "-c", "VOLUME /srv/data", &files, "mine"]);
    let data = |volume: &str| {
        let show = ["volume", "inspect", "-f", "{{.Mountpoint}}", volume];
        std::path::PathBuf::from(daemon.docker_ok(&show))
    };
    let create = |mount: &str| daemon.docker_ok(&["create", "-v", mount, "mine"]);
    create("v1:/link");
    let file = data("v1").join("deep/file");
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    let (file, directory) = (file.metadata().unwrap(), data("v1").metadata().unwrap());
    assert_eq!([file.uid(), file.gid(), directory.uid()], [33, 44, 33]);
    std::fs::write(data("v1").join("deep/file"), "changed").unwrap();
    create("v1:/srv/data");
    assert_eq!(std::fs::read(data("v1").join("deep/file")).unwrap(), b"changed");
    create("v2:/srv/data:nocopy");
    create("v3:/out");
    create("v4:/missing");
    create("v5:/srv/data/deep/file");
    for empty in ["v2", "v3", "v4", "v5"] {
        assert_eq!(std::fs::read_dir(data(empty)).unwrap().count(), 0, "{empty}");
    }
    let id = create("v6:/elsewhere");
    let own = daemon.docker_ok(&["inspect", "-f", "{{range .Mounts}}{{.Source}} {{end}}", &id]);
    let own = own.split(' ').find(|path| path.len() > data("v6").as_os_str().len()).unwrap();
    assert!(std::path::Path::new(own).join("deep/file").exists(), "{own}");
}

#[test]
fn an_added_runtime_gets_the_arguments_it_was_added_with() {
    let scratch = crate::daemon::Scratch::new();
    let (script, told) = (scratch.path("runtime"), scratch.path("told"));
    let text = format!("#!/bin/sh\necho \"$1\" >>{}\nshift\nexec runc \"$@\"\n", told.display());
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let file = scratch.path("daemon.json");
    let runtime = json!({"path": script, "runtimeArgs": ["--mine"]});
    std::fs::write(&file, json!({"runtimes": {"own": runtime}}).to_string()).unwrap();
    let daemon = Daemon::start(&["--config-file", file.to_str().unwrap()]);
    let run = ["run", "--rm", "--network", "none", "--runtime", "own", IMAGE, "echo", "hi"];
    assert_eq!(daemon.docker_ok(&run), "hi");
    assert!(std::fs::read_to_string(told).unwrap().starts_with("--mine\n"));
}

#[test]
fn a_port_on_the_default_network_is_published_for_both_families() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "web", "-p", "8080:80", IMAGE, "httpd"]);
    assert_eq!(daemon.docker_ok(&["port", "web", "80"]), "0.0.0.0:8080\n[::]:8080");
    for address in ["127.0.0.1", "[::1]"] {
        let url = format!("http://{address}:8080/");
        daemon.docker_ok(&["run", "--rm", "--network", "host", IMAGE, "get", &url]);
    }
}

#[test]
fn containers_start_and_a_reset_works_after_somebody_unmounted_what_is_private() {
    let daemon = Daemon::start(&[]);
    let pid = daemon.id();
    for directory in ["run/ns", "run/view"] {
        let path = daemon.scratch.text(directory);
        let enter = ["-t", &pid, "-m", "umount", "-l", &path];
        assert!(std::process::Command::new("nsenter").args(enter).status().unwrap().success());
    }
    let run = ["run", "--rm", IMAGE, "echo", "hi"];
    assert_eq!(daemon.docker_ok(&run), "hi");
}

#[test]
fn a_network_may_have_any_name_that_is_not_blank() {
    let daemon = Daemon::start(&[]);
    for client in Client::ALL {
        for name in ["a b", "-dash", ".dot", "a/b", "a:b", "%41", "ünicode", "tab\tx"] {
            daemon.ok(client, &["network", "create", "--", name]);
            let flag = format!("--network={name}");
            let run = ["run", "--rm", "--name", "web", &flag, IMAGE, "lookup", "web"];
            assert!(daemon.ok(client, &run).starts_with("172."), "{name}");
            let shown = ["network", "inspect", "-f", "{{.Name}}", "--", name];
            assert_eq!(daemon.ok(client, &shown), name, "{client:?}");
            daemon.ok(client, &["network", "rm", "--", name]);
        }
        let (_, _, error) = daemon.ask(client, &["network", "create", " "]);
        assert!(error.contains("invalid name: name is empty"), "{error}");
    }
}
