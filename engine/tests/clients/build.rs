//! Dockerfiles become images: by the classic builder of the `docker` command, by `rnet build`, by
//! plain HTTP. The base of most of them is a static busybox.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::daemon::{Client, Daemon, PATIENCE};

mod debian;
mod handed;
mod steps;

/// A daemon, and contexts for it.
struct Site {
    daemon: Daemon,
}

impl Site {
    /// With the image `base`: a busybox, all of whose tools are in `/bin`.
    fn new() -> Self {
        let site = Self { daemon: Daemon::start(&[]) };
        let text = "FROM scratch\nCOPY busybox /bin/busybox\n\
                    RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nCMD [\"sh\"]\n";
        let context = site.context("base", &[("Dockerfile", text)]);
        fs::copy("/usr/bin/busybox", context.join("busybox")).expect("busybox-static is installed");
        site.built(&["-t", "base", context.to_str().unwrap()]);
        site
    }

    /// A directory with files.
    fn context(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let directory = self.daemon.scratch.path(name);
        for (name, text) in files {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        directory
    }

    /// Runs a client's build: exit code, stdout, stderr.
    fn build(&self, client: Client, arguments: &[&str]) -> (Option<i32>, String, String) {
        let all = [&["build"], arguments].concat();
        let output = self.daemon.client(client, &all).env("DOCKER_BUILDKIT", "0").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn built(&self, arguments: &[&str]) -> String {
        let (code, out, error) = self.build(Client::Docker, arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {out}\n{error}");
        out
    }

    /// Builds a Dockerfile without files beside it.
    fn of(&self, name: &str, text: &str) -> String {
        let context = self.context(name, &[("Dockerfile", text)]);
        self.built(&["-t", name, context.to_str().unwrap()])
    }

    fn fails(&self, text: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let context = self.context("fails", &[("Dockerfile", text), ("file", "f")]);
        let arguments = [arguments, &[context.to_str().unwrap()]].concat();
        let (code, _, error) = self.build(Client::Docker, &arguments);
        assert_ne!(code, Some(0), "{text}");
        (code, error.lines().last().unwrap_or_default().to_owned())
    }

    /// What a shell says in a container of an image.
    fn shell(&self, image: &str, line: &str) -> String {
        let arguments =
            ["run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", line];
        self.daemon.docker_ok(&arguments)
    }

    fn inspect(&self, image: &str) -> Value {
        let text = self.daemon.docker_ok(&["image", "inspect", image]);
        serde_json::from_str::<Value>(&text).unwrap()[0].take()
    }
}

#[test]
fn a_build_says_what_the_classic_builder_says_and_the_next_one_takes_it_all_again() {
    let site = Site::new();
    let text = "ARG V=base\nFROM $V AS one\nARG FOO=bar\nENV A=b C=\"d e\"\nRUN echo $FOO $A > /foo\n\
                FROM one\nCOPY --from=0 /foo /foo2\nWORKDIR /w/x\nCOPY file .\nCMD cat /foo2\n";
    let context = site.context("two", &[("Dockerfile", text), ("file", "hello\n")]);
    let path = context.to_str().unwrap();
    let first = site.built(&["-t", "two:1", path]);
    for part in [
        "Step 1/10 : ARG V=base\nStep 2/10 : FROM $V AS one\n ---> ",
        "\nStep 5/10 : RUN echo $FOO $A > /foo\n ---> Running in ",
        "\n ---> Removed intermediate container ",
        "\nSuccessfully built ",
        "\nSuccessfully tagged two:1",
    ] {
        assert!(first.contains(part), "{part}: {first}");
    }
    assert_eq!(site.daemon.docker_ok(&["run", "--rm", "--network", "none", "two:1"]), "bar b");
    assert_eq!(site.shell("two:1", "pwd; cat file; stat -c %a:%u /w/x/file"), "/w/x\nhello\n644:0");
    let before = Instant::now();
    let second = site.built(&["-t", "two:2", path]);
    assert!(before.elapsed() < PATIENCE / 4);
    assert_eq!(second.matches(" ---> Using cache").count(), 7, "{second}");
    assert!(!second.contains("Running in"), "{second}");
    assert_eq!(site.inspect("two:1")["Id"], site.inspect("two:2")["Id"]);
    // Times do not matter, contents and modes do.
    fs::write(context.join("file"), "hello\n").unwrap();
    assert_eq!(site.built(&[path]).matches("Using cache").count(), 7);
    fs::write(context.join("file"), "other\n").unwrap();
    let changed = site.built(&["-t", "two:3", path]);
    assert_eq!(changed.matches("Using cache").count(), 5, "{changed}");
    assert_eq!(site.shell("two:3", "cat file"), "other");
    assert_eq!(site.built(&["--no-cache", path]).matches("Using cache").count(), 0);
    assert_eq!(site.daemon.docker_ok(&["ps", "-aq"]), "");
}

#[test]
fn every_instruction_leaves_what_docker_s_leaves() {
    let site = Site::new();
    let out = site.of(
        "all",
        "FROM base\nLABEL x=y \"two words\"='a b'\nEXPOSE 80 53/udp\nVOLUME /data\nUSER 1:2\n\
         STOPSIGNAL SIGINT\nHEALTHCHECK --interval=5s CMD true\nSHELL [\"/bin/sh\", \"-ec\"]\n\
         ONBUILD RUN echo triggered\nMAINTAINER me\nENTRYPOINT [\"/bin/echo\"]\n",
    );
    assert!(out.contains("Step 11/11 : ENTRYPOINT [\"/bin/echo\"]"), "{out}");
    let image = site.inspect("all");
    let config = &image["Config"];
    assert_eq!(config["Labels"], serde_json::json!({"x": "y", "two words": "a b"}));
    assert_eq!(config["ExposedPorts"], serde_json::json!({"80/tcp": {}, "53/udp": {}}));
    assert_eq!(config["Volumes"], serde_json::json!({"/data": {}}));
    assert_eq!((&config["User"], &config["StopSignal"]), (&"1:2".into(), &"SIGINT".into()));
    assert_eq!(config["Healthcheck"]["Test"], serde_json::json!(["CMD-SHELL", "true"]));
    assert_eq!((&image["Author"], &config["Cmd"]), (&"me".into(), &Value::Null));
    let history =
        site.daemon.docker_ok(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", "all"]);
    for line in [
        "/bin/sh -ec #(nop)  ENTRYPOINT [\"/bin/echo\"]",
        "/bin/sh -c #(nop)  HEALTHCHECK &{[CMD-SHELL true] 5s 0s 0s 0s 0}",
        "/bin/sh -c #(nop)  EXPOSE 53/udp 80",
    ] {
        assert!(history.contains(line), "{line}: {history}");
    }
    let child = site.of("child", "FROM all\nUSER 0\n");
    assert!(child.contains("# Executing 1 build trigger\n ---> Running in"), "{child}");
    assert_eq!(site.inspect("child")["Config"]["OnBuild"], Value::Null);
}

#[test]
fn copies_go_where_docker_s_go() {
    let site = Site::new();
    let text = "FROM base\nRUN mkdir /old && ln -s /old /link && echo user:x:7:8::/: > /etc/passwd\n\
                COPY a.txt b.txt /d/\nCOPY dir /e\nCOPY dir/ /link/sub/\nCOPY *.txt dir/*.md /f/\n\
                COPY a.txt /g\nCOPY --chown=5:6 --chmod=640 a.txt /h\nCOPY --chown=user:9 dir /i\n\
                COPY --from=base /bin/busybox /copied\nADD dir/in.tar /j/\nCOPY dir/in.tar /k/\n\
                COPY <<EOF <<-\"TWO\" /l/\nvalue $PATH\nEOF\n\ttabs $PATH\n\tTWO\n\
                COPY --exclude=*.md dir /m\nRUN <<EOF\necho one > /n\necho two >> /n\nEOF\n";
    let files = [
        ("Dockerfile", text),
        ("a.txt", "a"),
        ("b.txt", "b"),
        ("dir/c.md", "c"),
        ("dir/deep/d", "d"),
        ("dir/.wh.kept", "w"),
    ];
    let context = site.context("copies", &files);
    std::os::unix::fs::symlink("/etc", context.join("dir/out")).unwrap();
    let mut archive = tar::Builder::new(fs::File::create(context.join("dir/in.tar")).unwrap());
    archive.append_dir_all("x", context.join("dir/deep")).unwrap();
    archive.finish().unwrap();
    site.built(&["-t", "copies", context.to_str().unwrap()]);
    let find =
        |path: &str| site.shell("copies", &format!("cd {path} && find . | sort | tr '\\n' ' '"));
    assert_eq!(find("/d").trim(), ". ./a.txt ./b.txt");
    assert_eq!(find("/e").trim(), ". ./.wh.kept ./c.md ./deep ./deep/d ./in.tar ./out");
    assert_eq!(find("/old/sub").trim(), find("/e").trim());
    assert_eq!(find("/f").trim(), ". ./a.txt ./b.txt ./c.md");
    assert_eq!(find("/j").trim(), ". ./x ./x/d");
    assert_eq!(find("/k").trim(), ". ./in.tar");
    assert!(!find("/m").contains(".md"));
    let said = site.shell(
        "copies",
        "cat /g; echo; stat -c %a:%u:%g /h; stat -c %u:%g /i/deep/d; readlink /e/out; cat /l/EOF \
         /l/TWO /n; cmp /bin/busybox /copied && echo same",
    );
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let wanted = format!("a\n640:5:6\n7:9\n/etc\nvalue {path}\ntabs $PATH\none\ntwo\nsame");
    assert_eq!(said, wanted);
}

#[test]
fn what_fails_is_told_in_docker_s_words_and_leaves_nothing() {
    let site = Site::new();
    let images = site.daemon.docker_ok(&["images", "-aq"]);
    for (text, code, wanted) in [
        (
            "FROM base\nRUN exit 7\n",
            7,
            "The command '/bin/sh -c exit 7' returned a non-zero code: 7",
        ),
        (
            "FROM base\nCOPY nope /x\n",
            1,
            "COPY failed: file not found in build context or excluded by .dockerignore: stat nope: file does not exist",
        ),
        ("FROM base\nCOPY a* /x\n", 1, "COPY failed: no source files were specified"),
        (
            "FROM base\nCOPY ../file /x\n",
            1,
            "COPY failed: forbidden path outside the build context: ../file ()",
        ),
        (
            "FROM base\nCOPY file Dockerfile /x\n",
            1,
            "When using COPY with more than one source file, the destination must be a directory and end with a /",
        ),
        ("FROM base\nCOPY --from=9 /x /y\n", 1, "invalid from flag value 9: index out of bounds"),
        ("FROM base\nENV a=${x:?err}\n", 1, "failed to process \"${x:?err}\": x: err"),
        ("FROM base\nSTOPSIGNAL FOO\n", 1, "invalid signal: FOO"),
        (
            "FROM base\nADD https://a/b.git /x\n",
            1,
            "ADD https://a/b.git: this builder does not add repositories of git, only files by http:// and https:// (a repository may be the context of a build)",
        ),
        ("FROM ${nope}\n", 1, "base name (${nope}) should not be blank"),
        ("FROM scratch\n", 1, "No image was generated. Is your Dockerfile empty?"),
        (
            "FROM base\nNOPE x\n",
            1,
            "Error response from daemon: dockerfile parse error on line 2: unknown instruction: NOPE (did you mean COPY?)",
        ),
        ("RUN x\n", 1, "Error response from daemon: no build stage in current context"),
    ] {
        let failed = site.fails(text, &["--force-rm"]);
        assert_eq!(failed, (Some(code), wanted.to_owned()), "{text}");
    }
    let (_, error) = site.fails("FROM base\n", &["--target", "nope"]);
    assert!(error.ends_with("target stage \"nope\" could not be found"), "{error}");
    let (_, error) = site.fails("FROM base\n", &["-f", "/dev/null"]);
    assert!(error.contains("cannot be empty"), "{error}");
    assert_eq!(site.daemon.docker_ok(&["ps", "-aq"]), "");
    assert_eq!(site.daemon.docker_ok(&["images", "-aq"]), images);
    // Without it, the container of a step that failed can be looked at.
    site.fails("FROM base\nRUN echo kept > /kept && false\n", &[]);
    assert_eq!(site.daemon.docker_ok(&["ps", "-aq"]).lines().count(), 1);
}

#[test]
fn only_needed_stages_run_and_those_apart_run_together() {
    let site = Site::new();
    // Each waits for a sign of the other, by a cache that both have.
    let text = "FROM base AS unused\nRUN false\nFROM base AS a\n\
                RUN --mount=type=cache,target=/c touch /c/a; until [ -e /c/b ]; do usleep 1000; done\n\
                FROM base AS b\n\
                RUN --mount=type=cache,target=/c touch /c/b; until [ -e /c/a ]; do usleep 1000; done\n\
                FROM base\nCOPY --from=a /etc/hostname* /bin/sh /x/\nCOPY --from=b /bin/sh /y\n\
                RUN --mount=type=bind,from=b,source=/bin,target=/z ls /z/busybox\nRUN [ ! -e /c ] && [ ! -e /z ]\n";
    let out = site.of("stages", text);
    assert!(!out.contains("RUN false"), "{out}");
    let steps: Vec<_> = out.lines().filter(|line| line.starts_with("Step ")).collect();
    assert_eq!(steps.len(), 9);
    assert!(
        steps.iter().enumerate().all(|(at, step)| step.starts_with(&format!("Step {}/9 ", at + 1)))
    );
    let only = site.context("stages", &[]);
    let out = site.built(&["--target", "a", only.to_str().unwrap()]);
    assert!(out.contains("Step 2/2 : RUN --mount"), "{out}");
}

#[test]
fn arguments_are_seen_where_they_are_declared_and_stay_out_of_the_image() {
    let site = Site::new();
    let text = "ARG TAG=none\nFROM base\nARG TAG\nARG SECRET\nARG TARGETARCH\n\
                RUN echo \"$TAG $SECRET $HTTP_PROXY $OTHER\" > /seen; echo $TARGETARCH >> /seen\n";
    let context = site.context("args", &[("Dockerfile", text)]);
    let arguments = ["TAG=1", "SECRET=s", "HTTP_PROXY=p", "OTHER=o"];
    let flags: Vec<_> = arguments.iter().flat_map(|argument| ["--build-arg", argument]).collect();
    let out = site.built(&[flags.as_slice(), &["-t", "args", context.to_str().unwrap()]].concat());
    assert!(out.contains("[Warning] One or more build-args [OTHER] were not consumed"), "{out}");
    let architecture = site.daemon.docker_ok(&["version", "-f", "{{.Server.Arch}}"]);
    assert_eq!(
        site.shell("args", "cat /seen; echo $SECRET$TAG"),
        format!("1 s p \n{architecture}")
    );
    let history = site.daemon.docker_ok(&["history", "--no-trunc", "args"]);
    assert!(history.contains("|3 SECRET=s TAG=1 TARGETARCH=") && !history.contains("HTTP_PROXY=p"));
    let other = ["--build-arg", "TAG=2", "--build-arg", "SECRET=s", context.to_str().unwrap()];
    assert!(site.built(&other).contains("Running in"));
}

#[test]
fn a_client_that_goes_away_ends_the_build_and_nothing_is_left() {
    let site = Site::new();
    let text = "FROM base\nRUN echo begun; sleep 1000\n";
    let context = site.context("gone", &[("Dockerfile", text)]);
    let mut child = site
        .daemon
        .docker_command(&["build", context.to_str().unwrap()])
        .env("DOCKER_BUILDKIT", "0")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let (mut said, mut buffer) = (String::new(), [0; 256]);
    while !said.contains("begun\n") {
        let count = out.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the container to go", || site.daemon.docker_ok(&["ps", "-aq"]).is_empty());
    let left = site.daemon.scratch.path("data/build/tmp");
    wait_for("the files to go", || fs::read_dir(&left).unwrap().next().is_none());
}

#[test]
fn a_daemon_that_is_killed_leaves_no_container_of_a_build() {
    let mut site = Site::new();
    let text = "FROM base\nRUN echo begun; sleep 1000\n";
    let context = site.context("killed", &[("Dockerfile", text)]);
    let mut child = site
        .daemon
        .docker_command(&["build", context.to_str().unwrap()])
        .env("DOCKER_BUILDKIT", "0")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the step to run", || !site.daemon.docker_ok(&["ps", "-q"]).is_empty());
    site.daemon.restart_after(Signal::SIGKILL, &[]);
    child.wait().unwrap();
    assert_eq!(site.daemon.docker_ok(&["ps", "-aq"]), "");
    let left = site.daemon.scratch.path("data/build/tmp");
    assert!(fs::read_dir(left).unwrap().next().is_none());
    // The cache is still there.
    site.of("again", "FROM base\nLABEL a=b\n");
    assert!(site.of("again", "FROM base\nLABEL a=b\n").contains("Using cache"));
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn rnet_build_takes_a_directory_an_archive_and_a_dockerfile() {
    let site = Site::new();
    let files = [
        ("Dockerfile", "FROM base\nCOPY . /all/\n"),
        (".dockerignore", "*.md\n!keep.md\nDockerfile\n.dockerignore\n"),
        ("keep.md", "k"),
        ("drop.md", "d"),
        ("sub/x", "x"),
    ];
    let context = site.context("rnet", &files);
    let path = context.to_str().unwrap();
    let iid = site.daemon.scratch.text("iid");
    let (code, out, error) = site.build(
        Client::Rnet,
        &["-t", "own:1", "-t", "own:2", "--label", "a=b c", "--iidfile", &iid, path],
    );
    assert_eq!(code, Some(0), "{out}{error}");
    assert!(out.contains("Successfully tagged own:2"), "{out}");
    assert_eq!(site.inspect("own:2")["Id"], fs::read_to_string(&iid).unwrap());
    assert_eq!(site.inspect("own:1")["Config"]["Labels"]["a"], "b c");
    assert_eq!(site.shell("own:1", "cd /all && find . -type f | sort"), "./keep.md\n./sub/x");
    let docker = site.built(&["-q", "--label", "a=b c", path]);
    let (_, quiet, _) = site.build(Client::Rnet, &["-q", "--label", "a=b c", path]);
    assert_eq!(docker, quiet);
    assert!(quiet.starts_with("sha256:") && quiet.lines().count() == 1, "{quiet}");
    for client in Client::ALL {
        let arguments = ["build", "-t", "piped", "-"];
        let mut command = site.daemon.client(client, &arguments);
        let text =
            site.context("piped", &[("text", "FROM base\nRUN echo piped > /p\n")]).join("text");
        let command = command.env("DOCKER_BUILDKIT", "0").stdin(fs::File::open(text).unwrap());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(site.shell("piped", "cat /p"), "piped");
        site.daemon.docker_ok(&["rmi", "piped"]);
    }
}

#[test]
fn images_that_steps_left_are_hidden_and_go_with_the_last() {
    let site = Site::new();
    site.of("parent", "FROM base\nLABEL a=1\nLABEL b=2\n");
    site.of("child", "FROM parent\nLABEL c=1\nLABEL d=2\n");
    let count = |flags: &[&str]| {
        let arguments = [&["images", "-q"], flags].concat();
        site.daemon.docker_ok(&arguments).lines().count()
    };
    let shown = count(&[]);
    // Two steps below the base, one below each of the others.
    assert_eq!(count(&["-a"]), shown + 2 + 1 + 1);
    assert_eq!(count(&["-f", "dangling=true"]), 0);
    let parent = site.inspect("child")["Parent"].as_str().unwrap().to_owned();
    let (_, error) = site.daemon.docker_err(&["rmi", "-f", &parent]);
    let short = &parent["sha256:".len()..][..12];
    assert_eq!(
        error,
        format!(
            "Error response from daemon: conflict: unable to delete {short} (cannot be forced) - image has dependent child images"
        )
    );
    assert_eq!(site.daemon.docker_ok(&["rmi", "parent"]), "Untagged: parent:latest");
    let removed = site.daemon.docker_ok(&["rmi", "child"]);
    assert_eq!(removed.matches("Deleted: sha256:").count(), 4, "{removed}");
}

#[test]
fn squashed_images_have_one_layer_of_their_own() {
    let site = Site::new();
    let text = "FROM base\nRUN echo a > /a\nRUN rm /a /bin/vi && echo b > /b\n";
    let context = site.context("squash", &[("Dockerfile", text)]);
    let archive = site.daemon.scratch.path("squash.tar");
    let mut tar = tar::Builder::new(fs::File::create(&archive).unwrap());
    tar.append_dir_all(".", context).unwrap();
    tar.finish().unwrap();
    let bytes = fs::read(archive).unwrap();
    let reply = site.daemon.send("POST", "/build?squash=1&t=squash", "", &bytes);
    assert_eq!(reply.status, 200);
    let layers = |image: &str| site.inspect(image)["RootFS"]["Layers"].as_array().unwrap().len();
    assert_eq!(layers("squash"), layers("base") + 1);
    // The last id that is told is that of the image that is tagged.
    let told = reply.text();
    let ids: Vec<_> = told.split("{\"ID\":\"").skip(1).filter_map(|it| it.get(..71)).collect();
    assert_eq!(site.inspect("squash")["Id"], *ids.last().unwrap());
    assert_eq!(site.shell("squash", "cat /b; ls /a /bin/vi 2>&1 | wc -l"), "b\n2");
}

#[test]
fn what_buildx_does_for_a_builder_in_a_container_is_done() {
    let site = Daemon::start(&[]);
    let scratch = &site.scratch;
    crate::busybox::archive(scratch);
    // A stand-in for BuildKit's image, without a directory for its configuration.
    let (tree, archive) = (scratch.text("busybox"), scratch.text("stand-in.tar"));
    let packed = Command::new("tar").args(["-C", &tree, "-cf", &archive, "bin"]).status().unwrap();
    assert!(packed.success());
    site.docker_ok(&["import", &archive, "stand-in"]);
    let state = "b_state:/var/lib/buildkit";
    let flags = ["--privileged", "--network", "host", "--init", "--restart", "unless-stopped"];
    let create =
        [&["create", "--name", "builder"], &flags[..], &["-v", state, "stand-in"]].concat();
    let script = "cat /etc/buildkit/buildkitd.toml; exec sleep 1000";
    site.docker_ok(&[&create[..], &["sh", "-c", script]].concat());
    let config = scratch.path("buildkit");
    fs::create_dir(&config).unwrap();
    fs::write(config.join("buildkitd.toml"), "debug = true\n").unwrap();
    site.docker_ok(&["cp", config.to_str().unwrap(), "builder:/etc/"]);
    site.docker_ok(&["start", "builder"]);
    // It is asked whether it is there, and then spoken to over the streams of an exec.
    site.docker_ok(&["exec", "builder", "test", "-w", "/var/lib/buildkit"]);
    assert_eq!(
        site.docker_ok(&["exec", "builder", "cat", "/etc/buildkit/buildkitd.toml"]),
        "debug = true"
    );
    assert_eq!(site.docker_ok(&["logs", "builder"]), "debug = true");
    site.docker_ok(&["rm", "-f", "builder"]);
    site.docker_ok(&["volume", "rm", "b_state"]);
}

#[test]
fn who_cannot_be_handed_a_connection_for_buildkit_is_told_what_to_do_instead() {
    let site = Daemon::start(&[]);
    assert_eq!(site.get("/_ping").header("builder-version"), Some("1"));
    for path in ["/session", "/grpc", "/build?version=2"] {
        let reply = site.send("POST", path, "Upgrade: h2c\r\n", b"");
        assert!(reply.status >= 400);
        assert!(reply.text().contains("DOCKER_BUILDKIT=0"), "{path}");
    }
    assert_eq!(site.send("POST", "/build/cancel", "", b"").status, 400);
    assert_eq!(site.send("POST", "/build/cancel?id=x", "", b"").status, 200);
    assert_eq!(site.send("POST", "/build/prune", "", b"").status, 200);
}
