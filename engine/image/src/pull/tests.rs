//! Pulls from a registry of our own, on loopback, with the faults of real ones.

mod registry;

use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;

use self::registry::{Files, Manners, Server, gzip, layer};
use super::*;
use crate::tests::Scratch;
use crate::{Image, Options, Platform, RegistryAuth};

struct Outcome {
    result: Result<Pulled>,
    lines: Vec<String>,
}

impl Outcome {
    fn image(&self) -> Arc<Image> {
        self.result.as_ref().unwrap().image.clone()
    }

    fn error(&self) -> String {
        self.result.as_ref().unwrap_err().chain()
    }
}

async fn run(images: &Images, request: PullRequest) -> Outcome {
    let (sender, mut receiver) = mpsc::channel(1000);
    let images = images.clone();
    // Spawned as the API does: the future must be able to move between threads.
    let pulling = tokio::spawn(async move { images.pull(request, sender).await });
    let mut lines = Vec::new();
    while let Some(Progress { id, status, detail, .. }) = receiver.recv().await {
        if detail.is_none() {
            lines.push(id.map_or(status.clone(), |id| format!("{id}: {status}")));
        }
    }
    Outcome { result: pulling.await.unwrap(), lines }
}

fn named(reference: String) -> PullRequest {
    PullRequest { reference, ..PullRequest::default() }
}

fn open(scratch: &Scratch) -> Images {
    Images::open(&scratch.path("images")).unwrap()
}

#[tokio::test]
async fn an_image_is_pulled_once_and_then_up_to_date() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let mut files = Files::default();
    let digest = files.image("a/b", "1", &[layer("one"), layer("two"), layer("one")]);
    let server = Server::start(files, Manners::default());
    let name = server.name("a/b:1");
    let first = run(&images, named(name.clone())).await;
    let image = first.image();
    assert_eq!(image.names, std::slice::from_ref(&name));
    assert_eq!(image.digests, [format!("{}@{digest}", server.name("a/b"))]);
    assert_eq!(image.size, 3 * 60_000);
    assert_eq!(first.lines[0], "1: Pulling from a/b");
    let end = &first.lines[first.lines.len() - 2..];
    let wanted =
        [format!("Digest: {digest}"), format!("Status: Downloaded newer image for {name}")];
    assert_eq!(end, wanted);
    for (status, count) in [("Pulling fs layer", 3), ("Download complete", 3), ("Pull complete", 3)]
    {
        let lines = first.lines.iter().filter(|line| line.ends_with(status)).count();
        assert_eq!(lines, count, "{status}");
    }
    // The same blob twice in an image travels once: a configuration and two layers.
    assert_eq!(server.requests("/blobs/"), 3);
    let again = run(&images, named(name.clone())).await;
    assert!(!again.result.as_ref().unwrap().updated);
    let status = format!("Status: Image is up to date for {name}");
    let wanted = ["1: Pulling from a/b", &format!("Digest: {digest}"), &status];
    assert_eq!(again.lines, wanted, "nothing is said of the layers");
    assert_eq!(server.requests("/blobs/"), 3);
    let pinned = server.name(&format!("a/b@{digest}"));
    let by_digest = run(&images, named(pinned.clone())).await;
    assert_eq!(by_digest.image().id, images.find(&pinned).unwrap().id);
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_up_no_other_pull() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let mut files = Files::default();
    files.image("a", "1", &["one", "two", "three", "four"].map(layer));
    let server = Server::start(files, Manners::default());
    let name = server.name("a:1");
    // Room for what is said before a layer is fetched.
    let (sender, unread) = mpsc::channel(5);
    let (its, request) = (images.clone(), named(name.clone()));
    let stalled = tokio::spawn(async move { its.pull(request, sender).await });
    // The configuration, and as many layers as there are turns.
    while server.requests("/blobs/") < 4 {
        tokio::task::yield_now().await;
    }
    let other = tokio::time::timeout(Duration::from_secs(30), run(&images, named(name))).await;
    assert!(other.expect("it waits for the first").result.is_ok());
    stalled.abort();
    drop(unread);
}

#[tokio::test]
async fn what_is_pulled_can_be_saved_and_loaded() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let mut files = Files::default();
    files.image("a", "1", &[layer("one")]);
    let server = Server::start(files, Manners::default());
    let name = server.name("a:1");
    let id = run(&images, named(name.clone())).await.image().id;
    let mut archive = Vec::new();
    images.save(std::slice::from_ref(&name), &mut archive).unwrap();
    let other = Images::open(&scratch.path("other")).unwrap();
    other.load(&archive[..], &mut |_| {}).unwrap();
    assert_eq!(other.find(&name).unwrap().id, id);
}

