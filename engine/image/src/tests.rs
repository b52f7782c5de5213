//! The store from outside: what is loaded, named, saved, removed and found again.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, umount2};
use serde_json::json;

use super::tarball::tests::Tar;
use super::*;

/// A directory that is gone at the end of a test.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rnet-image-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Where a test has attached a root: what is mounted cannot be removed.
        while umount2(&self.path("target"), MntFlags::MNT_DETACH).is_ok() {}
        let removed = fs::remove_dir_all(&self.0);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// What `docker save` of old wrote: manifest.json, a configuration, layers by directory.
pub(super) fn docker_archive(layers: &[Vec<u8>], names: &[&str]) -> Vec<u8> {
    let ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({
        "architecture": Platform::host().architecture, "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": {"Cmd": ["x"], "Labels": {"a": "b"}},
        "rootfs": {"type": "layers", "diff_ids": ids},
        "history": [{"created_by": "RUN x"}, {"created_by": "CMD x", "empty_layer": true}],
    })
    .to_string();
    let hex = Digest::of(config.as_bytes()).hex();
    let paths: Vec<_> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = json!([
        {"Config": format!("{hex}.json"), "RepoTags": names, "Layers": paths}
    ]);
    let mut tar = Tar::new().file("manifest.json", manifest.to_string().as_bytes());
    tar = tar.file(&format!("{hex}.json"), config.as_bytes());
    for (path, layer) in paths.iter().zip(layers) {
        tar = tar.file(path, layer);
    }
    tar.finish()
}

pub(super) fn layer(text: &str) -> Vec<u8> {
    Tar::new().dir("etc/").file("etc/name", text.as_bytes()).finish()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

pub(super) fn open(scratch: &Scratch) -> Images {
    Images::open(&scratch.path("images")).unwrap()
}

pub(super) fn load(images: &Images, archive: &[u8]) -> Vec<String> {
    let loaded = images.load(archive, &mut |_| {}).unwrap();
    loaded.iter().map(ToString::to_string).collect()
}

/// No container runs.
const NONE: fn(&str) -> bool = |_| false;

pub(super) fn files_below(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

#[test]
fn a_docker_archive_is_loaded_under_its_names_plain_and_compressed() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let plain = docker_archive(&[layer("a"), layer("b")], &["x:1", "localhost:5000/y:2"]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    for archive in [plain.clone(), gzip.finish().unwrap(), zstd, xz(&plain), bzip2(&plain)] {
        let lines = load(&images, &archive);
        assert_eq!(lines, ["Loaded image: x:1", "Loaded image: localhost:5000/y:2"]);
    }
    let image = images.find("x:1").unwrap();
    assert_eq!(image.names, ["localhost:5000/y:2", "x:1"]);
    assert_eq!((image.layers.len(), image.size), (2, 2));
    assert_eq!(images.list().len(), 1);
    let history = images.history("x:1").unwrap();
    let sizes: Vec<_> = history.iter().map(|step| (step.created_by.as_str(), step.size)).collect();
    assert_eq!(sizes, [("", 1), ("CMD x", 0), ("RUN x", 1)]);
    assert_eq!(history[0].id, Some(image.id));
}

#[test]
fn an_image_without_name_is_told_by_its_id() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let lines = load(&images, &docker_archive(&[], &[]));
    let id = images.list()[0].id;
    assert_eq!(lines, [format!("Loaded image ID: {id}")]);
    assert_eq!(images.find(&id.short()).unwrap().id, id);
    assert_eq!(images.find(&id.to_string()).unwrap().id, id);
}

#[test]
fn images_are_there_after_opening_again_and_leftovers_are_not() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    load(&images, &docker_archive(&[layer("a")], &["x:1"]));
    let root = scratch.path("images");
    assert!(Images::open(&root).unwrap_err().chain().contains("another daemon"));
    let size = images.find("x:1").unwrap().size;
    drop(images);
    let orphan = Digest::of(b"orphan").hex();
    fs::create_dir_all(root.join("layers").join(&orphan).join("diff")).unwrap();
    fs::write(root.join("blobs/sha256").join(&orphan), "x").unwrap();
    fs::create_dir_all(root.join("tmp/7/diff")).unwrap();
    let images = open(&scratch);
    images.sweep();
    let image = images.find("x:1").unwrap();
    assert_eq!((image.names.len(), image.size), (1, size));
    assert_eq!(files_below(&root.join("tmp")), 0);
    assert_eq!(files_below(&root.join("layers")), 1);
    // Configuration, manifest, layer.
    assert_eq!(files_below(&root.join("blobs/sha256")), 3);
}

