//! What is in containers, out of it and into it: `cp`, `diff`, `export`, `commit`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::sys::signal::Signal;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use crate::daemon::{Client, Daemon, PATIENCE};

const IMAGE: &str = "rnet/toolbox";

/// A container that does not end, with more flags.
fn container(daemon: &Daemon, name: &str, flags: &[&str]) {
    let run = ["run", "-d", "--name", name, "--network", "none"];
    daemon.docker_ok(&[&run, flags, &[IMAGE, "sleep", "1000"]].concat());
}

/// An archive of one file, as a `PUT` has it.
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content).unwrap();
    tar.into_inner().unwrap()
}

fn put(daemon: &Daemon, container: &str, path: &str, body: &[u8]) -> (u16, String) {
    let path = format!("/containers/{container}/archive?path={path}");
    let reply = daemon.send("PUT", &path, "Content-Type: application/x-tar\r\n", body);
    (reply.status, reply.text())
}

#[test]
fn files_are_copied_into_containers_and_out_whether_they_run_or_not() {
    for client in Client::ALL {
        let daemon = Daemon::start(&[]);
        let ok = |arguments: &[&str]| daemon.ok(client, arguments);
        let place = |name: &str| daemon.scratch.text(name);
        fs::create_dir_all(daemon.scratch.path("dir/below")).unwrap();
        fs::write(daemon.scratch.path("dir/below/f"), "content").unwrap();
        symlink("below/f", daemon.scratch.path("dir/link")).unwrap();
        container(&daemon, "runs", &["-v", "data:/data", "--tmpfs", "/temporary"]);
        let create = ["create", "--name", "stopped", "-v", "data2:/data", IMAGE, "true"];
        daemon.docker_ok(&create);
        for name in ["runs", "stopped"] {
            let at = |path: &str| format!("{name}:{path}");
            ok(&["cp", &place("dir"), &at("/tmp")]);
            ok(&["cp", &place("dir/."), &at("/data")]);
            ok(&["cp", &place("dir/below/f"), &at("/etc/named")]);
            ok(&["cp", &place("dir"), &at("/new")]);
            for (path, to) in [
                ("/tmp/dir/below/f", "1"),
                ("/data/below/f", "2"),
                ("/etc/named", "3"),
                ("/new/below/f", "4"),
            ] {
                let to = place(&format!("{name}{to}"));
                ok(&["cp", &at(path), &to]);
                assert_eq!(fs::read_to_string(&to).unwrap(), "content", "{path}");
            }
            ok(&["cp", &at("/tmp/dir"), &place(&format!("{name}-dir"))]);
            let copied = daemon.scratch.path(&format!("{name}-dir"));
            assert_eq!(fs::read_link(copied.join("link")).unwrap(), Path::new("below/f"));
            ok(&["cp", "-L", &at("/tmp/dir/link"), &place(&format!("{name}-followed"))]);
            let followed = daemon.scratch.path(&format!("{name}-followed"));
            assert_eq!(fs::read_to_string(followed).unwrap(), "content");
        }
        ok(&["cp", &place("dir/below/f"), "runs:/temporary/f"]);
        assert_eq!(ok(&["exec", "runs", "cat", "/temporary/f"]), "content");
        assert_eq!(ok(&["exec", "runs", "cat", "/data/below/f"]), "content");
        let (code, _, said) = daemon.ask(client, &["cp", "runs:/nope", "."]);
        assert_eq!(code, Some(1));
        assert!(said.contains("Could not find the file /nope in container runs"), "{said}");
        let (code, _, said) = daemon.ask(client, &["cp", "runs:/etc", &place("no/where/x")]);
        assert_eq!(code, Some(1));
        assert!(said.contains("invalid output path: directory"), "{said}");
        daemon.docker_ok(&["rm", "-f", "runs"]);
        daemon.docker_ok(&["start", "-a", "stopped"]);
    }
}