#[tokio::test]
async fn overload_and_broken_downloads_are_overcome() {
    for no_ranges in [false, true] {
        let scratch = Scratch::new();
        let images = open(&scratch);
        let mut files = Files::default();
        files.image("a", "1", &[layer("one"), layer("two")]);
        let manners = Manners { overload: 2, cuts: 3, no_ranges, ..Manners::default() };
        let server = Server::start(files, manners);
        run(&images, named(server.name("a:1"))).await.image();
        assert_eq!(server.requests("bytes="), 3, "each cut download is taken up");
        assert_eq!(std::fs::read_dir(scratch.path("images/partial")).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn credentials_buy_a_token_or_are_sent_as_they_are() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let auth = RegistryAuth {
        username: "user".into(),
        password: "word".into(),
        ..RegistryAuth::default()
    };
    for (manners, refused) in [
        (
            Manners { credentials: Some("dXNlcjp3b3Jk"), ..Manners::default() },
            "unauthorized: incorrect username or password",
        ),
        (
            Manners { basic: Some("dXNlcjp3b3Jk"), ..Manners::default() },
            "no basic auth credentials",
        ),
    ] {
        let mut files = Files::default();
        files.image("a", "1", &[layer("one")]);
        let server = Server::start(files, manners);
        let without = run(&images, named(server.name("a:1"))).await;
        assert!(without.error().contains(refused), "{}", without.error());
        let request = PullRequest { auth: Some(auth.clone()), ..named(server.name("a:1")) };
        run(&images, request).await.image();
    }
}

#[tokio::test]
async fn an_index_is_followed_to_the_platform() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let mut files = Files::default();
    let ours = files.image("a", "ours", &[layer("ours")]);
    let other = files.image("a", "other", &[layer("other")]);
    let entry = |digest: Digest, architecture: &str, os: &str| {
        json!({"digest": digest, "size": 1, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "platform": {"os": os, "architecture": architecture}})
    };
    let host = Platform::host();
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            entry(other, "unknown", "unknown"),
            entry(other, "s390x", "linux"),
            entry(ours, &host.architecture, "linux"),
        ],
    });
    let digest = files.manifest("a", "latest", &index);
    let server = Server::start(files, Manners::default());
    let pulled = run(&images, named(server.name("a"))).await;
    assert_eq!(pulled.result.as_ref().unwrap().digest, digest);
    let pick = run(&images, named(server.name("a:ours"))).await;
    assert_eq!(pulled.image().id, pick.image().id);
    let platform = Some("linux/riscv64".parse().unwrap());
    let none = run(&images, PullRequest { platform, ..named(server.name("a")) }).await;
    let text = "no matching manifest for linux/riscv64 in the manifest list entries";
    assert_eq!(none.error(), text);
    assert!(none.lines.is_empty(), "an error comes before the first line");
    let platform = Some("linux/riscv64".parse().unwrap());
    let wrong = run(&images, PullRequest { platform, ..named(server.name("a:ours")) }).await;
    assert!(wrong.error().contains("does not match the specified platform"), "{}", wrong.error());
}

#[tokio::test]
async fn failures_are_told_in_dockers_words() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let server = Server::start(Files::default(), Manners::default());
    let name = server.name("a:1");
    let missing = run(&images, named(name.clone())).await;
    let text = format!("manifest for {name} not found: manifest unknown: manifest unknown");
    assert_eq!(missing.error(), text);
    let denied = run(&images, named(server.name("denied"))).await;
    let text = format!(
        "pull access denied for {}, repository does not exist or may require 'docker login': \
         denied: requested access to the resource is denied",
        server.name("denied")
    );
    assert_eq!(denied.error(), text);
    // A port that nobody listens on.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = run(&images, named(format!("{free}/a:1"))).await;
    let text = format!("Get \"http://{free}/v2/\": dial tcp {free}: connect: connection refused");
    assert_eq!(refused.error(), text);
    let lost = run(&images, named("no-such-host.invalid/a".into())).await;
    assert!(lost.error().contains("lookup no-such-host.invalid"), "{}", lost.error());
    assert!(run(&images, named("UPPER".into())).await.error().contains("must be lowercase"));
}

