//! A container as `inspect` shows it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use chrono::{DateTime, Utc};
use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use super::container_config::{Config, HostConfig};
use super::time::rfc3339;
use super::{go, ports};
use crate::container::health::HealthStatus;
use crate::container::spec::MountKind;
use crate::container::{Container, EndpointView, MountPoint, State, Status};
use crate::core::usage::Sizes;
use volume::LOCAL;

/// What `inspect` tells that a container does not know itself.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// The ids of its exec'd processes.
    pub execs: Vec<String>,
    /// Bytes of its own layer, and of all layers.
    pub sizes: Option<Sizes>,
    /// Its links by the names that both have now, where they are to containers.
    pub links: Option<Vec<String>>,
}

/// `GET /containers/{id}/json`.
pub fn inspect(container: &Container, beside: &Beside) -> Value {
    let text = |path: &std::path::Path| path.display().to_string();
    let paths = &container.paths;
    let list = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
    let mut value = json!({
        "Id": container.id,
        "Created": rfc3339(Some(container.created)),
        "Path": container.resolved.path,
        "Args": container.resolved.args,
        "State": state(&container.state),
        "Image": container.image,
        "ResolvConfPath": text(&paths.resolv_conf),
        "HostnamePath": text(&paths.hostname),
        "HostsPath": text(&paths.hosts),
        "LogPath": text(&paths.log),
        "Name": format!("/{}", container.name),
        "RestartCount": container.state.restart_count,
        "Driver": container.graph_driver,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": list(&beside.execs),
        "HostConfig": host_config(container),
        "GraphDriver": {"Data": graph_data(container), "Name": container.graph_driver},
        "Mounts": mounts(container),
        "Config": config(container),
        "NetworkSettings": network_settings(container),
    });
    if let Some(links) = &beside.links {
        value["HostConfig"]["Links"] = list(links);
    }
    if let Some(Sizes { own, all }) = beside.sizes {
        value["SizeRw"] = own.into();
        value["SizeRootFs"] = all.into();
    }
    value
}

fn state(state: &State) -> Value {
    let is = |status| state.status == status;
    let mut value = json!({
        "Status": state.status.as_str(),
        "Running": state.is_running(),
        "Paused": is(Status::Paused),
        "Restarting": is(Status::Restarting),
        "OOMKilled": state.oom_killed,
        "Dead": is(Status::Dead),
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339(state.started),
        "FinishedAt": rfc3339(state.finished),
    });
    if let Some(health) = &state.health {
        value["Health"] = json!(health);
    }
    value
}

/// What the driver tells: only overlays tell anything.
fn graph_data(container: &Container) -> Option<&BTreeMap<String, String>> {
    (container.graph_driver == "overlay2").then_some(&container.graph_data)
}

/// The request's `HostConfig`, or one that says the same where there was no request.
fn host_config(container: &Container) -> Value {
    if container.spec.wire_host_config.is_object() {
        return Value::clone(&container.spec.wire_host_config);
    }
    let network_mode = container.spec.network_mode.to_string();
    let host = HostConfig { network_mode, console_size: vec![0, 0], ..HostConfig::default() };
    serde_json::to_value(host).unwrap_or_default()
}

/// The request's `Config` with what the image added.
pub fn config(container: &Container) -> Value {
    let (spec, resolved) = (&container.spec, &container.resolved);
    let asked: Config = go::from_value(Value::clone(&spec.wire_config)).unwrap_or_default();
    let volumes = resolved.volumes.iter().map(|path| (path.clone(), json!({})));
    let volumes =
        asked.volumes.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).chain(volumes);
    let volumes: super::container_config::Set = volumes.collect();
    let exposed = ports::port_set(resolved.exposed.iter().copied());
    let default_signal = spec.stop_signal.is_none() && resolved.stop_signal == "SIGTERM";
    let config = Config {
        hostname: resolved.hostname.clone(),
        domainname: resolved.domainname.clone(),
        user: resolved.user.clone(),
        exposed_ports: Some(exposed).filter(|ports| !ports.is_empty()),
        env: Some(resolved.env.clone()),
        cmd: resolved.command.clone(),
        entrypoint: resolved.entrypoint.clone(),
        volumes: Some(volumes).filter(|volumes| !volumes.is_empty()),
        working_dir: resolved.working_dir.clone(),
        labels: Some(resolved.labels.clone()),
        image: spec.image.clone(),
        // Times without a check are shown, and do nothing.
        healthcheck: resolved.healthcheck.clone().or_else(|| asked.healthcheck.clone()),
        stop_signal: if default_signal { String::new() } else { resolved.stop_signal.clone() },
        ..asked
    };
    let mut told = serde_json::to_value(config).unwrap_or_default();
    // What of a health check was not asked for has its default.
    if let Some(check) = told.get_mut("Healthcheck").and_then(Value::as_object_mut) {
        check.retain(|_, value| *value != 0 && !value.is_null());
    }
    told
}

