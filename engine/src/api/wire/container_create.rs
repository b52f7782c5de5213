//! `POST /containers/create`: the request as a [`Spec`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use cnm::Mac;
use serde_json::Value;

use super::container_config::{Config, EndpointConfig, EndpointIpam, HostConfig, NetworkingConfig};
use super::container_limits::{devices, resources};
use super::container_validate::{check, check_mounts};
use super::{go, ports};
use crate::api::version::Version;
use crate::container::spec::{EndpointSpec, RestartPolicy, Spec};
use crate::container::{NamespaceModes, NetworkMode};
use engine_error::{Error, Result};

mod mounts;

use mounts::mounts;

/// What the daemon adds where a request says nothing.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// The network of who names none.
    pub network_mode: String,
    /// `--default-shm-size`.
    pub shm_size: i64,
    /// `--default-ipc-mode`.
    pub ipc_mode: String,
    /// `--default-cgroupns-mode`.
    pub cgroupns_mode: String,
    /// `--default-runtime`.
    pub runtime: String,
    /// `--log-driver`.
    pub log_driver: String,
    /// `--log-opt`.
    pub log_options: BTreeMap<String, String>,
    /// What is hidden from a container.
    pub masked_paths: Vec<String>,
    /// What a container cannot change.
    pub readonly_paths: Vec<String>,
    /// Whether the kernel can leave a container alone that needs too much memory.
    pub may_ignore_oom: bool,
}

/// The option of `rnet run` and of programs for no hidden and no read-only paths; `docker run`
/// has empty lists instead.
const UNCONFINED: &str = "systempaths=unconfined";

/// The specification that a request body amounts to.
pub fn spec(mut body: Value, defaults: &Defaults) -> Result<Spec> {
    let host = take(&mut body, "HostConfig");
    let networking = take(&mut body, "NetworkingConfig");
    let is_named = field(&body, "Image").is_string();
    let config: Config = read(body, "")?;
    let mut host: HostConfig = read(host, "HostConfig")?;
    let networking: NetworkingConfig = read(networking, "NetworkingConfig")?;
    if config == Config::default() && !is_named {
        return Err(Error::invalid("config cannot be empty in order to create a container"));
    }
    if config.image.is_empty() && config.cmd.is_none() && config.entrypoint.is_none() {
        return Err(Error::invalid("no command specified"));
    }
    if config.image.is_empty() {
        return Err(Error::invalid("invalid reference format: the request names no image"));
    }
    check(&config, &host)?;
    let system_paths = (host.masked_paths.clone(), host.readonly_paths.clone());
    fill(&mut host, defaults);
    let mounts = mounts(&host)?;
    check_mounts(&mounts)?;
    let endpoints = endpoints(&config, &host, networking, &defaults.network_mode)?;
    let mut spec = of_config(&config)?;
    of_host(&mut spec, &host)?;
    let (masked_paths, readonly_paths) = system_paths;
    Ok(Spec {
        mounts,
        endpoints,
        masked_paths,
        readonly_paths,
        wire_config: to_value(&config).into(),
        wire_host_config: to_value(&host).into(),
        ..spec
    })
}

/// What clients of a version are told of a request beside its answer, and what they may not ask for.
pub fn of_version(body: &Value, version: Version) -> Result<Vec<String>> {
    const DEPRECATED: &str = "The container-wide MacAddress field is now deprecated. It should be \
                              specified in EndpointsConfig instead.";
    check_mounts_of_version(body, version)?;
    let given = |name| field(body, name).as_str().is_some_and(|text| !text.is_empty());
    if version >= Version(44) {
        let warning = given("MacAddress").then(|| DEPRECATED.to_owned());
        return Ok(warning.into_iter().collect());
    }
    let kernel_memory = field(field(body, "HostConfig"), "KernelMemory").as_i64();
    if version < Version(42) && kernel_memory.is_some_and(|bytes| (1..6 << 20).contains(&bytes)) {
        return Err(Error::invalid("Minimum kernel memory limit allowed is 6MB"));
    }
    let networks = field(field(body, "NetworkingConfig"), "EndpointsConfig");
    let names: Vec<String> =
        networks.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    if names.len() > 1 {
        return Err(Error::invalid(format!(
            "Container cannot be created with multiple network endpoints: {}",
            names.join(", ")
        )));
    }
    Ok(Vec::new())
}

