//! What the daemon tells of itself and of the machine.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use hyper::StatusCode;
use hyper::header::HeaderValue;
use nix::sys::utsname::uname;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::body::{self, Response};
use super::containers::blocking;
use super::error::page_not_found;
use super::request::Request;
use super::version::Version;
use super::wire::system as wire;
use super::wire::system::{Daemon, Host};
use super::{Api, server, swarm};
use crate::config::{Config, Seccomp};
use crate::container::Status;
use crate::core::check::Finding;
use engine_error::Result;
use image::rootfs::StorageDriver;

pub mod limits;
pub mod usage;

/// How long a runtime may take to tell its version.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(5);

/// `GET` and `HEAD /_ping`.
pub fn ping(api: &Api, head: bool) -> Response {
    let text = if head { "" } else { "OK" };
    let mut response = body::text(StatusCode::OK, text);
    response.headers_mut().insert("Builder-Version", HeaderValue::from_static("1"));
    response.headers_mut().insert("Swarm", swarm::header(api));
    server::no_cache(&mut response);
    response
}

/// `GET /debug/vars`: the daemon's command line and its figures, if it logs everything.
pub async fn vars(api: &Arc<Api>) -> Result<Response> {
    if !api.config().log.debug {
        return Err(page_not_found());
    }
    let engine = api.engine.clone();
    let figures = blocking(move || Ok(engine.figures())).await?;
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    Ok(body::json(&json!({"cmdline": words.collect::<Vec<_>>(), "figures": figures})))
}

/// `GET /version`.
pub async fn version(api: &Api) -> Response {
    let known = api.engine.settings.runtimes.now();
    let named = known.programs.get(&known.default).map(|program| program.path.clone());
    let path = named.unwrap_or_else(|| PathBuf::from(&known.default));
    let version = runtime_version(api, path).await;
    let runtimes: Vec<_> =
        version.map(|version| (known.default.clone(), version)).into_iter().collect();
    body::json(&wire::version(&kernel(), &runtimes))
}

/// A runtime's version, as it tells it; asked once of each that answers.
async fn runtime_version(api: &Api, path: PathBuf) -> Option<String> {
    let versions = || api.runtime_versions.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(version) = versions().get(&path) {
        return Some(version.clone());
    }
    let mut command = tokio::process::Command::new(&path);
    let output = command.arg("--version").kill_on_drop(true).output();
    let output = match tokio::time::timeout(RUNTIME_PATIENCE, output).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            tracing::debug!(%error, path = %path.display(), "no runtime");
            return None;
        }
        Err(_) => {
            tracing::warn!(path = %path.display(), "a runtime does not tell its version");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap_or_default();
    versions().insert(path, version.to_owned());
    Some(version.to_owned())
}

/// The cgroup namespace of containers that name none.
pub fn cgroupns_mode(config: &Config) -> String {
    let usual = if cgroup_version() == "2" { "private" } else { "host" };
    config.cgroupns_mode.clone().unwrap_or_else(|| usual.to_owned())
}

/// `GET /info`.
pub async fn info(api: &Arc<Api>, version: Version) -> Result<Response> {
    let api = api.clone();
    let swarm = swarm::info(&api).await;
    let mut value = blocking(move || Ok(wire::info(&host(), &daemon(&api)))).await?;
    value["Swarm"] = swarm;
    wire::leave_out(&mut value, version);
    Ok(body::json(&value))
}

fn host() -> Host {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let release = read("/etc/os-release");
    let field = |name: &str| {
        let value = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().trim_matches('"').to_owned()
    };
    let variable = |name: &str| {
        let lower = std::env::var(name.to_lowercase());
        lower.or_else(|_| std::env::var(name)).map(|url| without_password(&url)).unwrap_or_default()
    };
    let uname = uname().ok();
    let name = uname.as_ref().map(|u| u.nodename().to_string_lossy().into_owned());
    Host {
        kernel: kernel(),
        system: field("PRETTY_NAME"),
        system_version: field("VERSION_ID"),
        architecture: std::env::consts::ARCH.to_owned(),
        name: name.unwrap_or_default(),
        processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        memory: runtime::host::memory(),
        cgroup_version: cgroup_version(),
        limits: limits::Limits::probe(),
        forwarding: read("/proc/sys/net/ipv4/ip_forward").trim() == "1",
        proxies: ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"].map(variable),
    }
}

/// A URL with its user's password blotted out.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    match rest.split_once('@') {
        Some((_, host)) => format!("{scheme}://xxxxx:xxxxx@{host}"),
        None => url.to_owned(),
    }
}

