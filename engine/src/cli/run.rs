//! `run` and `create`.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Response};
use serde_json::Value;

use super::attach::{End, Session, SignalProxy};
use super::client::{Client, collect, escape};
use super::commands::CreateArgs;
use super::commands::{CreateCommand, RunArgs};
use super::error::CliError;
use super::{Outcome, complain, preferences, say, terminal, transfer};

/// `create`: prints the id.
pub(crate) async fn create(client: &Client, args: CreateCommand) -> Outcome {
    args.create.rare.check()?;
    let mut body = args.create.body(false).map_err(|error| misused(error, "create"))?;
    add_api_socket(client, &args.create, &mut body)?;
    add_proxies(client, &mut body);
    let id = create_container(client, &args.create, &body).await?;
    say(&id);
    Ok(0)
}

/// `run`.
pub(crate) async fn run(client: &Arc<Client>, args: RunArgs) -> Outcome {
    if args.detach && !args.create.attach.is_empty() {
        return Err(failed(CliError::new(
            "conflicting options: cannot specify both --attach and --detach",
        )));
    }
    let wanted = preferences::detach_keys(args.detach_keys.as_deref());
    let keys = terminal::detach_keys(wanted.as_deref())?;
    args.create.rare.check()?;
    let mut body = args.create.body(args.detach).map_err(|error| misused(error, "run"))?;
    add_api_socket(client, &args.create, &mut body)?;
    add_proxies(client, &mut body);
    let (stdin, stdout, stderr) = args.create.streams(args.detach)?;
    let tty = args.create.tty;
    if tty && stdin && !terminal::is_terminal() {
        return Err(CliError::new("the input device is not a TTY"));
    }
    let id = create_container(client, &args.create, &body).await.map_err(failed)?;
    if args.detach {
        say(&id);
        client.post(&format!("/containers/{id}/start"), None).await.map_err(failed)?;
        return Ok(0);
    }
    let stream = if stdin || stdout || stderr {
        let (stdin, stdout, stderr) = (u8::from(stdin), u8::from(stdout), u8::from(stderr));
        let told = terminal::detach_query(wanted.as_deref());
        let path = format!(
            "/containers/{id}/attach?stream=1&stdin={stdin}&stdout={stdout}&stderr={stderr}{told}"
        );
        Some(client.hijack(&path, None).await.map_err(failed)?)
    } else {
        None
    };
    let condition = if args.create.rm { "removed" } else { "next-exit" };
    let wait = client
        .checked(Method::POST, &format!("/containers/{id}/wait?condition={condition}"), None)
        .await
        .map_err(failed)?;
    let _proxy = if args.sig_proxy && !tty { Some(SignalProxy::start(client, &id)?) } else { None };
    client.post(&format!("/containers/{id}/start"), None).await.map_err(failed)?;
    if let Some(stream) = stream {
        let session = Session { tty, stdin, keys, resize: format!("/containers/{id}/resize") };
        if session.run(client, stream).await? == End::Detached {
            return Ok(0);
        }
    }
    exit_code(wait).await
}

/// The proxies that a user has for what runs in containers.
fn add_proxies(client: &Client, body: &mut Value) {
    let list = body["Env"].as_array().into_iter().flatten();
    let given: Vec<_> = list.filter_map(|entry| Some(entry.as_str()?.to_owned())).collect();
    let added = preferences::proxies(client.host(), &given);
    if !added.is_empty() {
        body["Env"] = [given, added].concat().into();
    }
}

/// The socket of the API among the mounts, if that is wanted.
fn add_api_socket(client: &Client, args: &CreateArgs, body: &mut Value) -> Result<(), CliError> {
    let mounts = body["HostConfig"]["Mounts"].as_array_mut();
    if let (Some(mounts), Some(socket)) = (mounts, args.api_socket(client.host())?) {
        mounts.push(socket);
    }
    Ok(())
}

/// An error in the flags of a command: nothing was asked of the daemon.
fn misused(mut error: CliError, command: &str) -> CliError {
    let text = &error.message;
    error.message = format!("rnet: {text}\n\nRun 'rnet {command} --help' for more information");
    error.code = 125;
    error
}

/// An error of `run`, with Docker's exit codes: the client tells a command that is
/// missing (127) from one that cannot be executed (126) by the text.
fn failed(mut error: CliError) -> CliError {
    if error.message.is_empty() {
        return error;
    }
    let text = &error.message;
    let has = |needle: &str| text.contains(needle);
    error.code = if has("executable file not found") || has("no such file or directory") {
        127
    } else if has("permission denied") && error.status.is_some() || has("is a directory") {
        126
    } else {
        125
    };
    error.message = format!("rnet: {text}\n\nRun 'rnet run --help' for more information");
    error
}

/// Refuses what would only be found wrong when the container is there.
fn check_before(args: &CreateArgs) -> Result<(), CliError> {
    if !matches!(args.pull.as_str(), "always" | "missing" | "never") {
        return Err(CliError::new(format!(
            "invalid pull option: '{}': must be one of \"always\", \"missing\" or \"never\"",
            args.pull
        )));
    }
    match &args.cidfile {
        Some(path) if path.exists() => Err(CliError::new(format!(
            "container ID file found, make sure the other container isn't running or delete {}",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// Creates the container; pulls its image if that is missing.
async fn create_container(
    client: &Client,
    args: &CreateArgs,
    body: &Value,
) -> Result<String, CliError> {
    let image = args.image()?;
    check_before(args)?;
    if args.pull == "always" {
        transfer::pull_image(client, image, args.platform.as_deref(), args.quiet, true).await?;
    }
    let mut query = Vec::new();
    query.extend(args.name.as_deref().map(|name| format!("name={}", escape(name))));
    query.extend(args.platform.as_deref().map(|platform| format!("platform={}", escape(platform))));
    let path = format!("/containers/create?{}", query.join("&"));
    let created = match client.post(&path, Some(body)).await {
        Err(error) if missing_image(&error) && args.pull == "missing" => {
            complain(&format!("Unable to find image '{}' locally", transfer::with_tag(image)));
            transfer::pull_image(client, image, args.platform.as_deref(), args.quiet, true).await?;
            client.post(&path, Some(body)).await?
        }
        other => other?,
    };
    for warning in created["Warnings"].as_array().into_iter().flatten() {
        complain(&format!("WARNING: {}", warning.as_str().unwrap_or_default()));
    }
    let id = created["Id"].as_str().unwrap_or_default().to_owned();
    if let Some(path) = &args.cidfile {
        use std::io::Write;
        let file =
            std::fs::File::create_new(path).and_then(|mut file| file.write_all(id.as_bytes()));
        file.map_err(|error| CliError::new(format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(id)
}

fn missing_image(error: &CliError) -> bool {
    error.status == Some(404) && error.message.contains("No such image")
}

/// The exit code that a wait ends with.
pub(crate) async fn exit_code(wait: Response<Incoming>) -> Outcome {
    let bytes = collect(wait).await?;
    let answer: Value = serde_json::from_slice(&bytes).map_err(|_| {
        CliError::new("the daemon went away before the container ended").with_code(125)
    })?;
    if let Some(message) = answer["Error"]["Message"].as_str().filter(|text| !text.is_empty()) {
        return Err(CliError::new(message).with_code(125));
    }
    let code = answer["StatusCode"].as_i64().unwrap_or_default();
    Ok(u8::try_from(code & 0xff).unwrap_or(125))
}
