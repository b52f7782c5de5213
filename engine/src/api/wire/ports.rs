//! Ports as Docker writes them: `80/tcp`, `8000-8010/udp`, and maps of bindings.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cnm::{PortBinding as Bound, Protocol};
use serde_json::Value;

use super::container_config::{PortBinding, Set};
use crate::container::spec::{PublishedPort, ports_of};
use engine_error::{Error, Result};

/// `NetworkSettings.Ports` and its like.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

/// `80/tcp`, or `80` for TCP; a range gives its ends.
pub fn port_range(text: &str) -> Result<((u16, u16), Protocol)> {
    let invalid = || Error::invalid(format!("invalid port specification: \"{text}\""));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.parse().map_err(|_| invalid())?;
    let range = range(ports).filter(|(first, _)| *first > 0).ok_or_else(invalid)?;
    Ok((range, protocol))
}

/// `80/tcp`.
pub fn port(text: &str) -> Result<(u16, Protocol)> {
    let number = text.split('/').next().unwrap_or_default();
    match port_range(number)?.0 {
        (first, last) if first == last => Ok((first, port_range(text)?.1)),
        _ => Err(Error::invalid(format!("invalid port specification: \"{number}\""))),
    }
}

/// `80` or `80-90`; the second is not smaller than the first.
fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| digits)
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some((first, last))
}

/// `ExposedPorts`, ranges taken apart.
pub fn exposed(set: &Set) -> Result<Vec<(u16, Protocol)>> {
    let ranges = set.keys().map(|text| port_range(text)).collect::<Result<Vec<_>>>()?;
    Ok(ports_of(ranges).into_iter().collect())
}

/// `PortBindings`.
pub fn published(map: &PortMap) -> Result<Vec<PublishedPort>> {
    let mut ports = Vec::new();
    for (key, bindings) in map {
        let (port, protocol) = port(key)?;
        for binding in bindings.iter().flatten() {
            ports.push(PublishedPort {
                port,
                protocol,
                host: host_ip(&binding.host_ip)?,
                host_ports: host_ports(&binding.host_port)?,
                when: None,
            });
        }
    }
    Ok(ports)
}

