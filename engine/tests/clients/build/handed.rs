//! What a client hands over for the steps of a build: secrets and SSH agents; and mounts of stages.

use std::io::{BufRead, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};

use super::*;

const SECRET: &str = "correcthorsebatterystaple";
/// The same, as a step writes it that is to show that it has read it.
const TURNED: &str = "pbeerpgubefronggrelfgncyr";

/// `rnet build` of a Dockerfile.
fn rnet(site: &Site, name: &str, text: &str, flags: &[&str]) -> (Option<i32>, String, String) {
    let context = site.context(name, &[("Dockerfile", text)]);
    site.build(Client::Rnet, &[flags, &["-t", name, context.to_str().unwrap()]].concat())
}

/// What is left of what a build says.
type Said = std::io::BufReader<std::process::ChildStdout>;

/// The same, begun and not ended: a step of it has said `begun`.
fn begin(site: &Site, name: &str, text: &str, flags: &[&str]) -> (Child, Said) {
    let context = site.context(name, &[("Dockerfile", text)]);
    let arguments = [&["build", "-t", name], flags, &[context.to_str().unwrap()]].concat();
    let mut command = site.daemon.client(Client::Rnet, &arguments);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line.trim() != "begun" {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "{name} ended early");
    }
    (child, out)
}

/// The files below a directory that have a text in them.
fn files_with(directory: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file()
                && fs::read(entry.path()).is_ok_and(|bytes| {
                    bytes.windows(text.len()).any(|piece| piece == text.as_bytes())
                })
            {
                found.push(entry.path());
            }
        }
    }
    found
}