/// Refuses mounts that the version of a client does not know.
fn check_mounts_of_version(body: &Value, version: Version) -> Result<()> {
    let mounts = field(field(body, "HostConfig"), "Mounts");
    for mount in mounts.as_array().into_iter().flatten() {
        let text = |value: &Value, name| field(value, name).as_str().unwrap_or_default().to_owned();
        let subpath = text(field(mount, "VolumeOptions"), "Subpath");
        if version < Version(45) && !subpath.is_empty() {
            return Err(Error::invalid("VolumeOptions.Subpath needs API v1.45 or newer"));
        }
        if version < Version(48) && text(mount, "Type") == "image" {
            return Err(Error::invalid("Mount type \"Image\" needs API v1.48 or newer"));
        }
    }
    Ok(())
}

/// Reads the body, or a field of it.
pub fn read<T: serde::de::DeserializeOwned>(value: Value, name: &str) -> Result<T> {
    let place = if name.is_empty() { String::new() } else { format!("CreateRequest.{name}") };
    let invalid = |error| Error::invalid(format!("invalid JSON: {error}"));
    go::from_field(value, place).map_err(invalid)
}

fn to_value(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// A field of an object, whatever the case of its name; `null` if there is none.
fn field<'v>(body: &'v Value, name: &str) -> &'v Value {
    spelling(body, name).map_or(&Value::Null, |key| &body[key])
}

/// The same, out of the object: thousands of ports are not copied.
fn take(body: &mut Value, name: &str) -> Value {
    let key = spelling(body, name).map(str::to_owned);
    key.map(|key| body[key].take()).unwrap_or_default()
}

/// How an object spells the name of a field: as it is, or else the first that differs in case only.
fn spelling<'v>(body: &'v Value, name: &str) -> Option<&'v str> {
    let keys = || body.as_object().into_iter().flat_map(serde_json::Map::keys);
    let found = keys().find(|key| *key == name);
    found.or_else(|| keys().find(|key| key.eq_ignore_ascii_case(name))).map(String::as_str)
}

