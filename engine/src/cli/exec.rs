//! `exec`.

use serde_json::{Value, json};

use super::attach::{End, Session};
use super::client::{Client, escape};
use super::commands::ExecArgs;
use super::error::CliError;
use super::{Outcome, create, say, terminal};

/// `exec`: runs a command in a running container and ends with its code.
pub(crate) async fn exec(client: &Client, args: ExecArgs) -> Outcome {
    let wanted = super::preferences::detach_keys(args.detach_keys.as_deref());
    let keys = terminal::detach_keys(wanted.as_deref())?;
    let (container, command) = args.rest.split_first().ok_or_else(missing)?;
    if container.starts_with('-') {
        return Err(CliError::new(format!("unknown flag: {container}")).with_code(125));
    }
    if command.is_empty() {
        return Err(missing());
    }
    let attach = !args.detach;
    let stdin = attach && args.interactive;
    if args.tty && stdin && !terminal::is_terminal() {
        return Err(CliError::new("the input device is not a TTY"));
    }
    let size = if args.tty { terminal::size() } else { None };
    let console = size.map(|(rows, columns)| json!([rows, columns]));
    let body = json!({
        "Cmd": command, "Env": create::all_environment(&args.env_file, &args.env)?,
        "User": args.user, "WorkingDir": args.workdir, "Privileged": args.privileged,
        "Tty": args.tty, "AttachStdin": stdin, "AttachStdout": attach, "AttachStderr": attach,
        "ConsoleSize": console, "DetachKeys": args.detach_keys.as_deref().unwrap_or_default(),
    });
    let path = format!("/containers/{}/exec", escape(container));
    let created = client.post(&path, Some(&body)).await?;
    let id = created["Id"].as_str().unwrap_or_default();
    let start = json!({"Detach": args.detach, "Tty": args.tty, "ConsoleSize": console});
    let path = format!("/exec/{id}/start");
    if args.detach {
        client.post(&path, Some(&start)).await?;
        return Ok(0);
    }
    let stream = client.hijack(&path, Some(&start)).await.map_err(|mut error| {
        let text = &error.message;
        if text.contains("executable file not found") || text.contains("no such file") {
            error.code = 127;
        } else if text.contains("permission denied") {
            error.code = 126;
        }
        error
    })?;
    let session = Session { tty: args.tty, stdin, keys, resize: format!("/exec/{id}/resize") };
    if session.run(client, stream).await? == End::Detached {
        say("read escape sequence");
        return Ok(0);
    }
    let ended = client.get(&format!("/exec/{id}/json")).await?;
    let code = match &ended["ExitCode"] {
        Value::Number(code) => code.as_i64().unwrap_or_default(),
        _ => 0,
    };
    Ok(u8::try_from(code & 0xff).unwrap_or(1))
}

fn missing() -> CliError {
    CliError::new(
        "'rnet exec' requires at least 2 arguments\n\n\
         Usage:  rnet exec [OPTIONS] CONTAINER COMMAND [ARG...]\n\n\
         See 'rnet exec --help' for more information",
    )
}