/// `Mounts`.
pub fn mounts(container: &Container) -> Vec<Value> {
    let mount = |mount: &MountPoint| {
        let mut value = json!({
            "Type": mount.kind.as_str(),
            "Source": mount.source.display().to_string(),
            "Destination": mount.target,
            "Mode": match mount.kind {
                MountKind::Volume if mount.is_of_plugin() => String::new(),
                MountKind::Volume => "z".to_owned(),
                MountKind::Bind => bind_mode(container, &mount.target),
                MountKind::Tmpfs | MountKind::Image => String::new(),
            },
            "RW": mount.writable,
            "Propagation": mount.propagation.as_str(),
        });
        if let Some(name) = &mount.name {
            value["Name"] = json!(name);
        }
        if mount.kind == MountKind::Volume {
            let driver = if mount.driver.is_empty() { LOCAL } else { &mount.driver };
            value["Driver"] = driver.into();
        }
        value
    };
    // Those of `--tmpfs` are told by the host configuration alone.
    let by_flag = |of: &&MountPoint| {
        let flags = &container.spec.wire_host_config["Tmpfs"];
        of.kind == MountKind::Tmpfs && flags.get(&of.target).is_some()
    };
    container.mounts.iter().filter(|of| !by_flag(of)).map(mount).collect()
}

/// The mode that a bind was asked for with, `ro,z`.
fn bind_mode(container: &Container, target: &str) -> String {
    let binds = container.spec.wire_host_config["Binds"].as_array();
    let mode = binds.into_iter().flatten().find_map(|bind| {
        let mut parts = bind.as_str()?.split(':').skip(1);
        parts.next().filter(|at| *at == target).map(|_| parts.next().unwrap_or_default())
    });
    mode.unwrap_or_default().to_owned()
}

fn network_settings(container: &Container) -> Value {
    let ports = if container.tells_ports() {
        ports::port_map(&container.resolved.exposed, &container.ports)
    } else {
        ports::PortMap::new()
    };
    let mut settings = json!({
        "Bridge": "",
        "SandboxID": container.sandbox.as_ref().map(ToString::to_string).unwrap_or_default(),
        "SandboxKey": container.sandbox_key.display().to_string(),
        "Ports": ports,
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
    });
    // Fields of the default network, which API 1.52 drops.
    let default = container.endpoints.iter().find(|endpoint| endpoint.network == "bridge");
    let legacy = endpoint_addresses(default.unwrap_or(&EndpointView::default()));
    if let Value::Object(settings) = &mut settings {
        settings.extend(legacy);
        settings.insert("Networks".to_owned(), networks(container));
    }
    settings
}

/// `NetworkSettings.Networks`.
pub fn networks(container: &Container) -> Value {
    let entry = |endpoint: &EndpointView| (endpoint.network.clone(), endpoint_settings(endpoint));
    Value::Object(container.endpoints.iter().map(entry).collect())
}

/// Before API 1.45 a container's short id and its host name are aliases of its on every network that
/// somebody made.
pub fn name_by_aliases(container: &Container, told: &mut Value) {
    let names = [json!(container.short_id()), told["Config"]["Hostname"].clone()];
    let predefined = |of: &EndpointView| matches!(of.network.as_str(), "bridge" | "host" | "none");
    for endpoint in container.endpoints.iter().filter(|endpoint| !predefined(endpoint)) {
        let aliases = &mut told["NetworkSettings"]["Networks"][&endpoint.network]["Aliases"];
        if aliases.is_null() {
            *aliases = json!([]);
        }
        let Some(aliases) = aliases.as_array_mut() else { continue };
        for name in &names {
            if !aliases.contains(name) {
                aliases.push(name.clone());
            }
        }
    }
}

