//! Images: how they are listed, inspected and told the history of, and lines of progress.

use serde_json::{Map, Value, json};

use super::super::version::Version;
use super::time::rfc3339;
use image::{HistoryEntry, Image, Progress, Removed};

/// An entry of `GET /images/json`.
pub fn summary(image: &Image, containers: i64) -> Value {
    let config = image.config.config().as_ref();
    let labels = config.and_then(|config| config.labels().clone()).unwrap_or_default();
    json!({
        "Id": image.id.to_string(),
        "ParentId": image.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        "RepoTags": image.names,
        "RepoDigests": image.digests,
        "Created": image.created.map_or(0, |created| created.timestamp()),
        "Size": image.size,
        "SharedSize": -1,
        "Labels": labels,
        "Containers": containers,
    })
}

/// `GET /images/{name}/json`. Clients of old versions rely on `ContainerConfig`.
pub fn inspect(image: &Image, driver: &str, version: Version) -> Value {
    let rootfs = image.config.rootfs();
    let mut value = json!({
        "Id": image.id.to_string(),
        "RepoTags": image.names,
        "RepoDigests": image.digests,
        "Parent": image.parent.map(|id| id.to_string()).unwrap_or_default(),
        "Comment": image.extra.comment,
        "Created": rfc3339(image.created),
        "DockerVersion": image.extra.docker_version,
        "Author": image.config.author().clone().unwrap_or_default(),
        "Config": config(image),
        "Architecture": image.config.architecture().to_string(),
        "Os": image.config.os().to_string(),
        "Size": image.size,
        "GraphDriver": {"Data": null, "Name": driver},
        "RootFS": {"Type": "layers", "Layers": rootfs.diff_ids()},
        "Metadata": {"LastTagTime": rfc3339(image.tagged)},
    });
    if let Some(variant) = image.config.variant() {
        value["Variant"] = json!(variant);
    }
    if version < Version(50) {
        add_container_fields(&mut value["Config"]);
    }
    if version < Version(45) {
        if !image.extra.container.is_empty() {
            value["Container"] = image.extra.container.as_str().into();
        }
        let made_of = image.extra.container_config.as_ref().map(with_nulls);
        value["ContainerConfig"] = made_of.unwrap_or_else(|| value["Config"].clone());
    }
    if version < Version(44) {
        value["VirtualSize"] = image.size.into();
    }
    value
}

/// A container's configuration, as it is told. What is kept of it with an image has no nulls.
fn with_nulls(config: &Value) -> Value {
    let mut config = config.clone();
    if let Some(fields) = config.as_object_mut() {
        for name in ["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "Volumes"] {
            fields.entry(name).or_insert(Value::Null);
        }
    }
    config
}

/// Fields of a container's configuration, which images have not. Older clients were shown them.
fn add_container_fields(config: &mut Value) {
    for name in ["AttachStderr", "AttachStdin", "AttachStdout", "OpenStdin", "StdinOnce", "Tty"] {
        config[name] = false.into();
    }
    for name in ["Domainname", "Hostname", "Image"] {
        config[name] = "".into();
    }
}

/// What older clients are told of an entry of `GET /images/json`.
pub fn for_version(entry: &mut Value, version: Version) {
    if version < Version(44) {
        entry["VirtualSize"] = entry["Size"].clone();
    }
    let empty = |names: &Value| names.as_array().is_some_and(Vec::is_empty);
    if version < Version(43) && empty(&entry["RepoTags"]) {
        entry["RepoTags"] = json!(["<none>:<none>"]);
        entry["RepoDigests"] = json!(["<none>@<none>"]);
    }
    if version < Version(43) && empty(&entry["RepoDigests"]) {
        entry["RepoDigests"] = Value::Null;
    }
}