#[test]
fn changes_are_listed_exported_and_made_an_image_that_runs() {
    for client in Client::ALL {
        let daemon = Daemon::start(&[]);
        let ok = |arguments: &[&str]| daemon.ok(client, arguments);
        container(&daemon, "cc", &[]);
        assert_eq!(ok(&["diff", "cc"]), "");
        ok(&["exec", "cc", "write", "/tmp/new", "text"]);
        ok(&["exec", "cc", "write", "/etc/group", "changed"]);
        assert_eq!(ok(&["diff", "cc"]), "C /etc\nC /etc/group\nC /tmp\nA /tmp/new");
        let commit = ["commit", "-m", "said", "-a", "me", "-c", "CMD [\"cat\", \"/tmp/new\"]"];
        let id = ok(&[&commit[..], &["cc", "made:1"]].concat());
        assert!(id.starts_with("sha256:"), "{id}");
        assert_eq!(ok(&["run", "--rm", "--network", "none", "made:1"]), "text");
        assert_eq!(daemon.docker_ok(&["ps", "--format", "{{.State}}"]), "running");
        let format = "{{.Comment}} {{.Author}} {{len .RootFS.Layers}} {{.Parent}}";
        let parent = daemon.docker_ok(&["image", "inspect", "-f", "{{.Id}}", IMAGE]);
        let inspected = daemon.docker_ok(&["image", "inspect", "-f", format, "made:1"]);
        assert_eq!(inspected, format!("said me 2 {parent}"));
        let history = daemon.docker_ok(&["history", "--format", "{{.CreatedBy}}", "made:1"]);
        assert!(history.starts_with("sleep 1000\n"), "{history}");
        let exported = daemon.scratch.text("exported.tar");
        ok(&["export", "-o", &exported, "cc"]);
        let names = names(&fs::read(&exported).unwrap());
        for name in ["tmp/new", "bin/toolbox", "etc/group", ".dockerenv"] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
        daemon.docker_ok(&["import", &exported, "again:1"]);
        let run = ["run", "--rm", "--network", "none", "again:1", "/bin/cat", "/tmp/new"];
        assert_eq!(ok(&run), "text");
    }
}

#[test]
fn an_image_of_a_container_did_not_tell_old_clients_which_one_it_was_made_of() {
    let daemon = Daemon::start(&[]);
    container(&daemon, "cc", &[]);
    daemon.docker_ok(&["commit", "-c", "CMD [\"cat\"]", "cc", "made:1"]);
    let container = daemon.get("/containers/cc/json").json();
    let image = daemon.get("/v1.44/images/made:1/json").json();
    assert_eq!(image["Container"], container["Id"]);
    assert_eq!(image["ContainerConfig"], container["Config"], "as it was before the change");
    let image = daemon.get("/v1.44/images/rnet/toolbox/json").json();
    assert_eq!(image.get("Container"), None, "it was made of none");
    daemon.docker_ok(&["rm", "-f", "cc"]);
}

#[test]
fn a_commit_of_a_copy_knew_nothing_of_the_layers_below() {
    let flags = ["--storage-driver", "vfs"];
    let mut daemon = Daemon::start(&flags);
    container(&daemon, "cc", &[]);
    let said = daemon.get("/containers/cc/json").json();
    assert_eq!(said["GraphDriver"], serde_json::json!({"Data": null, "Name": "vfs"}));
    daemon.docker_ok(&["exec", "cc", "write", "/tmp/new", "text"]);
    for turn in 0..2 {
        assert_eq!(daemon.docker_ok(&["diff", "cc"]), "C /tmp\nA /tmp/new");
        let name = format!("made:{turn}");
        daemon.docker_ok(&["commit", "-c", "CMD [\"cat\", \"/tmp/new\"]", "cc", &name]);
        let layers = "{{len .RootFS.Layers}}";
        assert_eq!(daemon.docker_ok(&["image", "inspect", "-f", layers, &name]), "2");
        let run = ["run", "--rm", "--network", "none", &name];
        assert_eq!(daemon.docker_ok(&run), "text");
        daemon.restart_after(Signal::SIGKILL, &flags);
    }
    // Nor did a step of a build.
    let text = format!("FROM {IMAGE}\nRUN [\"write\", \"/tmp/step\", \"text\"]\n");
    let archive = archive("Dockerfile", text.as_bytes());
    let built = daemon.send("POST", "/build?t=step", "", &archive).text();
    assert!(built.contains("Successfully built"), "{built}");
    let run = ["run", "--rm", "--network", "none", "step", "cat", "/tmp/step"];
    assert_eq!(daemon.docker_ok(&run), "text");
    daemon.docker_ok(&["rm", "-f", "cc"]);
    daemon.docker_ok(&["rmi", "-f", "step", "made:0", "made:1"]);
}