fn endpoint_settings(endpoint: &EndpointView) -> Value {
    let spec = &endpoint.spec;
    let list = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
    let mut ipam = Map::new();
    for (name, address) in [("IPv4Address", spec.ipv4), ("IPv6Address", spec.ipv6)] {
        if let Some(address) = address {
            ipam.insert(name.to_owned(), json!(address));
        }
    }
    if !spec.link_local.is_empty() {
        ipam.insert("LinkLocalIPs".to_owned(), json!(spec.link_local));
    }
    let mut settings = Map::from_iter([
        ("IPAMConfig".to_owned(), if ipam.is_empty() { Value::Null } else { Value::Object(ipam) }),
        ("Links".to_owned(), list(&spec.links)),
        ("Aliases".to_owned(), list(&spec.aliases)),
        (
            "DriverOpts".to_owned(),
            if spec.options.is_empty() { Value::Null } else { json!(spec.options) },
        ),
        ("GwPriority".to_owned(), json!(spec.gateway_priority)),
        (
            "NetworkID".to_owned(),
            json!(endpoint.network_id.as_ref().map(ToString::to_string).unwrap_or_default()),
        ),
    ]);
    settings.extend(endpoint_addresses(endpoint));
    settings.insert("DNSNames".to_owned(), list(&endpoint.names));
    Value::Object(settings)
}

/// The fields that `NetworkSettings` and each of its `Networks` have alike.
fn endpoint_addresses(endpoint: &EndpointView) -> Map<String, Value> {
    let address = |ipv6: bool| endpoint.addresses.iter().find(|a| a.is_ipv6() == ipv6);
    let gateway = |ipv6: bool| endpoint.gateways.iter().find(|a| a.is_ipv6() == ipv6);
    let ip = |ipv6| address(ipv6).map(|a| a.ip().to_string()).unwrap_or_default();
    let prefix = |ipv6| address(ipv6).map(IpNetwork::prefix).unwrap_or_default();
    let gateway = |ipv6| gateway(ipv6).map(IpAddr::to_string).unwrap_or_default();
    // One that is not there has the address that was asked for, if one was.
    let mac = if endpoint.id.is_empty() { endpoint.spec.mac } else { endpoint.mac };
    let mac = mac.map(|mac| mac.to_string()).unwrap_or_default();
    Map::from_iter([
        ("EndpointID".to_owned(), json!(endpoint.id)),
        ("Gateway".to_owned(), json!(gateway(false))),
        ("IPAddress".to_owned(), json!(ip(false))),
        ("IPPrefixLen".to_owned(), json!(prefix(false))),
        ("IPv6Gateway".to_owned(), json!(gateway(true))),
        ("GlobalIPv6Address".to_owned(), json!(ip(true))),
        ("GlobalIPv6PrefixLen".to_owned(), json!(prefix(true))),
        ("MacAddress".to_owned(), json!(mac)),
    ])
}

/// The status column of `docker ps`.
pub fn status(state: &State, now: DateTime<Utc>) -> String {
    let since = |time: Option<DateTime<Utc>>| {
        super::time::human(now.signed_duration_since(time.unwrap_or(now)))
    };
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => match health(state) {
            Some(health) => format!("Up {} ({health})", since(state.started)),
            None => format!("Up {}", since(state.started)),
        },
        Status::Paused => format!("Up {} (Paused)", since(state.started)),
        Status::Restarting => {
            format!("Restarting ({}) {} ago", state.exit_code, since(state.finished))
        }
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished)),
    }
}

fn health(state: &State) -> Option<&'static str> {
    match state.health.as_ref()?.status {
        HealthStatus::Starting => Some("health: starting"),
        status => Some(status.as_str()),
    }
}

#[cfg(test)]
mod tests;
