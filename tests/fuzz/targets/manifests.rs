//! Manifests and configurations of images, in archives whose digests are right: what is made up is
//! looked at, and not only refused for its digest. What is taken can be shown and listed.
//!
//! The first byte says of which kind the archive is; then come two JSON texts with a NUL between them.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use engine::api::version::Version;
use image::rootfs::StorageDriver;
use image::{Digest, Filter, Images, Options};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

/// A store for all runs, in memory where the host has a place for that.
static STORE: LazyLock<Images> = LazyLock::new(|| {
    let base = ["/dev/shm", "/tmp"].into_iter().map(PathBuf::from).find(|path| path.is_dir());
    let base = base.unwrap_or_default().join(format!("rnet-fuzz-{}", std::process::id()));
    fs::create_dir_all(&base).expect("a scratch directory");
    let options = Options { driver: StorageDriver::Vfs, ..Options::default() };
    Images::open_with(&base, options).expect("a store")
});

/// A layer with nothing in it.
const LAYER: [u8; 1024] = [0; 1024];

struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn file(&mut self, name: &str, bytes: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        self.0.append_data(&mut header, name, bytes).expect("memory");
    }

    /// Adds a blob and says how it is called.
    fn blob(&mut self, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes).to_string();
        self.file(&format!("blobs/{}", digest.replace(':', "/")), bytes);
        json!({"digest": digest, "size": bytes.len()})
    }

    fn end(self) -> Vec<u8> {
        self.0.into_inner().expect("memory")
    }
}

/// Puts what is there in the place of what a descriptor says, where it says anything.
fn point(descriptor: &mut Value, at: &Value) {
    if let (Value::Object(descriptor), Value::Object(at)) = (descriptor, at) {
        descriptor.extend(at.clone());
    }
}

fn oci(manifest: &[u8], config: &[u8]) -> Vec<u8> {
    let mut archive = Archive::new();
    let (layer, config) = (archive.blob(&LAYER), archive.blob(config));
    let manifest = match serde_json::from_slice::<Value>(manifest) {
        Ok(mut parsed) => {
            if let Some(own) = parsed.get_mut("config") {
                point(own, &config);
            }
            for own in parsed.get_mut("layers").and_then(Value::as_array_mut).into_iter().flatten()
            {
                point(own, &layer);
            }
            parsed.to_string().into_bytes()
        }
        Err(_) => manifest.to_vec(),
    };
    let mut entry = archive.blob(&manifest);
    entry["mediaType"] = "application/vnd.oci.image.manifest.v1+json".into();
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "made-up:1"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    archive.file("index.json", index.as_bytes());
    archive.file("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
    archive.end()
}

/// The same with an index that is made up.
fn oci_index(index: &[u8], manifest: &[u8]) -> Vec<u8> {
    let mut archive = Archive::new();
    let entry = archive.blob(manifest);
    let index = match serde_json::from_slice::<Value>(index) {
        Ok(mut parsed) => {
            let entries = parsed.get_mut("manifests").and_then(Value::as_array_mut);
            entries.into_iter().flatten().for_each(|own| point(own, &entry));
            parsed.to_string().into_bytes()
        }
        Err(_) => index.to_vec(),
    };
    archive.file("index.json", &index);
    archive.file("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
    archive.end()
}

fn docker(manifest: &[u8], config: &[u8]) -> Vec<u8> {
    let mut archive = Archive::new();
    archive.file("config.json", config);
    archive.file("layer.tar", &LAYER);
    archive.file("manifest.json", manifest);
    archive.end()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, texts)) = bytes.split_first() else { return };
    let middle = texts.iter().position(|byte| *byte == 0).unwrap_or(texts.len());
    let (first, second) = (&texts[..middle], texts.get(middle + 1..).unwrap_or_default());
    let archive = match kind % 3 {
        0 => oci(first, second),
        1 => oci_index(first, second),
        _ => docker(first, second),
    };
    let images = &*STORE;
    let _ = images.load(&*archive, &mut |_| {});
    for image in images.list() {
        let found = images.find(&image.id.to_string()).expect("what is listed is found");
        for minor in [24, 44, 51] {
            engine::api::wire::image::inspect(&found, "vfs", Version(minor));
        }
    }
    images.prune(&Filter::default(), true).expect("nobody uses them");
});
