//! From options to a [`Config`]: defaults, types, and what goes together.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use serde_json::Value;
use shim::protocol::LOG_DRIVERS;

use super::values::Values;
use super::{
    Bridge, Config, ConfigError, Dns, Host, Invocation, Level, Log, LogFormat, RuntimeConfig,
    Seccomp, Tls,
};

mod cluster;

type Result<T, E = ConfigError> = std::result::Result<T, E>;

/// Where things are unless an option says otherwise.
#[derive(Debug)]
pub struct Places {
    /// The configuration file.
    pub config_file: PathBuf,
    data_root: PathBuf,
    exec_root: PathBuf,
    pidfile: Option<PathBuf>,
    host: Option<PathBuf>,
}

/// Docker's default address pools, with the prefix lengths of the subnets cut from them.
const DOCKER_POOLS: [(&str, u8); 7] = [
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
];

/// The places of a daemon. Under the name `dockerd` clients and supervisors find the socket, the
/// file and the pidfile where dockerd has them; its data is nevertheless rnet's own.
pub fn places(invocation: Invocation, values: &Values) -> Places {
    let suffix = match values.text("instance") {
        Some(instance) => format!("-{instance}"),
        None => String::new(),
    };
    let docker = invocation == Invocation::Dockerd && suffix.is_empty();
    let (data_root, exec_root) = (format!("/var/lib/rnet{suffix}"), format!("/run/rnet{suffix}"));
    Places {
        config_file: if docker {
            "/etc/docker/daemon.json".into()
        } else {
            format!("/etc/rnet{suffix}/daemon.json").into()
        },
        data_root: data_root.into(),
        exec_root: exec_root.into(),
        pidfile: docker.then(|| "/run/docker.pid".into()),
        host: docker.then(|| "/run/docker.sock".into()),
    }
}

/// The configuration that options amount to.
pub fn config(invocation: Invocation, values: &Values) -> Result<Config> {
    values.refused()?;
    let places = places(invocation, values);
    let instance = instance(values)?;
    let path = |name, default: PathBuf| absolute(values, name, default);
    let data_root = path("data-root", places.data_root)?;
    let exec_root = path("exec-root", places.exec_root)?;
    let name = if instance.is_empty() { "rnet".to_owned() } else { format!("rnet-{instance}") };
    let hosts = hosts(values, places.host.unwrap_or_else(|| exec_root.join("rnet.sock")))?;
    let runtimes = runtimes(values)?;
    Ok(Config {
        tls: tls(values, &hosts)?,
        hosts,
        group: values.text("group").unwrap_or_default().to_owned(),
        pidfile: path("pidfile", places.pidfile.unwrap_or_else(|| exec_root.join("rnet.pid")))?,
        config_file: path("config-file", places.config_file)?,
        data_root,
        exec_root,
        table: name.clone(),
        tag: name,
        bridge: bridge(values, &device(invocation, &instance))?,
        default_pools: default_pools(values, invocation, &instance)?,
        instance,
        default_network_options: network_options(values)?,
        cluster: cluster::place(values)?,
        advertise: cluster::advertise(values)?,
        forwards_for_all: values.flag("ip-forward-no-drop").unwrap_or(false),
        default_bindings: bindings(values)?,
        plugin_places: plugin_places(values)?,
        plugin_timeout: at_least_one(values, "plugin-timeout", 30)?.try_into().unwrap_or(u64::MAX),
        dns: dns(values)?,
        host_gateway: parse_all("host-gateway-ip", &values.texts("host-gateway-ip"))?,
        default_runtime: default_runtime(values, &runtimes)?,
        runtimes,
        seccomp: seccomp(values),
        no_new_privileges: values.flag("no-new-privileges").unwrap_or(false),
        selinux: values.flag("selinux-enabled").unwrap_or(false),
        mirrors: mirrors(values)?,
        insecure_registries: values.texts("insecure-registry"),
        max_concurrent_downloads: at_least_one(values, "max-concurrent-downloads", 3)?,
        max_concurrent_uploads: at_least_one(values, "max-concurrent-uploads", 5)?,
        max_download_attempts: at_least_one(values, "max-download-attempts", 5)?,
        storage_driver: storage_driver(values)?,
        ulimits: ulimits(values)?,
        shm_size: shm_size(values)?,
        init: values.flag("init").unwrap_or(false),
        init_path: values.text("init-path").filter(|path| !path.is_empty()).map(PathBuf::from),
        cgroup_parent: values.text("cgroup-parent").unwrap_or_default().to_owned(),
        cgroupns_mode: one_of(values, "default-cgroupns-mode", &["private", "host"])?,
        ipc_mode: one_or(values, "default-ipc-mode", &["private", "shareable"], "private")?,
        log_driver: one_or(values, "log-driver", &LOG_DRIVERS, "json-file")?,
        log_options: strings("log-opt", values)?,
        labels: labels(values)?,
        metrics: parse_some(values, &["metrics-addr"])?.pop(),
        shutdown_timeout: shutdown_timeout(values),
        log: log(values)?,
        warnings: values.warnings(),
        given: values.clone(),
    })
}