#[test]
fn a_container_of_a_copy_was_told_to_have_written_nothing() {
    for driver in ["overlay2", "vfs"] {
        let daemon = Daemon::start(&["--storage-driver", driver]);
        container(&daemon, "cc", &[]);
        let size = |client| daemon.ok(client, &["ps", "-s", "--format", "{{.Size}}"]);
        for client in Client::ALL {
            assert!(size(client).starts_with("0B (virtual "), "{driver}: {}", size(client));
        }
        daemon.docker_ok(&["exec", "cc", "write", "/tmp/new", "text"]);
        for client in Client::ALL {
            assert!(size(client).starts_with("5B (virtual "), "{driver}: {}", size(client));
            assert_eq!(daemon.ok(client, &["inspect", "-s", "-f", "{{.SizeRw}}", "cc"]), "5");
        }
        daemon.docker_ok(&["kill", "cc"]);
        let pruned = daemon.docker_ok(&["container", "prune", "-f"]);
        assert!(pruned.ends_with("Total reclaimed space: 5B"), "{driver}: {pruned}");
    }
}

fn names(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap();
    entries.map(|e| String::from_utf8(e.unwrap().path_bytes().into_owned()).unwrap()).collect()
}

#[test]
fn what_is_read_only_is_not_copied_to_in_docker_s_words() {
    let daemon = Daemon::start(&[]);
    container(&daemon, "cc", &["--read-only", "-v", "vv:/rw", "-v", "vv:/ro:ro"]);
    let tar = archive("f", b"x");
    for runs in [true, false] {
        let (status, said) = put(&daemon, "cc", "/tmp", &tar);
        assert_eq!((status, &*said), (400, READONLY));
        let (status, said) = put(&daemon, "cc", "/ro", &tar);
        assert_eq!(
            (status, &*said),
            (400, "{\"message\":\"mounted volume is marked read-only\"}\n")
        );
        assert_eq!(put(&daemon, "cc", "/rw", &tar).0, 200);
        if runs {
            daemon.docker_ok(&["kill", "cc"]);
            daemon.docker_ok(&["wait", "cc"]);
        }
    }
    let (status, said) = put(&daemon, "cc", "/rw/f", &tar);
    assert_eq!((status, &*said), (400, "{\"message\":\"extraction point is not a directory\"}\n"));
    let (status, said) = put(&daemon, "cc", "", &tar);
    assert_eq!((status, &*said), (400, "{\"message\":\"bad parameter: pathcannot be empty\"}\n"));
}

const READONLY: &str = "{\"message\":\"container rootfs is marked read-only\"}\n";

/// Says that it is over, also when a test fails: a scope waits for its threads.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn cve_2018_15664_cve_2021_41089_a_copy_under_swapped_links_stays_in_the_container() {
    let daemon = Daemon::start(&[]);
    for path in ["bound/real/etc", "host/etc"] {
        fs::create_dir_all(daemon.scratch.path(path)).unwrap();
    }
    fs::write(daemon.scratch.path("bound/real/etc/canary"), "inside").unwrap();
    fs::write(daemon.scratch.path("host/etc/canary"), "outside").unwrap();
    // The link leads to the host's directory, if it were followed there.
    symlink(daemon.scratch.path("host"), daemon.scratch.path("bound/swap")).unwrap();
    let bind = format!("{}:/bound", daemon.scratch.text("bound"));
    container(&daemon, "cc", &["-v", &bind]);
    // Modes and owners, too, change when these do.
    let changes = || {
        ["host", "host/etc", "host/etc/canary"].map(|path| {
            let meta = fs::metadata(daemon.scratch.path(path)).unwrap();
            (meta.mode(), meta.ctime(), meta.ctime_nsec())
        })
    };
    let before = changes();
    let over = AtomicBool::new(false);
    let (a, b) = (daemon.scratch.path("bound/real"), daemon.scratch.path("bound/swap"));
    let tar = archive("new", b"x");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let _end = Ends(&over);
        let (mut read, mut wrote, end) = (0, 0, Instant::now() + PATIENCE);
        while (read < 20 || wrote < 20) && Instant::now() < end {
            let reply = daemon.get("/containers/cc/archive?path=/bound/real/etc/canary");
            if reply.status == 200 {
                read += 1;
                assert!(!String::from_utf8_lossy(&reply.body).contains("outside"));
            }
            wrote += u32::from(put(&daemon, "cc", "/bound/real/etc", &tar).0 == 200);
        }
        assert!(read >= 20 && wrote >= 20, "{read} were read, {wrote} written");
    });
    let names = fs::read_dir(daemon.scratch.path("host/etc")).unwrap().count();
    assert_eq!(names, 1, "something was written on the host");
    assert_eq!(changes(), before, "something was changed on the host");
}

