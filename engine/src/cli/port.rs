//! `port` and its commands.

use serde_json::{Map, Value, json};

use super::client::{Client, escape};
use super::commands::{
    PortAddArgs, PortArgs, PortChangeCommand, PortCommand, PortLsArgs, PortRmArgs,
};
use super::error::CliError;
use super::template::Format;
use super::{Outcome, complain, ports, say, units};

/// `port …`.
pub(crate) async fn command(client: &Client, command: PortCommand) -> Outcome {
    match command.change {
        Some(PortChangeCommand::Add(args)) => add(client, args).await,
        Some(PortChangeCommand::Ls(args)) => ls(client, args).await,
        Some(PortChangeCommand::Rm(args)) => rm(client, args).await,
        None => {
            let container = command.list.container.unwrap_or_default();
            list(client, PortArgs { container, port: command.list.port }).await
        }
    }
}

async fn add(client: &Client, args: PortAddArgs) -> Outcome {
    let body = json!({"Add": bindings(&args.ports)?, "PublishWhen": args.publish_when});
    change(client, &args.container, &body).await
}

async fn rm(client: &Client, args: PortRmArgs) -> Outcome {
    let drain = units::go_duration(&args.drain).filter(|nanoseconds| *nanoseconds >= 0);
    let drain = drain.ok_or_else(|| {
        let text = format!("invalid duration `{}` for --drain: use 30s or 5m", args.drain);
        CliError::new(text).with_code(125)
    })?;
    // A part of a second is better too long than too short.
    let seconds = u64::try_from(drain).unwrap_or_default().div_ceil(1_000_000_000);
    let body = json!({"Remove": bindings(&args.ports)?, "DrainSeconds": seconds});
    change(client, &args.container, &body).await
}

async fn change(client: &Client, container: &str, body: &Value) -> Outcome {
    let changed = client.post(&path(container), Some(body)).await?;
    for warning in changed["Warnings"].as_array().into_iter().flatten() {
        complain(&format!("WARNING: {}", warning.as_str().unwrap_or_default()));
    }
    Ok(0)
}

fn path(container: &str) -> String {
    format!("/rnet/containers/{}/ports", escape(container))
}

/// The ports in the form of `HostConfig.PortBindings`.
fn bindings(texts: &[String]) -> Result<Value, CliError> {
    let mut map: Map<String, Value> = Map::new();
    for text in texts {
        for published in ports::publish(text)? {
            let list = map.entry(published.port).or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(json!({"HostIp": published.host_ip, "HostPort": published.host_port}));
            }
        }
    }
    Ok(Value::Object(map))
}

async fn ls(client: &Client, args: PortLsArgs) -> Outcome {
    let answer = client.get(&path(&args.container)).await?;
    let text = |port: &Value, field: &str| port[field].as_str().unwrap_or_default().to_owned();
    let rows = answer.as_array().into_iter().flatten().map(|port| {
        let (ip, number) = (text(port, "HostIp"), text(port, "HostPort"));
        let published = match ip.as_str() {
            "" if number.is_empty() => "any".to_owned(),
            "" => number.clone(),
            ip if ip.contains(':') => format!("[{ip}]:{number}"),
            ip => format!("{ip}:{number}"),
        };
        let until = text(port, "Until");
        let until = if until.is_empty() { until } else { format!(" until {until}") };
        json!({
            "Port": text(port, "Port"), "HostIp": ip, "HostPort": number, "Published": published,
            "State": format!("{}{until}", text(port, "State")),
        })
    });
    let columns = [("PORT", "Port"), ("PUBLISHED", "Published"), ("STATE", "State")];
    let others = [("HOST IP", "HostIp"), ("HOST PORT", "HostPort")];
    Format::parse(args.format.as_deref()).print(&columns, &others, &rows.collect::<Vec<_>>())?;
    Ok(0)
}

/// `port`: a line a binding.
pub(crate) async fn list(client: &Client, args: PortArgs) -> Outcome {
    let found = client.get(&format!("/containers/{}/json", escape(&args.container))).await?;
    let ports = found["NetworkSettings"]["Ports"].as_object().cloned().unwrap_or_default();
    let address = |binding: &Value| {
        let ip = binding["HostIp"].as_str().unwrap_or_default();
        let port = binding["HostPort"].as_str().unwrap_or_default();
        if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
    };
    if let Some(wanted) = &args.port {
        let key = if wanted.contains('/') { wanted.clone() } else { format!("{wanted}/tcp") };
        let bindings = ports.get(&key).and_then(Value::as_array).filter(|list| !list.is_empty());
        let bindings = bindings.ok_or_else(|| {
            CliError::new(format!("no public port '{key}' published for {}", args.container))
        })?;
        for binding in bindings {
            say(&address(binding));
        }
        return Ok(0);
    }
    let number = |key: &str| key.split('/').next().and_then(|n| n.parse::<u32>().ok());
    let mut sorted: Vec<_> = ports.iter().collect();
    sorted.sort_by_key(|(key, _)| (number(key), (*key).clone()));
    for (key, bindings) in sorted {
        for binding in bindings.as_array().into_iter().flatten() {
            say(&format!("{key} -> {}", address(binding)));
        }
    }
    Ok(0)
}