/// How the daemon logs.
fn log(values: &Values) -> Result<Log> {
    let debug = values.flag("debug").unwrap_or(false);
    let level = match values.text("log-level").unwrap_or("info") {
        "trace" | "debug" => Level::Debug,
        "info" => Level::Info,
        "warn" | "warning" => Level::Warn,
        "error" | "fatal" | "panic" => Level::Error,
        other => return Err(wrong("log-level", format!("invalid logging level: {other}"))),
    };
    let format = match values.text("log-format").unwrap_or("text") {
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        other => return Err(wrong("log-format", format!("`{other}` is not one of text, json"))),
    };
    Ok(Log { level: if debug { Level::Debug } else { level }, format, debug })
}

fn wrong(option: &'static str, reason: impl Display) -> ConfigError {
    ConfigError::Value { option, reason: reason.to_string() }
}

fn parse<T: FromStr<Err: Display>>(option: &'static str, text: &str) -> Result<T> {
    text.parse().map_err(|error| wrong(option, format!("`{text}`: {error}")))
}

fn parse_all<T: FromStr<Err: Display>>(option: &'static str, texts: &[String]) -> Result<Vec<T>> {
    texts.iter().map(|text| parse(option, text)).collect()
}

fn parse_some<T: FromStr<Err: Display>>(
    values: &Values,
    options: &[&'static str],
) -> Result<Vec<T>> {
    let given = options.iter().filter_map(|option| Some((*option, values.text(option)?)));
    given.map(|(option, text)| parse(option, text)).collect()
}

fn one_of(values: &Values, option: &'static str, allowed: &[&str]) -> Result<Option<String>> {
    match values.text(option) {
        None => Ok(None),
        Some(text) if allowed.contains(&text) => Ok(Some(text.to_owned())),
        Some(text) => Err(wrong(option, format!("`{text}` is not one of {}", allowed.join(", ")))),
    }
}

fn one_or(values: &Values, option: &'static str, allowed: &[&str], usual: &str) -> Result<String> {
    Ok(one_of(values, option, allowed)?.unwrap_or_else(|| usual.to_owned()))
}

fn absolute(values: &Values, option: &'static str, default: PathBuf) -> Result<PathBuf> {
    let Some(text) = values.text(option) else { return Ok(default) };
    std::path::absolute(text).map_err(|error| wrong(option, error))
}

/// Directories of sockets of plugins, or of files that say where those are.
fn plugin_places(values: &Values) -> Result<Vec<PathBuf>> {
    const OPTION: &str = "plugin-dir";
    let absolute = |text: &String| std::path::absolute(text).map_err(|error| wrong(OPTION, error));
    values.texts(OPTION).iter().map(absolute).collect()
}

fn instance(values: &Values) -> Result<String> {
    let instance = values.text("instance").unwrap_or_default();
    let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if instance.len() > 9 || !instance.chars().all(fine) {
        let reason = format!("`{instance}` is not 1 to 9 lower-case letters and digits");
        return Err(wrong("instance", reason));
    }
    Ok(instance.to_owned())
}

fn hosts(values: &Values, default: PathBuf) -> Result<Vec<Host>> {
    let hosts = parse_all("host", &values.texts("host"))?;
    Ok(if hosts.is_empty() { vec![Host::Unix(default)] } else { hosts })
}

/// TLS is for TCP, and TCP is never without.
fn tls(values: &Values, hosts: &[Host]) -> Result<Option<Tls>> {
    let tcp = hosts.iter().find(|host| matches!(host, Host::Tcp(_)));
    let verify = values.flag("tlsverify").or_else(|| values.flag("tls")).unwrap_or(false);
    match (verify, tcp) {
        (false, Some(host)) => Err(ConfigError::Together(format!(
            "{host} would let anyone become root: TCP needs --tlsverify with --tlscacert, \
             --tlscert and --tlskey, or listen on a unix socket"
        ))),
        (false, None) => Ok(None),
        (true, _) => {
            let directory = PathBuf::from("/etc/rnet");
            let path = |option, file: &str| absolute(values, option, directory.join(file));
            Ok(Some(Tls {
                authority: path("tlscacert", "ca.pem")?,
                certificate: path("tlscert", "cert.pem")?,
                key: path("tlskey", "key.pem")?,
            }))
        }
    }
}

/// The device of the default bridge: scripts and firewalls name that of `dockerd`.
fn device(invocation: Invocation, instance: &str) -> String {
    match (invocation, instance) {
        (Invocation::Dockerd, "") => "docker0".to_owned(),
        (Invocation::Rnet, "") => "rnet0".to_owned(),
        (_, instance) => format!("rnet-{instance}"),
    }
}

fn bridge(values: &Values, default: &str) -> Result<Bridge> {
    let name = values.text("bridge");
    let bridge = Bridge {
        disabled: name == Some("none"),
        device: parse("bridge", name.filter(|name| *name != "none").unwrap_or(default))?,
        addresses: parse_some(values, &["bip", "bip6"])?,
        ranges: parse_some(values, &["fixed-cidr", "fixed-cidr-v6"])?,
        gateways: parse_some(values, &["default-gateway", "default-gateway-v6"])?,
        ipv6: values.flag("ipv6").unwrap_or(false),
        icc: values.flag("icc").unwrap_or(true),
        masquerade: values.flag("ip-masq").unwrap_or(true),
        mtu: mtu(values)?,
        names: values.flag("default-bridge-names").unwrap_or(true),
    };
    check_families(&bridge)?;
    Ok(bridge)
}

/// An option names one family; an address of the other one is a slip.
fn check_families(bridge: &Bridge) -> Result<()> {
    for (option, found) in [("bip", &bridge.addresses), ("fixed-cidr", &bridge.ranges)] {
        if found.len() == 2 && found[0].is_ipv4() == found[1].is_ipv4() {
            return Err(wrong(option, "two addresses of one family"));
        }
    }
    for address in &bridge.addresses {
        if address.ip() == address.network() && address.prefix() < 31 {
            let reason = format!("`{address}` is the subnet's own address, not one in it");
            return Err(wrong("bip", reason));
        }
        let outside = |range: &&IpNetwork| {
            range.is_ipv4() == address.is_ipv4()
                && !(address.contains(range.network()) && range.prefix() >= address.prefix())
        };
        if let Some(range) = bridge.ranges.iter().find(outside) {
            return Err(wrong("fixed-cidr", format!("{range} is not in the bridge's {address}")));
        }
    }
    Ok(())
}

fn mtu(values: &Values) -> Result<Option<u32>> {
    match values.get("mtu").and_then(Value::as_i64) {
        None | Some(0) => Ok(None),
        Some(mtu) => match u32::try_from(mtu) {
            Ok(mtu) if (68..=65535).contains(&mtu) => Ok(Some(mtu)),
            _ => Err(wrong("mtu", format!("{mtu} is not between 68 and 65535"))),
        },
    }
}

/// Where subnets come from that nobody names: as Docker has it under the name `dockerd`, else the
/// engine's choice.
fn default_pools(values: &Values, by: Invocation, instance: &str) -> Result<Vec<(IpNetwork, u8)>> {
    let given = pools(values)?;
    let is_docker = by == Invocation::Dockerd && instance.is_empty();
    if !is_docker || !given.is_empty() {
        return Ok(given);
    }
    let docker = DOCKER_POOLS.iter().map(|(base, size)| Ok((parse("the pool", base)?, *size)));
    docker.collect()
}

fn pools(values: &Values) -> Result<Vec<(IpNetwork, u8)>> {
    const OPTION: &str = "default-address-pool";
    let given = values.list(OPTION);
    let pool = |item: &Value| -> Result<(IpNetwork, u8)> {
        let (base, size) = match item {
            Value::String(text) => {
                let field = |name: &str| {
                    let found = text.split(',').find_map(|part| part.strip_prefix(name));
                    found.ok_or_else(|| wrong(OPTION, format!("`{text}` is not base=CIDR,size=N")))
                };
                (field("base=")?.to_owned(), field("size=")?.to_owned())
            }
            other => {
                (other["base"].as_str().unwrap_or_default().to_owned(), other["size"].to_string())
            }
        };
        let (network, prefix): (IpNetwork, u8) = (parse(OPTION, &base)?, parse(OPTION, &size)?);
        let longest = if network.is_ipv4() { 30 } else { 126 };
        if prefix < network.prefix() || prefix > longest {
            let reason = format!("size {prefix} does not fit {network}");
            return Err(wrong(OPTION, reason));
        }
        Ok((network, prefix))
    };
    given.iter().map(pool).collect()
}

fn network_options(values: &Values) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    const OPTION: &str = "default-network-opt";
    let driver = |(driver, options): (&String, &Value)| {
        let options = options
            .as_object()
            .ok_or_else(|| wrong(OPTION, format!("{driver}: an object is expected")))?;
        let options = options.iter().map(|(name, value)| (name.clone(), text_of(value))).collect();
        Ok((driver.clone(), options))
    };
    values.map(OPTION).map(driver).collect()
}