#[test]
fn what_is_saved_is_loaded_as_the_same_image() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    load(&images, &docker_archive(&[layer("a"), layer("b")], &["x:1", "x:2"]));
    load(&images, &docker_archive(&[layer("c")], &["y:1"]));
    let mut archive = Vec::new();
    images.save(&["x".to_owned(), "y:1".to_owned()], &mut archive).unwrap();
    let other = Images::open(&scratch.path("other")).unwrap();
    let lines = load(&other, &archive);
    assert_eq!(lines, ["Loaded image: x:1", "Loaded image: x:2", "Loaded image: y:1"]);
    assert_eq!(other.find("x:1").unwrap().id, images.find("x:1").unwrap().id);
    // The same archive without Docker's part is an OCI layout.
    let mut oci = Vec::new();
    let mut builder = tar::Builder::new(&mut oci);
    for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        if path.to_str() != Some("manifest.json") {
            let mut header = entry.header().clone();
            builder.append_data(&mut header, &path, &mut entry).unwrap();
        }
    }
    builder.finish().unwrap();
    drop(builder);
    let third = Images::open(&scratch.path("third")).unwrap();
    assert_eq!(load(&third, &oci), lines);
    assert_eq!(third.find("x:2").unwrap().id, images.find("x:2").unwrap().id);
    assert!(images.save(&["nope".to_owned()], Vec::new()).is_err());
}

#[test]
fn a_nested_index_leads_to_this_platform() {
    let scratch = Scratch::new();
    let layer = layer("a");
    let config =
        json!({"rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]}}).to_string();
    let blob = |bytes: &[u8]| (Digest::of(bytes), bytes.len());
    let descriptor = |kind: &str, (digest, size): (Digest, usize)| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size});
    let manifest = json!({
        "schemaVersion": 2, "config": descriptor("config.v1+json", blob(config.as_bytes())),
        "layers": [descriptor("layer.v1.tar", blob(&layer))],
    })
    .to_string();
    let mut ours = descriptor("manifest.v1+json", blob(manifest.as_bytes()));
    let host = Platform::host();
    ours["platform"] = json!({"os": host.os, "architecture": host.architecture});
    let mut foreign = ours.clone();
    foreign["platform"]["architecture"] = "s390x".into();
    let nested = json!({"schemaVersion": 2, "manifests": [foreign, ours]}).to_string();
    let mut top = descriptor("index.v1+json", blob(nested.as_bytes()));
    top["annotations"] = json!({"org.opencontainers.image.ref.name": "example.org/a:3"});
    let index = json!({"schemaVersion": 2, "manifests": [top]}).to_string();
    let mut tar = Tar::new().file("oci-layout", b"{}").file("index.json", index.as_bytes());
    for bytes in [config.as_bytes(), manifest.as_bytes(), nested.as_bytes(), &layer] {
        tar = tar.file(&format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes);
    }
    let archive = tar.finish();
    let images = open(&scratch);
    assert_eq!(load(&images, &archive), ["Loaded image: example.org/a:3"]);
    // One flipped bit in the layer is noticed.
    let at = archive.windows(8).position(|bytes| bytes == b"etc/name").unwrap();
    let mut broken = archive;
    broken[at] = b'f';
    let third = Images::open(&scratch.path("third")).unwrap();
    assert!(third.load(&broken[..], &mut |_| {}).is_err());
    assert!(third.list().is_empty());
}

