//! Lists of manifests that are being put together: a directory a list, a file an image, where
//! Docker's command keeps them, too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use image::remote::Manifest;
use image::{Digest, Reference};
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Value, json};

use crate::cli::docker_config;
use crate::cli::error::CliError;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The lists of a user.
#[derive(Debug)]
pub(super) struct Lists(PathBuf);

/// An image in a list.
#[derive(Clone, Debug)]
pub(super) struct Entry(Value);

impl Entry {
    pub(super) fn new(
        reference: &Reference,
        manifest: &Manifest,
        content: &Value,
        platform: &Value,
    ) -> Self {
        let oci = manifest.media_type.contains("vnd.oci");
        let form = if oci { "OCIManifest" } else { "SchemaV2Manifest" };
        Self(json!({
            "Ref": reference.canonical(),
            "Descriptor": {
                "mediaType": manifest.media_type,
                "digest": manifest.digest.to_string(),
                "size": manifest.bytes.len(),
                "platform": platform,
            },
            "Raw": BASE64_STANDARD.encode(&manifest.bytes),
            form: content,
        }))
    }

    pub(super) fn json(&self) -> &Value {
        &self.0
    }

    pub(super) fn reference(&self) -> &str {
        self.0["Ref"].as_str().unwrap_or_default()
    }

    pub(super) fn platform(&mut self) -> &mut Value {
        &mut self.0["Descriptor"]["platform"]
    }

    pub(super) fn media_type(&self) -> &str {
        self.0["Descriptor"]["mediaType"].as_str().unwrap_or_default()
    }

    /// The manifest, byte for byte.
    pub(super) fn bytes(&self) -> Vec<u8> {
        BASE64_STANDARD.decode(self.0["Raw"].as_str().unwrap_or_default()).unwrap_or_default()
    }

    /// The configuration and the layers.
    pub(super) fn blobs(&self) -> Vec<Digest> {
        let content: Value = serde_json::from_slice(&self.bytes()).unwrap_or_default();
        let layers = content["layers"].as_array().into_iter().flatten();
        let all = [&content["config"]].into_iter().chain(layers);
        all.filter_map(|blob| blob["digest"].as_str()?.parse().ok()).collect()
    }
}

impl Lists {
    pub(super) fn of_user() -> Self {
        Self(docker_config::directory().join("manifests"))
    }

    fn directory(&self, list: &Reference) -> PathBuf {
        self.0.join(file_name(list))
    }

    pub(super) fn has(&self, list: &Reference) -> bool {
        self.directory(list).is_dir()
    }

    pub(super) fn get(
        &self,
        list: &Reference,
        image: &Reference,
    ) -> Result<Option<Entry>, CliError> {
        let path = self.directory(list).join(file_name(image));
        if path.exists() { read(&path).map(Some) } else { Ok(None) }
    }

    /// All images of a list, in the order of their names.
    pub(super) fn entries(&self, list: &Reference) -> Result<Vec<Entry>, CliError> {
        let directory = self.directory(list);
        let found = fs::read_dir(&directory).map_err(|error| bad("read", &directory, &error))?;
        let mut paths: Vec<_> = found.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths.iter().map(|path| read(path)).collect()
    }

    pub(super) fn put(&self, list: &Reference, entry: &Entry) -> Result<(), CliError> {
        let directory = self.directory(list);
        let image = Reference::parse(entry.reference());
        let image = image.map_err(|error| CliError::new(error.to_string()))?;
        let path = directory.join(file_name(&image));
        let aside = self.0.join(format!(".{}", std::process::id()));
        let written = fs::create_dir_all(&directory)
            .and_then(|()| fs::write(&aside, entry.0.to_string()))
            .and_then(|()| fs::rename(&aside, &path));
        written.map_err(|error| bad("write", &path, &error))
    }

    pub(super) fn remove(&self, list: &Reference) -> Result<(), CliError> {
        let directory = self.directory(list);
        fs::remove_dir_all(&directory).map_err(|error| bad("remove", &directory, &error))
    }
}

fn read(path: &Path) -> Result<Entry, CliError> {
    let bytes = fs::read(path).map_err(|error| bad("read", path, &error))?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| bad("read", path, &error))?;
    Ok(Entry(value))
}

fn bad(verb: &str, path: &Path, error: &dyn std::fmt::Display) -> CliError {
    CliError::new(format!("cannot {verb} {}: {error}", path.display()))
}