fn bindings(values: &Values) -> Result<Vec<IpAddr>> {
    let any = || vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    values.text("ip").map_or_else(|| Ok(any()), |text| Ok(vec![parse("ip", text)?]))
}

fn dns(values: &Values) -> Result<Dns> {
    Ok(Dns {
        servers: parse_all("dns", &values.texts("dns"))?,
        search: values.texts("dns-search"),
        options: values.texts("dns-opt"),
    })
}

fn runtimes(values: &Values) -> Result<BTreeMap<String, RuntimeConfig>> {
    const OPTION: &str = "add-runtime";
    let builtin = |name: &str| {
        let runtime = RuntimeConfig { path: name.to_owned(), arguments: Vec::new() };
        (name.to_owned(), runtime)
    };
    let mut runtimes = BTreeMap::from([builtin("crun"), builtin("runc")]);
    for (name, value) in values.map(OPTION) {
        let path = value.as_str().or_else(|| value["path"].as_str()).unwrap_or_default();
        if path.is_empty() || name.is_empty() {
            return Err(wrong(OPTION, format!("runtime `{name}` has no path: use name=path")));
        }
        let arguments = value["runtimeArgs"].as_array().into_iter().flatten().map(text_of);
        let runtime = RuntimeConfig { path: path.to_owned(), arguments: arguments.collect() };
        runtimes.insert(name.clone(), runtime);
    }
    Ok(runtimes)
}

