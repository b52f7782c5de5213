//! `cluster`, `node` and their commands.

use serde_json::{Value, json};

use super::client::{Client, escape};
use super::commands::{
    ClusterCheckArgs, ClusterCommand, ClusterJoinArgs, ClusterLeaveArgs, FormatArgs, NodeCommand,
    NodeInspectArgs, NodeLsArgs, NodeRmArgs,
};
use super::template::{self, Format};
use super::{Outcome, complain, create, for_each, say, swarm};

/// `cluster …`.
pub(crate) async fn command(client: &Client, command: ClusterCommand) -> Outcome {
    match command {
        ClusterCommand::Adopt => client.post("/rnet/cluster/adopt", None).await.map(|_| 0),
        ClusterCommand::Check(args) => check(client, args).await,
        ClusterCommand::Inspect(args) => inspect(client, args).await,
        ClusterCommand::Join(args) => join(client, args).await,
        ClusterCommand::Leave(args) => leave(client, args).await,
        ClusterCommand::Ls(args) => ls(client, args).await,
        ClusterCommand::Rekey => rekey(client).await,
    }
}

/// `node …`.
pub(crate) async fn node(client: &Client, command: NodeCommand) -> Outcome {
    match command {
        NodeCommand::Demote(nodes) => swarm::make(client, nodes, "worker").await,
        NodeCommand::Promote(nodes) => swarm::make(client, nodes, "manager").await,
        NodeCommand::Update(args) => swarm::update_node(client, args).await,
        NodeCommand::Inspect(args) => inspect_nodes(client, args).await,
        NodeCommand::Ls(args) => ls_nodes(client, args).await,
        NodeCommand::Rm(args) => rm_nodes(client, args).await,
    }
}

async fn join(client: &Client, args: ClusterJoinArgs) -> Outcome {
    let body = json!({
        "Cluster": args.cluster, "Options": create::pairs(&args.opt),
        "AdvertiseAddr": args.advertise_addr,
    });
    client.post("/rnet/cluster/join", Some(&body)).await?;
    let joined = client.get("/rnet/cluster").await?;
    say(joined["NodeID"].as_str().unwrap_or_default());
    Ok(0)
}

async fn leave(client: &Client, args: ClusterLeaveArgs) -> Outcome {
    let path = format!("/rnet/cluster/leave?force={}", u8::from(args.force));
    client.post(&path, None).await?;
    Ok(0)
}