#[test]
fn bad_archives_leave_nothing_behind() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let good = docker_archive(&[layer("a")], &["x:1"]);
    let manifest = |text: &str| Tar::new().file("manifest.json", text.as_bytes()).finish();
    for (archive, part) in [
        (b"no tar at all".to_vec(), "cannot read"),
        (good[..1700].to_vec(), "cannot read"),
        (Tar::new().dir("etc/").finish(), "neither manifest.json nor index.json"),
        (manifest("{}"), "manifest.json"),
        (manifest(r#"[{"Config":"../x","Layers":[]}]"#), "it has no"),
        (manifest(r#"[{"Config":"c","RepoTags":["A"],"Layers":["l"]}]"#), "it has no c"),
        (docker_archive(&[b"not a layer".to_vec()], &["x:1"]), "cannot unpack layer"),
        (docker_archive(&[layer("a")], &["UPPER:1"]), "must be lowercase"),
    ] {
        let error = images.load(&archive[..], &mut |_| {}).unwrap_err().chain();
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(images.list().is_empty());
    images.prune(&Filter::default(), false).unwrap();
    let root = scratch.path("images");
    for directory in ["tmp", "layers", "blobs/sha256", "l"] {
        assert_eq!(files_below(&root.join(directory)), 0, "{directory}");
    }
}

#[test]
fn a_name_moves_and_leaves_a_dangling_image() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    load(&images, &docker_archive(&[layer("a")], &["x:1"]));
    let first = images.find("x:1").unwrap().id;
    load(&images, &docker_archive(&[layer("b")], &["x:1"]));
    assert_ne!(images.find("x:1").unwrap().id, first);
    let dangling = Filter { dangling: Some(true), ..Filter::default() };
    assert_eq!(images.search(&dangling).unwrap()[0].id, first);
    images.tag(&first.to_string(), "Host:5000/z").unwrap();
    assert_eq!(images.find("Host:5000/z:latest").unwrap().id, first);
    assert!(images.search(&dangling).unwrap().is_empty());
    assert!(
        images.tag("nope", "z").unwrap_err().to_string().contains("No such image: nope:latest")
    );
    assert!(images.tag("x:1", "Z").is_err());
}

#[test]
fn an_image_tells_when_it_was_last_named_and_older_records_do_not() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let before = Utc::now();
    load(&images, &docker_archive(&[layer("base")], &["x:1"]));
    let loaded = images.find("x:1").unwrap().tagged.unwrap();
    assert!(loaded >= before);
    // Also by a name that it has.
    let again = images.tag("x:1", "x:1").unwrap().tagged.unwrap();
    assert!(again > loaded);
    images.tag("x:1", "x:2").unwrap();
    let last = images.find("x:1").unwrap().tagged.unwrap();
    assert!(last > again);
    images.remove("x:2", false, &|_| false).unwrap();
    drop(images);
    let images = open(&scratch);
    assert_eq!(images.find("x:1").unwrap().tagged, Some(last));
    drop(images);
    let index = scratch.path("images/index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("dev.rnet.image.tagged", "of.nobody")).unwrap();
    let images = open(&scratch);
    assert_eq!(images.find("x:1").unwrap().tagged, None);
}

#[test]
fn the_last_name_takes_the_image_and_its_own_layers_along() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    load(&images, &docker_archive(&[layer("base"), layer("a")], &["x:1", "x:2"]));
    load(&images, &docker_archive(&[layer("base")], &["base:1"]));
    let image = images.find("x:1").unwrap();
    assert_eq!(images.remove("x:1", false, &NONE).unwrap(), [Removed::Untagged("x:1".into())]);
    let removed = images.remove("x:2", false, &NONE).unwrap();
    let wanted = [
        Removed::Untagged("x:2".into()),
        Removed::Deleted(image.id.to_string()),
        Removed::DeletedLayer(image.layers[1].to_string()),
    ];
    assert_eq!(removed, wanted);
    assert_eq!(files_below(&scratch.path("images/layers")), 1);
    assert_eq!(images.list().len(), 1);
    let error = images.remove("x:2", false, &NONE).unwrap_err();
    assert_eq!(error.to_string(), "No such image: x:2");
}

#[test]
fn an_image_in_use_is_kept_in_dockers_words() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    load(&images, &docker_archive(&[layer("a")], &["x:1"]));
    let id = images.find("x").unwrap_err();
    assert_eq!(id.to_string(), "No such image: x:latest");
    let id = images.find("x:1").unwrap().id;
    let container = "c".repeat(64);
    images.hold(&container, "x:1").unwrap();
    let short = id.short();
    let text = |reference: &str, force, running| {
        images.remove(reference, force, &|_| running).unwrap_err().to_string()
    };
    assert_eq!(
        text("x:1", false, false),
        format!(
            "conflict: unable to remove repository reference \"x:1\" (must force) - container \
             cccccccccccc is using its referenced image {short}"
        )
    );
    assert_eq!(
        text(&short, true, true),
        format!(
            "conflict: unable to delete {short} (cannot be forced) - image is being used by \
             running container cccccccccccc"
        )
    );
    assert_eq!(
        text(&short, false, false),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is being used by \
             stopped container cccccccccccc"
        )
    );
    images.tag("x:1", "other/y:1").unwrap();
    let error = images.remove(&short, false, &NONE).unwrap_err().to_string();
    assert!(error.ends_with("(must be forced) - image is referenced in multiple repositories"));
    // Another name is left: removing one takes nothing from anybody.
    images.remove("other/y:1", false, &|_| true).unwrap();
    let removed = images.remove("x:1", true, &|_| true).unwrap();
    assert_eq!(removed, [Removed::Untagged("x:1".into())]);
    assert!(images.find(&short).unwrap().names.is_empty());
    assert!(images.prune(&Filter::default(), true).unwrap().removed.is_empty());
    images.release(&container);
    let pruned = images.prune(&Filter::default(), false).unwrap();
    assert_eq!(pruned.removed.len(), 2);
    assert!(pruned.reclaimed > 0 && images.list().is_empty());
}