/// `io.containerd.runc.v2` and its kin are names that Docker's clients and files carry.
fn default_runtime(values: &Values, runtimes: &BTreeMap<String, RuntimeConfig>) -> Result<String> {
    match values.text("default-runtime") {
        None => Ok(String::new()),
        Some("io.containerd.runc.v2") => Ok("runc".to_owned()),
        Some(name) if runtimes.contains_key(name) => Ok(name.to_owned()),
        Some(name) => Err(wrong(
            "default-runtime",
            format!("specified default runtime '{name}' does not exist"),
        )),
    }
}

fn seccomp(values: &Values) -> Seccomp {
    match values.text("seccomp-profile") {
        None | Some("builtin" | "default") => Seccomp::Builtin,
        Some("unconfined") => Seccomp::Unconfined,
        Some(path) => Seccomp::File(path.into()),
    }
}

fn mirrors(values: &Values) -> Result<Vec<String>> {
    let is_host = |rest: &&str| !rest.is_empty() && !rest.contains(['/', '?', '#', '@']);
    let mirror = |text: String| {
        let text = text.trim_end_matches('/');
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let wrong =
            || wrong("registry-mirror", format!("invalid mirror: `{text}` is not http(s)://host"));
        // With a slash at its end, which `info` shows.
        rest.filter(is_host).map(|_| format!("{text}/")).ok_or_else(wrong)
    };
    values.texts("registry-mirror").into_iter().map(mirror).collect()
}

