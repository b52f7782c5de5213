//! Limits, devices and the rarer flags of `run` and `create`, as the request has them.

use serde_json::{Map, Value, json};

use super::super::commands::{CreateArgs, LimitArgs, RareArgs};
use super::super::error::CliError;
use super::super::units;
use super::{pairs, split, ulimits, wrong};

/// The place of the API's socket for programs in containers.
const SOCKET: &str = "/var/run/docker.sock";

/// How a rate in bytes is written.
const RATE: &str = "The correct format is <device-path>:<number>[<unit>]. Number must be a \
                    positive integer. Unit is optional and can be kb, mb, or gb";

impl CreateArgs {
    /// The limits, and what is as rarely given.
    pub(super) fn resources(&self) -> Result<Value, CliError> {
        let mut all = json!({
            "ShmSize": size(self.shm_size.as_deref())?, "Init": self.init,
            "LogConfig": {"Type": self.log_driver, "Config": pairs(&self.log_opt)},
            "Devices": self.devices(), "Ulimits": ulimits(&self.ulimit)?, "VolumesFrom": self.volumes_from,
            "Tmpfs": self.tmpfs.iter().map(|t| split(t, ':')).collect::<Map<_, _>>(),
            "Annotations": pairs(&self.annotation),
        });
        if let (Value::Object(all), Value::Object(rare)) = (&mut all, self.rare.fields()?) {
            all.extend(self.limits.fields()?);
            all.extend(rare);
        }
        Ok(all)
    }

    /// The mount that `--use-api-socket` stands for: of the socket that this client uses.
    pub(crate) fn api_socket(&self, host: &str) -> Result<Option<Value>, CliError> {
        if !self.rare.use_api_socket {
            return Ok(None);
        }
        let Some(path) = host.strip_prefix("unix://") else {
            return Err(wrong("flag --use-api-socket can only be used with unix sockets"));
        };
        Ok(Some(json!({"Type": "bind", "Source": path, "Target": SOCKET, "BindOptions": {}})))
    }
}

impl LimitArgs {
    /// As a request to create or update has them.
    pub(crate) fn fields(&self) -> Result<Map<String, Value>, CliError> {
        let swap = match self.memory_swap.as_deref() {
            Some("-1") => -1,
            text => size(text)?,
        };
        let fields = [
            ("BlkioWeight", json!(self.blkio_weight)),
            ("CpuPeriod", json!(self.cpu_period)),
            ("CpuQuota", json!(self.cpu_quota)),
            ("CpuRealtimePeriod", json!(self.cpu_rt_period)),
            ("CpuRealtimeRuntime", json!(self.cpu_rt_runtime)),
            ("CpuShares", json!(self.cpu_shares)),
            ("NanoCpus", json!(nano_cpus(self.cpus))),
            ("CpusetCpus", json!(self.cpuset_cpus)),
            ("CpusetMems", json!(self.cpuset_mems)),
            ("Memory", json!(size(self.memory.as_deref())?)),
            ("MemoryReservation", json!(size(self.memory_reservation.as_deref())?)),
            ("MemorySwap", json!(swap)),
            ("PidsLimit", json!(self.pids_limit)),
        ];
        Ok(fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect())
    }
}

impl RareArgs {
    fn fields(&self) -> Result<Value, CliError> {
        let swappiness = (self.memory_swappiness != -1).then_some(self.memory_swappiness);
        let mut fields = json!({
            "BlkioWeightDevice": each("blkio-weight-device", &self.blkio_weight_device, weight)?,
            "BlkioDeviceReadBps": each("device-read-bps", &self.device_read_bps, bytes)?,
            "BlkioDeviceWriteBps": each("device-write-bps", &self.device_write_bps, bytes)?,
            "BlkioDeviceReadIOps": each("device-read-iops", &self.device_read_iops, operations)?,
            "BlkioDeviceWriteIOps": each("device-write-iops", &self.device_write_iops, operations)?,
            "DeviceCgroupRules": each("device-cgroup-rule", &self.device_cgroup_rule, rule)?,
            "Isolation": self.isolation, "MemorySwappiness": swappiness,
            "OomKillDisable": self.oom_kill_disable, "VolumeDriver": self.volume_driver,
        });
        if !self.storage_opt.is_empty() {
            fields["StorageOpt"] = pairs(&self.storage_opt);
        }
        if let Some(gpus) = &self.gpus {
            fields["DeviceRequests"] = json!([gpu_request(gpus)?]);
        }
        Ok(fields)
    }

    /// Refuses flags that a daemon on Linux has nothing for.
    pub(crate) fn check(&self) -> Result<(), CliError> {
        let given = [
            ("cpu-count", self.cpu_count.is_some()),
            ("cpu-percent", self.cpu_percent.is_some()),
            ("io-maxbandwidth", self.io_maxbandwidth.is_some()),
            ("io-maxiops", self.io_maxiops.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(CliError::new(format!(
                "\"--{name}\" is only supported on a Docker daemon running on windows, but the \
                 Docker daemon is running on linux"
            ))),
            None => Ok(()),
        }
    }
}

/// A size in bytes; none is 0.
fn size(text: Option<&str>) -> Result<i64, CliError> {
    text.map_or(Ok(0), units::bytes)
}

/// `--cpus` in billionths of a processor.
fn nano_cpus(cpus: Option<f64>) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "a count of processors is small")]
    cpus.map_or(0, |cpus| (cpus * 1e9).round() as i64)
}