fn kernel() -> String {
    uname().map(|uname| uname.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// `2` where cgroups are one hierarchy, else `1`.
pub fn cgroup_version() -> &'static str {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "2" } else { "1" }
}

/// The storage driver in Docker's words.
pub fn storage_driver(api: &Api) -> &'static str {
    match api.engine.images.driver() {
        StorageDriver::Auto | StorageDriver::Overlay => "overlay2",
        StorageDriver::Vfs => "vfs",
    }
}

fn daemon(api: &Api) -> Daemon {
    let (engine, config) = (&api.engine, api.config());
    let containers = engine.containers.list();
    let count =
        |test: fn(Status) -> bool| containers.iter().filter(|c| test(c.state.status)).count();
    let runtimes =
        config.runtimes.iter().map(|(name, runtime)| (name.clone(), runtime.path.clone()));
    Daemon {
        id: id(config.data_root.as_path()),
        containers: [
            count(|status| matches!(status, Status::Running | Status::Restarting)),
            count(|status| status == Status::Paused),
            count(|status| {
                !matches!(status, Status::Running | Status::Restarting | Status::Paused)
            }),
        ],
        images: engine.images.list().len(),
        driver: storage_driver(api),
        root: config.data_root.display().to_string(),
        debug: config.log.debug,
        descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        tasks: tokio::runtime::Handle::try_current().map_or(0, |h| h.metrics().num_alive_tasks()),
        time: Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true),
        log_driver: config.log_driver.clone(),
        labels: config.labels.clone(),
        runtimes: runtimes.collect(),
        default_runtime: engine.settings.runtimes.now().default.clone(),
        apparmor: engine.host.apparmor.confines(),
        seccomp: match &config.seccomp {
            Seccomp::Builtin => "builtin".to_owned(),
            Seccomp::Unconfined => "unconfined".to_owned(),
            Seccomp::File(path) => path.display().to_string(),
        },
        no_new_privileges: config.no_new_privileges,
        remapped: engine.settings.remap.is_some(),
        mirrors: config.mirrors.clone(),
        insecure: config.insecure_registries.clone(),
        drivers: engine.networks.drivers(),
        volume_drivers: engine.volume_drivers(),
        cluster: engine
            .membership
            .member()
            .map(|member| (member.place().to_string(), member.address().to_string())),
        pools: config.default_pools.iter().map(|(net, size)| (net.to_string(), *size)).collect(),
        warnings: warnings(api),
    }
}

/// What the configuration and the check of store and firewalls warn of. Forwarding has a place of its
/// own.
fn warnings(api: &Api) -> Vec<String> {
    let findings = api.engine.check().unwrap_or_default();
    let told = |finding: &&Finding| {
        ["record ", "chain ", "sandbox "].iter().any(|word| finding.subject.starts_with(word))
    };
    let findings = findings.iter().filter(told).map(Finding::line);
    let host = &api.engine.host;
    let of_host = [host.apparmor.warning(), host.cgroups.warning()].into_iter().flatten();
    let of_host = of_host.map(str::to_owned);
    api.config().warnings.iter().cloned().chain(of_host).chain(findings).collect()
}

/// An id of this daemon on this machine, that stays: a UUID made of both.
pub fn id(root: &Path) -> String {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let hash =
        Sha256::new().chain_update(machine).chain_update(root.as_os_str().as_encoded_bytes());
    let mut hex = String::with_capacity(32);
    for byte in hash.finalize().iter().take(16) {
        let _ = write!(hex, "{byte:02x}");
    }
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// `GET /rnet/check`: what is wrong and does not show by itself.
pub async fn check(api: &Api) -> Result<Response> {
    let engine = api.engine.clone();
    let findings = blocking(move || {
        let mut findings = engine.check()?;
        findings.extend(engine.check_store());
        Ok(findings)
    });
    let findings = findings.await?;
    Ok(body::json(&wire::findings(&findings)))
}

/// `POST /rnet/discard`: forgets a record that was set aside.
pub async fn discard(api: &Api, request: &Request) -> Result<Response> {
    let engine = api.engine.clone();
    let key = request.query.text("key").unwrap_or_default().to_owned();
    blocking(move || engine.discard(&key)).await?;
    Ok(body::no_content())
}

/// `POST /rnet/reset`: removes all that is ours; the daemon ends with it.
pub async fn reset(api: &Api) -> Result<Response> {
    api.engine.reset().await?;
    api.stop.send_replace(true);
    Ok(body::no_content())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_proxies_are_not_told() {
        assert_eq!(without_password("http://me:secret@proxy:1"), "http://xxxxx:xxxxx@proxy:1");
        assert_eq!(without_password("http://proxy:1"), "http://proxy:1");
    }

    #[test]
    fn the_id_is_a_uuid_that_stays() {
        assert_eq!(id(Path::new("/a")), id(Path::new("/a")));
        assert_ne!(id(Path::new("/a")), id(Path::new("/b")));
        assert_eq!(id(Path::new("/a")).len(), 36);
    }
}
