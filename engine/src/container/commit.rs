//! `commit`, `diff` and `export`: what a container has changed, as an image, a list and an archive.

use std::io::Write;

use chrono::{SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::create::rootfs_dir;
use super::{Container, Containers, Status, parse_signal};
use engine_error::{Error, Result};
use image::rootfs::{Change, RootFs};
use image::{Digest, Image, ImageId, Keep, NewLayer, Reference};

/// An image to be made of a container.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The configuration of the container, as the API tells it.
    pub own: Value,
    /// What it is to be instead, as far as it is said.
    pub given: Option<Value>,
    /// Lines of a Dockerfile that change it.
    pub changes: Vec<String>,
    /// Who made it.
    pub author: String,
    /// What is said of it.
    pub comment: String,
    /// What it is called.
    pub name: Option<Reference>,
}

impl Containers {
    /// What a container has changed of its image. Blocks.
    pub fn changes(&self, key: &str) -> Result<Vec<Change>> {
        self.root_fs(&*self.find(key)?)?.changes()
    }

    /// The bytes of what a container has written; none if it cannot be read. Blocks.
    pub fn size_of(&self, container: &Container) -> u64 {
        if let Some(upper) = container.graph_data.get("UpperDir") {
            return tree::size_of(upper.as_ref());
        }
        let dir = rootfs_dir(&container.paths.dir);
        let copy = RootFs::as_it_is(&self.images, &container.graph_data, &dir);
        copy.written().unwrap_or_else(|error| {
            tracing::debug!(id = %container.id, error = error.chain(), "its size is not known");
            0
        })
    }

    /// Writes the root file system of a container as an archive. Blocks.
    pub fn export(&self, key: &str, to: impl Write) -> Result<()> {
        let container = self.find(key)?;
        self.root_fs(&container)?.export(to)?;
        self.tell(&container, "export", &[]);
        Ok(())
    }

    /// Makes an image of a container. Whoever wants it paused has done that. Blocks.
    pub fn commit(&self, key: &str, commit: &Commit) -> Result<ImageId> {
        let live = self.registry.find(key)?;
        // One that runs may change and end meanwhile; any other stays as it is.
        let _turn =
            (live.get().state.status != Status::Running).then(|| live.lifecycle.blocking_lock());
        let container = live.get();
        let refused = |what: &str| {
            Err(Error::conflict(format!(
                "You cannot commit container {} which is {what}",
                container.id
            )))
        };
        match container.state.status {
            Status::Dead => return refused("Dead"),
            Status::Removing => return refused("being removed"),
            _ => {}
        }
        let config = config(commit)?;
        let parent = self.images.find(&container.image)?;
        let making = self.images.making();
        let layer = making.layer(&self.root_fs(&container)?, Keep::Copy)?;
        let document = document(commit, &container, &parent, &layer, &config);
        let image = making.image(
            document.to_string().as_bytes(),
            commit.name.as_slice(),
            Some(parent.id),
        )?;
        let (id, name) = (image.id.to_string(), commit.name.as_ref());
        let name = name.map(ToString::to_string).unwrap_or_default();
        let told = [("comment", &*commit.comment), ("imageID", &*id), ("imageRef", &*name)];
        self.tell(&container, "commit", &told);
        Ok(image.id)
    }

    fn root_fs(&self, container: &Container) -> Result<RootFs> {
        RootFs::again(&self.images, &container.graph_data, &rootfs_dir(&container.paths.dir))
    }
}

/// The configuration of the image: what was given, the changes, and the container's for the rest.
fn config(commit: &Commit) -> Result<Value> {
    let mut config = commit.given.clone().unwrap_or_else(|| commit.own.clone());
    change_config(&mut config, &commit.changes)?;
    if let (Some(config), Some(own)) = (config.as_object_mut(), commit.own.as_object()) {
        merge(config, own);
    }
    Ok(config)
}

/// Applies lines of a Dockerfile to a configuration.
pub fn change_config(config: &mut Value, changes: &[String]) -> Result<()> {
    dockerfile::change(config, &changes.join("\n"))?;
    if let Some(signal) = config.get("StopSignal").and_then(Value::as_str)
        && !changes.is_empty()
        && !signal.is_empty()
    {
        parse_signal(signal)?;
    }
    Ok(())
}

fn is_blank(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(fields)) => fields.is_empty(),
        Some(_) => false,
    }
}

