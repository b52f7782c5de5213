//! Parts of volumes, and images, as what containers have mounted.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

use crate::daemon::{Client, Daemon};

const IMAGE: &str = "rnet/toolbox";

/// A volume of a daemon with a few things in it: where its content is.
fn volume(daemon: &Daemon) -> PathBuf {
    daemon.docker_ok(&["volume", "create", "vol"]);
    let content = daemon.scratch.path("data").join("volumes/vol/_data");
    fs::create_dir_all(content.join("a/b")).unwrap();
    fs::write(content.join("a/b/file"), "inside").unwrap();
    for (target, link) in [("a/b", "in"), ("/etc", "abs"), ("../../..", "up")] {
        symlink(target, content.join(link)).unwrap();
    }
    content
}

fn mount(part: &str) -> String {
    format!("type=volume,src=vol,dst=/m,volume-subpath={part}")
}

/// What is mounted for this daemon below a directory of its own.
fn mounted(daemon: &Daemon, below: &str) -> Vec<String> {
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", daemon.id())).unwrap();
    let below = daemon.scratch.text(below);
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    places.filter(|place| place.starts_with(&below)).map(str::to_owned).collect()
}

#[test]
fn a_container_has_a_part_of_a_volume_and_nothing_else_of_it() {
    for flags in [&[][..], &["--storage-driver", "vfs"]] {
        let daemon = Daemon::start(flags);
        volume(&daemon);
        let run = |client, part: &str, words: &[&str]| {
            let mount = mount(part);
            let head = ["run", "--rm", "--network", "none", "--mount", &mount, IMAGE];
            daemon.ask(client, &[&head[..], words].concat())
        };
        for client in Client::ALL {
            for part in ["a/b", "a/../a/b", "in"] {
                let (code, out, error) = run(client, part, &["ls", "/m"]);
                assert_eq!((code, &*out), (Some(0), "file"), "{part} {error}");
            }
            let (_, out, error) = run(client, "a/b/file", &["cat", "/m"]);
            assert_eq!(out, "inside", "{error}");
            let (_, _, error) = run(client, "a/b,readonly", &["write", "/m/x", "y"]);
            assert!(error.contains("Read-only file system"), "{error}");
        }
        for outside in ["abs", "up", "abs/passwd"] {
            let (code, _, error) = run(Client::Docker, outside, &["ls", "/m"]);
            let said = format!("_data, subpath: {outside}");
            assert!(error.contains("path concatenation escapes the base directory"), "{error}");
            assert!(code == Some(125) && error.contains(&said), "{error}");
        }
        for (wrong, missing) in [("nope", "nope"), ("a/nope/x", "a/nope")] {
            let (code, _, error) = run(Client::Docker, wrong, &["ls", "/m"]);
            let said = format!("_data/{wrong}: lstat ");
            assert!(code == Some(127) && error.contains(&said), "{code:?} {error}");
            assert!(error.contains(&format!("_data/{missing}: no such file or dir")), "{error}");
        }
    }
}

#[test]
fn a_part_of_a_volume_is_told_taken_over_and_there_after_every_restart() {
    let mut daemon = Daemon::start(&[]);
    volume(&daemon);
    let mount = mount("a");
    let words = ["--network", "none", "--mount", &mount, IMAGE, "sleep", "1000"];
    daemon.docker_ok(&[&["run", "-d", "--name", "c1"][..], &words].concat());
    let shown = daemon.get("/containers/c1/json").json();
    let source = daemon.scratch.text("data") + "/volumes/vol/_data";
    assert_eq!(
        shown["Mounts"],
        json!([{"Type": "volume", "Name": "vol", "Source": source, "Destination": "/m",
            "Driver": "local", "Mode": "z", "RW": true, "Propagation": ""}])
    );
    assert_eq!(shown["HostConfig"]["Mounts"][0]["VolumeOptions"]["Subpath"], "a");
    let look = |daemon: &Daemon| {
        assert_eq!(daemon.docker_ok(&["exec", "c1", "cat", "/m/b/file"]), "inside");
        let other = ["run", "--rm", "--network", "none", "--volumes-from", "c1", IMAGE];
        let found = daemon.docker_ok(&[&other[..], &["ls", "/m"]].concat());
        assert!(found == "b" || found == "b\nnew", "{found}");
        assert!(mounted(daemon, "run/view/").is_empty());
    };
    look(&daemon);
    daemon.restart_after(Signal::SIGKILL, &[]);
    look(&daemon);
    daemon.docker_ok(&["restart", "-t", "0", "c1"]);
    look(&daemon);
    daemon.docker_ok(&["stop", "-t", "0", "c1"]);
    let copied = daemon.scratch.text("copied");
    daemon.docker_ok(&["cp", "c1:/m/b/file", &copied]);
    assert_eq!(fs::read(&copied).unwrap(), b"inside");
    daemon.docker_ok(&["cp", &copied, "c1:/m/new"]);
    daemon.restart_after(Signal::SIGKILL, &[]);
    daemon.docker_ok(&["start", "c1"]);
    look(&daemon);
    assert_eq!(fs::read(Path::new(&source).join("a/new")).unwrap(), b"inside");
}

