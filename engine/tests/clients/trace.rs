//! Every command of the `docker` client, with all that it asks of the daemon: tables of what is
//! asked, how it is answered, and what the user sees.
//!
//! A table in `trace/` is commands and their outcome, one after another on one daemon:
//!
//! ```text
//! # why it is so
//! $ create --name c1 rnet/toolbox       the command; `< text` at its end is what it reads, `DOCKER_…=…` before
//!                                       it its environment
//! = 125                                 its exit code, unless it is 0
//! > {id}                                what it prints, ids and times and the like left out
//! ! a complaint                         the same on stderr
//! POST /containers/create?name=c1 201   a request, in its order, without the version
//! ```
//!
//! A command behind `@` is on a terminal of 30 rows and 90 columns, and followed by what its user does:
//!
//! ```text
//! @ attach t1                           the command
//! ? ready                               waits until this is shown
//! < hello^M                             presses keys
//! % raw                                 waits until the client has the terminal to itself
//! * resize?h=30                         waits until this is asked and answered
//! ~ 40 100                              has the terminal another size, and waits until the daemon knows
//! ```
//!
//! Tables are written by a genuine engine: with `TRACE_ENGINE=/its/socket UPDATE_EXPECT=1` the tests
//! write down how it behaves. What differs here on purpose stands in `docs/differences.md`, and has its reason
//! beside it in the table. `$code` is for output that the host decides: it is not compared. `$set` is for what a
//! client does at several things at once: what it shows and asks is compared without order and number.

mod plugins;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use expect_test::expect_file;
use regex::{Captures, Regex};
use serde_json::Value;

use crate::busybox;
use crate::daemon::{Daemon, PATIENCE, Scratch};
use crate::hub::Registry;
use crate::recorder::{Asked, Recorder};
use crate::terminal::Terminal;

/// The client whose words the tables have.
const CLIENT: &str = "Docker version 28.";

/// What the steps of a user at a terminal begin with.
const STEPS: [char; 5] = ['?', '<', '*', '%', '~'];

/// Who answers: rnet, and a genuine engine if a table is to be written.
struct Scene {
    scratch: Scratch,
    daemon: Option<Daemon>,
    recorder: Recorder,
    plain: Plain,
}

impl Scene {
    fn new() -> Self {
        let scratch = Scratch::new();
        let genuine = std::env::var_os("TRACE_ENGINE").map(PathBuf::from);
        let daemon = genuine.is_none().then(|| Daemon::start(&[]));
        let socket = genuine.unwrap_or_else(|| daemon.as_ref().unwrap().socket());
        let recorder = Recorder::start(scratch.path("recorder"), &socket);
        Self { scratch, daemon, recorder, plain: Plain::new() }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DOCKER_HOST", self.recorder.url());
        command.env("DOCKER_CONFIG", self.scratch.path("docker"));
        // With plugins `docker build` is that of buildx.
        if !self.scratch.path("docker/cli-plugins").exists() {
            command.env("DOCKER_BUILDKIT", "0");
        }
        command
    }

    /// Runs the commands of a table and tells what becomes of them, in its form.
    fn play(&self, table: &str) -> String {
        let mut text = String::new();
        let mut lines = table.lines().peekable();
        while let Some(line) = lines.next() {
            if line.is_empty() || line.starts_with('#') {
                writeln!(text, "{line}").unwrap();
            } else if line.starts_with('$') {
                writeln!(text, "{line}").unwrap();
                text.push_str(&self.outcome(line));
            } else if line.starts_with('@') {
                let steps = std::iter::from_fn(|| lines.next_if(|line| line.starts_with(STEPS)));
                let steps: Vec<_> = steps.collect();
                let asked = [&[line], &steps[..]].concat().join("\n");
                writeln!(text, "{asked}").unwrap();
                text.push_str(&self.session(line, &steps));
            }
        }
        text
    }

    /// What becomes of a command on a terminal.
    fn session(&self, line: &str, steps: &[&str]) -> String {
        let words = split(line.trim_start_matches("@ "));
        let mut command = self.command("docker");
        command.args(&words);
        let mut terminal = Terminal::open(&command);
        for step in steps {
            let (kind, what) = step.split_once(' ').unwrap();
            match kind {
                "?" => terminal.expect(what),
                "<" => terminal.press(&keys(what)),
                "*" => self.recorder.until(what),
                "%" => terminal.until_raw(),
                _ => self.resize(&terminal, what),
            }
        }
        let (code, shown) = terminal.end();
        let mut text = String::new();
        if code != Some(0) {
            writeln!(text, "= {}", code.unwrap()).unwrap();
        }
        for line in self.plain.lines(&shown.replace('\r', "")) {
            writeln!(text, "{}", format!("> {line}").trim_end()).unwrap();
        }
        let mut told = BTreeSet::new();
        for asked in self.recorder.take() {
            let request = self.plain.request(&asked);
            let of_size = request.contains("/resize?") || request.ends_with("signal=WINCH 204");
            if of_size && !(is_told(&request) && told.insert(request.clone())) {
                continue;
            }
            writeln!(text, "{request}").unwrap();
        }
        text
    }

