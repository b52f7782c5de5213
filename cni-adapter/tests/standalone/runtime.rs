//! A container runtime that does nothing but call the plugin.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use netns_tests::site::Space;
use nix::mount::{MntFlags, umount2};
use serde_json::{Value, json};

/// The plugin.
const PLUGIN: &str = env!("CARGO_BIN_EXE_rnet-cni");

/// A host with the plugin and a configuration, and a neighbour: `192.0.2.1` and `.2`,
/// `2001:db8::1` and `::2`; the neighbour has a route to the pods of 10.88.0.0/24 by the host.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    pub(crate) host: Arc<Space>,
    pub(crate) client: Arc<Space>,
    pub(crate) config: Value,
    directory: Arc<Directory>,
    /// What is run instead of the plugin, with the plugin as its last argument.
    wrapper: Vec<String>,
}

/// A container's namespace.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) space: Space,
    path: String,
}

/// A directory that is removed with all that is mounted in it.
#[derive(Debug)]
struct Directory(PathBuf);

impl Runtime {
    pub(crate) fn new(config: Value) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("rnet-cni-test-{}-{number}", std::process::id());
        let directory = Directory(std::env::temp_dir().join(name));
        fs::create_dir(&directory.0).unwrap();
        let (host, client) = (Space::new(), Space::new());
        host.ip(&[
            &format!("link add lan0 type veth peer name eth0 netns {}", client.path()),
            "addr add 192.0.2.1/24 dev lan0",
            "addr add 2001:db8::1/64 dev lan0 nodad",
            "link set lan0 up",
        ]);
        client.ip(&[
            "addr add 192.0.2.2/24 dev eth0",
            "addr add 2001:db8::2/64 dev eth0 nodad",
            "link set eth0 up",
            "route add 10.88.0.0/24 via 192.0.2.1",
        ]);
        let (host, client) = (Arc::new(host), Arc::new(client));
        let directory = Arc::new(directory);
        let mut runtime = Self { host, client, config, directory, wrapper: Vec::new() };
        runtime.config["dataDir"] = json!(runtime.directory.0.join("data"));
        runtime
    }

    /// The same host with a configuration that is changed.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Value)) -> Self {
        let mut other = self.clone();
        change(&mut other.config);
        other
    }

    /// The same host, as far as the plugin sees after the next boot.
    pub(crate) fn rebooted(&self) -> Self {
        let boot = self.directory.0.join("boot_id");
        fs::write(&boot, "00000000-0000-0000-0000-000000000000\n").unwrap();
        let script = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        let wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script];
        let mut other = self.clone();
        other.wrapper = wrapper.map(str::to_owned).into();
        other.wrapper.push(boot.display().to_string());
        other
    }

    /// An ADD that succeeds.
    pub(crate) fn add(&self, pod: &Pod) -> Value {
        self.ok("ADD", pod).unwrap()
    }

    /// A DEL that succeeds.
    pub(crate) fn del(&self, pod: &Pod) {
        assert_eq!(self.ok("DEL", pod), None);
    }

    /// A command that succeeds, and its answer.
    pub(crate) fn ok(&self, command: &str, pod: &Pod) -> Option<Value> {
        let (status, output) = self.call(command, pod, &self.config.to_string());
        assert_eq!(status, Some(0), "{command} {}: {output}", pod.id);
        (!output.is_empty()).then(|| serde_json::from_str(&output).unwrap())
    }

    /// A command that is refused, and its error.
    pub(crate) fn refused(&self, command: &str, pod: &Pod, code: u32) -> Value {
        let (status, output) = self.call(command, pod, &self.config.to_string());
        let error: Value = serde_json::from_str(&output).unwrap();
        assert_eq!((status, &error["code"]), (Some(1), &json!(code)), "{output}");
        error
    }

    /// A command that succeeds; tells whether it settled what an earlier one had left unfinished.
    pub(crate) fn settles(&self, command: &str, pod: &Pod) -> bool {
        let child = self.spawn(command, pod, &self.config.to_string());
        let output = child.wait_with_output().unwrap();
        let [errors, answer] =
            [output.stderr, output.stdout].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(output.status.success(), "{errors}{answer}");
        errors.contains("settling an unfinished change")
    }

    /// Calls the plugin; returns its exit code and what it wrote to stdout.
    pub(crate) fn call(&self, command: &str, pod: &Pod, input: &str) -> (Option<i32>, String) {
        let output = self.spawn(command, pod, input).wait_with_output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!errors.contains("panicked"), "{errors}");
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    /// Starts the plugin with all its input.
    pub(crate) fn spawn(&self, command: &str, pod: &Pod, input: &str) -> Child {
        let file = self.directory.0.join(format!("{command}-{}", pod.id));
        fs::write(&file, input).unwrap();
        let words: Vec<_> = self.wrapper.iter().map(String::as_str).chain([PLUGIN]).collect();
        let mut process = Command::new(words[0]);
        process.args(&words[1..]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        process
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &pod.id)
            .env("CNI_NETNS", &pod.path)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=x")
            .env("CNI_PATH", "/opt/cni/bin");
        process.stdin(fs::File::open(&file).unwrap());
        process.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.host.run(|| process.spawn().unwrap())
    }

    /// All that the plugin may leave on the host: links, pins, its table.
    pub(crate) fn traces(&self) -> String {
        let listed = self.host.output("ip", &["-br", "link"]);
        let names = listed.lines().filter_map(|line| line.split_whitespace().next());
        let pins = fs::read_dir(self.directory.0.join("data/ns")).into_iter().flatten().flatten();
        let pins = pins.map(|pin| pin.file_name().to_string_lossy().into_owned());
        let mut lines: Vec<_> = names.map(str::to_owned).chain(pins).collect();
        lines.sort();
        let table = self.host.command("nft", &["list", "table", "inet", "rnet_cni"], "");
        lines.push(String::from_utf8(table.stdout).unwrap());
        lines.join("\n")
    }
}

impl Pod {
    pub(crate) fn new(id: &str) -> Self {
        let space = Space::new();
        Self { id: id.to_owned(), path: space.path(), space }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The pod with another path for its namespace.
    pub(crate) fn at(&self, path: &str) -> Self {
        Self { id: self.id.clone(), space: Space::new(), path: path.to_owned() }
    }

    /// The pod after its namespace is gone.
    pub(crate) fn into_gone(self) -> Self {
        self.at("/nowhere")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let pins = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
        for pin in pins(&self.0.join("data/ns")) {
            let _ = umount2(&pin.path(), MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}
