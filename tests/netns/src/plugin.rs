//! The small plugin of `plugin/plugin.py`, on a daemon's host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Daemon, patient};

/// How long something may take that does not hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of plugins, gone with the value.
#[derive(Debug)]
pub struct Places(PathBuf);

impl Places {
    /// Makes one.
    pub fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("rnet-p{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What tells a daemon of it, and not to be too patient.
    pub fn flags(&self) -> [&str; 4] {
        ["--plugin-dir", self.0.to_str().unwrap(), "--plugin-timeout", "3"]
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A plugin that runs on a daemon's host, and goes with it.
#[derive(Debug)]
pub struct Plugin {
    log: PathBuf,
    parent: Child,
}

impl Plugin {
    /// Starts the small plugin under a name.
    pub fn start(daemon: &Daemon, places: &Places, name: &str, behaviours: &[&str]) -> Self {
        let socket = places.0.join(format!("{name}.sock"));
        let _ = fs::remove_file(&socket);
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugin/plugin.py");
        let log = places.0.join(format!("{name}.log"));
        let mut command = daemon.command("python3");
        command.arg(program).arg(&socket).arg(&log).args(behaviours).stdin(Stdio::null());
        let parent = command.spawn().unwrap();
        let plugin = Self { log, parent };
        plugin.wait(|| socket.exists());
        plugin
    }

    /// Waits until something is so.
    pub fn wait(&self, mut done: impl FnMut() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < patient(PATIENCE), "{:#?}", self.calls());
            std::thread::yield_now();
        }
    }

    /// What it was asked, with the bodies.
    pub fn log(&self) -> Vec<(String, Value)> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let line = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            let call = line["call"].as_str().unwrap();
            let call = call.strip_prefix("NetworkDriver.").unwrap_or(call);
            (call.to_owned(), line["body"].clone())
        };
        // What is being written is not there yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(line).collect()
    }

    /// The calls, in order.
    pub fn calls(&self) -> Vec<String> {
        self.log().into_iter().map(|(call, _)| call).collect()
    }

    /// The calls of an endpoint or network, by its field.
    pub fn calls_of(&self, field: &str, id: &str) -> Vec<String> {
        let of = self.log().into_iter().filter(|(_, body)| body[field] == id);
        of.map(|(call, _)| call).collect()
    }

    /// What it made and gave, as it knows it.
    pub fn state(&self) -> Value {
        let text = fs::read_to_string(self.log.with_extension("log.state")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Has it behave so from now on, and no other way.
    pub fn behave(&self, behaviours: &str) {
        fs::write(self.log.with_extension("log.behaviour"), behaviours).unwrap();
    }

    /// Ends it as a crash would.
    pub fn kill(mut self, daemon: &Daemon) {
        let pid = fs::read_to_string(self.log.with_extension("log.pid")).unwrap();
        daemon.signal(&pid, "-KILL");
        self.parent.wait().unwrap();
    }

    /// Waits until it has ended by itself.
    pub fn ends(mut self) {
        self.parent.wait().unwrap();
    }
}
