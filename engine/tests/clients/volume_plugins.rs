//! Volumes that plugins make, in Docker's protocol.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::daemon::{Client, Daemon, PATIENCE, Scratch};

const IMAGE: &str = "rnet/toolbox";

/// How a plugin behaves when it is asked for something.
#[derive(Clone, Debug, PartialEq)]
enum Way {
    /// It says no.
    Refuses(&'static str),
    /// It says nothing.
    Hangs(&'static str),
    /// It says what nobody understands.
    Raves(&'static str),
}

#[derive(Default)]
struct State {
    volumes: BTreeMap<String, Value>,
    calls: Vec<(String, Value)>,
    way: Option<Way>,
}

/// A plugin of this test.
struct Plugin {
    state: Arc<(Mutex<State>, Condvar)>,
    socket: PathBuf,
    root: PathBuf,
}

impl Plugin {
    fn start(scratch: &Scratch) -> Self {
        let root = scratch.path("kept");
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(scratch.path("plugins")).unwrap();
        let plugin =
            Self { state: Arc::default(), socket: scratch.path("plugins/plug.sock"), root };
        plugin.listen();
        plugin
    }

    fn listen(&self) {
        let listener = UnixListener::bind(&self.socket).unwrap();
        let (state, root) = (self.state.clone(), self.root.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, root) = (state.clone(), root.clone());
                std::thread::spawn(move || answer(stream, &state, &root));
            }
        });
    }

    /// Nobody listens any more.
    fn goes(&self) {
        fs::remove_file(&self.socket).unwrap();
    }

    fn behave(&self, way: Option<Way>) {
        self.state.0.lock().unwrap().way = way;
        self.state.1.notify_all();
    }

    fn knows(&self, name: &str) -> bool {
        self.state.0.lock().unwrap().volumes.contains_key(name)
    }

    /// The calls since this was asked last, with their bodies.
    fn calls(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut self.state.0.lock().unwrap().calls)
    }

    /// The same of those that mount and unmount, as `Mount id`.
    fn mounts(&self) -> Vec<String> {
        let calls = self.calls().into_iter().filter(|(call, _)| call.ends_with("ount"));
        calls.map(|(call, body)| format!("{call} {}", body["ID"].as_str().unwrap())).collect()
    }

    fn wait_for(&self, call: &str) {
        let end = Instant::now() + PATIENCE;
        let mut state = self.state.0.lock().unwrap();
        while !state.calls.iter().any(|(known, _)| known == call) {
            assert!(Instant::now() < end, "nobody asked for {call}");
            state = self.state.1.wait_timeout(state, Duration::from_secs(1)).unwrap().0;
        }
    }
}

fn answer(mut stream: UnixStream, shared: &(Mutex<State>, Condvar), root: &Path) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut call, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end().to_lowercase();
        if let Some(path) = line.strip_prefix("post /") {
            call = path.split(' ').next().unwrap().replace("volumedriver.", "");
        }
        if let Some(text) = line.strip_prefix("content-length: ") {
            length = text.parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let call = call[..1].to_uppercase() + &call[1..];
    let mut state = shared.0.lock().unwrap();
    state.calls.push((call.clone(), body.clone()));
    shared.1.notify_all();
    while matches!(&state.way, Some(Way::Hangs(method)) if *method == call) {
        state = shared.1.wait(state).unwrap();
    }
    let text = match &state.way {
        Some(Way::Refuses(method)) if *method == call => json!({"Err": "not today"}).to_string(),
        Some(Way::Raves(method)) if *method == call => "{\"Mountpoint\": [".to_owned(),
        _ => reply(&mut state, &call, &body, root).to_string(),
    };
    drop(state);
    let length = text.len();
    // Who asked may have gone.
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}");
}

