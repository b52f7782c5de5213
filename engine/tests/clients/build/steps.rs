//! What steps have of each other, of caches, of images, and of a daemon that stops.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::json;

use super::*;

/// A build under way, which has said something.
struct UnderWay {
    child: Child,
    out: std::io::BufReader<std::process::ChildStdout>,
}

impl UnderWay {
    /// Begins a build of a Dockerfile, and waits until a step says `begun`.
    fn begin(site: &Site, name: &str, text: &str) -> Self {
        let context = site.context(name, &[("Dockerfile", text)]);
        let mut command =
            site.daemon.docker_command(&["build", "-t", name, context.to_str().unwrap()]);
        let command = command.env("DOCKER_BUILDKIT", "0").stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while line.trim() != "begun" {
            line.clear();
            assert_ne!(out.read_line(&mut line).unwrap(), 0, "{name} ended early");
        }
        Self { child, out }
    }

    /// Its end, and what it said until then.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.out.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

/// The directories of caches.
fn caches(site: &Site) -> Vec<PathBuf> {
    let entries = fs::read_dir(site.daemon.scratch.path("data/build/mounts")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn words_that_join_to_the_same_text_are_other_steps() {
    let site = Site::new();
    let text =
        |words: &str| format!("FROM base\nRUN [\"sh\", \"-c\", \"echo $0 $# > /n\", {words}]\n");
    site.of("one", &text("\"a b\""));
    let out = site.of("two", &text("\"a\", \"b\""));
    assert!(!out.contains("Using cache"), "{out}");
    assert_eq!([site.shell("one", "cat /n"), site.shell("two", "cat /n")], ["a b 0", "a 1"]);
    // The same words still are the same step.
    assert!(site.of("two", &text("\"a\", \"b\"")).contains("Using cache"));
}

#[test]
fn a_prune_of_the_build_cache_leaves_images_and_caches_that_steps_have() {
    let site = Site::new();
    let context = site.context("dangling", &[("Dockerfile", "FROM base\nRUN echo x > /x\n")]);
    let out = site.built(&["-q", context.to_str().unwrap()]);
    let text = "FROM base\nRUN --mount=type=cache,target=/c touch /c/held; echo begun; \
                until [ -e /c/go ]; do usleep 1000; done; [ -e /c/held ]\n";
    let build = UnderWay::begin(&site, "held", text);
    assert_eq!(site.daemon.send("POST", "/build/prune?all=1", "", b"").status, 200);
    assert_eq!(site.inspect(out.trim())["Id"], out.trim());
    let held = caches(&site);
    assert_eq!(held.len(), 1);
    assert!(held[0].join("held").exists());
    fs::write(held[0].join("go"), "").unwrap();
    let (code, said) = build.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(site.daemon.send("POST", "/build/prune", "", b"").status, 200);
    assert!(caches(&site).is_empty());
}

#[test]
fn a_locked_cache_is_one_step_s_at_a_time() {
    let site = Site::new();
    // Long enough for the other to come in, if it may.
    let step = |number: u32| {
        format!(
            "FROM base AS s{number}\nRUN --mount=type=cache,target=/c,sharing=locked \
             [ ! -e /c/in ] && touch /c/in && i=0 && while [ $i -lt 300000 ]; do i=$((i+1)); done \
             && rm /c/in && echo {number} > /done\n"
        )
    };
    let copies = "COPY --from=s1 /done /1\nCOPY --from=s2 /done /2\n";
    let text = format!("{}{}FROM base\n{copies}", step(1), step(2));
    site.of("locked", &text);
    assert_eq!(site.shell("locked", "cat /1 /2"), "1\n2");
}

#[test]
fn places_of_mounts_go_and_what_a_step_changed_around_them_stays() {
    let site = Site::new();
    let text = "FROM base\nRUN mkdir /opt && ln -s /opt /link\n\
                RUN --mount=type=cache,target=/opt/c --mount=type=cache,target=/link/new/d \
                --mount=type=cache,target=/made/deep chmod 700 /opt && touch /made/deep/x\n";
    site.of("places", text);
    assert_eq!(
        site.shell("places", "stat -c %a /opt; ls -a /opt; ls -d /made 2>&1 | wc -l"),
        "700\n.\n..\n1"
    );
    assert!(site.shell("places", "ls -d /made 2>&1 || true").contains("No such file"));
}

/// CVE-2024-23651 and -23653 are of what a step asks for; the places of its mounts are CVE-2024-23652.
#[test]
fn cve_2024_23652_no_link_that_a_step_leaves_has_anything_removed_elsewhere() {
    let site = Site::new();
    let canary = site.daemon.scratch.path("canary");
    fs::create_dir_all(canary.join("deep")).unwrap();
    fs::write(canary.join("empty"), "").unwrap();
    let (link, up) = (canary.display(), "../".repeat(16));
    for to in [link.to_string(), format!("{up}{}", link.to_string().trim_start_matches('/'))] {
        let text = format!(
            "FROM base\nRUN --mount=type=cache,target=/opt/deep --mount=type=cache,target=/opt/empty \
             mv /opt /aside && ln -s {to} /opt && mkdir -p {link}/deep && touch {link}/empty\n"
        );
        site.of("links", &text);
        assert!(canary.join("deep").is_dir() && canary.join("empty").is_file(), "{to}");
    }
}

#[test]
fn cve_2024_23651_cve_2024_23653_a_step_gets_nothing_of_the_host_and_no_privileges() {
    let site = Site::new();
    let canary = site.daemon.scratch.path("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("secret"), "of the host").unwrap();
    let link = canary.display();
    let (_, error) = site.fails("FROM base\nRUN --security=insecure true\n", &[]);
    assert!(error.contains("--security=insecure is not allowed"), "{error}");
    // A source is below the context or a stage, whatever its links say.
    let context = site.context("fails", &[("real/secret", "inside")]);
    std::os::unix::fs::symlink(&canary, context.join("link")).unwrap();
    let climb = format!("{}{link}", "../".repeat(16));
    for from in ["", ",from=made"] {
        let text = |source: &str| {
            format!(
                "FROM base AS made\nRUN mkdir /real && echo > /real/secret && ln -s {link} /link\n\
                 FROM base\nRUN --mount=type=bind{from},source={source},target=/m cat /m/secret\n"
            )
        };
        site.fails(&text("/link"), &[]);
        site.fails(&text(&climb), &[]);
        fs::write(context.join("Dockerfile"), text("/real")).unwrap();
        site.built(&[context.to_str().unwrap()]);
    }
    // Of a cache there is no part that could be another one when it is mounted.
    let part = "FROM base\nRUN --mount=type=cache,id=c,target=/m,source=/sub true\n";
    let (_, error) = site.fails(part, &[]);
    assert!(error.contains("from and source are for bind"), "{error}");
}

#[test]
fn the_image_of_a_stage_that_has_ended_stays_until_the_build_is_over() {
    let site = Site::new();
    let text = "FROM base AS ended\nRUN echo ended > /ended\nFROM base AS waits\n\
                RUN --mount=type=cache,target=/c echo begun; until [ -e /c/go ]; do usleep 1000; done\n\
                FROM ended\nCOPY --from=waits /bin/sh /x\n";
    let build = UnderWay::begin(&site, "held", text);
    site.daemon.docker_ok(&["image", "prune", "-f"]);
    fs::write(caches(&site)[0].join("go"), "").unwrap();
    let (code, said) = build.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(site.shell("held", "cat /ended"), "ended");
}

#[test]
fn a_trigger_of_an_image_takes_files_of_a_stage_that_nothing_else_needs() {
    let site = Site::new();
    site.of("trigger", "FROM base\nONBUILD COPY --from=two /two /taken\n");
    let text = "FROM base AS one\nRUN echo one > /one\nFROM one AS two\nRUN mv /one /two\n\
                FROM base AS unneeded\nRUN false\nFROM trigger\n";
    let out = site.of("taken", text);
    assert!(!out.contains("RUN false"), "{out}");
    assert_eq!(site.shell("taken", "cat /taken"), "one");
    // One that other steps need too is waited for.
    let text = "FROM base AS two\nRUN echo two > /two\nFROM trigger\nCOPY --from=two /two /again\n";
    site.of("waited", text);
    assert_eq!(site.shell("waited", "cat /taken /again"), "two\ntwo");
}

#[test]
fn a_daemon_that_stops_cancels_its_builds() {
    let mut site = Site::new();
    let build = UnderWay::begin(&site, "stopped", "FROM base\nRUN echo begun; sleep 1000\n");
    let before = Instant::now();
    site.daemon.restart_after(Signal::SIGTERM, &[]);
    assert!(before.elapsed() < PATIENCE / 6, "{:?}", before.elapsed());
    assert_ne!(build.end().0, Some(0));
    assert_eq!(site.daemon.docker_ok(&["ps", "-aq"]), "");
}

#[test]
fn a_dockerfile_from_elsewhere_is_sent_and_is_none_of_the_files() {
    let site = Site::new();
    let elsewhere = site.context("elsewhere", &[("Other", "FROM base\nCOPY . /all/\n")]);
    let context = site.context("here", &[("file", "f"), ("Dockerfile", "FROM none\n")]);
    let (file, context) = (elsewhere.join("Other"), context.to_str().unwrap());
    for client in Client::ALL {
        let arguments = ["-t", "elsewhere", "-f", file.to_str().unwrap(), context];
        let (code, out, error) = site.build(client, &arguments);
        assert_eq!(code, Some(0), "{out}{error}");
        let found = site.shell("elsewhere", "cd /all && find . -type f | sort");
        assert_eq!(found, "./Dockerfile\n./file");
    }
}

#[test]
fn a_commit_of_labels_that_are_a_list_is_an_error_and_no_end_of_the_daemon() {
    let site = Site::new();
    let id = site.daemon.docker_ok(&["create", "--network", "none", "base"]);
    let path = format!("/commit?container={id}&changes=LABEL%20a=b");
    let reply = site.daemon.post(&path, &json!({"Labels": ["x"]}));
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert!(reply.message().contains("Labels is not an object"), "{}", reply.message());
    assert_eq!(site.daemon.get("/_ping").status, 200);
}

/// Loads an image as somebody else's who says something else of how it was made.
fn forge(site: &Site, image: &str, made: &str, said: &str) {
    let archive = site.daemon.scratch.path("forged.tar");
    site.daemon.docker_ok(&["save", "-o", archive.to_str().unwrap(), image]);
    let mut files = files_of(&archive);
    let mut manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let config = files.remove(manifest[0]["Config"].as_str().unwrap()).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    let mut forged = 0;
    for step in config["history"].as_array_mut().unwrap() {
        if step["created_by"] == made {
            step["created_by"] = said.into();
            forged += 1;
        }
    }
    assert_eq!(forged, 1, "{config}");
    manifest[0]["Config"] = "forged.json".into();
    files.insert("forged.json".to_owned(), config.to_string().into_bytes());
    files.insert("manifest.json".to_owned(), manifest.to_string().into_bytes());
    site.daemon.docker_ok(&["rmi", image]);
    let mut tar = tar::Builder::new(fs::File::create(&archive).unwrap());
    for (name, bytes) in &files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    tar.finish().unwrap();
    site.daemon.docker_ok(&["load", "-i", archive.to_str().unwrap()]);
    assert_eq!(made_by(site, image), said);
}

fn files_of(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(fs::File::open(archive).unwrap()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if entry.header().entry_type().is_file() {
            files.insert(entry.path().unwrap().to_string_lossy().into_owned(), bytes);
        }
    }
    files
}

/// What the history says of the last step of an image.
fn made_by(site: &Site, image: &str) -> String {
    let history = ["history", "--no-trunc", "--format", "{{json .CreatedBy}}", image];
    let last = site.daemon.docker_ok(&history).lines().next().unwrap().to_owned();
    serde_json::from_str(&last).unwrap()
}

#[test]
fn cve_2024_24557_an_image_with_a_fitting_history_is_no_result_of_a_step() {
    let site = Site::new();
    // With a parent, and without any, as what is loaded always is.
    let of = |name: &str, kind: &str, what: &str| {
        let text = match kind {
            "run" => format!("FROM base\nRUN echo {what} > /what\n"),
            _ => "FROM scratch\nCOPY what /what\n".to_owned(),
        };
        let line = format!("{what}\n");
        let context = site.context(name, &[("Dockerfile", text.as_str()), ("what", line.as_str())]);
        site.built(&["-t", name, context.to_str().unwrap()])
    };
    for kind in ["run", "copy"] {
        let (honest, forged) = (format!("honest-{kind}"), format!("forged-{kind}"));
        of(&honest, kind, "good");
        let said = made_by(&site, &honest);
        site.daemon.docker_ok(&["rmi", &honest]);
        of(&forged, kind, "evil");
        forge(&site, &forged, &made_by(&site, &forged), &said);
        let out = of(&honest, kind, "good");
        assert!(!out.contains("Using cache"), "{out}");
        let look = format!("FROM base\nCOPY --from={honest} /what /seen\n");
        site.of("look", &look);
        assert_eq!(site.shell("look", "cat /seen"), "good", "{kind}");
    }
    // A health check more below is another step too.
    site.of("below", "FROM base\nHEALTHCHECK CMD true\n");
    let out = site.of("above", "FROM below\nRUN echo good > /what\n");
    assert!(!out.contains("Using cache"), "{out}");
}

#[test]
fn a_build_that_waits_for_its_turn_was_not_reached_by_a_cancel() {
    let site = Site::new();
    let context = site.context("waits", &[("Dockerfile", "FROM base\nRUN echo > /ran\n")]);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all(".", context).unwrap();
    let archive = tar.into_inner().unwrap();
    // Each has a place, and its client sends nothing of the context that it has announced.
    let length = "Content-Length: 1000\r\n";
    let mut slow: Vec<_> =
        (0..64).map(|at| begun(&site, &format!("?buildid=slow{at}"), length)).collect();
    let waiting = |query: &str| site.daemon.open("POST", &format!("/build?{query}"), "", &archive);
    let gone = waiting("t=gone&buildid=gone");
    let wanted = [waiting("t=one&buildid=same"), waiting("t=two&buildid=same")];
    let last = waiting("t=last");
    drop(gone);
    let cancelled = || site.daemon.send("POST", "/build/cancel?id=same", "", b"").status;
    for mut stream in wanted {
        // It may not have arrived yet; once it has, it is reached.
        stream.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        let mut said = String::new();
        wait_for("the build to be cancelled", || {
            assert_eq!(cancelled(), 200);
            let mut piece = [0; 1024];
            match stream.read(&mut piece) {
                Ok(count) => said.push_str(&String::from_utf8_lossy(&piece[..count])),
                Err(_) => return false,
            }
            said.contains("Build cancelled")
        });
    }
    slow.clear();
    let reply = crate::daemon::Reply::read(last);
    assert!(reply.text().contains("Successfully tagged last"), "{}", reply.text());
    for name in ["gone", "one", "two"] {
        assert_eq!(site.daemon.get(&format!("/images/{name}/json")).status, 404, "{name}");
    }
}

/// A build whose context is yet to come.
fn begun(site: &Site, query: &str, length: &str) -> std::os::unix::net::UnixStream {
    let mut stream = std::os::unix::net::UnixStream::connect(site.daemon.socket()).unwrap();
    let head = format!("POST /build{query} HTTP/1.1\r\nHost: docker\r\n{length}\r\n");
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    stream
}