/// What `inspect` shows for what was left out.
fn fill(host: &mut HostConfig, defaults: &Defaults) {
    let or = |text: &mut String, default: &str| {
        if text.is_empty() {
            default.clone_into(text);
        }
    };
    if matches!(host.network_mode.as_str(), "" | "default") {
        host.network_mode.clone_from(&defaults.network_mode);
    }
    or(&mut host.restart_policy.name, "no");
    or(&mut host.ipc_mode, &defaults.ipc_mode);
    or(&mut host.runtime, &defaults.runtime);
    let private = if host.privileged { "host" } else { &defaults.cgroupns_mode };
    or(&mut host.cgroupns_mode, private);
    if host.log_config.driver.is_empty() {
        host.log_config.driver.clone_from(&defaults.log_driver);
        for (name, value) in &defaults.log_options {
            host.log_config.config.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    if host.shm_size == 0 {
        host.shm_size = defaults.shm_size;
    }
    if host.memory > 0 && host.memory_swap == 0 {
        host.memory_swap = host.memory.saturating_mul(2);
    }
    host.memory_swappiness = host.memory_swappiness.filter(|value| *value != -1);
    host.pids_limit = host.pids_limit.filter(|limit| *limit > 0);
    if host.console_size.len() != 2 {
        host.console_size = vec![0, 0];
    }
    if defaults.may_ignore_oom {
        host.oom_kill_disable.get_or_insert(false);
    } else {
        host.oom_kill_disable = None;
    }
    if !host.privileged {
        let unconfined = host.security_opt.iter().flatten().any(|option| option == UNCONFINED);
        let paths = |paths: &[String]| if unconfined { Vec::new() } else { paths.to_vec() };
        host.masked_paths.get_or_insert_with(|| paths(&defaults.masked_paths));
        host.readonly_paths.get_or_insert_with(|| paths(&defaults.readonly_paths));
    }
}

fn of_config(config: &Config) -> Result<Spec> {
    let mac = Some(config.mac_address.as_str()).filter(|mac| !mac.is_empty());
    Ok(Spec {
        image: config.image.clone(),
        entrypoint: config.entrypoint.clone(),
        command: config.cmd.clone(),
        env: config.env.clone().unwrap_or_default(),
        working_dir: working_dir(&config.working_dir),
        user: config.user.clone(),
        labels: config.labels.clone().unwrap_or_default(),
        hostname: config.hostname.clone(),
        domainname: config.domainname.clone(),
        network_disabled: config.network_disabled,
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        attach: (config.attach_stdin, config.attach_stdout, config.attach_stderr),
        stop_signal: Some(config.stop_signal.clone()).filter(|signal| !signal.is_empty()),
        stop_timeout: config.stop_timeout,
        exposed: ports::exposed(&config.exposed_ports.clone().unwrap_or_default())?,
        mac: mac.map(parse_mac).transpose()?,
        healthcheck: config.healthcheck.as_ref().map(to_value),
        volumes: config.volumes.iter().flatten().map(|(target, _)| target.clone()).collect(),
        ..Spec::default()
    })
}

/// A working directory as it is told: the shortest path that means the same.
fn working_dir(path: &str) -> String {
    if path.is_empty() { String::new() } else { dockerfile::ignore::clean(path) }
}

fn parse_mac(text: &str) -> Result<Mac> {
    text.parse().map_err(|_| Error::invalid(format!("invalid MAC address {text}")))
}

fn of_host(spec: &mut Spec, host: &HostConfig) -> Result<()> {
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let size = (host.console_size[0], host.console_size[1]);
    spec.console_size = Some(size).filter(|size| *size != (0, 0));
    spec.auto_remove = host.auto_remove;
    spec.init = host.init;
    spec.restart = restart(host);
    spec.network_mode = host.network_mode.as_str().into();
    spec.ports = ports::published(&host.port_bindings.clone().unwrap_or_default())?;
    spec.publish_all = host.publish_all_ports;
    spec.groups = list(&host.group_add);
    spec.dns = host.dns.iter().flatten().filter_map(|server| server.parse().ok()).collect();
    spec.dns_search = list(&host.dns_search);
    spec.dns_options = list(&host.dns_options);
    spec.extra_hosts = list(&host.extra_hosts);
    spec.links = list(&host.links);
    spec.volumes_from = list(&host.volumes_from);
    spec.sysctls = host.sysctls.clone().unwrap_or_default();
    spec.readonly_rootfs = host.readonly_rootfs;
    spec.privileged = host.privileged;
    spec.cap_add = list(&host.cap_add);
    spec.cap_drop = list(&host.cap_drop);
    spec.security_options = list(&host.security_opt);
    spec.devices = devices(host);
    spec.device_rules = list(&host.device_cgroup_rules);
    spec.ulimits =
        host.ulimits.iter().flatten().map(|u| (u.name.clone(), u.soft, u.hard)).collect();
    spec.shm_size = Some(host.shm_size).filter(|size| *size > 0);
    spec.oom_score_adj = host.oom_score_adj;
    spec.runtime = Some(host.runtime.clone()).filter(|runtime| !runtime.is_empty());
    spec.cgroup_parent.clone_from(&host.cgroup_parent);
    spec.resources = resources(host);
    spec.namespaces = namespaces(host);
    spec.log_driver.clone_from(&host.log_config.driver);
    spec.log_options.clone_from(&host.log_config.config);
    spec.annotations = host.annotations.clone().unwrap_or_default();
    Ok(())
}

/// The restart policy.
pub fn restart(host: &HostConfig) -> RestartPolicy {
    let policy = &host.restart_policy;
    match policy.name.as_str() {
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => {
            RestartPolicy::OnFailure(u32::try_from(policy.maximum_retry_count).unwrap_or(u32::MAX))
        }
        _ => RestartPolicy::No,
    }
}

fn namespaces(host: &HostConfig) -> NamespaceModes {
    NamespaceModes {
        pid: host.pid_mode.as_str().into(),
        ipc: host.ipc_mode.as_str().into(),
        uts: host.uts_mode.as_str().into(),
        cgroup: host.cgroupns_mode.as_str().into(),
        user: host.userns_mode.as_str().into(),
    }
}

// === endpoints ===

/// The networks to join: that of the network mode first, then the others as they were named.
fn endpoints(
    config: &Config,
    host: &HostConfig,
    networking: NetworkingConfig,
    default: &str,
) -> Result<Vec<(String, EndpointSpec)>> {
    let mode = host.network_mode.as_str();
    let shared = NetworkMode::from(mode).container().is_some();
    let mut endpoints = Vec::new();
    for (name, value) in networking.endpoints_config {
        let name = if name == "default" { default.to_owned() } else { name };
        let endpoint: EndpointConfig =
            read(value, &format!("NetworkingConfig.EndpointsConfig.{name}"))?;
        let spec = endpoint_spec(&endpoint).map_err(|error| of_network(&name, &error))?;
        endpoints.push((name, spec));
    }
    if shared {
        let links = endpoints.iter().any(|(_, spec)| *spec != EndpointSpec::default());
        return if links {
            Err(Error::invalid("conflicting options: network settings and the network mode"))
        } else {
            Ok(Vec::new())
        };
    }
    let main = endpoints.iter().position(|(name, _)| name == mode);
    let mut main = main.map_or_else(
        || (mode.to_owned(), EndpointSpec::default()),
        |position| endpoints.remove(position),
    );
    if main.1.mac.is_none() && !config.mac_address.is_empty() {
        let mac = parse_mac(&config.mac_address).map_err(|error| of_network(mode, &error))?;
        main.1.mac = Some(mac);
    }
    if matches!(mode, "host" | "none") && !endpoints.is_empty() {
        let message = format!("conflicting options: {mode} network mode and other networks");
        return Err(Error::invalid(message));
    }
    endpoints.insert(0, main);
    Ok(endpoints)
}

/// What is wrong with what is asked of a network.
fn of_network(name: &str, error: &Error) -> Error {
    Error::invalid(format!("invalid config for network {name}: {error}"))
}

/// One endpoint of a request.
pub fn endpoint_spec(config: &EndpointConfig) -> Result<EndpointSpec> {
    let ipam = config.ipam_config.clone().unwrap_or_default();
    let mac = Some(config.mac_address.as_str()).filter(|mac| !mac.is_empty());
    let outside = |_| Error::invalid(format!("invalid gateway priority {}", config.gw_priority));
    let EndpointIpam { ipv4, ipv6, link_local } = ipam;
    Ok(EndpointSpec {
        aliases: config.aliases.clone().unwrap_or_default(),
        ipv4: address(&ipv4, IpAddr::is_ipv4, "IPv4")?,
        ipv6: address(&ipv6, IpAddr::is_ipv6, "IPv6")?,
        link_local: link_local
            .iter()
            .flatten()
            .map(|text| link_local_address(text))
            .collect::<Result<_>>()?,
        mac: mac.map(parse_mac).transpose()?,
        gateway_priority: i32::try_from(config.gw_priority).map_err(outside)?,
        options: config.driver_opts.clone().unwrap_or_default(),
        links: config.links.clone().unwrap_or_default(),
    })
}

fn address(text: &str, fits: fn(&IpAddr) -> bool, family: &str) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = text.parse().ok().filter(fits);
    address.map(Some).ok_or_else(|| {
        let text = format!("invalid endpoint settings:\ninvalid {family} address: {text}");
        Error::invalid(text)
    })
}

/// An address that is of the link alone, and no more than that.
fn link_local_address(text: &str) -> Result<IpAddr> {
    let is_local = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    text.parse().ok().filter(is_local).ok_or_else(|| {
        Error::invalid(format!(
            "invalid link-local IP address: {text}: use one of 169.254.0.0/16 or fe80::/64"
        ))
    })
}

#[cfg(test)]
mod tests;
