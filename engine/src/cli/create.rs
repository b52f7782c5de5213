//! The request body that the flags of `run` and `create` become.

mod limits;
mod mount;

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::commands::CreateArgs;
use super::error::CliError;
use super::{ports, units};

/// An error in a flag's value.
fn wrong(message: impl Into<String>) -> CliError {
    CliError::new(message).with_code(125)
}

impl CreateArgs {
    /// The image, or an error if it is a flag that nobody knows.
    pub(crate) fn image(&self) -> Result<&str, CliError> {
        let image = self.rest.first().map(String::as_str).unwrap_or_default();
        if image.starts_with("--") {
            return Err(wrong(format!("unknown flag: {image}")));
        }
        match image.strip_prefix('-').and_then(|letters| letters.chars().next()) {
            Some(letter) => Err(wrong(format!("unknown shorthand flag: '{letter}' in {image}"))),
            None => Ok(image),
        }
    }

    /// The streams to attach to: stdin, stdout, stderr.
    pub(crate) fn streams(&self, detach: bool) -> Result<(bool, bool, bool), CliError> {
        let mut streams = (false, false, false);
        for name in &self.attach {
            match name.to_ascii_lowercase().as_str() {
                "stdin" => streams.0 = true,
                "stdout" => streams.1 = true,
                "stderr" => streams.2 = true,
                _ => {
                    return Err(wrong(format!(
                        "invalid argument \"{name}\" for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR"
                    )));
                }
            }
        }
        if self.attach.is_empty() && !detach {
            streams = (self.interactive, true, true);
        }
        Ok(streams)
    }

    /// The body of `POST /containers/create`.
    pub(crate) fn body(&self, detach: bool) -> Result<Value, CliError> {
        let (stdin, stdout, stderr) = self.streams(detach)?;
        let (exposed, bindings) = self.ports()?;
        let mut body = json!({
            "Hostname": self.hostname, "Domainname": self.domainname, "User": self.user,
            "AttachStdin": stdin, "AttachStdout": stdout, "AttachStderr": stderr,
            "ExposedPorts": exposed, "Tty": self.tty, "OpenStdin": self.interactive,
            "StdinOnce": self.interactive && stdin, "Env": self.environment()?,
            "Image": self.image()?, "WorkingDir": self.workdir, "Labels": self.labels()?,
            "HostConfig": self.host_config(&bindings)?,
            "NetworkingConfig": {"EndpointsConfig": self.endpoints()?},
        });
        let command = &self.rest[1..];
        body["Cmd"] = if command.is_empty() { Value::Null } else { json!(command) };
        if let Some(entrypoint) = &self.entrypoint {
            body["Entrypoint"] = json!([entrypoint]);
        }
        if let Some(signal) = &self.stop_signal {
            body["StopSignal"] = json!(signal);
        }
        if let Some(timeout) = self.stop_timeout {
            body["StopTimeout"] = json!(timeout);
        }
        if let Some(health) = self.health()? {
            body["Healthcheck"] = health;
        }
        if let Some(volumes) = self.volumes() {
            body["Volumes"] = volumes;
        }
        Ok(body)
    }

    fn host_config(&self, bindings: &Value) -> Result<Value, CliError> {
        let binds: Vec<_> = self.volume.iter().filter(|volume| volume.contains(':')).collect();
        let mounts = self.mount.iter().map(|mount| mount::parse(mount));
        let mounts = mounts.collect::<Result<Vec<_>, _>>()?;
        let mut config = json!({
            "Binds": binds, "Mounts": mounts, "NetworkMode": self.network_mode()?, "PortBindings": bindings,
            "PublishAllPorts": self.publish_all, "RestartPolicy": self.restart_policy()?,
            "AutoRemove": self.rm, "CapAdd": self.cap_add, "CapDrop": self.cap_drop,
            "CgroupnsMode": self.cgroupns, "CgroupParent": self.cgroup_parent,
            "Dns": self.dns, "DnsOptions": self.dns_option, "DnsSearch": self.dns_search,
            "ExtraHosts": self.add_host, "GroupAdd": self.group_add, "IpcMode": self.ipc,
            "Links": self.link, "OomScoreAdj": self.oom_score_adj, "PidMode": self.pid,
            "Privileged": self.privileged, "ReadonlyRootfs": self.read_only,
            "SecurityOpt": self.security_options()?, "UTSMode": self.uts, "UsernsMode": self.userns,
            "Sysctls": pairs(&self.sysctl), "Runtime": self.runtime,
        });
        if let (Some(config), Value::Object(resources)) =
            (config.as_object_mut(), self.resources()?)
        {
            config.extend(resources);
        }
        Ok(config)
    }