fn config(image: &Image) -> Value {
    let Some(config) = image.config.config() else { return json!({}) };
    let set = |items: &Option<Vec<String>>| {
        let items = items.iter().flatten().map(|item| (item.clone(), json!({})));
        let items: Map<String, Value> = items.collect();
        if items.is_empty() { Value::Null } else { Value::Object(items) }
    };
    let mut value = json!({
        "User": config.user().clone().unwrap_or_default(),
        "Env": config.env(),
        "Cmd": config.cmd(),
        "Volumes": set(config.volumes()),
        "WorkingDir": config.working_dir().clone().unwrap_or_default(),
        "Entrypoint": config.entrypoint(),
        "OnBuild": Some(&image.extra.on_build).filter(|steps| !steps.is_empty()),
        "Labels": config.labels(),
    });
    let exposed = set(config.exposed_ports());
    let optional = [
        ("ExposedPorts", Some(exposed).filter(|ports| !ports.is_null())),
        ("StopSignal", config.stop_signal().as_ref().map(|signal| json!(signal))),
        ("Healthcheck", image.extra.healthcheck.clone()),
        ("Shell", image.extra.shell.as_ref().map(|shell| json!(shell))),
    ];
    for (name, field) in optional {
        if let Some(field) = field {
            value[name] = field;
        }
    }
    value
}

/// An entry of `GET /images/{name}/history`.
pub fn history(entry: &HistoryEntry) -> Value {
    let id = entry.id.as_ref().map_or_else(|| "<missing>".to_owned(), ToString::to_string);
    let tags = if entry.names.is_empty() { Value::Null } else { json!(entry.names) };
    json!({
        "Id": id,
        "Created": entry.created.map_or(0, |created| created.timestamp()),
        "CreatedBy": entry.created_by,
        "Tags": tags,
        "Size": entry.size,
        "Comment": entry.comment,
    })
}

/// An entry of the answer to a removal.
pub fn removed(removed: &Removed) -> Value {
    match removed {
        Removed::Untagged(name) => json!({"Untagged": name}),
        Removed::Deleted(id) | Removed::DeletedLayer(id) => json!({"Deleted": id}),
    }
}

/// A line of progress, with the bar that old clients print as it is.
pub fn progress(progress: &Progress) -> Value {
    if let Some(aux) = &progress.aux {
        return json!({"progressDetail": {}, "aux": aux});
    }
    let mut value = json!({"status": progress.status});
    if let Some((current, total)) = progress.detail {
        value["progressDetail"] = json!({"current": current, "total": total});
        value["progress"] = bar(current, total).into();
    } else if progress.id.is_some() {
        value["progressDetail"] = json!({});
    }
    if let Some(id) = &progress.id {
        value["id"] = json!(id);
    }
    value
}

fn bar(current: u64, total: u64) -> String {
    const WIDTH: u64 = 50;
    if total == 0 {
        return format!("{:>8}", bytes(current));
    }
    let done = (current.min(total) * WIDTH / total).try_into().unwrap_or(0_usize);
    let bar: String = "=".repeat(done) + if done < 50 { ">" } else { "" };
    format!("[{bar:<50}] {:>8}/{}", bytes(current), bytes(total))
}

/// A size in decimal units with four digits, as Docker's `HumanSize`.
pub fn bytes(size: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut value = size as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB"].into_iter().peekable();
    while value >= 1000.0 && units.len() > 1 {
        value /= 1000.0;
        units.next();
    }
    let digits = match value {
        value if value >= 100.0 => 1,
        value if value >= 10.0 => 2,
        _ => 3,
    };
    let number = format!("{value:.digits$}");
    let number = if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        &number
    };
    format!("{number}{}", units.peek().unwrap_or(&"B"))
}

/// The line that ends a stream which failed after its first byte.
pub fn stream_error(message: &str) -> Value {
    json!({"errorDetail": {"message": message}, "error": message})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_four_digits() {
        for (size, text) in
            [(0, "0B"), (999, "999B"), (1500, "1.5kB"), (4_260_000, "4.26MB"), (123_456, "123.5kB")]
        {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn progress_has_id_bar_and_numbers() {
        let line = Progress {
            id: Some("abc".to_owned()),
            status: "Downloading".to_owned(),
            detail: Some((500, 1000)),
            aux: None,
        };
        let expected = json!({
            "status": "Downloading",
            "progressDetail": {"current": 500, "total": 1000},
            "progress": "[=========================>                        ]     500B/1kB",
            "id": "abc",
        });
        assert_eq!(progress(&line), expected);
    }
}