#[test]
fn a_part_of_a_volume_that_is_swapped_for_a_link_never_leads_out_of_it() {
    let daemon = Daemon::start(&[]);
    let content = volume(&daemon);
    let outside = daemon.scratch.path("outside/b");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("file"), "outside").unwrap();
    symlink(daemon.scratch.path("outside"), content.join("evil")).unwrap();
    let over = AtomicBool::new(false);
    let (mut seen, mount) = (0, mount("a/b"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (a, evil) = (content.join("a"), content.join("evil"));
            while !over.load(Ordering::Relaxed) {
                renameat_with(CWD, &a, CWD, &evil, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..12 {
            let words = ["--network", "none", "--mount", &mount, IMAGE, "cat", "/m/file"];
            let asked = daemon.ask(Client::Docker, &[&["run", "--rm"][..], &words].concat());
            let (code, out, error) = asked;
            if code == Some(0) {
                assert_eq!(out, "inside");
                seen += 1;
            } else if !error.contains("escapes the base directory") {
                over.store(true, Ordering::Relaxed);
                panic!("{error}");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(seen > 0 || !content.join("a").is_dir(), "it was never what it should be");
}

#[test]
fn what_can_never_be_a_part_is_refused_when_a_container_is_made() {
    let daemon = Daemon::start(&[]);
    volume(&daemon);
    let create = |version: &str, mount: Value| {
        let body = json!({"Image": IMAGE, "HostConfig": {"Mounts": [mount]}});
        let reply = daemon.post(&format!("/{version}/containers/create"), &body);
        (reply.status, reply.message())
    };
    let part = |path: &str| json!({"Type": "volume", "Source": "vol", "Target": "/m", "VolumeOptions": {"Subpath": path}});
    for outside in ["/a", "..", "a/../..", "../vol"] {
        let text = "invalid mount config for type \"volume\": subpath must be a relative path \
                    within the volume";
        assert_eq!(create("v1.51", part(outside)), (400, text.to_owned()), "{outside}");
    }
    let old = create("v1.44", part("a"));
    assert_eq!(old, (400, "VolumeOptions.Subpath needs API v1.45 or newer".to_owned()));
    let image = json!({"Type": "image", "Source": IMAGE, "Target": "/m"});
    let old = create("v1.47", image);
    assert_eq!(old, (400, "Mount type \"Image\" needs API v1.48 or newer".to_owned()));
    for (mount, said) in [
        (
            json!({"Type": "volume", "Target": "/m", "VolumeOptions": {"Subpath": "a"}}),
            "invalid mount config for type \"volume\": must not set Subpath when using anonymous \
             volumes",
        ),
        (
            json!({"Type": "volume", "Source": "vol", "Target": "/m", "ImageOptions": {}}),
            "invalid mount config for type \"volume\": field ImageOptions must not be specified",
        ),
        (
            json!({"Type": "image", "Source": IMAGE, "Target": "/m", "VolumeOptions": {}}),
            "VolumeOptions must not be specified on mount type \"image\"",
        ),
        (
            json!({"Type": "image", "Target": "/m"}),
            "invalid mount config for type \"image\": field Source must not be empty",
        ),
        (json!({"Type": "image", "Source": "nosuch:x", "Target": "/m"}), "No such image: nosuch:x"),
    ] {
        assert_eq!(create("v1.51", mount), (400, said.to_owned()));
    }
}

#[test]
fn an_image_is_mounted_where_roots_are_copies_too() {
    let daemon = Daemon::start(&["--storage-driver", "vfs"]);
    let run = |mount: &str, words: &[&str]| {
        let head = ["run", "--rm", "--network", "none", "--mount", mount, IMAGE];
        daemon.ask(Client::Docker, &[&head[..], words].concat())
    };
    let all = "type=image,src=rnet/toolbox,dst=/m";
    let (code, out, error) = run(all, &["ls", "/m/bin/ls"]);
    assert_eq!((code, &*out), (Some(0), "/m/bin/ls"), "{error}");
    let (_, _, error) = run(all, &["write", "/m/x", "y"]);
    assert!(error.contains("Read-only file system"), "{error}");
    let (code, out, error) = run(&format!("{all},image-subpath=bin"), &["ls", "/m/ls"]);
    assert_eq!((code, &*out), (Some(0), "/m/ls"), "{error}");
}

/// An image with a file of its own.
fn image(daemon: &Daemon, name: &str) {
    let words = ["--name", "maker", "--network", "none", IMAGE, "write", "/data", "x"];
    daemon.docker_ok(&[&["run"][..], &words].concat());
    daemon.docker_ok(&["commit", "maker", name]);
    daemon.docker_ok(&["rm", "maker"]);
}

#[test]
fn a_container_has_an_image_mounted_that_nobody_can_write_or_take_away() {
    let mut daemon = Daemon::start(&[]);
    image(&daemon, "part:1");
    let mounts = ["--mount", "type=image,src=part:1,dst=/m", "--mount"];
    let file = ["type=image,src=part:1,dst=/f,image-subpath=data", "--network", "none"];
    let words = ["--name", "c1", IMAGE, "sleep", "1000"];
    for client in Client::ALL {
        daemon.ok(client, &[&["run", "-d"][..], &mounts, &file, &words].concat());
        let look = |daemon: &Daemon| {
            let found = daemon.docker_ok(&["exec", "c1", "ls", "/m/data", "/f"]);
            assert_eq!(found.lines().collect::<Vec<_>>(), ["/m/data", "/f"]);
            let (_, error) = daemon.docker_err(&["exec", "c1", "write", "/m/x", "y"]);
            assert!(error.contains("Read-only file system"), "{error}");
            assert!(mounted(daemon, "data/containers").is_empty());
        };
        look(&daemon);
        let shown = daemon.get("/containers/c1/json").json()["Mounts"][0].clone();
        assert_eq!((&shown["Type"], &shown["Name"]), (&json!("image"), &json!("part:1")));
        assert_eq!((&shown["RW"], &shown["Propagation"]), (&json!(false), &json!("rprivate")));
        let (_, error) = daemon.docker_err(&["rmi", "part:1"]);
        assert!(error.contains("(must force) - container"), "{error}");
        assert!(error.contains("is using its referenced image"), "{error}");
        daemon.docker_ok(&["image", "prune", "-af"]);
        daemon.restart_after(Signal::SIGKILL, &[]);
        look(&daemon);
        daemon.docker_ok(&["restart", "-t", "0", "c1"]);
        look(&daemon);
        let other = ["run", "--rm", "--network", "none", "--volumes-from", "c1", IMAGE];
        assert_eq!(daemon.docker_ok(&[&other[..], &["ls", "/m/data"]].concat()), "/m/data");
        daemon.docker_ok(&["stop", "-t", "0", "c1"]);
        let place = daemon.scratch.text("copied");
        daemon.docker_ok(&["cp", "c1:/m/data", &place]);
        let (_, error) = daemon.docker_err(&["cp", &place, "c1:/m/x"]);
        assert!(error.contains("mounted volume is marked read-only"), "{error}");
        daemon.docker_ok(&["rm", "c1"]);
        let left = fs::read_dir(daemon.scratch.path("data/containers")).unwrap();
        assert_eq!(left.count(), 0);
    }
    daemon.docker_ok(&["rmi", "part:1"]);
}

#[test]
fn an_image_that_lost_its_name_stays_as_long_as_a_container_has_it_mounted() {
    let mut daemon = Daemon::start(&[]);
    image(&daemon, "part:1");
    let words = ["--network", "none", "--mount", "type=image,src=part:1,dst=/m", IMAGE];
    daemon.docker_ok(&[&["create", "--name", "c1"][..], &words, &["ls", "/m/data"]].concat());
    daemon.docker_ok(&["rmi", "-f", "part:1"]);
    daemon.restart_after(Signal::SIGKILL, &[]);
    daemon.docker_ok(&["image", "prune", "-af"]);
    assert_eq!(daemon.docker_ok(&["start", "-a", "c1"]), "/m/data");
    let missing = "type=image,src=rnet/toolbox,dst=/m,image-subpath=nope";
    let words = ["run", "--rm", "--network", "none", "--mount", missing, IMAGE, "true"];
    let (code, error) = daemon.docker_err(&words);
    assert!(code == Some(127) && error.contains("cannot access path"), "{code:?} {error}");
}
