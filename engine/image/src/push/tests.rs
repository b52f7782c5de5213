//! Pushes to a registry of our own, on loopback, with the faults of real ones.

mod registry;

use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

use self::registry::{Manners, Server};
use super::*;
use crate::tests::{Scratch, docker_archive, layer, open};

struct Outcome {
    result: Result<Vec<Pushed>>,
    lines: Vec<String>,
}

async fn run(images: &Images, reference: &str, tag: Option<&str>) -> Outcome {
    let (sender, mut receiver) = mpsc::channel(1000);
    let images = images.clone();
    let (reference, tag) = (reference.to_owned(), tag.map(str::to_owned));
    let request = PushRequest { reference, tag, ..PushRequest::default() };
    // Spawned as the API does: the future must be able to move between threads.
    let pushing = tokio::spawn(async move { images.push(request, sender).await });
    let mut lines = Vec::new();
    while let Some(Progress { id, status, detail, aux }) = receiver.recv().await {
        match (aux, detail) {
            (Some(aux), _) => lines.push(aux.to_string()),
            (None, None) => lines.push(id.map_or(status.clone(), |id| format!("{id}: {status}"))),
            (None, Some(_)) => {}
        }
    }
    Outcome { result: pushing.await.unwrap(), lines }
}

/// Large enough to be cut in the middle of an upload, and nothing that compresses.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let bytes: Vec<u8> = (0..100_000).flat_map(|_| next()).collect();
    crate::tarball::tests::Tar::new().file("noise", &bytes).finish()
}

fn loaded(scratch: &Scratch, layers: &[Vec<u8>], names: &[&str]) -> Images {
    let images = open(scratch);
    images.load(&docker_archive(layers, names)[..], &mut |_| {}).unwrap();
    images
}

