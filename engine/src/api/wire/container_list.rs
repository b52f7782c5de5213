//! A container as `docker ps` lists it.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::super::version::Version;
use super::container_inspect::{mounts, networks, status};
use crate::container::Container;
use crate::core::usage::Sizes;

/// What a container and its image are called now.
#[derive(Clone, Copy, Debug)]
pub struct Called<'a> {
    /// The container's names: its own and those by links, with their slashes.
    pub names: &'a [String],
    /// The image's name.
    pub image: &'a str,
}

/// One entry of `GET /containers/json`.
pub fn entry(
    container: &Container,
    called: &Called<'_>,
    sizes: Option<Sizes>,
    now: DateTime<Utc>,
) -> Value {
    let mut value = json!({
        "Id": container.id,
        "Names": called.names,
        "Image": called.image,
        "ImageID": container.image,
        "Command": command(container),
        "Created": container.created.timestamp(),
        "Ports": ports(container),
        "Labels": container.resolved.labels,
        "State": container.state.status.as_str(),
        "Status": status(&container.state, now),
        "HostConfig": {"NetworkMode": container.spec.network_mode.to_string()},
        "NetworkSettings": {"Networks": in_short(networks(container))},
        "Mounts": mounts(container),
    });
    if !container.spec.annotations.is_empty() {
        value["HostConfig"]["Annotations"] = json!(container.spec.annotations);
    }
    if let Some(Sizes { own, all }) = sizes {
        // Docker leaves out what is zero.
        if own != 0 {
            value["SizeRw"] = own.into();
        }
        value["SizeRootFs"] = all.into();
    }
    value
}

/// What older clients are told of an entry.
pub fn for_version(entry: &mut Value, version: Version) {
    if version < Version(46)
        && let Some(host) = entry["HostConfig"].as_object_mut()
    {
        host.remove("Annotations");
    }
}

/// What lists tell of endpoints: not what was asked of their names.
fn in_short(mut networks: Value) -> Value {
    for endpoint in networks.as_object_mut().into_iter().flatten().map(|(_, endpoint)| endpoint) {
        for asked in ["Aliases", "DriverOpts", "Links"] {
            endpoint[asked] = Value::Null;
        }
    }
    networks
}

fn command(container: &Container) -> String {
    let quoted = |text: &String| {
        if text.contains(' ') { format!("'{text}'") } else { text.clone() }
    };
    let arguments = container.resolved.args.iter().map(quoted);
    let words: Vec<String> =
        std::iter::once(container.resolved.path.clone()).chain(arguments).collect();
    words.join(" ")
}

fn ports(container: &Container) -> Vec<Value> {
    if !container.tells_ports() {
        return Vec::new();
    }
    let mut bound = container.ports.clone();
    bound.sort_by_key(|b| (b.port, b.protocol, b.host.is_ipv6(), b.host, b.host_port));
    let published = bound.iter().map(|binding| {
        json!({
            "IP": binding.host.to_string(),
            "PrivatePort": binding.port,
            "PublicPort": binding.host_port,
            "Type": binding.protocol.as_str(),
        })
    });
    let exposed = container.resolved.exposed.iter().filter(|(port, protocol)| {
        !bound.iter().any(|binding| (binding.port, binding.protocol) == (*port, *protocol))
    });
    let exposed =
        exposed.map(|(port, protocol)| json!({"PrivatePort": port, "Type": protocol.as_str()}));
    published.chain(exposed).collect()
}