    fn ports(&self) -> Result<(Value, Value), CliError> {
        let mut exposed = Map::new();
        let mut bindings: Map<String, Value> = Map::new();
        for text in &self.publish {
            for published in ports::publish(text)? {
                exposed.insert(published.port.clone(), json!({}));
                let list = bindings.entry(published.port).or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.push(
                        json!({"HostIp": published.host_ip, "HostPort": published.host_port}),
                    );
                }
            }
        }
        for text in &self.expose {
            exposed.extend(ports::expose(text)?.into_iter().map(|port| (port, json!({}))));
        }
        Ok((Value::Object(exposed), Value::Object(bindings)))
    }

    fn environment(&self) -> Result<Vec<String>, CliError> {
        let mut lines = file_lines(&self.env_file)?;
        lines.extend(self.env.iter().cloned());
        Ok(environment(lines))
    }

    fn labels(&self) -> Result<Value, CliError> {
        let mut lines = file_lines(&self.label_file)?;
        lines.extend(self.label.iter().cloned());
        lines.extend(self.publish_when.iter().map(|when| format!("rnet.publish-when={when}")));
        Ok(pairs(&lines))
    }

    fn restart_policy(&self) -> Result<Value, CliError> {
        if self.rm && self.restart != "no" && !self.restart.is_empty() {
            return Err(wrong("conflicting options: cannot specify both --restart and --rm"));
        }
        restart_policy(&self.restart)
    }

    /// Files named by `seccomp=` are read here: the daemon does not see the client's files.
    fn security_options(&self) -> Result<Vec<String>, CliError> {
        let read = |option: &String| match option.split_once('=') {
            Some(("seccomp", path)) if path != "unconfined" && path != "builtin" => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    wrong(format!("opening seccomp profile ({path}) failed: {error}"))
                })?;
                Ok(format!("seccomp={text}"))
            }
            _ => Ok(option.clone()),
        };
        self.security_opt.iter().map(read).collect()
    }

    fn devices(&self) -> Vec<Value> {
        let device = |text: &String| {
            let mut parts = text.split(':');
            let host = parts.next().unwrap_or_default();
            let (second, third) = (parts.next(), parts.next());
            let is_mode = |part: &str| !part.is_empty() && part.chars().all(|c| "rwm".contains(c));
            let (inside, mode) = match (second, third) {
                (Some(mode), None) if is_mode(mode) => (host, mode),
                (Some(inside), mode) => (inside, mode.unwrap_or("rwm")),
                (None, _) => (host, "rwm"),
            };
            json!({"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": mode})
        };
        self.device.iter().map(device).collect()
    }

    /// `-v` with a path inside alone: places that get volumes of their own.
    fn volumes(&self) -> Option<Value> {
        let targets = self.volume.iter().filter(|volume| !volume.contains(':'));
        let targets: Map<_, _> = targets.map(|target| (target.clone(), json!({}))).collect();
        Some(targets).filter(|targets| !targets.is_empty()).map(Value::Object)
    }

    fn health(&self) -> Result<Option<Value>, CliError> {
        if self.no_healthcheck {
            return Ok(Some(json!({"Test": ["NONE"]})));
        }
        let span = |text: &Option<String>| match text {
            None => Ok(0),
            Some(text) => units::go_duration(text).ok_or_else(|| {
                wrong(format!("invalid duration `{text}`: write it as 30s or 1m30s"))
            }),
        };
        let (interval, timeout) = (span(&self.health_interval)?, span(&self.health_timeout)?);
        let period = span(&self.health_start_period)?;
        let start_interval = span(&self.health_start_interval)?;
        let times = [interval, timeout, period, start_interval, self.health_retries];
        if self.health_cmd.is_none() && times.iter().all(|number| *number == 0) {
            return Ok(None);
        }
        let test = self.health_cmd.as_ref().map(|command| json!(["CMD-SHELL", command]));
        Ok(Some(json!({
            "Test": test, "Interval": interval, "Timeout": timeout, "Retries": self.health_retries,
            "StartPeriod": period, "StartInterval": start_interval,
        })))
    }

    fn network_mode(&self) -> Result<String, CliError> {
        Ok(self.networks()?.first().map_or_else(|| "default".to_owned(), |n| n.name.clone()))
    }

    /// The `--network` flags; the endpoint flags belong to the first.
    fn networks(&self) -> Result<Vec<NetworkFlag>, CliError> {
        let mut networks = self
            .network
            .iter()
            .map(|text| NetworkFlag::parse(text))
            .collect::<Result<Vec<_>, _>>()?;
        if networks.is_empty() {
            networks.push(NetworkFlag { name: "default".to_owned(), ..NetworkFlag::default() });
        }
        let first = &mut networks[0];
        first.aliases.extend(self.network_alias.iter().cloned());
        first.ip = first.ip.take().or_else(|| self.ip.clone());
        first.ip6 = first.ip6.take().or_else(|| self.ip6.clone());
        first.link_local.extend(self.link_local_ip.iter().cloned());
        first.mac = first.mac.take().or_else(|| self.mac_address.clone());
        Ok(networks)
    }

    fn endpoints(&self) -> Result<Value, CliError> {
        let networks = self.networks()?;
        Ok(Value::Object(networks.into_iter().map(|n| (n.name.clone(), n.endpoint())).collect()))
    }
}