#[test]
fn filters_narrow_a_list() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    load(&images, &docker_archive(&[layer("a")], &["x:1", "a/b:1"]));
    builtin::ensure(&images).unwrap();
    let count = |filter: Filter| images.search(&filter).unwrap().len();
    let references = |text: &str| Filter { references: vec![text.into()], ..Filter::default() };
    assert_eq!(count(references("rnet/*")), 1);
    assert_eq!(count(references("*")), 1);
    assert_eq!(count(references("*:2")), 0);
    assert_eq!(count(Filter { labels: vec!["a=b".into()], ..Filter::default() }), 1);
    assert_eq!(count(Filter { without_labels: vec!["a".into()], ..Filter::default() }), 1);
    assert_eq!(count(Filter { before: Some(builtin::NAME.into()), ..Filter::default() }), 1);
    assert_eq!(count(Filter { since: Some("x:1".into()), ..Filter::default() }), 1);
    assert!(images.search(&references("[")).is_err());
    assert!(images.search(&Filter { since: Some("no".into()), ..Filter::default() }).is_err());
}

#[test]
fn a_root_file_system_is_imported_with_a_configuration() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let config = serde_json::json!({"Cmd": ["/x"], "ExposedPorts": {"80/tcp": {}}});
    let id = images.import(&layer("a")[..], Some("im:1"), &config, "why").unwrap();
    let image = images.find("im:1").unwrap();
    assert_eq!((image.id, image.extra.comment.as_str()), (id, "why"));
    let config = image.config.config().clone().unwrap();
    assert_eq!(config.cmd().as_deref(), Some(&["/x".to_owned()][..]));
    assert!(images.import(&layer("a")[..], None, &serde_json::json!([]), "").is_err());
    assert!(images.import(&b"garbage"[..], None, &serde_json::json!({}), "").is_err());
}

#[test]
fn the_built_in_image_is_made_once_and_is_the_same_everywhere() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let first = builtin::ensure(&images).unwrap();
    let again = builtin::ensure(&images).unwrap();
    assert_eq!(first.id, again.id);
    let other = Images::open(&scratch.path("other")).unwrap();
    assert_eq!(builtin::ensure(&other).unwrap().id, first.id);
    let bin = images.root().join("layers").join(first.layers[0].hex()).join("diff/bin");
    let output = std::process::Command::new(bin.join("echo")).args(["hello", "box"]).output();
    assert_eq!(output.unwrap().stdout, b"hello box\n");
}

#[test]
fn xz_and_bzip2_are_imported_and_saved_as_what_everybody_reads() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    let plain = images.import(&layer("a")[..], None, &serde_json::json!({}), "").unwrap();
    let diff_ids = images.find(&plain.to_string()).unwrap().diff_ids().to_vec();
    for (at, archive) in [xz(&layer("a")), bzip2(&layer("a"))].into_iter().enumerate() {
        let scratch = Scratch::new();
        let images = open(&scratch);
        let name = format!("im:{at}");
        images.import(&archive[..], Some(&name), &serde_json::json!({}), "").unwrap();
        assert_eq!(images.find(&name).unwrap().diff_ids(), diff_ids);
        let mut saved = Vec::new();
        images.save(std::slice::from_ref(&name), &mut saved).unwrap();
        let saved = String::from_utf8_lossy(&saved).into_owned();
        assert!(saved.contains("layer.v1.tar+gzip"), "{saved}");
    }
    let mut cut = xz(&layer("a"));
    cut.truncate(cut.len() / 2);
    for archive in [&cut, &xz(&layer("b"))] {
        let _ = images.import(&archive[..], None, &serde_json::json!({}), "");
        assert_eq!(files_below(&images.root().join("tmp")), 0, "a spooled archive stays");
    }
    assert!(images.import(&cut[..], None, &serde_json::json!({}), "").is_err());
}

#[test]
fn cve_2026_50195_what_is_imported_has_the_name_that_was_asked_for_and_no_other() {
    let scratch = Scratch::new();
    let images = open(&scratch);
    load(&images, &docker_archive(&[layer("a")], &["mine:1", "other:1"]));
    let mine = images.find("mine:1").unwrap().id;
    // Whatever an archive says of names inside.
    let archive = docker_archive(&[layer("b")], &["mine:1", "more:1"]);
    let id = images.import(&archive[..], Some("new:1"), &serde_json::json!({}), "").unwrap();
    assert_eq!(images.find("new:1").unwrap().names, ["new:1"]);
    images.import(&archive[..], None, &serde_json::json!({}), "").unwrap();
    assert_ne!(id, mine);
    // And what is loaded moves the names that it tells of, which are all told.
    let loaded = load(&images, &docker_archive(&[layer("c")], &["other:1"]));
    assert_eq!(loaded, ["Loaded image: other:1"]);
    assert_eq!(images.find("mine:1").unwrap().id, mine);
    assert!(images.find("more:1").is_err());
}
