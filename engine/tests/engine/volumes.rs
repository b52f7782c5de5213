//! Volumes, by all the ways in which containers come to use them and stop doing so.

use std::path::PathBuf;

use cnm::Kind;
use engine::container::spec::{Mount, MountKind};
use engine::container::{Remove, Spec, WaitCondition};

use crate::scene::{Scene, on_a_host_of_its_own, spec};

const WITH_VOLUMES: Remove = Remove { force: true, volumes: true, link: false };

fn with_a_volume(command: &str) -> Spec {
    Spec { volumes: vec!["/data".to_owned()], ..spec(command) }
}

fn with_volumes_from(other: &str, command: &str) -> Spec {
    Spec { volumes_from: vec![other.to_owned()], ..spec(command) }
}

fn named(name: &str, target: &str) -> Mount {
    Mount {
        kind: MountKind::Volume,
        source: name.to_owned(),
        target: target.to_owned(),
        ..Mount::default()
    }
}

/// Writes a file into the only volume of a container, and says where it is.
fn write_into(scene: &Scene, container: &str) -> PathBuf {
    let container = scene.engine.containers.find(container).unwrap();
    let file = container.mounts[0].source.join("file");
    std::fs::write(&file, "data").unwrap();
    file
}

fn count(scene: &Scene) -> usize {
    scene.engine.volumes.list().unwrap().len()
}

#[test]
fn rm_leaves_volumes_that_another_container_has_by_volumes_from() {
    let name = "volumes::rm_leaves_volumes_that_another_container_has_by_volumes_from";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        scene.run("first", with_a_volume("sleep 60")).await;
        scene.create("second", with_volumes_from("first", "sleep 60")).await;
        scene.run("third", with_volumes_from("second:ro", "sleep 60")).await;
        let file = write_into(&scene, "first");
        scene.engine.containers.remove("first", WITH_VOLUMES).await.unwrap();
        assert!(file.exists(), "created and running containers use it");
        let pruned = scene.engine.volumes.prune(|_| true).unwrap();
        assert_eq!(pruned.removed, Vec::<String>::new());
        let volume = scene.engine.containers.find("third").unwrap().mounts[0].clone();
        assert!(!volume.writable);
        let error = scene.engine.volumes.remove(volume.name.as_deref().unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        scene.engine.containers.pause("third").await.unwrap();
        scene.engine.containers.remove("second", WITH_VOLUMES).await.unwrap();
        assert!(file.exists(), "a paused container uses it");
        scene.engine.containers.remove("third", WITH_VOLUMES).await.unwrap();
        assert_eq!(count(&scene), 0, "it goes with the last that has it, as in Docker");
        scene.end().await;
    });
}

#[test]
fn a_container_that_removes_itself_leaves_volumes_that_others_have() {
    let name = "volumes::a_container_that_removes_itself_leaves_volumes_that_others_have";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        let first = Spec { auto_remove: true, ..with_a_volume("exit 0") };
        let id = scene.create("first", first).await;
        scene.create("second", with_volumes_from("first", "sleep 60")).await;
        let file = write_into(&scene, "first");
        let removed = scene.engine.containers.wait(&id, WaitCondition::Removed).unwrap();
        scene.start("first").await.unwrap();
        removed.await;
        assert!(file.exists());
        scene.engine.containers.remove("second", Remove::default()).await.unwrap();
        assert!(file.exists(), "without -v it stays");
        assert_eq!(
            scene.engine.volumes.prune(volume::Volume::is_anonymous).unwrap().removed.len(),
            1
        );
        scene.end().await;
    });
}

#[test]
fn the_next_daemon_knows_who_uses_a_volume() {
    let name = "volumes::the_next_daemon_knows_who_uses_a_volume";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir.clone()).await;
        scene.create("first", with_a_volume("sleep 60")).await;
        scene.create("second", with_volumes_from("first", "sleep 60")).await;
        let mounts = vec![named("data", "/named")];
        scene.create("third", Spec { mounts, ..spec("sleep 60") }).await;
        let file = write_into(&scene, "first");
        scene.engine.close().await;
        drop(scene);
        let scene = Scene::open(dir).await;
        scene.engine.containers.remove("first", WITH_VOLUMES).await.unwrap();
        assert!(file.exists());
        assert_eq!(scene.engine.volumes.remove("data").unwrap_err().kind(), Kind::Conflict);
        assert_eq!(scene.engine.volumes.prune(|_| true).unwrap().removed, Vec::<String>::new());
        scene.end().await;
    });
}

#[test]
fn a_create_that_fails_leaves_no_volume_of_its_own() {
    let name = "volumes::a_create_that_fails_leaves_no_volume_of_its_own";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        let mounts = vec![named("", "/own"), named("no/name", "/wrong")];
        let wrong = Spec { mounts, ..with_a_volume("sleep 60") };
        let error = scene.try_create("wrong", wrong).await.unwrap_err();
        assert!(error.to_string().contains("no/name"), "{error}");
        assert_eq!(count(&scene), 0);
        scene.create("first", with_a_volume("sleep 60")).await;
        let mounts = vec![named("no/name", "/wrong")];
        let wrong = Spec { mounts, ..with_volumes_from("first", "sleep 60") };
        scene.try_create("wrong", wrong).await.unwrap_err();
        assert_eq!(count(&scene), 1, "that of another container stays");
        scene.end().await;
    });
}

#[test]
fn a_volume_of_its_own_hides_no_volume_of_volumes_from() {
    let name = "volumes::a_volume_of_its_own_hides_no_volume_of_volumes_from";
    on_a_host_of_its_own(name, async |dir| {
        let scene = Scene::open(dir).await;
        scene.create("first", with_a_volume("sleep 60")).await;
        let both = Spec {
            volumes: vec!["/data/".to_owned(), "/more".to_owned()],
            ..with_volumes_from("first", "sleep 60")
        };
        scene.create("second", both).await;
        let first = scene.engine.containers.find("first").unwrap().mounts.clone();
        let second = scene.engine.containers.find("second").unwrap().mounts.clone();
        assert_eq!(second[0], first[0]);
        assert_eq!((second.len(), second[1].target.as_str()), (2, "/more"));
        let mounts = vec![named("own", "/data")];
        let over = Spec { mounts, ..with_volumes_from("first", "sleep 60") };
        scene.create("third", over).await;
        let third = scene.engine.containers.find("third").unwrap().mounts.clone();
        assert_eq!((third.len(), third[0].name.as_deref()), (1, Some("own")));
        let error =
            scene.try_create("fourth", with_volumes_from("first:no", "x")).await.unwrap_err();
        assert_eq!(error.to_string(), "invalid mode: no");
        scene.end().await;
    });
}