fn at_least_one<N>(values: &Values, option: &'static str, default: N) -> Result<N>
where
    N: TryFrom<i64>,
{
    let Some(number) = values.get(option).and_then(Value::as_i64) else { return Ok(default) };
    if number < 1 {
        return Err(wrong(option, format!("{number} is less than 1")));
    }
    N::try_from(number).map_err(|_| wrong(option, format!("{number} is too large")))
}

fn storage_driver(values: &Values) -> Result<Option<String>> {
    match values.text("storage-driver") {
        Some("overlay" | "overlayfs") => Ok(Some("overlay2".to_owned())),
        _ => one_of(values, "storage-driver", &["overlay2", "vfs"]),
    }
}

fn shm_size(values: &Values) -> Result<i64> {
    const DEFAULT: i64 = 64 << 20;
    match values.text("default-shm-size") {
        None => Ok(DEFAULT),
        Some(text) => size(text).filter(|size| *size > 0).ok_or_else(|| {
            wrong("default-shm-size", format!("`{text}` is no size: use 64m or 1g"))
        }),
    }
}

/// A size with a unit, as `64m`.
fn size(text: &str) -> Option<i64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match lower[digits.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1_i64 << 40,
        _ => return None,
    };
    digits.trim().parse::<i64>().ok()?.checked_mul(unit)
}

fn ulimits(values: &Values) -> Result<Vec<(String, i64, i64)>> {
    const OPTION: &str = "default-ulimit";
    let limit = |(name, value): (&String, &Value)| {
        let (soft, hard) = match value {
            Value::String(text) => {
                let (soft, hard) = text.split_once(':').unwrap_or((text, text));
                (parse(OPTION, soft)?, parse(OPTION, hard)?)
            }
            other => {
                let number = |field: &str| {
                    other[field].as_i64().or_else(|| other[field.to_lowercase()].as_i64())
                };
                let missing = || wrong(OPTION, format!("{name} needs Soft and Hard"));
                (number("Soft").ok_or_else(missing)?, number("Hard").ok_or_else(missing)?)
            }
        };
        if hard >= 0 && (soft > hard || soft < 0) {
            let reason = format!("{name}: soft limit {soft} is above the hard limit {hard}");
            return Err(wrong(OPTION, reason));
        }
        Ok((name.clone(), soft, hard))
    };
    values.map(OPTION).map(limit).collect()
}

fn strings(option: &'static str, values: &Values) -> Result<BTreeMap<String, String>> {
    let entry = |(name, value): (&String, &Value)| match value {
        Value::String(text) => Ok((name.clone(), text.clone())),
        other => Err(wrong(option, format!("{name}: a string is expected, not {other}"))),
    };
    values.map(option).map(entry).collect()
}

fn labels(values: &Values) -> Result<Vec<String>> {
    let labels = values.texts("label");
    match labels.iter().find(|label| label.split_once('=').is_none_or(|(key, _)| key.is_empty())) {
        Some(label) => Err(wrong("label", format!("bad attribute format: {label}; use key=value"))),
        None => Ok(labels),
    }
}

fn shutdown_timeout(values: &Values) -> u64 {
    const DEFAULT: i64 = 15;
    let seconds = values.get("shutdown-timeout").and_then(Value::as_i64).unwrap_or(DEFAULT);
    // Docker's -1 waits for ever: as good as a day.
    u64::try_from(seconds).unwrap_or(86_400)
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
