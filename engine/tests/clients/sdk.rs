//! SDKs do with rnet what they do with Docker: Docker's own for Python, and bollard.

use std::collections::HashMap;
use std::fmt::Debug;
use std::process::Command;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::StartExecResults;
use bollard::models::{BuildInfo, ContainerConfig, ExecConfig, VolumeCreateRequest};
use bollard::query_parameters::{
    BuildImageOptionsBuilder, CommitContainerOptionsBuilder, CreateContainerOptionsBuilder,
    CreateImageOptionsBuilder, DownloadFromContainerOptionsBuilder, EventsOptionsBuilder,
    ImportImageOptionsBuilder, LogsOptionsBuilder, PruneContainersOptionsBuilder,
    PruneNetworksOptionsBuilder, PruneVolumesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptions, RemoveVolumeOptions, StatsOptionsBuilder, StopContainerOptionsBuilder,
    UploadToContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker, body_full};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::busybox;
use crate::daemon::{Daemon, PATIENCE};

#[test]
fn docker_py_builds_runs_and_takes_away_three_services() {
    let daemon = Daemon::start(&[]);
    let archive = busybox::archive(&daemon.scratch);
    let host = format!("unix://{}", daemon.socket().display());
    let script = include_str!("sdk.py");
    let run = Command::new("python3").args(["-c", script, &host, &archive]).output().unwrap();
    let error = String::from_utf8_lossy(&run.stderr);
    assert_eq!(String::from_utf8_lossy(&run.stdout), "done\n", "{error}");
}

/// A request's body, as JSON says it.
fn said<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn ours() -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec!["made-by=sdk".to_owned()])])
}

/// All of a stream, which must go well.
async fn all<T: Debug>(stream: impl Stream<Item = Result<T, Error>>) -> Vec<T> {
    stream.try_collect().await.unwrap()
}

/// The bytes of an output.
async fn text(output: impl Stream<Item = Result<LogOutput, Error>>) -> String {
    let bytes: Vec<_> = all(output).await.into_iter().map(LogOutput::into_bytes).collect();
    String::from_utf8(bytes.concat()).unwrap()
}