/// Takes over what is not said. A command goes with its entrypoint.
fn merge(config: &mut Map<String, Value>, own: &Map<String, Value>) {
    let process = is_blank(config.get("Entrypoint")) && is_blank(config.get("Cmd"));
    let mut fields = vec!["User", "WorkingDir", "StopSignal", "Healthcheck", "Shell", "OnBuild"];
    if process {
        fields.extend(["Entrypoint", "Cmd"]);
    }
    for field in fields {
        if is_blank(config.get(field)) && !is_blank(own.get(field)) {
            config.insert(field.to_owned(), own[field].clone());
        }
    }
    for field in ["ExposedPorts", "Volumes", "Labels"] {
        let Some(own) = own.get(field).and_then(Value::as_object) else { continue };
        if !config.get(field).is_some_and(Value::is_object) {
            config.insert(field.to_owned(), json!({}));
        }
        if let Some(known) = config.get_mut(field).and_then(Value::as_object_mut) {
            for (key, value) in own {
                known.entry(key).or_insert_with(|| value.clone());
            }
        }
    }
    let mut env: Vec<Value> =
        config.get("Env").and_then(Value::as_array).cloned().unwrap_or_default();
    for entry in own.get("Env").and_then(Value::as_array).into_iter().flatten() {
        let key = |entry: &Value| {
            entry.as_str().and_then(|text| text.split('=').next()).map(str::to_owned)
        };
        if !env.iter().any(|known| key(known) == key(entry)) {
            env.push(entry.clone());
        }
    }
    config.insert("Env".to_owned(), Value::Array(env));
}

/// What the image is, in the words of OCI and Docker.
fn document(
    commit: &Commit,
    container: &Container,
    parent: &Image,
    layer: &NewLayer,
    config: &Value,
) -> Value {
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
    let is_empty = layer.diff_id == Digest::of(&[0; 1024]);
    let mut diff_ids = parent.diff_ids().to_vec();
    if !is_empty {
        diff_ids.push(layer.diff_id.to_string());
    }
    let mut history = json!(parent.config.history());
    if !history.is_array() {
        history = json!([]);
    }
    let mut step = json!({"created": now});
    let by = container.resolved.command.clone().unwrap_or_default().join(" ");
    for (field, text) in
        [("created_by", &by), ("author", &commit.author), ("comment", &commit.comment)]
    {
        if !text.is_empty() {
            step[field] = json!(text);
        }
    }
    if is_empty {
        step["empty_layer"] = json!(true);
    }
    history.as_array_mut().into_iter().for_each(|steps| steps.push(step.clone()));
    let platform = parent.platform();
    let mut document = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "created": now,
        "author": commit.author,
        "comment": commit.comment,
        "config": config,
        "container": container.id.as_str(),
        "container_config": commit.own,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    });
    if !platform.variant.is_empty() {
        document["variant"] = json!(platform.variant);
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(given: Value, changes: &[&str]) -> Value {
        let own = json!({"Env": ["PATH=/bin", "A=own"], "Cmd": ["own"], "Entrypoint": ["e"],
            "Labels": {"a": "own", "b": "own"}, "User": "me", "Volumes": {"/v": {}}});
        let given = Some(given).filter(|given| !given.is_null());
        let changes = changes.iter().map(|line| (*line).to_owned()).collect();
        config(&Commit { own, given, changes, ..Commit::default() }).unwrap()
    }

    #[test]
    fn changes_go_over_the_container_s_configuration() {
        let made = made(Value::Null, &["ENV A=1\nLABEL a=new", "CMD [\"x\"]", "USER you"]);
        assert_eq!(made["Env"], json!(["PATH=/bin", "A=1"]));
        assert_eq!((&made["Cmd"], &made["Entrypoint"]), (&json!(["x"]), &json!(["e"])));
        assert_eq!(made["Labels"], json!({"a": "new", "b": "own"}));
        assert_eq!(made["User"], "you");
    }

    #[test]
    fn a_given_configuration_goes_over_the_container_s() {
        let made = made(json!({"Cmd": ["given"], "Labels": {"a": "given"}, "Env": ["A=2"]}), &[]);
        assert_eq!(made["Cmd"], json!(["given"]));
        assert!(is_blank(made.get("Entrypoint")), "a command goes with its entrypoint");
        assert_eq!(made["Labels"], json!({"a": "given", "b": "own"}));
        assert_eq!(made["Env"], json!(["A=2", "PATH=/bin"]));
        assert_eq!(made["Volumes"], json!({"/v": {}}));
    }
}