    /// Changes the size until the daemon is told: a client that has just begun does not hear of the
    /// first change.
    fn resize(&self, terminal: &Terminal, size: &str) {
        let (rows, columns) = size.split_once(' ').unwrap();
        let (rows, columns) = (rows.parse().unwrap(), columns.parse().unwrap());
        self.recorder.until("resize?h=30&w=90");
        let told = format!("resize?h={rows}&w={columns}");
        let end = Instant::now() + PATIENCE;
        while !self.recorder.heard(&told, Duration::from_millis(300)) {
            assert!(Instant::now() < end, "nobody asks for {told}");
            terminal.resize(rows, 99);
            terminal.resize(rows, columns);
        }
    }

    fn outcome(&self, line: &str) -> String {
        let (prompt, words) = line.split_once(' ').unwrap();
        let (words, input) = words.split_once(" < ").unwrap_or((words, ""));
        let place = self.scratch.text("");
        let words: Vec<_> =
            split(words).into_iter().map(|word| word.replace("@/", &place)).collect();
        let mut command = self.command("docker");
        let is_variable = |word: &&String| word.starts_with("DOCKER_") && word.contains('=');
        let variables =
            words.iter().take_while(is_variable).filter_map(|word| word.split_once('='));
        command.envs(variables).args(words.iter().skip_while(is_variable));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the docker command is installed");
        // Who does not read it has ended, or does not want it.
        let _ = writeln!(child.stdin.take().unwrap(), "{input}");
        let output = child.wait_with_output().unwrap();
        let mut text = String::new();
        if output.status.code() != Some(0) {
            writeln!(text, "= {}", output.status.code().unwrap()).unwrap();
        }
        if prompt != "$code" {
            for (mark, bytes) in [('>', output.stdout), ('!', output.stderr)] {
                let shown = String::from_utf8_lossy(&bytes).replace(&place, "@/");
                let mut lines = self.plain.lines(&shown);
                in_order(prompt, &mut lines);
                for line in lines {
                    writeln!(text, "{}", format!("{mark} {line}").trim_end()).unwrap();
                }
            }
        }
        let asked = self.recorder.take();
        let mut asked: Vec<_> = asked.iter().map(|asked| self.plain.request(asked)).collect();
        in_order(prompt, &mut asked);
        for request in asked {
            writeln!(text, "{request}").unwrap();
        }
        text
    }
}

/// What comes in any order and number is told once, in the order of the alphabet.
fn in_order(prompt: &str, lines: &mut Vec<String>) {
    if prompt == "$set" {
        lines.sort();
        lines.dedup();
    }
}

/// Whether a table has a request about a size: how often those fail depends on how soon the container is
/// there, and which sizes there are on the way to another one on when the client looks.
fn is_told(request: &str) -> bool {
    let sizes = ["h=30&w=90 200", "h=31&w=91 200", "h=40&w=100 200"];
    sizes.iter().any(|size| request.ends_with(size))
}

/// Keys as a line has them: `^C` is ctrl-c, `^M` the end of a line.
fn keys(text: &str) -> Vec<u8> {
    let mut keys = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        keys.push(if byte == b'^' { bytes.next().unwrap() & 0x1f } else { byte });
    }
    keys
}

/// The words of a line; those with spaces are in double quotes.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(character),
        }
    }
    words.push(word);
    words
}

