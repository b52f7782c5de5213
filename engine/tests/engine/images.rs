//! Images and the containers that are made of them.

use std::path::PathBuf;
use std::process::Command;

use engine::container::spec::{Mount, MountKind};
use engine::container::{Remove, Spec};
use image::{Digest, Image, Removed};

use crate::scene::{Scene, on_a_host_of_its_own, spec};

/// Imports an image of its own, `own:1`, with what the built-in one has.
fn import(scene: &Scene) -> Image {
    let images = &scene.engine.images;
    let toolbox = images.find("rnet/toolbox").unwrap();
    let files = images.root().join("layers").join(toolbox.layers[0].hex()).join("diff");
    let tar = Command::new("tar").arg("-C").arg(files).args(["-c", "."]).output().unwrap();
    images.import(&tar.stdout[..], Some("own:1"), &serde_json::json!({}), "").unwrap();
    Image::clone(&images.find("own:1").unwrap())
}

fn blob(scene: &Scene, digest: Digest) -> PathBuf {
    scene.engine.images.root().join("blobs/sha256").join(digest.hex())
}

fn of_own(command: &str) -> Spec {
    let path = "PATH=/bin".to_owned();
    Spec { image: "own:1".to_owned(), env: vec![path], ..spec(command) }
}

#[test]
fn a_container_whose_image_is_damaged_starts_under_the_next_daemon() {
    let name = "images::a_container_whose_image_is_damaged_starts_under_the_next_daemon";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir.clone()).await;
        let own = import(&scene);
        scene.create("first", of_own("/bin/sleep 60")).await;
        std::fs::write(blob(&scene, own.id.0), "{").unwrap();
        scene.engine.close().await;
        drop(scene);
        let scene = Scene::open(dir).await;
        let told = scene.engine.images.unreadable();
        assert!(told[0].0.contains(&own.id.to_string()), "{told:?}");
        scene.start("first").await.unwrap_or_else(|error| panic!("{}", error.chain()));
        let error = scene.engine.images.remove("own:1", true, &|_| false).unwrap_err();
        assert!(error.to_string().contains("is being used by container"), "{error}");
        scene.end().await;
    });
}

#[test]
fn an_image_is_kept_as_long_as_a_container_is_made_of_it_and_no_longer() {
    let name = "images::an_image_is_kept_as_long_as_a_container_is_made_of_it_and_no_longer";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir.clone()).await;
        let own = import(&scene);
        scene.create("first", of_own("/bin/sleep 60")).await;
        scene.engine.close().await;
        drop(scene);
        let scene = Scene::open(dir).await;
        scene.engine.images.remove("own:1", false, &|_| false).unwrap_err();
        scene.engine.containers.remove("first", Remove::default()).await.unwrap();
        // A create that fails uses nothing.
        let wrong = Mount {
            kind: MountKind::Volume,
            source: "no/name".to_owned(),
            target: "/data".to_owned(),
            ..Mount::default()
        };
        let mounts = vec![wrong];
        scene.try_create("wrong", Spec { mounts, ..of_own("x") }).await.unwrap_err();
        let removed = scene.engine.images.remove("own:1", false, &|_| false).unwrap();
        assert!(removed.contains(&Removed::Deleted(own.id.to_string())), "{removed:?}");
        scene.end().await;
    });
}