fn reply(state: &mut State, call: &str, body: &Value, root: &Path) -> Value {
    let name = body["Name"].as_str().unwrap_or_default().to_owned();
    let place = root.join(&name);
    match call {
        "Plugin.activate" => json!({"Implements": ["VolumeDriver"]}),
        "Capabilities" => json!({"Capabilities": {"Scope": "global"}}),
        "Create" => {
            fs::create_dir_all(&place).unwrap();
            state.volumes.insert(name, body["Opts"].clone());
            json!({})
        }
        "Remove" if state.volumes.remove(&name).is_some() => json!({"Err": ""}),
        "Get" if state.volumes.contains_key(&name) => json!({"Volume": {
            "Name": name, "Mountpoint": place, "CreatedAt": "2020-01-02T03:04:05Z",
            "Status": {"k": "v"},
        }}),
        "List" => {
            let all: Vec<_> = state.volumes.keys().map(|name| json!({"Name": name})).collect();
            json!({"Volumes": all})
        }
        "Mount" | "Path" => json!({"Mountpoint": place}),
        "Unmount" => json!({}),
        _ => json!({"Err": "no such volume here"}),
    }
}

/// A daemon with a plugin.
fn start() -> (Daemon, Plugin) {
    let scratch = Scratch::new();
    let plugin = Plugin::start(&scratch);
    let flags = flags(&scratch);
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let daemon = Daemon::start_in(scratch, env!("CARGO_BIN_EXE_rnet"), &["daemon"], &flags);
    (daemon, plugin)
}

fn flags(scratch: &Scratch) -> [String; 4] {
    let place = scratch.text("plugins");
    ["--plugin-dir".to_owned(), place, "--plugin-timeout".to_owned(), "2".to_owned()]
}

fn killed_and_started(daemon: &mut Daemon) {
    let flags = flags(&daemon.scratch);
    daemon.restart_after(Signal::SIGKILL, &flags.each_ref().map(String::as_str));
}

#[test]
fn a_volume_of_a_plugin_is_made_used_told_of_and_removed() {
    let (daemon, plugin) = start();
    for client in Client::ALL {
        let words = ["volume", "create", "-d", "plug", "-o", "a=b", "--label", "l=m", "vol"];
        assert_eq!(daemon.ok(client, &words), "vol");
        let calls = plugin.calls();
        let create = calls.iter().find(|(call, _)| call == "Create").unwrap();
        assert_eq!(create.1, json!({"Name": "vol", "Opts": {"a": "b"}}));
        let shown = daemon.get("/volumes/vol").json();
        assert_eq!(
            shown,
            json!({"CreatedAt": "2020-01-02T03:04:05Z", "Driver": "plug", "Labels": {"l": "m"},
                "Mountpoint": plugin.root.join("vol"), "Name": "vol", "Options": {"a": "b"},
                "Scope": "global", "Status": {"k": "v"}})
        );
        let list = ["volume", "ls", "-q", "-f", "driver=plug"];
        assert_eq!(daemon.ok(client, &list), "vol");
        assert_eq!(daemon.ok(client, &["volume", "ls", "-q", "-f", "driver=local"]), "");
        let (_, _, error) = daemon.ask(client, &["volume", "create", "-d", "local", "vol"]);
        let said = "create vol: driver 'plug' already has volume 'vol': volume name must be unique";
        assert!(error.ends_with(said), "{error}");
        let run = ["run", "-d", "--name", "c1", "--network", "none", "-v", "vol:/m", IMAGE];
        let id = daemon.ok(client, &[&run[..], &["sleep", "1000"]].concat());
        assert_eq!(plugin.mounts(), [format!("Mount {id}")]);
        let write = ["exec", "c1", "write", "/m/file", "text"];
        daemon.ok(client, &write);
        assert_eq!(fs::read(plugin.root.join("vol/file")).unwrap(), b"text\n");
        let shown = daemon.get("/containers/c1/json").json()["Mounts"][0].clone();
        assert_eq!((&shown["Name"], &shown["Driver"]), (&json!("vol"), &json!("plug")));
        let (_, _, error) = daemon.ask(client, &["volume", "rm", "vol"]);
        assert!(error.contains("remove vol: volume is in use - ["), "{error}");
        daemon.ok(client, &["stop", "-t", "0", "c1"]);
        assert_eq!(plugin.mounts(), [format!("Unmount {id}")]);
        let copied = daemon.scratch.text("copied");
        daemon.ok(client, &["cp", "c1:/m/file", &copied]);
        let copy = format!("copy-of-{id}");
        // A copy is two requests, and the client has the file before the end of the second one.
        let both = [format!("Mount {copy}"), format!("Unmount {copy}")];
        let (mut asked, end) = (plugin.mounts(), Instant::now() + PATIENCE);
        while asked.len() % 2 == 1 {
            assert!(Instant::now() < end, "{asked:?}");
            asked.extend(plugin.mounts());
        }
        assert!(!asked.is_empty() && asked.chunks(2).all(|pair| pair == both), "{asked:?}");
        daemon.ok(client, &["rm", "-v", "c1"]);
        daemon.ok(client, &["volume", "prune", "-af"]);
        assert!(plugin.knows("vol"), "prunes are of local volumes");
        daemon.ok(client, &["volume", "rm", "vol"]);
        assert!(!plugin.knows("vol"));
        assert_eq!(daemon.get("/volumes/vol").status, 404);
    }
}