/// What is the same in each run and on each host.
struct Plain(Vec<(Regex, &'static str)>);

impl Plain {
    fn new() -> Self {
        let rules = [
            (r"\b[0-9a-f]{64}\b|\b[0-9a-f]{12}\b|\b[0-9a-f]{16}…", "{id}"),
            (r"\b[0-9a-f]{12}_", "{id}_"),
            (
                r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| ?[+-]\d\d:?\d\d)?( [A-Z]{3})?",
                "{time}",
            ),
            (r"\b(since|until)=\d+(\.\d+)?", "$1={time}"),
            (
                r"(Less than a|About an?|\d+) (second|minute|hour|day|week|month|year)s?\b",
                "{while}",
            ),
            (r"\b\d+(\.\d+)?(e[+]\d+)? ?[kKMGT]?i?B\b", "{size}"),
            (r"\b\d+(\.\d+)?%", "{share}"),
            (r"\bexecDuration=\d+", "execDuration={while}"),
            (r"^(\S+) +\d+ +\d+ +\d+ +\d\d:\d\d +\S+ +\d\d:\d\d:\d\d +", "$1  {process}  "),
            (r" {2,}|\t", "  "),
        ];
        Self(rules.map(|(pattern, text)| (Regex::new(pattern).unwrap(), text)).to_vec())
    }

    fn line(&self, line: &str) -> String {
        self.0.iter().fold(line.to_owned(), |line, (pattern, text)| {
            pattern.replace_all(&line, *text).into_owned()
        })
    }

    /// The lines of an output; those of JSON are its shape.
    fn lines(&self, text: &str) -> Vec<String> {
        if text.starts_with(['[', '{'])
            && let Ok(value) = serde_json::from_str::<Value>(text)
        {
            return shape(&value).lines().map(str::to_owned).collect();
        }
        text.lines().map(|line| self.line(line)).collect()
    }

    fn request(&self, asked: &Asked) -> String {
        let path = Regex::new(r"^/v1\.\d+").unwrap().replace(&asked.path, "").into_owned();
        let status = asked.status().map_or("-".to_owned(), |status| status.to_string());
        format!("{} {} {status}", asked.method, self.line(&decoded(&path)))
    }
}

/// A path as it is read.
fn decoded(path: &str) -> String {
    let escape = Regex::new("%([0-9A-F]{2})").unwrap();
    let character =
        |found: &Captures<'_>| char::from(u8::from_str_radix(&found[1], 16).unwrap()).to_string();
    escape.replace_all(path, character).into_owned()
}

/// The names of all fields, and what kinds their values have; of lists what their first one has.
fn shape(value: &Value) -> String {
    let mut lines = Vec::new();
    describe(value, "", &mut lines);
    lines.sort();
    lines.join("\n")
}

fn describe(value: &Value, place: &str, lines: &mut Vec<String>) {
    match value {
        Value::Array(list) if !list.is_empty() => describe(&list[0], &format!("{place}[]"), lines),
        Value::Object(fields) if !fields.is_empty() => {
            // Each storage has its own to tell.
            for (name, value) in fields.iter().filter(|(name, _)| *name != "GraphDriver") {
                describe(value, &format!("{place}.{name}"), lines);
            }
        }
        Value::Null => lines.push(format!("{place} null")),
        Value::Bool(_) => lines.push(format!("{place} bool")),
        Value::Number(_) => lines.push(format!("{place} number")),
        Value::String(_) => lines.push(format!("{place} text")),
        Value::Array(_) => lines.push(format!("{place} []")),
        Value::Object(_) => lines.push(format!("{place} {{}}")),
    }
}

/// Plays a table in a scene with the image `bb:1`, and compares what became of it.
fn check(scene: &Scene, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/trace").join(table);
    let told = scene.play(&std::fs::read_to_string(&path).unwrap());
    expect_file![path].assert_eq(&told);
}

impl Scene {
    /// A busybox with all its tools, and nothing else. Of what rnet brings along nothing is left.
    fn with_image() -> Self {
        let scene = Self::new();
        let version = Command::new("docker").arg("--version").output().unwrap().stdout;
        let version = String::from_utf8(version).unwrap();
        assert!(version.starts_with(CLIENT), "other tables are needed for {version}");
        let files = busybox::archive(&scene.scratch);
        if scene.daemon.is_some() {
            scene.outcome("$ rmi -f rnet/toolbox");
        }
        let told = scene.outcome(&format!("$ import -c \"CMD sh\" {files} bb:1"));
        assert!(told.starts_with("> sha256:{id}\n"), "{told}");
        scene
    }

    /// A context with Dockerfiles.
    fn with_context() -> Self {
        let scene = Self::with_image();
        let context = scene.scratch.path("ctx");
        std::fs::create_dir(&context).unwrap();
        let text = "ARG V=1\nFROM bb:1 AS one\nARG V\nENV A=b\nRUN echo $V-$A >/one\nFROM bb:1\n\
                    COPY --from=one /one /two\nWORKDIR /w\nCOPY file .\nCMD [\"cat\", \"/two\", \"file\"]\n";
        for (name, text) in [
            ("Dockerfile", text),
            ("Bad", "FROM bb:1\nNOPE x\n"),
            ("Fails", "FROM bb:1\nRUN exit 7\n"),
            ("file", "content\n"),
        ] {
            std::fs::write(context.join(name), text).unwrap();
        }
        scene
    }
}

#[test]
fn a_container_s_life_asks_and_shows_what_it_does_with_docker() {
    check(&Scene::with_image(), "containers.txt");
}

#[test]
fn exit_codes_and_mistakes_are_those_of_docker() {
    check(&Scene::with_image(), "codes.txt");
}

#[test]
fn the_flags_of_run_do_what_they_do_with_docker() {
    check(&Scene::with_image(), "flags.txt");
}

#[test]
fn at_a_terminal_docker_s_client_does_and_shows_what_it_does_with_docker() {
    check(&Scene::with_image(), "terminals.txt");
}

#[test]
fn networks_ask_and_show_what_they_do_with_docker() {
    check(&Scene::with_image(), "networks.txt");
}

#[test]
fn volumes_ask_and_show_what_they_do_with_docker() {
    check(&Scene::with_image(), "volumes.txt");
}

#[test]
fn images_ask_and_show_what_they_do_with_docker() {
    check(&Scene::with_image(), "images.txt");
}

#[test]
fn the_daemon_as_a_whole_is_shown_as_docker_s() {
    check(&Scene::with_image(), "system.txt");
}

#[test]
fn a_registry_is_used_as_docker_uses_it() {
    let scene = Scene::with_image();
    let _registry = scene.daemon.as_ref().map(Registry::open);
    check(&scene, "registry.txt");
}

#[test]
fn builds_ask_and_show_what_they_do_with_docker() {
    check(&Scene::with_context(), "builds.txt");
}