#[test]
fn cve_2026_41567_archives_are_decompressed_by_no_program_of_the_image() {
    let daemon = Daemon::start(&[]);
    container(&daemon, "cc", &["-v", "canary:/canary"]);
    let trojan = daemon.scratch.path("trojan");
    fs::write(&trojan, "#!/bin/write /canary/run\n").unwrap();
    fs::set_permissions(&trojan, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["xz", "gzip", "unpigz", "zstd", "bzip2"] {
        let to = format!("cc:/bin/{name}");
        daemon.docker_ok(&["cp", trojan.to_str().unwrap(), &to]);
    }
    let tar = archive("f", b"unpacked");
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &tar).unwrap();
    for packed in [zstd, gzip.finish().unwrap()] {
        assert_eq!(put(&daemon, "cc", "/tmp", &packed).0, 200);
        assert_eq!(daemon.docker_ok(&["exec", "cc", "cat", "/tmp/f"]), "unpacked");
    }
    assert_eq!(daemon.docker_ok(&["exec", "cc", "ls", "/canary"]), "");
}

#[test]
fn cve_2019_14271_no_library_of_the_image_is_mapped_by_a_copy() {
    let daemon = Daemon::start(&[]);
    container(&daemon, "cc", &[]);
    let canary = daemon.scratch.path("canary.so");
    fs::write(&canary, "no library at all").unwrap();
    let canary = canary.to_str().unwrap();
    for library in ["libnss_files.so.2", "libnss_compat.so.2", "libc.so.6"] {
        for directory in ["lib", "lib64", "usr/lib", "lib/x86_64-linux-gnu"] {
            let tar = archive(&format!("{directory}/{library}"), b"");
            assert_eq!(put(&daemon, "cc", "/", &tar).0, 200);
            daemon.docker_ok(&["cp", canary, &format!("cc:/{directory}/{library}")]);
        }
    }
    // Owners by name are what others load such a library for.
    daemon.docker_ok(&["cp", "-a", canary, "cc:/tmp/file"]);
    daemon.docker_ok(&["cp", "-a", "cc:/tmp/file", &daemon.scratch.text("back")]);
    daemon.docker_ok(&["export", "-o", &daemon.scratch.text("all.tar"), "cc"]);
    let maps = fs::read_to_string(format!("/proc/{}/maps", daemon.id())).unwrap();
    let root = daemon.scratch.text("data");
    let mapped = maps.lines().filter(|line| line.contains(".so"));
    let theirs: Vec<_> = mapped.filter(|line| line.contains(&root)).collect();
    assert_eq!(theirs, [""; 0]);
}