#[test]
fn a_container_has_volumes_made_by_the_driver_that_it_names() {
    let (daemon, plugin) = start();
    for client in Client::ALL {
        let run = ["run", "--name", "c1", "--network", "none", "--volume-driver", "plug"];
        let mount = "type=volume,src=opt,dst=/o,volume-driver=plug,volume-opt=x=y,volume-label=q=r";
        let words = ["-v", "named:/n", "-v", "/anon", "--mount", mount, IMAGE, "true"];
        daemon.ok(client, &[&run[..], &words].concat());
        let calls = plugin.calls();
        let made: Vec<_> = calls.iter().filter(|(call, _)| call == "Create").collect();
        assert_eq!(made.len(), 3, "{calls:?}");
        assert!(made.iter().any(|(_, body)| body["Opts"] == json!({"x": "y"})));
        assert_eq!(daemon.get("/volumes/opt").json()["Labels"], json!({"q": "r"}));
        assert!(plugin.knows("named"));
        let own = daemon.get("/containers/c1/json").json()["Mounts"].clone();
        let own = own.as_array().unwrap().iter().find(|mount| mount["Destination"] == "/anon");
        let own = own.unwrap()["Name"].as_str().unwrap().to_owned();
        assert!(plugin.knows(&own));
        daemon.ok(client, &["rm", "-v", "c1"]);
        assert!(!plugin.knows(&own) && plugin.knows("named"));
        daemon.ok(client, &["volume", "rm", "named", "opt"]);
        let (_, _, error) = daemon.ask(client, &["volume", "create", "-d", "nope", "vol"]);
        let said = "create vol: error looking up volume plugin nope: plugin \"nope\" not found";
        assert!(error.ends_with(said), "{error}");
    }
}

#[test]
fn a_volume_that_only_a_plugin_knows_is_found_there() {
    let (daemon, plugin) = start();
    plugin.state.0.lock().unwrap().volumes.insert("outside".to_owned(), Value::Null);
    fs::create_dir(plugin.root.join("outside")).unwrap();
    fs::write(plugin.root.join("outside/file"), "text").unwrap();
    assert_eq!(daemon.docker_ok(&["volume", "ls", "-q"]), "outside");
    assert_eq!(daemon.get("/volumes/outside").json()["Driver"], "plug");
    let run = ["run", "--rm", "--network", "none", "-v", "outside:/m", IMAGE, "cat", "/m/file"];
    assert_eq!(daemon.docker_ok(&run), "text");
    assert!(plugin.calls().iter().all(|(call, _)| call != "Create"));
    let part = "type=volume,src=outside,dst=/m,volume-subpath=file";
    let run = ["run", "--rm", "--network", "none", "--mount", part, IMAGE, "cat", "/m"];
    assert_eq!(daemon.docker_ok(&run), "text");
    daemon.docker_ok(&["volume", "rm", "outside"]);
    assert!(!plugin.knows("outside"));
}

