//! The commands on existing containers.

use std::fmt::Write as _;

use std::sync::Arc;

use hyper::Method;
use serde_json::Value;

use super::attach::{End, Session, SignalProxy};
use super::client::{Client, escape, filters};
use super::commands::{
    ContainerCommand, KillArgs, Names, PruneArgs, RenameArgs, RmArgs, StartArgs, StopArgs, TopArgs,
};
use super::error::CliError;
use super::table::Table;
use super::{
    Outcome, attach, changes, complain, confirmed, copy, exec, for_each, inspect, list, logs, port,
    run, say, stats, terminal, units, update,
};

/// `container …`.
pub(crate) async fn command(client: &Arc<Client>, command: ContainerCommand) -> Outcome {
    match command {
        ContainerCommand::Attach(args) => attach::attach(client, args).await,
        ContainerCommand::Commit(args) => changes::commit(client, args).await,
        ContainerCommand::Cp(args) => copy::copy(client, args).await,
        ContainerCommand::Diff(args) => changes::diff(client, args).await,
        ContainerCommand::Export(args) => changes::export(client, args).await,
        ContainerCommand::Create(args) => run::create(client, *args).await,
        ContainerCommand::Exec(args) => exec::exec(client, args).await,
        ContainerCommand::Inspect(args) => inspect::container(client, args).await,
        ContainerCommand::Kill(args) => kill(client, args).await,
        ContainerCommand::Logs(args) => logs::logs(client, args).await,
        ContainerCommand::Ls(args) => list::ps(client, args).await,
        ContainerCommand::Pause(args) => each(client, args, "pause").await,
        ContainerCommand::Port(args) => port::list(client, args).await,
        ContainerCommand::Prune(args) => prune(client, args).await,
        ContainerCommand::Rename(args) => rename(client, args).await,
        ContainerCommand::Restart(args) => restart(client, args).await,
        ContainerCommand::Rm(args) => rm(client, args).await,
        ContainerCommand::Run(args) => run::run(client, *args).await,
        ContainerCommand::Start(args) => start(client, args).await,
        ContainerCommand::Stats(args) => stats::stats(client, args).await,
        ContainerCommand::Stop(args) => stop(client, args).await,
        ContainerCommand::Top(args) => top(client, args).await,
        ContainerCommand::Unpause(args) => each(client, args, "unpause").await,
        ContainerCommand::Update(args) => update::update(client, args).await,
        ContainerCommand::Wait(args) => wait(client, args).await,
    }
}

/// `pause`, `unpause`: a POST to each.
pub(crate) async fn each(client: &Client, args: Names, verb: &str) -> Outcome {
    for_each(&args.names, async |name| {
        client.post(&format!("/containers/{}/{verb}", escape(name)), None).await?;
        Ok(name.to_owned())
    })
    .await
}

/// `stop`.
pub(crate) async fn stop(client: &Client, args: StopArgs) -> Outcome {
    end(client, args, "stop").await
}

/// `restart`.
pub(crate) async fn restart(client: &Client, args: StopArgs) -> Outcome {
    end(client, args, "restart").await
}

async fn end(client: &Client, args: StopArgs, verb: &str) -> Outcome {
    let mut query = Vec::new();
    query.extend(args.timeout.map(|seconds| format!("t={seconds}")));
    query.extend(args.signal.as_deref().map(|signal| format!("signal={}", escape(signal))));
    let query = query.join("&");
    for_each(&args.names, async |name| {
        client.post(&format!("/containers/{}/{verb}?{query}", escape(name)), None).await?;
        Ok(name.to_owned())
    })
    .await
}

/// `kill`.
pub(crate) async fn kill(client: &Client, args: KillArgs) -> Outcome {
    let signal = args.signal.unwrap_or_else(|| "KILL".to_owned());
    for_each(&args.names, async |name| {
        let path = format!("/containers/{}/kill?signal={}", escape(name), escape(&signal));
        client.post(&path, None).await?;
        Ok(name.to_owned())
    })
    .await
}

/// `rm`. What does not exist is no failure with `--force`.
pub(crate) async fn rm(client: &Client, args: RmArgs) -> Outcome {
    let query = format!(
        "force={}&v={}&link={}",
        u8::from(args.force),
        u8::from(args.volumes),
        u8::from(args.link)
    );
    let force = args.force;
    for_each(&args.names, async |name| {
        let path = format!("/containers/{}?{query}", escape(name.trim_start_matches('/')));
        match client.delete(&path).await {
            Ok(_) => Ok(name.to_owned()),
            Err(mut error) => {
                if force && error.status == Some(404) {
                    error.code = 0;
                }
                if error.message.contains("No such container")
                    && looks_like_image(client, name).await
                {
                    let _ = write!(error.message, "\nDid you mean `rnet rmi {name}`?");
                }
                Err(error)
            }
        }
    })
    .await
}

