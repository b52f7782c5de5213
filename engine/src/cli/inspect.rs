//! `inspect` of any kind of object.

use serde_json::{Value, json};

use super::client::{Client, escape};
use super::commands::InspectArgs;
use super::error::CliError;
use super::{Outcome, complain, say, template};

/// A kind of object: its name for people and the path of one of them.
type Kind = (&'static str, fn(&str) -> String);

const CONTAINER: Kind = ("container", |name| format!("/containers/{name}/json"));
const IMAGE: Kind = ("image", |name| format!("/images/{name}/json"));
const NETWORK: Kind = ("network", |name| format!("/networks/{name}"));
const VOLUME: Kind = ("volume", |name| format!("/volumes/{name}"));

/// `inspect`: the first kind that has an object of the name.
pub(crate) async fn any(client: &Client, args: InspectArgs) -> Outcome {
    let kinds: Vec<Kind> = match args.r#type.as_deref() {
        None | Some("") => vec![CONTAINER, IMAGE, NETWORK, VOLUME],
        Some(wanted) => {
            let all = [CONTAINER, IMAGE, NETWORK, VOLUME];
            let found = all.into_iter().find(|(name, _)| *name == wanted);
            vec![found.ok_or_else(|| {
                CliError::new(format!(
                    "\"{wanted}\" is not a valid value for --type: use container, image, network or volume"
                ))
            })?]
        }
    };
    inspect(client, &args, &kinds).await
}

/// `container inspect`.
pub(crate) async fn container(client: &Client, args: InspectArgs) -> Outcome {
    inspect(client, &args, &[CONTAINER]).await
}

/// `image inspect`.
pub(crate) async fn image(client: &Client, args: InspectArgs) -> Outcome {
    inspect(client, &args, &[IMAGE]).await
}

/// `network inspect`.
pub(crate) async fn network(client: &Client, args: InspectArgs) -> Outcome {
    inspect(client, &args, &[NETWORK]).await
}

/// `volume inspect`.
pub(crate) async fn volume(client: &Client, args: InspectArgs) -> Outcome {
    inspect(client, &args, &[VOLUME]).await
}

async fn inspect(client: &Client, args: &InspectArgs, kinds: &[Kind]) -> Outcome {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in &args.names {
        match find(client, args, kinds, name).await {
            Ok(value) => found.push(value),
            Err(error) => missing.push(error.message),
        }
    }
    match args.format.as_deref().filter(|format| !format.is_empty()) {
        None => {
            let text = serde_json::to_string_pretty(&indent(&found));
            say(&text.map_err(|error| CliError::new(error.to_string()))?);
        }
        Some(format) => {
            // A template that makes JSON is to tell null from an empty list.
            if !format.contains("json") {
                found.iter_mut().for_each(fill);
            }
            for value in &found {
                say(&template::document(format, value)?);
            }
            if found.is_empty() {
                say("");
            }
        }
    }
    for message in &missing {
        complain(message);
    }
    Ok(u8::from(!missing.is_empty()))
}

/// Lists that Docker's clients know as such, though the daemon may send null.
const LISTS: &[&str] = &[
    "Aliases",
    "Binds",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "DNSNames",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "OnBuild",
    "RepoDigests",
    "RepoTags",
    "SecondaryIPAddresses",
    "SecondaryIPv6Addresses",
    "SecurityOpt",
    "Shell",
    "Ulimits",
    "VolumesFrom",
];

/// Maps of the same kind.
const MAPS: &[&str] =
    &["DriverOpts", "ExposedPorts", "Labels", "Options", "PortBindings", "Ports", "Volumes"];

/// Puts empty lists and maps where Go's types have them, so that a template shows `[]` and
/// `map[]`.
fn fill(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                match field {
                    Value::Null if LISTS.contains(&name.as_str()) => *field = json!([]),
                    Value::Null if MAPS.contains(&name.as_str()) => *field = json!({}),
                    field => fill(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(fill),
        _ => {}
    }
}

fn indent(found: &[Value]) -> Value {
    Value::Array(found.to_vec())
}

async fn find(
    client: &Client,
    args: &InspectArgs,
    kinds: &[Kind],
    name: &str,
) -> Result<Value, CliError> {
    for (kind, path) in kinds {
        let mut path = path(&escape(name));
        if args.size && *kind == "container" {
            path.push_str("?size=1");
        }
        if args.verbose && *kind == "network" {
            path.push_str("?verbose=true");
        }
        match client.get(&path).await {
            Err(error) if error.status == Some(404) => {
                if kinds.len() == 1 {
                    return Err(error);
                }
            }
            other => return other,
        }
    }
    Err(CliError::new(format!("Error: No such object: {name}")))
}