/// An archive with files.
fn tarball(files: &[(&str, &str)]) -> Bytes {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut head = tar::Header::new_gnu();
        head.set_size(text.len() as u64);
        head.set_mode(0o644);
        archive.append_data(&mut head, name, text.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap().into()
}

/// Whether something was refused with a status and words.
fn is_refused<T: Debug>(result: Result<T, Error>, status: u16, words: &str) {
    let Err(Error::DockerResponseServerError { status_code, message }) = result else {
        panic!("{result:?} is no refusal");
    };
    assert!(status_code == status && message.contains(words), "{status_code} {message}");
}

/// Three services of bollard's.
struct Shop(Docker);

impl Shop {
    async fn open(daemon: &Daemon) -> Self {
        let url = format!("unix://{}", daemon.socket().display());
        let docker = Docker::connect_with_unix(&url, PATIENCE.as_secs(), API_DEFAULT_VERSION);
        let docker = docker.unwrap().negotiate_version().await.unwrap();
        assert_eq!(docker.ping().await.unwrap(), "OK");
        Self(docker)
    }

    async fn import(&self, archive: &str) {
        let options = CreateImageOptionsBuilder::default().from_src("-").repo("sdk/base").build();
        let body = body_full(std::fs::read(archive).unwrap().into());
        all(self.0.create_image(Some(options), Some(body), None)).await;
    }

    async fn build(&self) -> String {
        let text = "FROM sdk/base AS maker\nARG WORD\nRUN echo $WORD >/word\nFROM sdk/base\n\
                    COPY --from=maker /word /www/word\nCOPY page /www/\nLABEL made-by=sdk\n\
                    CMD [\"httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"]\n";
        let context = tarball(&[("Dockerfile", text), ("page", "hello")]);
        let arguments = HashMap::from([("WORD", "built")]);
        let options = BuildImageOptionsBuilder::default().t("sdk/web:1").rm(true);
        let options = options.buildargs(&arguments).build();
        let told = all(self.0.build_image(options, None, Some(body_full(context)))).await;
        let lines: String =
            told.iter().filter_map(|told: &BuildInfo| told.stream.clone()).collect();
        assert!(lines.contains("Successfully tagged sdk/web:1\n"), "{lines}");
        // Each stage tells its image, the last one what is built.
        let id = told.iter().rev().find_map(|told| told.aux.as_ref()?.id.clone()).expect(&lines);
        assert_eq!(self.0.inspect_image("sdk/web:1").await.unwrap().id, Some(id.clone()));
        let broken = body_full(tarball(&[("Dockerfile", "FROM sdk/base\nRUN exit 9\n")]));
        let options = BuildImageOptionsBuilder::default().forcerm(true).build();
        let failed: Result<Vec<_>, _> =
            self.0.build_image(options, None, Some(broken)).try_collect().await;
        let failed = failed.unwrap_err().to_string();
        assert!(failed.contains("returned a non-zero code: 9"), "{failed}");
        id
    }

    async fn create(&self, name: &str, body: Value) -> String {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        self.0.create_container(Some(options), said(body)).await.unwrap().id
    }

    /// `db` on a network with a volume, `web` on two, `job` on none.
    async fn up(&self) {
        let labels = json!({"made-by": "sdk"});
        let pool = json!({"Config": [{"Subnet": "10.95.0.0/24", "Gateway": "10.95.0.1"}]});
        let back = json!({"Name": "sdk-back", "Internal": true, "IPAM": pool, "Labels": labels});
        self.0.create_network(said(back.clone())).await.unwrap();
        self.0.create_network(said(json!({"Name": "sdk-front", "Labels": labels}))).await.unwrap();
        is_refused(self.0.create_network(said(back)).await, 409, "already exists");
        let volume = json!({"Name": "sdk-data", "Labels": labels});
        self.0.create_volume(said::<VolumeCreateRequest>(volume)).await.unwrap();
        let mounts = json!([{"Type": "volume", "Source": "sdk-data", "Target": "/data"}]);
        let db = json!({
            "Image": "sdk/base", "Cmd": ["httpd", "-f", "-p", "5432", "-h", "/data"], "Labels": labels,
            "HostConfig": {"NetworkMode": "sdk-back", "Mounts": mounts},
        });
        let web = json!({
            "Image": "sdk/web:1", "Labels": labels,
            "HostConfig": {"NetworkMode": "sdk-front", "PortBindings": {"80/tcp": [{"HostPort": ""}]}},
        });
        let job = json!({
            "Image": "sdk/base", "Cmd": ["sh", "-c", "while sleep 0.1; do date; done"], "Labels": labels,
            "HostConfig": {"NetworkMode": "none", "Memory": 64 << 20},
        });
        for (name, body) in [("sdk-db", db), ("sdk-web", web), ("sdk-job", job)] {
            self.create(name, body).await;
            self.0.start_container(name, None).await.unwrap();
        }
        let endpoint = json!({"Aliases": ["site"], "IPAMConfig": {"IPv4Address": "10.95.0.9"}});
        let join = json!({"Container": "sdk-web", "EndpointConfig": endpoint});
        self.0.connect_network("sdk-back", said(join)).await.unwrap();
        let web = self.0.inspect_container("sdk-web", None).await.unwrap();
        let settings = serde_json::to_value(web.network_settings).unwrap();
        assert_eq!(settings["Networks"]["sdk-back"]["IPAddress"], "10.95.0.9");
        let port = settings["Ports"]["80/tcp"][0]["HostPort"].as_str().unwrap();
        assert!(port.parse::<u16>().unwrap() > 0);
    }

    /// Runs a program in a container: its output and its exit code.
    async fn exec(&self, container: &str, words: &[&str], input: Option<&str>) -> (String, i64) {
        let body = json!({
            "Cmd": words, "AttachStdin": input.is_some(), "AttachStdout": true, "AttachStderr": true,
        });
        let id = self.0.create_exec(container, said::<ExecConfig>(body)).await.unwrap().id;
        let StartExecResults::Attached { output, input: mut keys } =
            self.0.start_exec(&id, None).await.unwrap()
        else {
            panic!("it is attached")
        };
        if let Some(input) = input {
            keys.write_all(input.as_bytes()).await.unwrap();
            keys.shutdown().await.unwrap();
        }
        let output = text(output).await;
        (output, self.0.inspect_exec(&id).await.unwrap().exit_code.unwrap())
    }

    async fn look(&self) {
        let asked = self.exec("sdk-db", &["wget", "-qO-", "http://site/word"], None).await;
        assert_eq!(asked, ("built\n".to_owned(), 0));
        let asked = self.exec("sdk-web", &["sh", "-c", "cat; exit 5"], Some("a\nb\n")).await;
        assert_eq!(asked, ("a\nb\n".to_owned(), 5));
        is_refused(self.0.inspect_exec("nope").await, 404, "No such exec instance");
        let options = LogsOptionsBuilder::default().follow(true).stdout(true).stderr(true).build();
        let lines = all(self.0.logs("sdk-job", Some(options)).take(3)).await;
        assert_eq!(lines.len(), 3);
        let options = StatsOptionsBuilder::default().stream(true).build();
        let figures = all(self.0.stats("sdk-job", Some(options)).take(2)).await;
        assert_eq!(figures[1].memory_stats.as_ref().unwrap().limit, Some(64 << 20));
        assert!(figures[1].read > figures[0].read);
        let top = self.0.top_processes("sdk-job", None).await.unwrap();
        assert!(!top.processes.unwrap().is_empty());
        self.0.pause_container("sdk-job").await.unwrap();
        let paused = self.0.create_exec("sdk-job", said::<ExecConfig>(json!({"Cmd": ["true"]})));
        is_refused(paused.await, 409, "is paused");
        self.0.unpause_container("sdk-job").await.unwrap();
    }

    /// Archives in and out, and images of a container by commit and by save and load.
    async fn copy(&self) {
        let options = UploadToContainerOptionsBuilder::default().path("/tmp").build();
        let archive = body_full(tarball(&[("in/file", "content")]));
        self.0.upload_to_container("sdk-web", Some(options), archive).await.unwrap();
        let options = DownloadFromContainerOptionsBuilder::default().path("/tmp/in/file").build();
        let bytes = all(self.0.download_from_container("sdk-web", Some(options))).await.concat();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("file"));
        assert_eq!(std::io::read_to_string(&mut entry).unwrap(), "content");
        let changes = self.0.container_changes("sdk-web").await.unwrap().unwrap();
        assert!(changes.iter().any(|change| change.path == "/tmp/in/file"));
        let options = CommitContainerOptionsBuilder::default().container("sdk-web");
        let options = options.repo("sdk/copy").tag("1").build();
        let config = ContainerConfig::default();
        let made = self.0.commit_container(options, config).await.unwrap().id;
        let saved = all(self.0.export_image("sdk/copy:1")).await.concat();
        self.0.remove_image("sdk/copy:1", None::<RemoveImageOptions>, None).await.unwrap();
        is_refused(self.0.inspect_image("sdk/copy:1").await, 404, "No such image: sdk/copy:1");
        let options = ImportImageOptionsBuilder::default().build();
        all(self.0.import_image(options, body_full(saved.into()), None)).await;
        assert_eq!(self.0.inspect_image("sdk/copy:1").await.unwrap().id, Some(made));
        self.0.remove_image("sdk/copy:1", None::<RemoveImageOptions>, None).await.unwrap();
        let whole = all(self.0.export_container("sdk-web")).await.concat();
        assert!(tar::Archive::new(whole.as_slice()).entries().unwrap().count() > 100);
    }

    async fn down(&self) {
        let options = StopContainerOptionsBuilder::default().t(0).build();
        self.0.stop_container("sdk-web", Some(options)).await.unwrap();
        let condition = WaitContainerOptionsBuilder::default().condition("not-running").build();
        let waiting = self.0.wait_container("sdk-job", Some(condition));
        self.0.kill_container("sdk-job", None).await.unwrap();
        let Some(Err(Error::DockerContainerWaitError { code, .. })) =
            Box::pin(waiting).next().await
        else {
            panic!("it was killed")
        };
        assert_eq!(code, 137);
        let events = EventsOptionsBuilder::default().since("1").filters(&ours()).build();
        let mut events = Box::pin(self.0.events(Some(events)));
        let mut seen = Vec::new();
        while !seen.iter().any(|(action, name)| action == "die" && name == "sdk-job") {
            let event = events.next().await.unwrap().unwrap();
            let name = event.actor.unwrap().attributes.unwrap().remove("name").unwrap_or_default();
            seen.push((event.action.unwrap(), name));
        }
        for action in ["create", "start", "pause", "unpause", "kill"] {
            assert!(seen.contains(&(action.to_owned(), "sdk-job".to_owned())), "{seen:?}");
        }
        is_refused(self.0.remove_network("sdk-back").await, 403, "has active endpoints");
        is_refused(
            self.0.remove_volume("sdk-data", None::<RemoveVolumeOptions>).await,
            409,
            "volume is in use",
        );
        let options = PruneContainersOptionsBuilder::default().filters(&ours()).build();
        let pruned = self.0.prune_containers(Some(options)).await.unwrap();
        assert_eq!(pruned.containers_deleted.unwrap().len(), 2);
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        self.0.remove_container("sdk-db", Some(options)).await.unwrap();
        let options = PruneNetworksOptionsBuilder::default().filters(&ours()).build();
        let pruned = self.0.prune_networks(Some(options)).await.unwrap();
        assert_eq!(pruned.networks_deleted.unwrap().len(), 2);
        let mut filters = ours();
        filters.insert("all".to_owned(), vec!["true".to_owned()]);
        let options = PruneVolumesOptionsBuilder::default().filters(&filters).build();
        let pruned = self.0.prune_volumes(Some(options)).await.unwrap();
        assert_eq!(pruned.volumes_deleted.unwrap(), ["sdk-data"]);
    }
}

#[tokio::test]
async fn bollard_builds_runs_and_takes_away_three_services() {
    let daemon = Daemon::start(&[]);
    let shop = Shop::open(&daemon).await;
    shop.import(&busybox::archive(&daemon.scratch)).await;
    shop.build().await;
    shop.up().await;
    shop.look().await;
    shop.copy().await;
    shop.down().await;
    let images = shop.0.remove_image("sdk/web:1", None::<RemoveImageOptions>, None).await.unwrap();
    assert!(images.iter().any(|image| image.untagged.as_deref() == Some("sdk/web:1")));
    assert!(shop.0.list_containers(None).await.unwrap().is_empty());
}