async fn looks_like_image(client: &Client, name: &str) -> bool {
    client.get(&format!("/images/{}/json", escape(name))).await.is_ok()
}

/// `rename`.
pub(crate) async fn rename(client: &Client, args: RenameArgs) -> Outcome {
    let path =
        format!("/containers/{}/rename?name={}", escape(&args.container), escape(&args.name));
    client.post(&path, None).await?;
    Ok(0)
}

/// `wait`: prints the exit codes.
pub(crate) async fn wait(client: &Client, args: Names) -> Outcome {
    for_each(&args.names, async |name| {
        let answer = client.post(&format!("/containers/{}/wait", escape(name)), None).await?;
        Ok(answer["StatusCode"].as_i64().unwrap_or_default().to_string())
    })
    .await
}

async fn start_all(client: &Client, names: &[String]) -> Outcome {
    let starts = names
        .iter()
        .map(async |name| client.post(&format!("/containers/{}/start", escape(name)), None).await);
    let mut failed = Vec::new();
    for (name, result) in names.iter().zip(futures_util::future::join_all(starts).await) {
        match result {
            Ok(_) => say(name),
            Err(error) => {
                complain(&error.message);
                failed.push(name.as_str());
            }
        }
    }
    if failed.is_empty() {
        return Ok(0);
    }
    Err(CliError::new(format!("Error: failed to start containers: {}", failed.join(", "))))
}

/// `start`.
pub(crate) async fn start(client: &Arc<Client>, args: StartArgs) -> Outcome {
    if !args.attach && !args.interactive {
        return start_all(client, &args.names).await;
    }
    let [container] = args.names.as_slice() else {
        return Err(CliError::new("you cannot start and attach multiple containers at once"));
    };
    let name = escape(container);
    let found = client.get(&format!("/containers/{name}/json")).await?;
    let truth = |value: &Value| *value == Value::Bool(true);
    let tty = truth(&found["Config"]["Tty"]);
    let stdin = args.interactive && truth(&found["Config"]["OpenStdin"]);
    let wanted = super::preferences::detach_keys(args.detach_keys.as_deref());
    let keys = terminal::detach_keys(wanted.as_deref())?;
    let told = terminal::detach_query(wanted.as_deref());
    let flags = format!("stream=1&stdout=1&stderr=1&stdin={}{told}", u8::from(stdin));
    let stream = client.hijack(&format!("/containers/{name}/attach?{flags}"), None).await?;
    let removed = truth(&found["HostConfig"]["AutoRemove"]);
    let condition = if removed { "removed" } else { "next-exit" };
    let path = format!("/containers/{name}/wait?condition={condition}");
    let wait = client.checked(Method::POST, &path, None).await?;
    let _proxy = if tty { None } else { Some(SignalProxy::start(client, container)?) };
    client.post(&format!("/containers/{name}/start"), None).await?;
    let session = Session { tty, stdin, keys, resize: format!("/containers/{name}/resize") };
    match session.run(client, stream).await? {
        End::Detached => Ok(0),
        End::Closed => run::exit_code(wait).await,
    }
}

/// `top`.
pub(crate) async fn top(client: &Client, args: TopArgs) -> Outcome {
    let options = args.options.join(" ");
    let path = format!("/containers/{}/top?ps_args={}", escape(&args.container), escape(&options));
    let answer = client.get(&path).await?;
    let words = |list: &Value| -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.map(|word| word.as_str().unwrap_or_default().to_owned()).collect()
    };
    let titles = words(&answer["Titles"]);
    let mut table = Table::new(&titles.iter().map(String::as_str).collect::<Vec<_>>());
    for process in answer["Processes"].as_array().into_iter().flatten() {
        table.row(words(process));
    }
    say(&table.render());
    Ok(0)
}

async fn prune(client: &Client, args: PruneArgs) -> Outcome {
    let question = "WARNING! This will remove all stopped containers.\n\
                    Are you sure you want to continue?";
    if !args.force && !confirmed(question) {
        return Ok(0);
    }
    let answer =
        client.post(&format!("/containers/prune?{}", filters(&args.filter)?), None).await?;
    let deleted = answer["ContainersDeleted"].as_array().cloned().unwrap_or_default();
    if !deleted.is_empty() {
        say("Deleted Containers:");
        for id in &deleted {
            say(id.as_str().unwrap_or_default());
        }
        say("");
    }
    let space = answer["SpaceReclaimed"].as_i64().unwrap_or_default();
    say(&format!("Total reclaimed space: {}", units::human_size(space)));
    Ok(0)
}