#[test]
fn ghsa_rg2x_37c3_w2rh_a_mount_of_a_copy_goes_nowhere_else_by_links() {
    let daemon = Daemon::start(&[]);
    fs::create_dir(daemon.scratch.path("host")).unwrap();
    // The image has a link where the volume goes, and the link means the host.
    container(&daemon, "first", &[]);
    let link = daemon.scratch.path("link");
    fs::create_dir(&link).unwrap();
    symlink(daemon.scratch.path("host"), link.join("data")).unwrap();
    symlink("/etc", link.join("absolute")).unwrap();
    let text = format!("{}/.", link.display());
    daemon.docker_ok(&["cp", &text, "first:/"]);
    daemon.docker_ok(&["commit", "first", "linked:1"]);
    let create =
        ["create", "--name", "cc", "-v", "vv:/data/sub", "-v", "ww:/absolute/w", "linked:1"];
    daemon.docker_ok(&[&create[..], &["true"]].concat());
    let tar = archive("f", b"x");
    assert_eq!(put(&daemon, "cc", "/absolute/w", &tar).0, 200, "it is a link as any other");
    let inspected = daemon.docker_ok(&["volume", "inspect", "-f", "{{.Mountpoint}}", "ww"]);
    assert_eq!(fs::read_dir(inspected).unwrap().count(), 1, "it went into the volume");
    assert_eq!(fs::read_dir(daemon.scratch.path("host")).unwrap().count(), 0);
}

/// Waits until so many threads of the daemon copy.
fn await_copies(daemon: &Daemon, wanted: usize) {
    let end = Instant::now() + PATIENCE;
    let tasks = format!("/proc/{}/task", daemon.id());
    loop {
        let threads = fs::read_dir(&tasks).unwrap().flatten();
        let copies = |thread: &fs::DirEntry| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name == "copy\n")
        };
        if threads.filter(copies).count() == wanted {
            return;
        }
        assert!(Instant::now() < end, "there are not {wanted} threads that copy");
        std::thread::yield_now();
    }
}

#[test]
fn the_root_of_a_container_that_runs_is_copied_without_what_the_kernel_shows_there() {
    let daemon = Daemon::start(&[]);
    container(&daemon, "cc", &["-v", "data:/data", "--tmpfs", "/temporary"]);
    for path in ["/data/f", "/temporary/f", "/dev/shm/f"] {
        daemon.docker_ok(&["exec", "cc", "write", path, "content"]);
    }
    for client in Client::ALL {
        let to = daemon.scratch.path(&format!("{client:?}"));
        fs::create_dir(&to).unwrap();
        let text = to.to_str().unwrap();
        daemon.ok(client, &["cp", "cc:/.", text]);
        let entries = |name: &str| fs::read_dir(to.join(name)).unwrap().count();
        assert_eq!(["proc", "sys", "dev"].map(entries), [0; 3], "{client:?}");
        for path in ["data/f", "temporary/f"] {
            assert_eq!(fs::read_to_string(to.join(path)).unwrap(), "content\n", "{path}");
        }
        daemon.ok(client, &["cp", "cc:/proc", &format!("{text}/alone")]);
        assert_eq!(entries("alone"), 0, "{client:?}");
        daemon.ok(client, &["cp", "cc:/dev/shm/f", &format!("{text}/named")]);
        assert_eq!(fs::read_to_string(to.join("named")).unwrap(), "content\n");
    }
}

#[test]
fn an_export_ends_with_its_client_and_a_commit_needs_nothing() {
    let daemon = Daemon::start(&[]);
    container(&daemon, "cc", &[]);
    fs::write(daemon.scratch.path("large"), vec![1; 16 << 20]).unwrap();
    daemon.docker_ok(&["cp", &daemon.scratch.text("large"), "cc:/large"]);
    let client = daemon.open("GET", "/containers/cc/export", "", b"");
    await_copies(&daemon, 1);
    drop(client);
    await_copies(&daemon, 0);
    let reply = daemon.post("/commit?container=cc&pause=0", &json!(null));
    assert_eq!(reply.status, 201, "{}", reply.text());
    for (path, said) in [
        ("/commit?container=cc&repo=x&tag=a:b", "invalid tag format"),
        ("/commit?container=cc&changes=RUN%20x", "RUN is not a valid change command"),
        ("/commit", "invalid name or ID supplied: \"\""),
        ("/commit?container=nope", "No such container: nope"),
    ] {
        let message = daemon.post(path, &json!(null)).message();
        assert!(message.starts_with(said), "{message}");
    }
    daemon.docker_ok(&["rm", "-f", "cc"]);
}