#[tokio::test]
async fn an_image_is_pushed_once_and_then_there() {
    let scratch = Scratch::new();
    let server = Server::start(Manners::default());
    let name = server.name("a/b");
    let images = loaded(&scratch, &[layer("one"), layer("two")], &[&format!("{name}:1")]);
    let first = run(&images, &name, Some("1")).await;
    let pushed = first.result.unwrap();
    let digest = pushed[0].digest;
    assert_eq!(first.lines[0], format!("The push refers to repository [{name}]"));
    for (status, count) in [("Preparing", 2), ("Pushed", 2)] {
        let lines = first.lines.iter().filter(|line| line.ends_with(status)).count();
        assert_eq!(lines, count, "{status}");
    }
    let (manifest, media_type) = server.manifest("a/b", "1");
    assert_eq!(Digest::of(&manifest), digest);
    assert_eq!(media_type, "application/vnd.docker.distribution.manifest.v2+json");
    let end = &first.lines[first.lines.len() - 2..];
    let size = manifest.len();
    let aux: Value = serde_json::from_str(&end[1]).unwrap();
    assert_eq!(end[0], format!("1: digest: {digest} size: {size}"));
    assert_eq!(aux, serde_json::json!({"Tag": "1", "Digest": digest, "Size": size}));
    let image = images.find(&format!("{name}:1")).unwrap();
    assert_eq!(image.digests, [format!("{name}@{digest}")]);
    let sent = server.requests("PATCH");
    assert_eq!(sent, 3, "two layers and a configuration");
    let again = run(&images, &name, None).await;
    assert_eq!(again.result.unwrap()[0].digest, digest);
    let there = again.lines.iter().filter(|line| line.ends_with("Layer already exists")).count();
    assert_eq!((there, server.requests("PATCH")), (2, sent));
    assert!(images.store().root().join("tmp").read_dir().unwrap().next().is_none());
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_up_no_other_push() {
    let scratch = Scratch::new();
    let server = Server::start(Manners::default());
    let name = server.name("a");
    let layers = ["one", "two", "three", "four", "five"].map(layer);
    let images = loaded(&scratch, &layers, &[&format!("{name}:1")]);
    // Room for what is said before a layer is pushed, each of which takes a turn.
    let (sender, unread) = mpsc::channel(6);
    let (its, reference) = (images.clone(), name.clone());
    let request = PushRequest { reference, ..PushRequest::default() };
    let stalled = tokio::spawn(async move { its.push(request, sender).await });
    while server.requests("PATCH") < 5 {
        tokio::task::yield_now().await;
    }
    let other = tokio::time::timeout(Duration::from_secs(30), run(&images, &name, Some("1"))).await;
    assert!(other.expect("it waits for the first").result.is_ok());
    stalled.abort();
    drop(unread);
}

#[tokio::test]
async fn a_layer_is_mounted_from_where_the_registry_has_it() {
    let scratch = Scratch::new();
    let server = Server::start(Manners::default());
    let (first, second) = (server.name("team/a"), server.name("team/b"));
    let names = [format!("{first}:1"), format!("{second}:1")];
    let images = loaded(&scratch, &[layer("one")], &[&names[0], &names[1]]);
    run(&images, &first, Some("1")).await.result.unwrap();
    let mounted = run(&images, &second, Some("1")).await;
    mounted.result.unwrap();
    let words: Vec<_> = mounted.lines.iter().filter(|line| line.contains("Mounted")).collect();
    assert!(words.len() == 1 && words[0].ends_with(": Mounted from team/a"), "{words:?}");
}

#[tokio::test]
async fn overload_and_broken_uploads_are_overcome() {
    for forgets in [false, true] {
        let scratch = Scratch::new();
        let manners = Manners {
            overload: 2,
            busy_uploads: 1,
            cuts: 2,
            lost: 1,
            forgets,
            ..Manners::default()
        };
        let server = Server::start(manners);
        let name = server.name("a");
        let images = loaded(&scratch, &[noise(1), noise(2)], &[&format!("{name}:1")]);
        let outcome = run(&images, &name, Some("1")).await;
        outcome.result.unwrap();
        assert_eq!(server.cuts(), 0, "both uploads were cut");
        let resumed = server.requests("content-range");
        assert_eq!(resumed > 0, !forgets, "what is known of an upload is not sent again");
        let (manifest, _) = server.manifest("a", "1");
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        for layer in manifest["layers"].as_array().unwrap() {
            assert!(server.has("a", layer["digest"].as_str().unwrap()));
        }
    }
}

#[tokio::test]
async fn an_upload_of_which_the_registry_has_other_bytes_than_it_said_begins_again() {
    let cut = Manners { cuts: 1, out_of_step: 1, ..Manners::default() };
    let uncounted = Manners { uncounted: 1, ..Manners::default() };
    for manners in [cut, uncounted] {
        let scratch = Scratch::new();
        let server = Server::start(manners);
        let name = server.name("a");
        let images = loaded(&scratch, &[noise(1)], &[&format!("{name}:1")]);
        run(&images, &name, Some("1")).await.result.unwrap();
        assert_eq!(server.requests("POST"), 3, "the layer's, once more, and the configuration's");
        let (manifest, _) = server.manifest("a", "1");
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        assert!(server.has("a", manifest["layers"][0]["digest"].as_str().unwrap()));
    }
}

#[tokio::test]
async fn what_is_not_there_is_told_in_dockers_words() {
    let scratch = Scratch::new();
    let server = Server::start(Manners::default());
    let name = server.name("a");
    let images = loaded(&scratch, &[layer("one")], &[&format!("{name}:1")]);
    let fails = async |reference: &str, tag| {
        run(&images, reference, tag).await.result.unwrap_err().to_string()
    };
    let text = format!("tag does not exist: {name}:2");
    assert_eq!(fails(&name, Some("2")).await, text);
    let other = server.name("b");
    let text = format!("An image does not exist locally with the tag: {other}");
    assert_eq!(fails(&other, Some("1")).await, text);
    assert!(fails("UPPER", None).await.contains("must be lowercase"));
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let lost = format!("{free}/a:1");
    images.tag(&format!("{name}:1"), &lost).unwrap();
    let text = format!("Get \"http://{free}/v2/\": dial tcp {free}: connect: connection refused");
    assert_eq!(fails(&lost, None).await, text);
    assert_eq!(server.requests("PATCH"), 0);
}