#[test]
fn a_plugin_is_told_once_who_is_done_whatever_became_of_the_daemon() {
    let (mut daemon, plugin) = start();
    let run = |daemon: &Daemon, name: &str| {
        let words =
            ["--name", name, "--network", "none", "--volume-driver", "plug", "-v", "vol:/m"];
        daemon.docker_ok(&[&["run", "-d"][..], &words, &[IMAGE, "sleep", "1000"]].concat())
    };
    let (stays, ends) = (run(&daemon, "c1"), run(&daemon, "c2"));
    let shown = daemon.get("/containers/c2/json").json()["State"]["Pid"].as_i64().unwrap();
    assert_eq!(plugin.mounts().len(), 2);
    // One container ends while no daemon is there.
    daemon.signal(Signal::SIGSTOP);
    kill(Pid::from_raw(shown.try_into().unwrap()), Signal::SIGKILL).unwrap();
    killed_and_started(&mut daemon);
    plugin.wait_for("Unmount");
    assert_eq!(plugin.mounts(), [format!("Unmount {ends}")]);
    assert_eq!(daemon.docker_ok(&["exec", "c1", "ls", "/m"]), "");
    daemon.docker_ok(&["restart", "-t", "0", "c1"]);
    assert_eq!(plugin.mounts(), [format!("Unmount {stays}"), format!("Mount {stays}")]);
    // Nobody can be told now: it is told before the volume goes.
    plugin.behave(Some(Way::Refuses("Unmount")));
    daemon.docker_ok(&["rm", "-f", "c1", "c2"]);
    plugin.behave(None);
    plugin.calls();
    daemon.docker_ok(&["volume", "rm", "vol"]);
    assert_eq!(plugin.mounts(), [format!("Unmount {stays}")]);
}

#[test]
fn a_plugin_that_hangs_raves_or_is_gone_spoils_nothing_else() {
    let (daemon, plugin) = start();
    daemon.docker_ok(&["volume", "create", "-d", "plug", "vol"]);
    daemon.docker_ok(&["volume", "create", "own"]);
    let run = |volume: &str| {
        let mount = format!("{volume}:/m");
        daemon.docker(&["run", "--rm", "--network", "none", "-v", &mount, IMAGE, "true"])
    };
    for (way, said) in [
        (Way::Hangs("Mount"), "does not answer: VolumeDriver.Mount took longer than 2 s"),
        (Way::Raves("Mount"), "cannot be understood"),
        (Way::Refuses("Mount"), "error while mounting volume 'vol': not today"),
    ] {
        plugin.behave(Some(way.clone()));
        let end = Instant::now() + PATIENCE;
        // One that did not answer is left alone for a moment.
        let error = loop {
            let output = run("vol");
            assert!(!output.status.success(), "{way:?}");
            let error = String::from_utf8(output.stderr).unwrap();
            if !error.contains("a moment ago") {
                break error;
            }
            assert!(Instant::now() < end, "{error}");
        };
        assert!(error.contains(said), "{way:?}: {error}");
        assert!(run("own").status.success());
        plugin.behave(None);
    }
    assert_eq!(daemon.docker_ok(&["ps", "-aq"]), "");
    let end = Instant::now() + PATIENCE;
    while !run("vol").status.success() {
        assert!(Instant::now() < end, "it does not answer again");
    }
    plugin.goes();
    let listed = daemon.get("/volumes").json();
    let names = listed["Volumes"].as_array().unwrap().iter().map(|volume| volume["Name"].clone());
    assert_eq!(names.collect::<Vec<_>>(), [json!("own"), json!("vol")]);
    assert!(listed["Warnings"][0].as_str().unwrap().contains("plug"), "{listed}");
    assert!(run("own").status.success());
    let (_, error) = daemon.docker_err(&["volume", "rm", "vol"]);
    assert!(error.contains("plugin \"plug\" not found"), "{error}");
    plugin.listen();
    plugin.behave(Some(Way::Refuses("Remove")));
    let (_, error) = daemon.docker_err(&["volume", "rm", "vol"]);
    assert!(error.contains("remove vol: not today"), "{error}");
    plugin.behave(None);
    daemon.docker_ok(&["volume", "rm", "vol"]);
    assert_eq!(daemon.docker_ok(&["volume", "ls", "-q"]), "own");
}