/// `PortBindings` of what is published: the way back.
pub fn port_bindings(ports: &[PublishedPort]) -> PortMap {
    let mut map = PortMap::new();
    for port in ports {
        let host_port = match port.host_ports {
            (0, 0) => String::new(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let host_ip = port.host.map(|host| host.to_string()).unwrap_or_default();
        let entry = map.entry(key(port.port, port.protocol)).or_default();
        entry.get_or_insert_default().push(PortBinding { host_ip, host_port });
    }
    map
}

fn host_ip(text: &str) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let invalid = |_| Error::invalid(format!("invalid IP address in port binding: {text}"));
    bare.parse().map(Some).map_err(invalid)
}

fn host_ports(text: &str) -> Result<(u16, u16)> {
    let text = text.split('/').next().unwrap_or_default();
    if text.is_empty() {
        return Ok((0, 0));
    }
    range(text).ok_or_else(|| Error::invalid(format!("invalid port specification: \"{text}\"")))
}

/// `NetworkSettings.Ports`: every exposed port, with the host's side of those that are published.
pub fn port_map(exposed: &[(u16, Protocol)], bound: &[Bound]) -> PortMap {
    let mut map: PortMap = exposed.iter().map(|(port, proto)| (key(*port, *proto), None)).collect();
    for binding in bound {
        let host = PortBinding {
            host_ip: binding.host.to_string(),
            host_port: binding.host_port.to_string(),
        };
        let entry = map.entry(key(binding.port, binding.protocol)).or_default();
        entry.get_or_insert_default().push(host);
    }
    map
}

/// A set with a port for each key, as `Config.ExposedPorts`.
pub fn port_set(ports: impl IntoIterator<Item = (u16, Protocol)>) -> Set {
    let empty = || Value::Object(serde_json::Map::default());
    ports.into_iter().map(|(port, protocol)| (key(port, protocol), empty())).collect()
}

/// `80/tcp`.
pub fn key(port: u16, protocol: Protocol) -> String {
    format!("{port}/{protocol}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bindings(json: Value) -> Result<Vec<String>> {
        let map: PortMap = crate::api::wire::go::from_value(json).unwrap();
        let show = |p: PublishedPort| {
            let host = p.host.map_or_else(|| "*".to_owned(), |ip| ip.to_string());
            format!("{host} {:?} {}/{}", p.host_ports, p.port, p.protocol)
        };
        Ok(published(&map)?.into_iter().map(show).collect())
    }

    #[test]
    fn bindings_keep_address_range_and_protocol() {
        let json = serde_json::json!({
            "53/udp": [{"HostIp": "::1", "HostPort": "5353"}, {"HostPort": ""}],
            "80/tcp": [{"HostIp": "", "HostPort": "8000-8010"}],
            "81/tcp": null,
        });
        let expected = ["::1 (5353, 5353) 53/udp", "* (0, 0) 53/udp", "* (8000, 8010) 80/tcp"];
        assert_eq!(bindings(json).unwrap(), expected);
    }

    #[test]
    fn impossible_ports_are_named() {
        for (json, message) in [
            (serde_json::json!({"x/tcp": []}), "invalid port specification: \"x\""),
            (serde_json::json!({"0/tcp": []}), "invalid port specification: \"0\""),
            (serde_json::json!({"80/icmp": []}), "invalid port specification: \"80/icmp\""),
            (
                serde_json::json!({"80/tcp": [{"HostPort": "99999"}]}),
                "invalid port specification: \"99999\"",
            ),
            (
                serde_json::json!({"80/tcp": [{"HostPort": "9-8"}]}),
                "invalid port specification: \"9-8\"",
            ),
            (
                serde_json::json!({"80/tcp": [{"HostIp": "nowhere"}]}),
                "invalid IP address in port binding: nowhere",
            ),
        ] {
            assert_eq!(bindings(json).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn exposed_ranges_are_taken_apart() {
        let ports = exposed(&port_set([(80, Protocol::Tcp)])).unwrap();
        assert_eq!(ports, [(80, Protocol::Tcp)]);
        let set = Set::from([("7-9/udp".to_owned(), Value::Null)]);
        assert_eq!(exposed(&set).unwrap().len(), 3);
    }

    #[test]
    fn a_hundred_thousand_ways_to_write_all_ports_take_no_longer_than_one() {
        let zeros = |count: usize| "0".repeat(count);
        let keys = (0..300).flat_map(|a| (0..300).map(move |b| (a, b)));
        let texts = keys.map(|(a, b)| format!("{}1-{}65535/udp", zeros(a), zeros(b)));
        let set: Set = texts.map(|text| (text, Value::Null)).collect();
        assert_eq!(exposed(&set).unwrap().len(), 65535);
        let overlapping = ["7-9", "8-12", "8", "65535"].map(|text| (text.to_owned(), Value::Null));
        let ports = exposed(&Set::from(overlapping)).unwrap();
        let numbers: Vec<_> = ports.into_iter().map(|(port, _)| port).collect();
        assert_eq!(numbers, [7, 8, 9, 10, 11, 12, 65535]);
    }

    #[test]
    fn the_port_map_has_a_binding_of_each_family() {
        let bound = |host: &str| Bound {
            host: host.parse().unwrap(),
            host_port: 8080,
            protocol: Protocol::Tcp,
            port: 80,
        };
        let map = port_map(&[(443, Protocol::Tcp)], &[bound("0.0.0.0"), bound("::")]);
        let json = serde_json::to_value(map).unwrap();
        let expected = serde_json::json!({
            "443/tcp": null,
            "80/tcp": [
                {"HostIp": "0.0.0.0", "HostPort": "8080"},
                {"HostIp": "::", "HostPort": "8080"},
            ],
        });
        assert_eq!(json, expected);
    }
}
