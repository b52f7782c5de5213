//! `-p` and `--expose`.

use std::net::IpAddr;

use super::error::CliError;

/// One published container port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// `80/tcp`.
    pub(crate) port: String,
    /// The host address; empty for the default.
    pub(crate) host_ip: String,
    /// The host port or range; empty for a random one.
    pub(crate) host_port: String,
}

/// Parses `[ip:][host[-host]:]container[-container][/protocol]`.
pub(crate) fn publish(text: &str) -> Result<Vec<Published>, CliError> {
    let wrong = |what: &str| CliError::new(what).with_code(125);
    let (rest, protocol) = protocol(text)?;
    let (host_ip, rest) = host_ip(rest).map_err(|message| wrong(&message))?;
    let (host, container) = rest.rsplit_once(':').unwrap_or(("", rest));
    if container.is_empty() {
        return Err(wrong(&format!("no port specified: {text}<empty>")));
    }
    let (first, last) =
        range(container).ok_or_else(|| wrong(&format!("invalid containerPort: {container}")))?;
    if host.is_empty() {
        return Ok((first..=last)
            .map(|port| Published {
                port: format!("{port}/{protocol}"),
                host_ip: host_ip.clone(),
                host_port: String::new(),
            })
            .collect());
    }
    let (low, high) = range(host).ok_or_else(|| wrong(&format!("invalid hostPort: {host}")))?;
    let (hosts, containers) = (high - low, last - first);
    if hosts != containers && first != last {
        return Err(wrong(&format!(
            "invalid ranges specified for container and host Ports: {text}"
        )));
    }
    let one = |port: u16, host_port: String| Published {
        port: format!("{port}/{protocol}"),
        host_ip: host_ip.clone(),
        host_port,
    };
    if first == last && low != high {
        return Ok(vec![one(first, format!("{low}-{high}"))]);
    }
    Ok((first..=last).map(|port| one(port, (low + (port - first)).to_string())).collect())
}

/// Parses `--expose port[-port][/protocol]`.
pub(crate) fn expose(text: &str) -> Result<Vec<String>, CliError> {
    let (rest, protocol) = protocol(text)?;
    let (first, last) = range(rest).ok_or_else(|| {
        CliError::new(format!("invalid range format for --expose: {text}")).with_code(125)
    })?;
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn protocol(text: &str) -> Result<(&str, String), CliError> {
    let (rest, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if ["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Ok((rest, protocol));
    }
    Err(CliError::new(format!("invalid proto: {protocol}")).with_code(125))
}

/// Splits the host address off: `1.2.3.4:…`, `[::1]:…`.
fn host_ip(text: &str) -> Result<(String, &str), String> {
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, rest) = rest.split_once("]:").ok_or(format!("invalid IP address: {text}"))?;
        let ip: IpAddr = ip.parse().map_err(|_| format!("invalid IP address: {ip}"))?;
        return Ok((ip.to_string(), rest));
    }
    let mut parts = text.splitn(2, ':');
    let (first, rest) = (parts.next().unwrap_or_default(), parts.next());
    match rest {
        Some(rest) if rest.contains(':') => {
            if first.is_empty() {
                return Ok((String::new(), rest));
            }
            let ip: IpAddr = first.parse().map_err(|_| format!("invalid IP address: {first}"))?;
            Ok((ip.to_string(), rest))
        }
        _ => Ok((String::new(), text)),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.parse().ok()?, high.parse().ok()?);
    (low <= high).then_some((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str, &str)]) {
        let found = publish(text).unwrap_or_else(|error| panic!("{text}: {}", error.message));
        let found: Vec<_> = found
            .iter()
            .map(|p| (p.port.as_str(), p.host_ip.as_str(), p.host_port.as_str()))
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn every_form_of_publish_is_read() {
        check("8080:80", &[("80/tcp", "", "8080")]);
        check("80", &[("80/tcp", "", "")]);
        check("53:53/udp", &[("53/udp", "", "53")]);
        check("127.0.0.1:8080:80", &[("80/tcp", "127.0.0.1", "8080")]);
        check("127.0.0.1::80", &[("80/tcp", "127.0.0.1", "")]);
        check("::80", &[("80/tcp", "", "")]);
        check("[::1]:8080:80", &[("80/tcp", "::1", "8080")]);
        check("8000-8001:80-81", &[("80/tcp", "", "8000"), ("81/tcp", "", "8001")]);
        check("8000-8010:80", &[("80/tcp", "", "8000-8010")]);
    }

    #[test]
    fn wrong_forms_are_named() {
        for (text, part) in [
            ("99999:80", "invalid hostPort: 99999"),
            ("80:http", "invalid containerPort: http"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            ("80-82:80-81", "invalid ranges"),
            ("80:80/icmp", "invalid proto: icmp"),
        ] {
            let error = publish(text).expect_err(text);
            assert!(error.message.contains(part), "{text}: {}", error.message);
            assert_eq!(error.code, 125);
        }
    }
}
