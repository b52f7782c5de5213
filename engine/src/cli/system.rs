//! `version`, `info`, `system`.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::client::{Client, escape};
use super::commands::{CheckArgs, FormatArgs, ResetArgs, SystemCommand};
use super::error::CliError;
use super::table::Table;
use super::{Outcome, complain, confirmed, events, say, template, units};

/// `system …`.
pub(crate) async fn command(client: &Client, command: SystemCommand) -> Outcome {
    match command {
        SystemCommand::Df => df(client).await,
        SystemCommand::Events(args) => events::events(client, args).await,
        SystemCommand::Info(args) => info(client, args).await,
        SystemCommand::Check(args) => check(client, args).await,
        SystemCommand::Reset(args) => reset(client, args).await,
        SystemCommand::DialStdio => dial_stdio(client).await,
    }
}

/// `version`: the client's part is shown even if there is no daemon.
pub(crate) async fn version(client: &Client, args: FormatArgs) -> Outcome {
    let ours = json!({
        "Version": env!("CARGO_PKG_VERSION"), "Os": std::env::consts::OS,
        "Arch": arch(), "Context": "default",
    });
    let server = client.get("/version").await;
    let daemon = server.as_ref().ok();
    if let Some(format) = args.format.as_deref().filter(|format| !format.is_empty()) {
        let document = json!({"Client": ours, "Server": daemon});
        say(&template::document(format, &document)?);
        return server.map(|_| 0);
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    say("Client: rnet");
    say(&format!(" Version:    {}", text(&ours["Version"])));
    say(&format!(" OS/Arch:    {}/{}", text(&ours["Os"]), text(&ours["Arch"])));
    let daemon = server?;
    say("\nServer: rnet");
    for component in daemon["Components"].as_array().into_iter().flatten() {
        say(&format!(" {}:", text(&component["Name"])));
        say(&format!("  Version:   {}", text(&component["Version"])));
        for (key, value) in component["Details"].as_object().into_iter().flatten() {
            say(&format!("  {:<10} {}", format!("{key}:"), text(value)));
        }
    }
    if daemon["Components"].as_array().is_none_or(Vec::is_empty) {
        say(&format!(" Version:     {}", text(&daemon["Version"])));
        say(&format!(" API version: {}", text(&daemon["ApiVersion"])));
    }
    Ok(0)
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `info`.
pub(crate) async fn info(client: &Client, args: FormatArgs) -> Outcome {
    let found = client.get("/info").await?;
    if let Some(format) = args.format.as_deref().filter(|format| !format.is_empty()) {
        say(&template::document(format, &found)?);
        return Ok(0);
    }
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let names = |value: &Value| match value {
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::Object(map) => map.keys().cloned().collect::<Vec<_>>().join(" "),
        other => text(other),
    };
    let lines = [
        ("Containers", text(&found["Containers"])),
        (" Running", text(&found["ContainersRunning"])),
        (" Paused", text(&found["ContainersPaused"])),
        (" Stopped", text(&found["ContainersStopped"])),
        ("Images", text(&found["Images"])),
        ("Server Version", text(&found["ServerVersion"])),
        ("Storage Driver", text(&found["Driver"])),
        ("Logging Driver", text(&found["LoggingDriver"])),
        ("Cgroup Driver", text(&found["CgroupDriver"])),
        ("Cgroup Version", text(&found["CgroupVersion"])),
        ("Network Drivers", names(&found["Plugins"]["Network"])),
        ("Firewall Backend", text(&found["FirewallBackend"]["Driver"])),
        ("Runtimes", names(&found["Runtimes"])),
        ("Default Runtime", text(&found["DefaultRuntime"])),
        ("Security Options", names(&found["SecurityOptions"])),
        ("Kernel Version", text(&found["KernelVersion"])),
        ("Operating System", text(&found["OperatingSystem"])),
        ("Architecture", text(&found["Architecture"])),
        ("CPUs", text(&found["NCPU"])),
        ("Total Memory", units::human_size(found["MemTotal"].as_i64().unwrap_or_default())),
        ("Name", text(&found["Name"])),
        ("ID", text(&found["ID"])),
        ("Root Dir", text(&found["DockerRootDir"])),
        ("Live Restore Enabled", text(&found["LiveRestoreEnabled"])),
    ];
    say("Server:");
    for (label, value) in lines {
        say(&format!(" {label}: {value}"));
    }
    for warning in found["Warnings"].as_array().into_iter().flatten() {
        complain(&text(warning));
    }
    Ok(0)
}

async fn df(client: &Client) -> Outcome {
    let found = client.get("/system/df").await?;
    let mut table = Table::new(&["TYPE", "TOTAL", "ACTIVE", "SIZE"]);
    let list = |field: &str| found[field].as_array().cloned().unwrap_or_default();
    let sum = |items: &[Value], field: &str| -> i64 {
        items.iter().map(|item| item[field].as_i64().unwrap_or_default().max(0)).sum()
    };
    let (images, containers, volumes) = (list("Images"), list("Containers"), list("Volumes"));
    let used = images.iter().filter(|image| image["Containers"].as_i64().unwrap_or_default() > 0);
    let running = containers.iter().filter(|container| container["State"] == "running");
    let bound = |v: &&Value| v["UsageData"]["RefCount"].as_i64().unwrap_or_default() > 0;
    let row = |kind: &str, total: usize, active: usize, size: i64| {
        vec![kind.to_owned(), total.to_string(), active.to_string(), units::human_size(size)]
    };
    let layers = found["LayersSize"].as_i64().unwrap_or_default();
    table.row(row("Images", images.len(), used.count(), layers));
    let written = sum(&containers, "SizeRw");
    table.row(row("Containers", containers.len(), running.count(), written));
    let usage: Vec<_> = volumes.iter().map(|volume| volume["UsageData"].clone()).collect();
    let active = volumes.iter().filter(bound).count();
    table.row(row("Local Volumes", volumes.len(), active, sum(&usage, "Size")));
    say(&table.render());
    Ok(0)
}

/// Fails if something is wrong, so that scripts may ask.
async fn check(client: &Client, args: CheckArgs) -> Outcome {
    if let Some(key) = args.discard {
        client.post(&format!("/rnet/discard?key={}", escape(&key)), None).await?;
        return Ok(0);
    }
    let answer = client.get("/rnet/check").await?;
    let findings = answer["Findings"].as_array().cloned().unwrap_or_default();
    for finding in &findings {
        let text = |field: &str| finding[field].as_str().unwrap_or_default();
        say(&format!("{}: {}\n    {}", text("Subject"), text("Problem"), text("Advice")));
    }
    Ok(u8::from(!findings.is_empty()))
}

async fn reset(client: &Client, args: ResetArgs) -> Outcome {
    let question = "WARNING! This will remove all containers, networks, volumes and images of rnet,\n\
                    its firewall table and its resolver, and stop the daemon.\n\
                    Are you sure you want to continue?";
    if !args.force && !confirmed(question) {
        return Ok(0);
    }
    client.post("/rnet/reset", None).await?;
    Ok(0)
}

/// Connects standard input and output to the API, for `ssh://` clients.
async fn dial_stdio(client: &Client) -> Outcome {
    let (mut from, mut to) = tokio::io::split(client.dial().await?);
    let (mut input, mut output) = (tokio::io::stdin(), tokio::io::stdout());
    let there = async {
        // What the daemon does not want to hear any more is read nevertheless: it has an answer to that.
        if tokio::io::copy(&mut input, &mut to).await.is_err() {
            let _ = tokio::io::copy(&mut input, &mut tokio::io::sink()).await;
        }
        let _ = to.shutdown().await;
        // What the daemon still has to say follows.
        std::future::pending::<()>().await;
    };
    let back = async {
        tokio::io::copy(&mut from, &mut output).await?;
        output.flush().await
    };
    // Once the daemon has ended, nobody hears what is still to come from here.
    let ended = tokio::select! { ended = back => ended, () = there => Ok(()) };
    ended.map(|()| 0).map_err(CliError::from)
}
