//! Configurations of images: OCI's, with the fields Docker adds.

use chrono::{DateTime, Utc};
use oci_spec::image::ImageConfiguration;
use serde_json::{Map, Value, json};

use super::digest::{Digest, ImageId};
use super::{Extra, Image};
use engine_error::{Error, Result};

/// The largest, in bytes.
pub(super) const LARGEST: usize = 8 << 20;
/// Overlay mounts of more layers than this do not fit the kernel's limits everywhere.
const MOST_LAYERS: usize = 127;

/// A configuration as it was read.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) config: ImageConfiguration,
    extra: Extra,
    pub(super) diff_ids: Vec<Digest>,
    created: Option<DateTime<Utc>>,
}

/// Reads a configuration, tolerating what builders of all ages wrote.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed> {
    let wrong = |error: serde_json::Error| {
        Error::caused(cnm::Kind::Invalid, "invalid image configuration", error)
    };
    let mut value: Value = serde_json::from_slice(bytes).map_err(wrong)?;
    strip_nulls(&mut value);
    let Some(fields) = value.as_object_mut() else {
        return Err(Error::invalid("invalid image configuration: not an object"));
    };
    check_shape(fields)?;
    let extra = extra(fields);
    fields.entry("os").or_insert_with(|| json!("linux"));
    fields.entry("architecture").or_insert_with(|| json!(super::Platform::host().architecture));
    let rootfs = fields.entry("rootfs").or_insert_with(|| json!({"type": "layers"}));
    if let Some(rootfs) = rootfs.as_object_mut() {
        rootfs.entry("type").or_insert_with(|| json!("layers"));
        rootfs.entry("diff_ids").or_insert_with(|| json!([]));
    }
    let config: ImageConfiguration = serde_json::from_value(value).map_err(wrong)?;
    let diff_ids = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(|id| id.parse().map_err(|error| Error::caused(cnm::Kind::Invalid, "diff id", error)))
        .collect::<Result<Vec<_>>>()?;
    let created = config.created().as_deref().and_then(parse_time);
    Ok(Parsed { config, extra, diff_ids, created })
}

/// Refuses lists where objects belong. The types of OCI take a list for the fields in their order, and
/// whoever changes such a configuration later finds no field in it.
pub(super) fn check_shape(fields: &Map<String, Value>) -> Result<()> {
    let object = |name: &str, value: Option<&Value>| match value {
        None | Some(Value::Null | Value::Object(_)) => Ok(()),
        Some(_) => {
            Err(Error::invalid(format!("invalid image configuration: {name} is not an object")))
        }
    };
    for name in ["config", "rootfs"] {
        object(name, fields.get(name))?;
    }
    for name in ["ExposedPorts", "Healthcheck", "Labels", "Volumes"] {
        let value = fields.get("config").and_then(|config| config.get(name));
        object(&format!("config.{name}"), value)?;
    }
    let history = fields.get("history").and_then(Value::as_array).into_iter().flatten();
    for (at, step) in history.enumerate() {
        object(&format!("history[{at}]"), Some(step))?;
    }
    Ok(())
}

/// RFC 3339, as far as it is one.
pub(super) fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

impl Parsed {
    /// Chain ids, lowest first.
    pub(super) fn chains(&self) -> Result<Vec<Digest>> {
        if self.diff_ids.len() > MOST_LAYERS {
            return Err(Error::invalid(format!(
                "max depth exceeded: the image has {} layers, at most {MOST_LAYERS} can be mounted",
                self.diff_ids.len()
            )));
        }
        let mut parent = None;
        Ok(self
            .diff_ids
            .iter()
            .map(|diff_id| {
                let chain = diff_id.chain(parent);
                parent = Some(chain);
                chain
            })
            .collect())
    }

    pub(super) fn into_image(self, id: ImageId, layers: Vec<Digest>, size: u64) -> Image {
        Image {
            id,
            names: Vec::new(),
            digests: Vec::new(),
            config: self.config,
            extra: self.extra,
            layers,
            size,
            parent: None,
            created: self.created,
            tagged: None,
        }
    }
}

fn extra(fields: &Map<String, Value>) -> Extra {
    let text = |key| fields.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let config = fields.get("config");
    let list = |key: &str| -> Option<Vec<String>> {
        let items = config?.get(key)?.as_array()?.iter();
        Some(items.filter_map(Value::as_str).map(str::to_owned).collect())
    };
    Extra {
        healthcheck: config.and_then(|config| config.get("Healthcheck")).cloned(),
        shell: list("Shell"),
        on_build: list("OnBuild").unwrap_or_default(),
        comment: text("comment"),
        docker_version: text("docker_version"),
        container: text("container"),
        container_config: fields.get("container_config").cloned(),
    }
}

/// Old configurations spell absence as null, which the types of OCI do not take.
fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_configuration_with_nulls_and_docker_fields_is_read() {
        let text = br#"{"architecture":"amd64","os":"linux","created":"2024-01-02T03:04:05.6Z",
            "config":{"Cmd":["a"],"ExposedPorts":{"80/tcp":{}},"Volumes":null,"Labels":null,
            "Entrypoint":null,"OnBuild":null,"Shell":["/bin/x"],"Healthcheck":{"Test":["NONE"]}},
            "history":null,"rootfs":{"type":"layers","diff_ids":null},"comment":"c"}"#;
        let parsed = parse(text).unwrap();
        let config = parsed.config.config().clone().unwrap();
        assert_eq!(config.exposed_ports().as_deref(), Some(&["80/tcp".to_owned()][..]));
        assert_eq!(parsed.extra.shell, Some(vec!["/bin/x".to_owned()]));
        assert_eq!(parsed.extra.comment, "c");
        assert!(parsed.extra.healthcheck.is_some() && parsed.created.is_some());
        assert!(parsed.chains().unwrap().is_empty());
    }

    #[test]
    fn too_many_layers_and_false_diff_ids_are_refused() {
        let ids = vec![Digest::of(b"x").to_string(); 128];
        let text = json!({"rootfs": {"diff_ids": ids}}).to_string();
        let error = parse(text.as_bytes()).unwrap().chains().unwrap_err();
        assert!(error.to_string().contains("max depth exceeded"));
        assert!(parse(br#"{"rootfs":{"diff_ids":["sha256:../../x"]}}"#).is_err());
        assert!(parse(b"[]").is_err());
    }

    #[test]
    fn a_list_where_an_object_belongs_is_an_error_that_names_it() {
        for (text, name) in [
            (r#"{"rootfs":["layers",[]]}"#, "rootfs"),
            (r#"{"rootfs":{"type":"layers","diff_ids":[]},"config":["user"]}"#, "config"),
            (r#"{"config":{"Labels":["a=b"]}}"#, "config.Labels"),
            (r#"{"config":{"Volumes":["/a"]}}"#, "config.Volumes"),
            (r#"{"config":{"Healthcheck":[]}}"#, "config.Healthcheck"),
            (r#"{"history":[{},["2024-01-02T03:04:05Z"]]}"#, "history[1]"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, format!("invalid image configuration: {name} is not an object"));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(text in "\\PC{0,200}") {
            let _ = parse(text.as_bytes());
        }
    }
}