#[tokio::test]
async fn what_is_not_what_was_promised_is_refused() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let mut files = Files::default();
    files.image("a", "blob", &[layer("good")]);
    let path =
        files.0.keys().find(|path| path.contains("/blobs/") && files.0[*path].1.len() > 1000);
    let path = path.unwrap().clone();
    files.0.get_mut(&path).unwrap().1[100] ^= 1;
    // The manifest says one diff id, the layer has another.
    let manifest = {
        let config = json!({"rootfs": {"type": "layers", "diff_ids": [Digest::of(b"x")]}});
        let config = files.blob("a", config.to_string().as_bytes());
        let layer = files.blob("a", &gzip(&layer("other")));
        json!({"schemaVersion": 2, "config": config, "layers": [layer],
            "mediaType": "application/vnd.oci.image.manifest.v1+json"})
    };
    let digest = files.manifest("a", "diff", &manifest);
    let swapped = format!("/v2/a/manifests/{}", Digest::of(b"nothing"));
    let known = files.0[&format!("/v2/a/manifests/{digest}")].clone();
    files.0.insert(swapped, known);
    let mut short = manifest.clone();
    short["layers"] = json!([]);
    files.manifest("a", "short", &short);
    let server = Server::start(files, Manners::default());
    for (rest, part) in [
        ("a:blob".to_owned(), "verification failed for digest"),
        ("a:diff".to_owned(), "layer verification failed"),
        ("a:short".to_owned(), "0 layers, but the configuration has 1"),
        (format!("a@{}", Digest::of(b"nothing")), "manifest verification failed"),
    ] {
        let outcome = run(&images, named(server.name(&rest))).await;
        assert!(outcome.error().contains(part), "{part}: {}", outcome.error());
    }
    assert!(images.list().is_empty());
    images.prune(&crate::Filter::default(), false).unwrap();
    assert_eq!(std::fs::read_dir(scratch.path("images/layers")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_a_killed_daemon_had_fetched_is_not_fetched_again() {
    let scratch = Scratch::new();
    drop(open(&scratch));
    let mut files = Files::default();
    files.image("a", "1", &[layer("one")]);
    let blob = gzip(&layer("one"));
    let half = blob.len() / 2;
    let partial = scratch.path("images/partial").join(Digest::of(&blob).hex());
    std::fs::write(&partial, &blob[..half]).unwrap();
    let server = Server::start(files, Manners::default());
    run(&open(&scratch), named(server.name("a:1"))).await.image();
    assert_eq!(server.requests(&format!("bytes={half}-")), 1);
    assert!(!partial.exists());
}

#[tokio::test]
async fn layers_come_in_every_compression() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let mut files = Files::default();
    let plain = ["gzip", "zstd", "plain"].map(layer);
    let blobs = [
        files.blob("a", &gzip(&plain[0])),
        files.blob("a", &zstd::encode_all(&plain[1][..], 1).unwrap()),
        files.blob("a", &plain[2]),
    ];
    let ids = plain.each_ref().map(|layer| Digest::of(layer));
    let config = json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}});
    let config = files.blob("a", config.to_string().as_bytes());
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": blobs,
        "mediaType": "application/vnd.oci.image.manifest.v1+json"});
    files.manifest("a", "1", &manifest);
    let server = Server::start(files, Manners::default());
    let image = run(&images, named(server.name("a:1"))).await.image();
    assert_eq!((image.layers.len(), image.size), (3, (4 + 4 + 5) * 20_000));
}

#[tokio::test]
async fn concurrent_pulls_share_a_download() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let mut files = Files::default();
    for tag in ["1", "2", "3", "4"] {
        files.image("a", tag, &[layer("shared"), layer(tag)]);
    }
    files.0.insert(
        "/v2/a/tags/list".into(),
        ("application/json".into(), br#"{"tags":["1","2","3","4"]}"#.to_vec()),
    );
    let shared = Digest::of(&gzip(&layer("shared"))).to_string();
    let server = Server::start(files, Manners::default());
    let pulls =
        ["1", "2", "3", "4"].map(|tag| run(&images, named(server.name(&format!("a:{tag}")))));
    for outcome in futures_util::future::join_all(pulls).await {
        outcome.image();
    }
    assert_eq!(server.requests(&shared), 1);
    let other = Images::open(&scratch.path("other")).unwrap();
    let all = PullRequest { all_tags: true, ..named(server.name("a")) };
    let first = run(&other, all.clone()).await;
    assert_eq!(other.list().len(), 4);
    for (pulled, status) in
        [(first, "Downloaded newer image"), (run(&other, all).await, "Image is up to date")]
    {
        let statuses: Vec<_> =
            pulled.lines.iter().filter(|line| line.starts_with("Status: ")).collect();
        assert_eq!(statuses, [&format!("Status: {status} for {}", server.name("a"))]);
    }
}

