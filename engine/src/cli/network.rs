//! `network` and its commands.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use super::client::{Client, escape, filters};
use super::commands::{
    ConnectArgs, DisconnectArgs, NetworkCommand, NetworkCreateArgs, NetworkLsArgs, NetworkRmArgs,
    NetworkUpdateArgs, PruneArgs,
};
use super::error::CliError;
use super::template::{Format, short};
use super::{Outcome, complain, confirmed, create, inspect, list, say};

/// `network …`.
pub(crate) async fn command(client: &Client, command: NetworkCommand) -> Outcome {
    match command {
        NetworkCommand::Connect(args) => connect(client, args).await,
        NetworkCommand::Create(args) => create_network(client, args).await,
        NetworkCommand::Disconnect(args) => disconnect(client, args).await,
        NetworkCommand::Inspect(args) => inspect::network(client, args).await,
        NetworkCommand::Ls(args) => ls(client, args).await,
        NetworkCommand::Prune(args) => prune(client, args).await,
        NetworkCommand::Rm(args) => rm(client, args).await,
        NetworkCommand::Update(args) => update(client, args).await,
    }
}

async fn create_network(client: &Client, args: NetworkCreateArgs) -> Outcome {
    let body = json!({
        "Name": args.network, "Driver": args.driver, "Internal": args.internal,
        "Attachable": args.attachable, "EnableIPv4": args.ipv4, "EnableIPv6": args.ipv6,
        "Options": create::pairs(&args.opt), "Labels": create::pairs(&args.label),
        "IPAM": {
            "Driver": args.ipam_driver, "Options": create::pairs(&args.ipam_opt),
            "Config": pools(&Pools {
                subnets: &args.subnet, ranges: &args.ip_range, gateways: &args.gateway,
                auxiliary: &args.aux_address,
            })?,
        },
    });
    let created = client.post("/networks/create", Some(&body)).await?;
    if let Some(warning) = created["Warning"].as_str().filter(|text| !text.is_empty()) {
        complain(&format!("WARNING: {warning}"));
    }
    say(created["Id"].as_str().unwrap_or_default());
    Ok(0)
}

/// `network update`: prints what changes, with `--dry-run`.
async fn update(client: &Client, args: NetworkUpdateArgs) -> Outcome {
    let mut options = create::pairs(&args.opt);
    let gone = |keys: &[String]| keys.iter().map(|key| (key.clone(), Value::Null)).collect();
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            options[key] = json!(value);
        }
    };
    put("com.docker.network.driver.mtu", args.mtu.map(|bytes| bytes.to_string()));
    put("com.docker.network.bridge.enable_icc", args.icc.map(|icc| icc.to_string()));
    put("rnet.dns", Some(args.dns.join(",")).filter(|list| !list.is_empty()));
    let mut labels = create::pairs(&args.label);
    for (values, removed) in [(&mut options, &args.opt_rm), (&mut labels, &args.label_rm)] {
        let removed: Map<String, Value> = gone(removed);
        values.as_object_mut().into_iter().for_each(|values| values.extend(removed.clone()));
    }
    let body = json!({
        "Labels": labels, "Options": options, "Internal": args.internal, "DryRun": args.dry_run,
        "AddSubnets": pools(&Pools {
            subnets: &args.add_subnet, ranges: &args.ip_range, gateways: &args.gateway,
            auxiliary: &[],
        })?,
        "RemoveSubnets": args.rm_subnet,
        "EnableIPv4": args.ipv4, "EnableIPv6": args.ipv6,
    });
    let path = format!("/rnet/networks/{}/update", escape(&args.network));
    let updated = client.post(&path, Some(&body)).await?;
    for warning in updated["Warnings"].as_array().into_iter().flatten() {
        complain(&format!("WARNING: {}", warning.as_str().unwrap_or_default()));
    }
    if args.dry_run {
        for step in updated["Plan"].as_array().into_iter().flatten() {
            say(step.as_str().unwrap_or_default());
        }
    }
    Ok(0)
}

/// The flags that say which addresses a network has.
struct Pools<'a> {
    subnets: &'a [String],
    ranges: &'a [String],
    gateways: &'a [String],
    auxiliary: &'a [String],
}