/// Exits with 1 if anything is wrong.
async fn check(client: &Client, args: ClusterCheckArgs) -> Outcome {
    let query = args.node.map(|node| format!("?node={}", escape(&node))).unwrap_or_default();
    let found = client.get(&format!("/rnet/cluster/check{query}")).await?;
    let wrong = |finding: &&Value| !finding["Trouble"].is_null();
    let findings = found.as_array().cloned().unwrap_or_default();
    let code = u8::from(findings.iter().any(|finding| wrong(&finding)));
    if args.format.as_deref() == Some("json") {
        say(&pretty(&found));
        return Ok(code);
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |finding: &Value| {
        let asked = match (&finding["Container"], &finding["Network"]) {
            (Value::String(container), Value::String(network)) => {
                format!("{container} on {network}")
            }
            _ => "the host alone".to_owned(),
        };
        let says = finding["Trouble"]["Says"].as_str().unwrap_or("fine");
        json!({
            "Name": finding["Name"], "Address": finding["Address"], "Asked": asked, "Result": says,
        })
    };
    let rows: Vec<_> = findings.iter().map(row).collect();
    let columns =
        [("NAME", "Name"), ("ADDRESS", "Address"), ("ASKED", "Asked"), ("RESULT", "Result")];
    Format::parse(None).print(&columns, &[], &rows)?;
    for finding in findings.iter().filter(wrong) {
        say(&format!("{}: {}", text(&finding["Name"]), text(&finding["Trouble"]["Mend"])));
    }
    Ok(code)
}

async fn inspect(client: &Client, args: FormatArgs) -> Outcome {
    let found = client.get("/rnet/cluster").await?;
    let format = args.format.unwrap_or_default();
    say(&if format.is_empty() {
        pretty(&json!([found]))
    } else {
        template::document(&format, &found)?
    });
    Ok(0)
}

async fn rekey(client: &Client) -> Outcome {
    let own = client.post("/rnet/cluster/rekey", None).await?;
    say(own["PublicKey"].as_str().unwrap_or_default());
    Ok(0)
}

async fn ls(client: &Client, args: FormatArgs) -> Outcome {
    let found = match client.get("/rnet/cluster").await {
        Ok(found) => vec![found],
        Err(error) if error.status == Some(503) => Vec::new(),
        Err(error) => return Err(error),
    };
    let row = |cluster: &Value| {
        let nodes = cluster["Nodes"].as_array().map_or(0, Vec::len);
        let state = match (cluster["Joined"].as_bool(), cluster["Connected"].as_bool()) {
            (Some(true), Some(true)) => "connected",
            (Some(true), _) => "store away",
            _ => "joining",
        };
        json!({
            "Name": cluster["Name"], "Cluster": cluster["Cluster"], "State": state,
            "Nodes": nodes.to_string(), "Address": cluster["AdvertiseAddr"],
        })
    };
    let rows: Vec<_> = found.iter().map(row).collect();
    let columns = [
        ("NAME", "Name"),
        ("CLUSTER", "Cluster"),
        ("STATE", "State"),
        ("NODES", "Nodes"),
        ("ADDRESS", "Address"),
    ];
    Format::parse(args.format.as_deref()).print(&columns, &[], &rows)?;
    Ok(0)
}

async fn inspect_nodes(client: &Client, args: NodeInspectArgs) -> Outcome {
    let mut found = Vec::new();
    let mut code = 0;
    for name in &args.names {
        match client.get(&format!("/rnet/cluster/nodes/{}", escape(name))).await {
            Ok(node) => found.push(node),
            Err(error) => {
                complain(&error.message);
                code = 1;
            }
        }
    }
    match args.format.filter(|format| !format.is_empty()) {
        None => say(&pretty(&Value::Array(found))),
        Some(format) => {
            for node in &found {
                say(&template::document(&format, node)?);
            }
        }
    }
    Ok(code)
}

async fn ls_nodes(client: &Client, args: NodeLsArgs) -> Outcome {
    let nodes = client.get("/rnet/cluster/nodes").await?;
    let nodes = nodes.as_array().cloned().unwrap_or_default();
    if args.quiet {
        for node in &nodes {
            say(node["ID"].as_str().unwrap_or_default());
        }
        return Ok(0);
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let row = |node: &Value| {
        let mark = if node["Self"] == true { " *" } else { "" };
        json!({
            "ID": format!("{}{mark}", text(&node["ID"])), "Name": node["Name"],
            "State": node["State"], "Address": node["Address"], "MTU": text(&node["MTU"]),
            "Release": node["Release"], "Number": text(&node["Number"]), "Self": text(&node["Self"]),
        })
    };
    let rows: Vec<_> = nodes.iter().map(row).collect();
    let columns = [
        ("ID", "ID"),
        ("NAME", "Name"),
        ("STATE", "State"),
        ("ADDRESS", "Address"),
        ("MTU", "MTU"),
        ("RELEASE", "Release"),
    ];
    let others = [("NUMBER", "Number"), ("SELF", "Self")];
    Format::parse(args.format.as_deref()).print(&columns, &others, &rows)?;
    Ok(0)
}

async fn rm_nodes(client: &Client, args: NodeRmArgs) -> Outcome {
    let force = u8::from(args.force);
    for_each(&args.names, async |name| {
        client.delete(&format!("/rnet/cluster/nodes/{}?force={force}", escape(name))).await?;
        Ok(name.to_owned())
    })
    .await
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}