/// `--restart`: a policy, and how often.
pub(crate) fn restart_policy(text: &str) -> Result<Value, CliError> {
    let (name, count) = text.split_once(':').unwrap_or((text, "0"));
    let count: u32 = count.parse().map_err(|_| {
        wrong("invalid restart policy format: maximum retry count must be an integer")
    })?;
    Ok(json!({"Name": name, "MaximumRetryCount": count}))
}

/// One `--network`: a name, or `name=…,alias=…,ip=…`.
#[derive(Debug, Default)]
struct NetworkFlag {
    name: String,
    aliases: Vec<String>,
    ip: Option<String>,
    ip6: Option<String>,
    link_local: Vec<String>,
    mac: Option<String>,
    priority: i64,
    options: Vec<String>,
}

impl NetworkFlag {
    fn parse(text: &str) -> Result<Self, CliError> {
        if !text.contains('=') {
            return Ok(Self { name: text.to_owned(), ..Self::default() });
        }
        let mut flag = Self::default();
        for part in text.split(',') {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| wrong(format!("invalid field `{part}` in --network {text}")))?;
            match key.to_ascii_lowercase().as_str() {
                "name" => value.clone_into(&mut flag.name),
                "alias" => flag.aliases.push(value.to_owned()),
                "ip" => flag.ip = Some(value.to_owned()),
                "ip6" => flag.ip6 = Some(value.to_owned()),
                "link-local-ip" => flag.link_local.push(value.to_owned()),
                "mac-address" => flag.mac = Some(value.to_owned()),
                "driver-opt" => flag.options.push(value.to_owned()),
                "gw-priority" => {
                    flag.priority = value
                        .parse()
                        .map_err(|_| wrong(format!("invalid gw-priority (got `{value}`)")))?;
                }
                _ => return Err(wrong(format!("invalid field key {key} in --network {text}"))),
            }
        }
        if flag.name.is_empty() {
            return Err(wrong(format!("--network {text}: the field name=… is missing")));
        }
        Ok(flag)
    }

    fn endpoint(self) -> Value {
        json!({
            "IPAMConfig": {
                "IPv4Address": self.ip.unwrap_or_default(), "IPv6Address": self.ip6.unwrap_or_default(),
                "LinkLocalIPs": self.link_local,
            },
            "Aliases": self.aliases, "MacAddress": self.mac.unwrap_or_default(),
            "GwPriority": self.priority, "DriverOpts": pairs(&self.options),
        })
    }
}

/// Lines of files, without comments and blank ones.
fn file_lines(paths: &[PathBuf]) -> Result<Vec<String>, CliError> {
    let mut lines = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(path)
            .map_err(|error| wrong(format!("open {}: {error}", path.display())))?;
        let kept =
            text.lines().map(str::trim_start).filter(|l| !l.is_empty() && !l.starts_with('#'));
        lines.extend(kept.map(str::to_owned));
    }
    Ok(lines)
}

/// Variables without a value take it from this process, or are left out.
pub(crate) fn environment(lines: Vec<String>) -> Vec<String> {
    let resolve = |line: String| {
        if line.contains('=') {
            return Some(line);
        }
        std::env::var(&line).ok().map(|value| format!("{line}={value}"))
    };
    lines.into_iter().filter_map(resolve).collect()
}

/// Reads the files of `--env-file` before the flags `-e`.
pub(crate) fn all_environment(
    files: &[PathBuf],
    flags: &[String],
) -> Result<Vec<String>, CliError> {
    let mut lines = file_lines(files)?;
    lines.extend(flags.iter().cloned());
    Ok(environment(lines))
}

/// `--ulimit`.
pub(crate) fn ulimits(flags: &[String]) -> Result<Vec<Value>, CliError> {
    let limit = |text: &String| {
        let bad = || wrong(format!("invalid ulimit argument: {text}"));
        let (name, values) = text.split_once('=').ok_or_else(bad)?;
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let number = |value: &str| value.parse::<i64>().map_err(|_| bad());
        Ok(json!({"Name": name, "Soft": number(soft)?, "Hard": number(hard)?}))
    };
    flags.iter().map(limit).collect()
}

/// `key=value` flags as an object.
pub(crate) fn pairs(flags: &[String]) -> Value {
    Value::Object(flags.iter().map(|flag| split(flag, '=')).collect())
}

fn split(text: &str, separator: char) -> (String, Value) {
    let (key, value) = text.split_once(separator).unwrap_or((text, ""));
    (key.to_owned(), json!(value))
}
