//! `/rnet/containers/{id}/ports`: published ports that change while their container runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Api;
use super::body::{self, Response};
use super::containers::blocking;
use super::request::Request;
use super::wire::ports::{self, PortMap};
use super::wire::time::rfc3339;
use crate::container::{Container, PortChange, PublishWhen};
use engine_error::{Error, Result};

/// The longest that connections may go on: a week.
const LONGEST: u64 = 7 * 24 * 3600;

/// What is to change, in the form of `HostConfig.PortBindings`. In `Remove` an empty address or port is
/// any.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Change {
    add: PortMap,
    remove: PortMap,
    drain_seconds: u64,
    publish_when: Option<String>,
}

/// A published port as it is told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Told {
    port: String,
    host_ip: String,
    host_port: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

/// `GET /rnet/containers/{id}/ports`.
pub fn list(api: &Api, key: &str) -> Result<Response> {
    let container = api.engine.containers.find(key)?;
    Ok(body::json(&told(api, &container)))
}

/// `POST /rnet/containers/{id}/ports`.
pub async fn change(api: &Api, key: &str, request: Request) -> Result<Response> {
    let Change { add, remove, drain_seconds, publish_when } = request.json().await?;
    let when = publish_when.as_deref().map(when).transpose()?;
    let mut add = ports::published(&add)?;
    for port in &mut add {
        port.when = when;
    }
    let change = PortChange {
        add,
        remove: ports::published(&remove)?,
        drain: Duration::from_secs(drain_seconds),
    };
    if change.add.is_empty() && change.remove.is_empty() {
        return Err(Error::invalid("no port to publish or to withdraw is named"));
    }
    if drain_seconds > LONGEST {
        let text = format!("DrainSeconds {drain_seconds} is too long: use {LONGEST} or less");
        return Err(Error::invalid(text));
    }
    let (engine, key) = (api.engine.clone(), key.to_owned());
    let (container, warnings) = blocking(move || {
        let warnings = engine.containers.change_ports(&key, &change)?;
        Ok((engine.containers.find(&key)?, warnings))
    })
    .await?;
    Ok(body::json(&json!({"Ports": told(api, &container), "Warnings": warnings})))
}

fn when(text: &str) -> Result<PublishWhen> {
    PublishWhen::parse(text).ok_or_else(|| {
        Error::invalid(format!("invalid PublishWhen {text}: use always, listening or healthy"))
    })
}

fn told(api: &Api, container: &Container) -> Vec<Told> {
    let port = |binding: &cnm::PortBinding, state, until| Told {
        port: ports::key(binding.port, binding.protocol),
        host_ip: binding.host.to_string(),
        host_port: binding.host_port.to_string(),
        state,
        until,
    };
    if container.sandbox.is_some() {
        let closed = api.engine.containers.closed_ports(container);
        let open = container.ports.iter().map(|binding| {
            let waits = closed.contains(&(binding.protocol, binding.port));
            port(binding, if waits { "waiting" } else { "open" }, None)
        });
        let draining = container
            .draining
            .iter()
            .map(|old| port(&old.binding, "draining", Some(rfc3339(Some(old.until)))));
        return open.chain(draining).collect();
    }
    let wanted = ports::port_bindings(&container.published());
    let wanted = wanted.into_iter().flat_map(|(key, bindings)| {
        bindings.into_iter().flatten().map(move |binding| Told {
            port: key.clone(),
            host_ip: binding.host_ip,
            host_port: binding.host_port,
            state: "closed",
            until: None,
        })
    });
    wanted.collect()
}