/// Where nothing of a secret may be.
fn nowhere(site: &Site) {
    for place in ["data", "run"] {
        let found = files_with(&site.daemon.scratch.path(place), SECRET);
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn a_secret_is_seen_by_the_step_that_mounts_it_and_is_nowhere_else() {
    let site = Site::new();
    let file = site.daemon.scratch.path("secret");
    fs::write(&file, SECRET).unwrap();
    let flag = format!("id=f,src={}", file.display());
    let turn = "tr a-z n-za-m";
    let text = format!(
        "FROM base\n\
         RUN --mount=type=secret,id=f,required {turn} </run/secrets/f >/one; stat -c %a:%u:%g /run/secrets/f >/stat\n\
         RUN --mount=type=secret,id=f,target=/etc/x,mode=0440,uid=5,gid=6 {turn} </etc/x >/two; stat -c %a:%u:%g /etc/x >>/stat\n\
         RUN --mount=type=secret,id=v,env=V echo -n $V | {turn} >/three; [ ! -e /run/secrets ]\n\
         RUN --mount=type=secret,id=none [ ! -e /run/secrets ] && [ -z \"$V\" ] && [ ! -e /etc/x ]\n\
         RUN --mount=type=secret,id=f echo x >/run/secrets/f; [ $? != 0 ]\n"
    );
    let context = site.context("secrets", &[("Dockerfile", &text)]);
    let arguments = [
        "build",
        "-t",
        "secrets",
        "--secret",
        &flag,
        "--secret",
        "id=v",
        context.to_str().unwrap(),
    ];
    let mut command = site.daemon.client(Client::Rnet, &arguments);
    let output = command.env("v", SECRET).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let seen = site.shell("secrets", "cat /one /two /three /stat; [ -e /run ] || echo clean");
    assert_eq!(seen, format!("{TURNED}{TURNED}{TURNED}400:0:0\n440:5:6\nclean"));
    nowhere(&site);
    let history = site.daemon.docker_ok(&["history", "--no-trunc", "secrets"]);
    assert!(!history.contains(SECRET) && !said.contains(SECRET));
    assert!(!site.inspect("secrets").to_string().contains(SECRET));
    // While a step has it, it is in no record and on no disk either.
    let text = "FROM base\nRUN --mount=type=secret,id=f --mount=type=cache,target=/c \
                cat /run/secrets/f >/dev/null; echo begun; until [ -e /c/go ]; do usleep 1000; done\n";
    let (mut child, mut out) = begin(&site, "held", text, &["--secret", &flag]);
    nowhere(&site);
    let id = site.daemon.docker_ok(&["ps", "-q", "--no-trunc"]);
    let known = site.daemon.get(&format!("/containers/{id}/json")).json();
    let targets = known["Mounts"].as_array().unwrap().iter().map(|mount| &mount["Destination"]);
    assert_eq!(targets.collect::<Vec<_>>(), ["/c"]);
    assert!(!known.to_string().contains(SECRET));
    let caches = site.daemon.scratch.path("data/build/mounts");
    let cache = fs::read_dir(caches).unwrap().next().unwrap().unwrap().path();
    fs::write(cache.join("go"), "").unwrap();
    out.read_to_end(&mut Vec::new()).unwrap();
    assert!(child.wait().unwrap().success());
    // What a secret says makes no step another one.
    fs::write(&file, "another").unwrap();
    let (code, said, error) = rnet(&site, "held", text, &["--secret", &flag]);
    assert_eq!((code, said.matches("Using cache").count()), (Some(0), 1), "{said}{error}");
}

#[test]
fn a_step_without_its_secret_goes_on_unless_it_requires_one() {
    let site = Site::new();
    site.of(
        "optional",
        "FROM base\nRUN --mount=type=secret,id=npmrc --mount=type=ssh \
         [ ! -e /run/secrets ] && [ ! -e /run/buildkit ] && [ $SSH_AUTH_SOCK = /run/buildkit/ssh_agent.0 ]\n",
    );
    for (mount, said) in [
        ("type=secret,id=npmrc,required", "secret npmrc: not found"),
        ("type=secret,id=a,env=A,required=true", "secret a: not found"),
        ("type=ssh,required=true", "unset ssh forward key default"),
        ("type=ssh,id=git,required", "unset ssh forward key git"),
    ] {
        let text = format!("FROM base\nRUN --mount={mount} true\n");
        assert_eq!(site.fails(&text, &[]).1, said);
        let (code, _, error) = rnet(&site, "required", &text, &["--secret", "id=other,env=PATH"]);
        assert_eq!(code, Some(1));
        assert!(error.ends_with(said), "{error}");
    }
    assert_eq!(site.daemon.docker_ok(&["images", "-q", "required"]), "");
}

#[test]
fn an_agent_is_reached_by_its_step_as_whoever_called_and_by_nobody_later() {
    let site = Site::new();
    let path = site.daemon.scratch.path("agent.sock");
    let agent = UnixListener::bind(&path).unwrap();
    // It gives back what it is asked, three connections long.
    let answering = std::thread::spawn(move || {
        for _ in 0..3 {
            let (mut connection, _) = agent.accept().unwrap();
            let mut asked = [0; 4];
            connection.read_exact(&mut asked).unwrap();
            asked.reverse();
            connection.write_all(&asked).unwrap();
        }
    });
    let text = "FROM base\nRUN --mount=type=ssh,mode=0660,uid=7 --mount=type=cache,target=/c \
                stat -c %a:%u $SSH_AUTH_SOCK; echo $SSH_AUTH_SOCK >/socket; echo begun; \
                until [ -e /c/go ]; do usleep 1000; done\nRUN [ ! -e /run/buildkit ]\n";
    let flag = format!("default={}", path.display());
    let (mut child, mut out) = begin(&site, "agent", text, &["--ssh", &flag]);
    let id = site.daemon.docker_ok(&["ps", "-q"]);
    let pid = site.daemon.docker_ok(&["inspect", "-f", "{{.State.Pid}}", &id]);
    let socket = format!("/proc/{pid}/root/run/buildkit/ssh_agent.0");
    for _ in 0..3 {
        let mut step = UnixStream::connect(&socket).unwrap();
        step.write_all(b"ping").unwrap();
        let mut answer = Vec::new();
        step.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"gnip");
    }
    answering.join().unwrap();
    let caches = site.daemon.scratch.path("data/build/mounts");
    let cache = fs::read_dir(caches).unwrap().next().unwrap().unwrap().path();
    fs::write(cache.join("go"), "").unwrap();
    out.read_to_end(&mut Vec::new()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(
        site.shell("agent", "cat /socket; [ -e /run ] || echo clean"),
        "/run/buildkit/ssh_agent.0\nclean"
    );
}

#[test]
fn what_is_handed_over_goes_with_its_client() {
    let site = Site::new();
    let text = "FROM base\nRUN --mount=type=secret,id=s echo begun; sleep 1000\n";
    let (mut child, _out) = begin(&site, "gone", text, &["--secret", "id=s,env=PATH"]);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the container to go", || site.daemon.docker_ok(&["ps", "-aq"]).is_empty());
    // Neither kept for a name that somebody else may choose, nor in anybody's way.
    for _ in 0..70 {
        let head = "Upgrade: tcp\r\nConnection: Upgrade\r\n";
        let body = br#"{"secrets":{"s":"eA=="},"agents":[]}"#;
        // The one before may not have been noticed to be gone.
        wait_for("a session of its own", || {
            let mut stream = site.daemon.open("POST", "/rnet/build/session?build=same", head, body);
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            &answer == b"HTTP/1.1 101"
        });
    }
    let wrong = site.daemon.send("POST", "/rnet/build/session?build=x", "", b"{}");
    assert_eq!(wrong.status, 400);
}

#[test]
fn a_mount_of_a_stage_is_its_layers_and_what_is_written_there_is_gone() {
    let site = Site::new();
    let text = "FROM base AS made\nRUN mkdir -p /d/e && echo deep >/d/e/f && echo unique-to-this >/big\n\
         FROM base\n\
         RUN --mount=from=made,target=/m cat /m/d/e/f >/one; echo x >/m/d/e/f; [ $? != 0 ] && [ ! -e /m/d/new ]\n\
         RUN --mount=from=made,source=/d,target=/m,rw echo x >/m/e/f && touch /m/new && rm -r /m/e\n\
         RUN --mount=from=made,source=/d,target=/m [ \"$(cat /m/e/f)\" = deep ] && [ ! -e /m/new ]\n\
         RUN --mount=from=made,source=/d/e/f,target=/file cat /file >/two && echo begun\n\
         RUN --mount=from=base,source=/bin/busybox,target=/b --mount=type=cache,target=/c \
         cmp /b /bin/busybox && echo begun; until [ -e /c/go ]; do usleep 1000; done\n";
    let context = site.context("mounted", &[("Dockerfile", text)]);
    let mut child = site
        .daemon
        .client(Client::Rnet, &["build", "-t", "mounted", context.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let (mut line, mut begun) = (String::new(), 0);
    while begun < 2 {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "it ended early");
        begun += usize::from(line.trim() == "begun");
    }
    // Nothing of the stage was copied.
    let copies = files_with(&site.daemon.scratch.path("data/build/tmp"), "unique-to-this");
    assert_eq!(copies.len(), 1, "the Dockerfile alone has it: {copies:?}");
    let caches = site.daemon.scratch.path("data/build/mounts");
    let cache = fs::read_dir(caches).unwrap().next().unwrap().unwrap().path();
    fs::write(cache.join("go"), "").unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
    assert_eq!(
        site.shell("mounted", "cat /one /two; ls -d /m /file /b 2>&1 | wc -l"),
        "deep\ndeep\n3"
    );
    let again = site.built(&[context.to_str().unwrap()]);
    assert!(!again.contains("Running in"), "{again}");
    let left = site.daemon.scratch.path("data/build/tmp");
    wait_for("the files to go", || fs::read_dir(&left).unwrap().next().is_none());
}
