//! `ps`.

use serde_json::{Map, Value, json};

use super::client::{Client, filters};
use super::commands::PsArgs;
use super::template::{Format, short};
use super::{Outcome, preferences, say, units};

/// `ps`: a line a container.
pub(crate) async fn ps(client: &Client, args: PsArgs) -> Outcome {
    let last = if args.latest { 1 } else { args.last };
    let mut query = vec![filters(&args.filter)?];
    query.extend((args.all || last > 0).then(|| "all=1".to_owned()));
    query.extend((last > 0).then(|| format!("limit={last}")));
    query.extend(args.size.then(|| "size=1".to_owned()));
    query.retain(|part| !part.is_empty());
    let answer = client.get(&format!("/containers/json?{}", query.join("&"))).await?;
    let containers = answer.as_array().cloned().unwrap_or_default();
    if args.quiet {
        for container in &containers {
            say(&short(container["Id"].as_str().unwrap_or_default(), args.no_trunc));
        }
        return Ok(0);
    }
    let rows: Vec<_> = containers.iter().map(|c| row(c, args.no_trunc)).collect();
    let mut columns = vec![
        ("CONTAINER ID", "ID"),
        ("IMAGE", "Image"),
        ("COMMAND", "Command"),
        ("CREATED", "RunningFor"),
        ("STATUS", "Status"),
        ("PORTS", "Ports"),
        ("NAMES", "Names"),
    ];
    if args.size {
        columns.push(("SIZE", "Size"));
    }
    let others = [
        ("CREATED AT", "CreatedAt"),
        ("LABELS", "Labels"),
        ("STATE", "State"),
        ("NETWORKS", "Networks"),
        ("MOUNTS", "Mounts"),
        ("LOCAL VOLUMES", "LocalVolumes"),
        ("SIZE", "Size"),
    ];
    Format::parse(preferences::format(args.format, "psFormat").as_deref())
        .print(&columns, &others, &rows)?;
    Ok(0)
}

/// What a template may name of one container.
fn row(container: &Value, whole: bool) -> Value {
    let text = |field: &str| container[field].as_str().unwrap_or_default();
    let created = container["Created"].as_i64().unwrap_or_default();
    let names: Vec<_> = container["Names"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str())
        .map(|name| name.trim_start_matches('/'))
        // What others call it by their links is said only where nothing is left out.
        .filter(|name| whole || !name.contains('/'))
        .collect();
    let at = chrono::DateTime::from_timestamp(created, 0).unwrap_or_default();
    let at = at.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S %z %Z").to_string();
    let mounts: Vec<_> = container["Mounts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|mount| mount["Name"].as_str().or_else(|| mount["Source"].as_str()))
        .map(|name| truncated(name, 15, whole))
        .collect();
    let size = |field: &str| container[field].as_i64().unwrap_or_default();
    let networks = container["NetworkSettings"]["Networks"].as_object();
    json!({
        "ID": short(text("Id"), whole), "Image": text("Image"),
        "Command": format!("\"{}\"", truncated(text("Command"), 20, whole)),
        "CreatedAt": at, "RunningFor": units::ago(created), "Status": text("Status"),
        "State": text("State"), "Ports": ports(&container["Ports"]), "Names": names.join(","),
        "Labels": labels(container["Labels"].as_object()), "Mounts": mounts.join(","),
        "LocalVolumes": mounts.len().to_string(),
        "Networks": networks.map(|map| map.keys().cloned().collect::<Vec<_>>().join(",")),
        "Size": format!(
            "{} (virtual {})",
            units::human_size(size("SizeRw")),
            units::human_size(size("SizeRootFs"))
        ),
    })
}

/// Labels as `k=v,k=v`.
pub(crate) fn labels(map: Option<&Map<String, Value>>) -> String {
    let pairs = map.into_iter().flatten();
    let pairs: Vec<_> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.join(",")
}

fn truncated(text: &str, length: usize, whole: bool) -> String {
    if whole || text.chars().count() <= length {
        return text.to_owned();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}

/// One port of the list, with what it is bound to.
type Port = (String, String, u64, u64);

/// The PORTS column: bindings first, then exposed ports; neighbours in one range.
fn ports(list: &Value) -> String {
    let mut all: Vec<Port> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let text = |field: &str| port[field].as_str().unwrap_or_default().to_owned();
            let number = |field: &str| port[field].as_u64().unwrap_or_default();
            (text("IP"), text("Type"), number("PublicPort"), number("PrivatePort"))
        })
        .collect();
    all.sort_by_key(|(ip, kind, public, private)| {
        (*private, kind.clone(), *public == 0, ip.contains(':'), ip.clone(), *public)
    });
    let mut ranges: Vec<(Port, u64)> = Vec::new();
    for port in all {
        let next = ranges.iter_mut().find(|((ip, kind, public, private), length)| {
            *ip == port.0
                && *kind == port.1
                && private + *length == port.3
                && (if port.2 == 0 { *public == 0 } else { public + *length == port.2 })
        });
        match next {
            Some((_, length)) => *length += 1,
            None => ranges.push((port, 1)),
        }
    }
    let shown: Vec<_> = ranges.iter().map(|(port, length)| one(port, *length)).collect();
    shown.join(", ")
}

fn one((ip, kind, public, private): &Port, length: u64) -> String {
    let range = |first: u64| match length {
        1 => first.to_string(),
        _ => format!("{first}-{}", first + length - 1),
    };
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
    match *public {
        0 => format!("{}/{kind}", range(*private)),
        _ => format!("{host}:{}->{}/{kind}", range(*public), range(*private)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_shown_as_docker_shows_them() {
        let list = json!([
            {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
            {"PrivatePort": 443, "Type": "tcp"},
        ]);
        assert_eq!(ports(&list), "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 443/tcp");
        let list = json!([
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8000, "Type": "tcp"},
            {"IP": "0.0.0.0", "PrivatePort": 81, "PublicPort": 8001, "Type": "tcp"},
        ]);
        assert_eq!(ports(&list), "0.0.0.0:8000-8001->80-81/tcp");
    }

    #[test]
    fn long_commands_are_cut() {
        assert_eq!(truncated("a rather long command line", 20, false), "a rather long comma…");
        assert_eq!(truncated("a rather long command line", 20, true).len(), 26);
    }
}