#[tokio::test]
async fn a_mirror_stands_in_for_docker_io_and_a_dead_one_is_passed_over() {
    let scratch = Scratch::new();
    let mut files = Files::default();
    files.image("library/a", "latest", &[layer("one")]);
    let server = Server::start(files, Manners::default());
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mirrors = vec![format!("http://{free}"), format!("http://{}/", server.address)];
    let options = Options { mirrors, ..Options::default() };
    let images = Images::open_with(&scratch.path("images"), options).unwrap();
    let outcome = run(&images, named("a".into())).await;
    assert_eq!(outcome.image().names, ["a:latest"]);
    assert_eq!(outcome.lines.last().unwrap(), "Status: Downloaded newer image for a:latest");
}

#[tokio::test]
async fn a_dropped_pull_leaves_a_store_that_pulls_again() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let mut files = Files::default();
    files.image("a", "1", &[layer("one"), layer("two")]);
    let server = Server::start(files, Manners::default());
    let (sender, mut receiver) = mpsc::channel(1);
    let request = named(server.name("a:1"));
    let pulling = {
        let images = images.clone();
        tokio::spawn(async move { images.pull(request, sender).await })
    };
    while let Some(progress) = receiver.recv().await {
        if progress.status == "Pulling fs layer" {
            break;
        }
    }
    pulling.abort();
    assert!(pulling.await.unwrap_err().is_cancelled());
    run(&images, named(server.name("a:1"))).await.image();
}

#[tokio::test]
async fn cve_2021_41092_credentials_are_told_to_nobody_that_a_registry_sends_people_to() {
    let files = || {
        let mut files = Files::default();
        files.image("a", "1", &[layer("one")]);
        files
    };
    let auth = RegistryAuth {
        username: "user".into(),
        password: "word".into(),
        ..RegistryAuth::default()
    };
    for manners in [
        Manners { credentials: Some("dXNlcjp3b3Jk"), ..Manners::default() },
        Manners { basic: Some("dXNlcjp3b3Jk"), ..Manners::default() },
    ] {
        let other = Server::start(files(), Manners::default());
        let manners = Manners { elsewhere: Some(other.address), ..manners };
        let server = Server::start(files(), manners);
        let scratch = Scratch::new();
        let request = PullRequest { auth: Some(auth.clone()), ..named(server.name("a:1")) };
        run(&open(&scratch), request).await.image();
        assert_ne!(server.requests(" by "), 0);
        assert_ne!(other.requests("/blobs/"), 0);
        assert_eq!(other.requests(" by "), 0);
    }
}

#[tokio::test]
async fn cve_2021_21285_hundreds_of_damaged_manifests_leave_a_store_that_works() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let mut files = Files::default();
    files.image("a", "1", &[layer("one")]);
    let (kind, good) = files.0["/v2/a/manifests/1"].clone();
    let mut state = 1_u64;
    let mut random = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % limit
    };
    for number in 0..500 {
        let mut bytes = good.clone();
        let at = random(bytes.len());
        match number % 4 {
            0 => bytes.truncate(at),
            1 => drop(bytes.splice(at..at, good.clone())),
            2 => bytes[at] = b"\0\"{}[]:,0-\xff"[random(11)],
            _ => drop(bytes.drain(at..(at + 1 + random(40)).min(good.len()))),
        }
        files.0.insert(format!("/v2/a/manifests/m{number}"), (kind.clone(), bytes));
    }
    let server = Server::start(files, Manners::default());
    let mut refused = 0;
    for number in 0..500 {
        let outcome = run(&images, named(server.name(&format!("a:m{number}")))).await;
        refused += usize::from(outcome.result.is_err());
    }
    // What changed may be of no account.
    assert!(refused > 400, "{refused} were refused");
    let whole = run(&images, named(server.name("a:1"))).await.image();
    assert!(images.list().iter().all(|image| image.id == whole.id));
}