/// Reads every value of a flag, and says which one is wrong.
fn each(
    flag: &str,
    values: &[String],
    read: impl Fn(&str) -> Result<Value, String>,
) -> Result<Vec<Value>, CliError> {
    let one = |value: &String| {
        read(value).map_err(|why| {
            wrong(format!("invalid argument \"{value}\" for \"--{flag}\" flag: {why}"))
        })
    };
    values.iter().map(one).collect()
}

/// A device and what goes with it.
fn device(text: &str) -> Result<(&str, &str), String> {
    let (path, value) = text.split_once(':').ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    Ok((path, value))
}

fn weight(text: &str) -> Result<Value, String> {
    let (path, value) = device(text)?;
    let weight = value.parse::<u16>().ok().filter(|w| *w == 0 || (10..=1000).contains(w));
    let weight = weight.ok_or_else(|| format!("invalid weight for device: {text}"))?;
    Ok(json!({"Path": path, "Weight": weight}))
}

fn bytes(text: &str) -> Result<Value, String> {
    let (path, value) = device(text)?;
    let rate = units::bytes(value).ok().filter(|rate| *rate >= 0);
    let rate = rate.ok_or_else(|| format!("invalid rate for device: {text}. {RATE}"))?;
    Ok(json!({"Path": path, "Rate": rate}))
}

fn operations(text: &str) -> Result<Value, String> {
    let (path, value) = device(text)?;
    let rate: u64 = value.parse().map_err(|_| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. \
             Number must be a positive integer"
        )
    })?;
    Ok(json!({"Path": path, "Rate": rate}))
}

/// `c 42:* rwm`.
fn rule(text: &str) -> Result<Value, String> {
    let number = |part: &str| part == "*" || part.parse::<u32>().is_ok();
    let words: Vec<_> = text.split(' ').collect();
    let fits = match words.as_slice() {
        ["a" | "b" | "c", numbers, access] => {
            numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
                && (1..=3).contains(&access.len())
                && access.chars().all(|letter| "rwm".contains(letter))
        }
        _ => false,
    };
    if fits { Ok(json!(text)) } else { Err(format!("invalid device cgroup format '{text}'")) }
}

/// `--gpus all`, `--gpus 2`, `--gpus device=0,capabilities=utility`.
fn gpu_request(text: &str) -> Result<Value, CliError> {
    let bad =
        |why: String| wrong(format!("invalid argument \"{text}\" for \"--gpus\" flag: {why}"));
    let count = |value: &str| match value {
        "all" => Ok(-1),
        number => number.parse::<i64>().map_err(|_| {
            bad(format!("invalid count ({number}): value must be either \"all\" or an integer"))
        }),
    };
    let mut request = json!({
        "Driver": "", "Count": 0, "DeviceIDs": null, "Capabilities": [["gpu"]], "Options": {},
    });
    for field in text.split(',') {
        match field.split_once('=') {
            None => request["Count"] = json!(count(field)?),
            Some(("count", value)) => request["Count"] = json!(count(value)?),
            Some(("driver", value)) => request["Driver"] = json!(value),
            Some(("device", value)) => request["DeviceIDs"] = json!([value]),
            Some(("capabilities", value)) => request["Capabilities"] = json!([["gpu", value]]),
            Some(("options", value)) => {
                let (name, value) = split(value, '=');
                request["Options"][name] = value;
            }
            Some((key, _)) => return Err(bad(format!("unexpected key '{key}' in '{field}'"))),
        }
    }
    if request["Count"] == 0 && request["DeviceIDs"].is_null() {
        request["Count"] = json!(1);
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_devices_are_read_as_docker_reads_them() {
        assert_eq!(bytes("/dev/sda:1mb"), Ok(json!({"Path": "/dev/sda", "Rate": 1 << 20})));
        assert_eq!(weight("/dev/sda:300"), Ok(json!({"Path": "/dev/sda", "Weight": 300})));
        assert_eq!(weight("/dev/sda:5").unwrap_err(), "invalid weight for device: /dev/sda:5");
        assert_eq!(operations("sda:5").unwrap_err(), "bad format for device path: sda:5");
        assert!(operations("/dev/sda:x").unwrap_err().starts_with("invalid rate for device"));
        assert_eq!(rule("c 42:* rwm"), Ok(json!("c 42:* rwm")));
        assert_eq!(rule("bogus").unwrap_err(), "invalid device cgroup format 'bogus'");
    }

    #[test]
    fn gpus_are_asked_for_as_docker_does() {
        let request = |text| gpu_request(text).map_err(|error| error.message);
        assert_eq!(request("all").unwrap()["Count"], -1);
        assert_eq!(request("device=0").unwrap()["DeviceIDs"], json!(["0"]));
        let capabilities = &request("2,capabilities=utility").unwrap()["Capabilities"];
        assert_eq!(*capabilities, json!([["gpu", "utility"]]));
        assert!(request("many").unwrap_err().contains("invalid count (many)"));
    }
}