/// Puts ranges, gateways and auxiliary addresses to the subnets they lie in.
fn pools(args: &Pools<'_>) -> Result<Vec<Value>, CliError> {
    let mut pools: Vec<(Option<IpNetwork>, Value)> =
        args.subnets.iter().map(|text| (text.parse().ok(), json!({"Subnet": text}))).collect();
    let mut put = |what: &str, text: &str, address: Option<IpAddr>, write: &dyn Fn(&mut Value)| {
        let fits = |net: &Option<IpNetwork>| match (net, address) {
            (Some(net), Some(address)) => net.contains(address),
            _ => false,
        };
        if pools.is_empty() && what == "gateway" {
            return Err(CliError::new(format!("gateway {text} needs a --subnet that it lies in")));
        }
        match pools.iter_mut().find(|(net, _)| fits(net)) {
            Some((_, pool)) => {
                write(pool);
                Ok(())
            }
            None => Err(CliError::new(format!("no matching subnet for {what} {text}"))),
        }
    };
    for text in args.ranges {
        let first = text.parse::<IpNetwork>().ok().map(|net| net.ip());
        put("range", text, first, &|pool| pool["IPRange"] = json!(text))?;
    }
    for text in args.gateways {
        put("gateway", text, text.parse().ok(), &|pool| pool["Gateway"] = json!(text))?;
    }
    for flag in args.auxiliary {
        let (name, text) = flag.split_once('=').unwrap_or(("", flag));
        put("aux-address", text, text.parse().ok(), &|pool| {
            if pool["AuxiliaryAddresses"].is_null() {
                pool["AuxiliaryAddresses"] = Value::Object(Map::new());
            }
            pool["AuxiliaryAddresses"][name] = json!(text);
        })?;
    }
    Ok(pools.into_iter().map(|(_, pool)| pool).collect())
}

async fn ls(client: &Client, args: NetworkLsArgs) -> Outcome {
    let answer = client.get(&format!("/networks?{}", filters(&args.filter)?)).await?;
    let mut networks = answer.as_array().cloned().unwrap_or_default();
    networks.sort_by_key(|network| network["Name"].as_str().unwrap_or_default().to_owned());
    let text =
        |network: &Value, field: &str| network[field].as_str().unwrap_or_default().to_owned();
    if args.quiet {
        for network in &networks {
            say(&short(&text(network, "Id"), args.no_trunc));
        }
        return Ok(0);
    }
    let rows: Vec<_> = networks
        .iter()
        .map(|network| {
            json!({
                "ID": short(&text(network, "Id"), args.no_trunc), "Name": text(network, "Name"),
                "Driver": text(network, "Driver"), "Scope": text(network, "Scope"),
                "IPv4": network["EnableIPv4"].as_bool().unwrap_or(true).to_string(),
                "IPv6": network["EnableIPv6"].as_bool().unwrap_or(false).to_string(),
                "Internal": network["Internal"].as_bool().unwrap_or(false).to_string(),
                "Labels": list::labels(network["Labels"].as_object()),
                "CreatedAt": text(network, "Created"),
            })
        })
        .collect();
    let columns =
        [("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope")];
    let others = [
        ("IPV4", "IPv4"),
        ("IPV6", "IPv6"),
        ("INTERNAL", "Internal"),
        ("LABELS", "Labels"),
        ("CREATED AT", "CreatedAt"),
    ];
    Format::parse(super::preferences::format(args.format.clone(), "networksFormat").as_deref())
        .print(&columns, &others, &rows)?;
    Ok(0)
}

async fn rm(client: &Client, args: NetworkRmArgs) -> Outcome {
    let mut code = 0;
    for name in &args.names {
        let force = if args.force { "?force=1" } else { "" };
        match client.delete(&format!("/networks/{}{force}", escape(name))).await {
            Ok(_) => say(name),
            Err(error) if args.force && error.status == Some(404) => {}
            Err(error) => {
                complain(&error.message);
                code = 1;
            }
        }
    }
    Ok(code)
}

async fn connect(client: &Client, args: ConnectArgs) -> Outcome {
    let body = json!({
        "Container": args.container,
        "EndpointConfig": {
            "IPAMConfig": {
                "IPv4Address": args.ip.unwrap_or_default(), "IPv6Address": args.ip6.unwrap_or_default(),
                "LinkLocalIPs": args.link_local_ip,
            },
            "Aliases": args.alias, "Links": args.link, "GwPriority": args.gw_priority,
            "DriverOpts": create::pairs(&args.driver_opt),
        },
    });
    client.post(&format!("/networks/{}/connect", escape(&args.network)), Some(&body)).await?;
    Ok(0)
}

async fn disconnect(client: &Client, args: DisconnectArgs) -> Outcome {
    let body = json!({"Container": args.container, "Force": args.force});
    client.post(&format!("/networks/{}/disconnect", escape(&args.network)), Some(&body)).await?;
    Ok(0)
}

async fn prune(client: &Client, args: PruneArgs) -> Outcome {
    let question = "WARNING! This will remove all custom networks not used by at least one container.\n\
                    Are you sure you want to continue?";
    if !args.force && !confirmed(question) {
        return Ok(0);
    }
    let answer = client.post(&format!("/networks/prune?{}", filters(&args.filter)?), None).await?;
    let deleted = answer["NetworksDeleted"].as_array().cloned().unwrap_or_default();
    if !deleted.is_empty() {
        say("Deleted Networks:");
        for name in &deleted {
            say(name.as_str().unwrap_or_default());
        }
        say("");
    }
    Ok(0)
}