/// A name as the name of a file, as Docker has it.
fn file_name(reference: &Reference) -> String {
    reference.canonical().replace(':', "-").replace('/', "_")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    size: u64,
    digest: &'a str,
    platform: Platform<'a>,
}

#[derive(Serialize)]
struct Platform<'a> {
    architecture: &'a str,
    os: &'a str,
    #[serde(rename = "os.version", skip_serializing_if = "Value::is_null")]
    version: &'a Value,
    #[serde(rename = "os.features", skip_serializing_if = "Value::is_null")]
    features: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    variant: &'a Value,
}

/// The list as registries get it, with its media type: the bytes that Docker's command writes.
pub(super) fn document(entries: &[Entry]) -> Result<(&'static str, Vec<u8>), CliError> {
    let digest = |entry: &Entry| entry.0["Descriptor"]["digest"].is_string();
    if let Some(entry) = entries.iter().find(|entry| !digest(entry)) {
        return Err(CliError::new(format!("invalid entry {} of the list", entry.reference())));
    }
    let oci = entries.iter().all(|entry| entry.media_type().contains("vnd.oci"));
    let media_type = if oci { OCI_INDEX } else { DOCKER_LIST };
    let manifests = entries.iter().map(|entry| {
        let value = &entry.0["Descriptor"];
        let platform = &value["platform"];
        Descriptor {
            media_type: entry.media_type(),
            size: value["size"].as_u64().unwrap_or_default(),
            digest: value["digest"].as_str().unwrap_or_default(),
            platform: Platform {
                architecture: platform["architecture"].as_str().unwrap_or_default(),
                os: platform["os"].as_str().unwrap_or_default(),
                version: &platform["os.version"],
                features: &platform["os.features"],
                variant: &platform["variant"],
            },
        }
    });
    let document = Document { schema_version: 2, media_type, manifests: manifests.collect() };
    let mut bytes = Vec::new();
    let mut writer = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"   "));
    document.serialize(&mut writer).map_err(|error| CliError::from(io::Error::from(error)))?;
    Ok((media_type, bytes))
}

/// JSON indented anew, with its fields in the order that they have.
pub(super) fn indent(json: &[u8], step: &str) -> String {
    let text = String::from_utf8_lossy(json);
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let mut chars = text.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(step, depth));
    };
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                out.push(c);
                while let Some(c) = chars.next() {
                    out.push(c);
                    match c {
                        '\\' => out.extend(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '{' | '[' => {
                out.push(c);
                while chars.next_if(|c| c.is_whitespace()).is_some() {}
                if let Some(end) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_whitespace() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_with_its_fields_where_they_are() {
        let text = br#"{"b": [1,2 ,{}], "a":{"x":"{,:\" ]"},"c":[ ]}"#;
        let wanted = "{\n\t\"b\": [\n\t\t1,\n\t\t2,\n\t\t{}\n\t],\n\t\"a\": {\n\t\t\"x\": \"{,:\\\" ]\"\n\t},\
                      \n\t\"c\": []\n}";
        assert_eq!(indent(text, "\t"), wanted);
    }

    #[test]
    fn a_list_has_the_bytes_that_docker_s_command_gives_it() {
        // As `docker manifest push` of 28 pushed them.
        let entry = |platform: Value| {
            Entry(json!({"Ref": "r/a:1", "Descriptor": {
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "size": 527,
                "digest": "sha256:69f011d72c4129e52fec21bc6812ff4199c040b610c34361dbec1a14b7b2220c",
                "platform": platform}}))
        };
        let plain = entry(json!({"architecture": "amd64", "os": "linux"}));
        let (media_type, bytes) = document(std::slice::from_ref(&plain)).unwrap();
        assert_eq!(media_type, DOCKER_LIST);
        let theirs = "sha256:b65c5204f2c9fce1cb87a7694065d39ec3ebdcdd86be1453186437e0e4099309";
        assert_eq!(Digest::of(&bytes).to_string(), theirs);
        let special = entry(json!({"architecture": "arm64", "os": "linux", "variant": "v8",
            "os.version": "1.2", "os.features": ["a", "b"]}));
        let three = document(&[plain.clone(), special, plain]).unwrap().1;
        let theirs = "sha256:67b0a747115acf4dc0dcbf2850998148ab4b2e0764a393c52ad92ca8980aedb6";
        assert_eq!(Digest::of(&three).to_string(), theirs);
    }
}
