//! A throw-away host: network, mount and process namespaces of its own, an engine in them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use engine::container::{LogQuery, Spec, WaitCondition};
use engine::core::Engine;
use engine::settings::Settings;
use engine_error::Error;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Says in the environment that this process is the one in the namespaces.
const INSIDE: &str = "RNET_TEST_INSIDE";

/// An engine and its directories.
pub(crate) struct Scene {
    pub(crate) dir: PathBuf,
    pub(crate) engine: Arc<Engine>,
}

/// Runs a test in namespaces of its own: the test's program runs itself again, in them, with just
/// this test. What is left of its processes ends with it.
pub(crate) fn on_a_host_of_its_own<F: Future<Output = ()>>(
    test: &str,
    body: impl FnOnce(PathBuf) -> F,
) {
    if std::env::var_os(INSIDE).is_none() {
        let status = Command::new("unshare")
            .args(["--net", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(INSIDE, "1")
            .status()
            .unwrap();
        assert!(status.success(), "{test} failed");
        return;
    }
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    assert!(up.success());
    let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter(filter()).try_init();
    let name = test.replace("::", "-");
    let dir = std::env::temp_dir().join(format!("rnet-{name}-{:x}", nonce()));
    std::fs::create_dir_all(&dir).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runtime.block_on(body(dir.clone()));
    }));
    drop(runtime);
    let _ = std::fs::remove_dir_all(&dir);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"))
}

fn nonce() -> u32 {
    getrandom::u32().unwrap()
}

pub(crate) fn settings(dir: &Path) -> Settings {
    Settings {
        data_root: dir.join("data"),
        exec_root: dir.join("run"),
        binaries: binaries(),
        ..Settings::default()
    }
}

/// Where our programs are built. Those of other packages are built if need be.
fn binaries() -> PathBuf {
    let directory = Path::new(env!("CARGO_BIN_EXE_rnet")).parent().unwrap().to_owned();
    for (program, package) in [("rnet-dns", "dns"), ("rnet-shim", "shim")] {
        if !directory.join(program).exists() {
            let built = Command::new(env!("CARGO")).args(["build", "-p", package]).status();
            assert!(built.unwrap().success());
        }
    }
    directory
}

impl Scene {
    pub(crate) async fn open(dir: PathBuf) -> Self {
        let engine = Engine::open(settings(&dir)).await.unwrap_or_else(|e| panic!("{}", e.chain()));
        Self { dir, engine }
    }

    pub(crate) async fn end(self) {
        self.engine.reset().await.unwrap_or_else(|error| panic!("{}", error.chain()));
    }

    /// Runs something that blocks.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> T {
        let engine = self.engine.clone();
        tokio::task::spawn_blocking(move || work(&engine)).await.unwrap()
    }

    pub(crate) async fn try_create(&self, name: &'static str, spec: Spec) -> Result<String, Error> {
        let created =
            self.blocking(move |engine| engine.containers.create(Some(name), spec, None)).await;
        created.map(|created| created.id.to_string())
    }

    pub(crate) async fn create(&self, name: &'static str, spec: Spec) -> String {
        let created = self.try_create(name, spec).await;
        created.unwrap_or_else(|error| panic!("{}", error.chain()))
    }

    pub(crate) async fn start(&self, name: &'static str) -> Result<(), Error> {
        self.engine.containers.start(name).await
    }

    /// Creates and starts a container, or fails at one of the two.
    pub(crate) async fn try_run(&self, name: &'static str, spec: Spec) -> Result<String, Error> {
        let id = self.try_create(name, spec).await?;
        self.start(name).await.map(|()| id)
    }

    /// Creates and starts a container.
    pub(crate) async fn run(&self, name: &'static str, spec: Spec) -> String {
        let id = self.create(name, spec).await;
        self.start(name).await.unwrap_or_else(|error| panic!("{}", error.chain()));
        id
    }

    /// Runs a container to its end, and returns its log.
    pub(crate) async fn output_of(&self, name: &'static str, spec: Spec) -> String {
        let id = self.create(name, spec).await;
        let wait = self.engine.containers.wait(&id, WaitCondition::NextExit).unwrap();
        self.start(name).await.unwrap_or_else(|error| panic!("{}", error.chain()));
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it never ended");
        let query = LogQuery { stdout: true, stderr: true, ..LogQuery::default() };
        let lines: Vec<_> = self.engine.containers.logs(&id, query).unwrap().collect().await;
        let bytes: Vec<u8> = lines.into_iter().flat_map(|line| line.unwrap().bytes).collect();
        String::from_utf8(bytes).unwrap()
    }

    /// What a server answers to a GET; tried until it listens.
    pub(crate) async fn get(&self, address: &str) -> String {
        let ask = async {
            loop {
                if let Ok(answer) = ask(address).await
                    && !answer.is_empty()
                {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ask).await.expect("nobody answers")
    }
}

async fn ask(address: &str) -> std::io::Result<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A container of the built-in image with a command.
pub(crate) fn spec(command: &str) -> Spec {
    Spec {
        image: "rnet/toolbox".to_owned(),
        command: Some(command.split(' ').map(str::to_owned).collect()),
        ..Spec::default()
    }
}

/// What a command prints.
pub(crate) fn output(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
