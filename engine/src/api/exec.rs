//! `/exec`: processes in running containers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::json;

use super::body::{self, Response};
use super::containers::blocking;
use super::request::Request;
use super::{Api, hijack};
use crate::container::{ExecSpec, ExecStart, detach_bytes};
use engine_error::{Error, Result};

/// Body of `POST /containers/{id}/exec`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "Docker's fields")]
struct Create {
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    console_size: Vec<u16>,
    detach_keys: String,
    tty: bool,
    env: Vec<String>,
    cmd: Vec<String>,
    privileged: bool,
    user: String,
    working_dir: String,
}

/// Body of `POST /exec/{id}/start`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Start {
    detach: bool,
    tty: bool,
    console_size: Vec<u16>,
}

/// The size of a terminal, if one was told.
fn size_of(sides: &[u16]) -> Option<(u16, u16)> {
    match *sides {
        [rows, columns, ..] if (rows, columns) != (0, 0) => Some((rows, columns)),
        _ => None,
    }
}

/// `POST /containers/{id}/exec`.
pub async fn create(api: &Api, key: &str, request: Request) -> Result<Response> {
    let create: Create = request.json().await?;
    if create.cmd.is_empty() {
        return Err(Error::invalid("No exec command specified"));
    }
    api.engine.containers.settle(key).await?;
    let spec = ExecSpec {
        command: create.cmd,
        env: create.env,
        user: create.user,
        working_dir: create.working_dir,
        tty: create.tty,
        privileged: create.privileged,
        stdin: create.attach_stdin,
        stdout: create.attach_stdout,
        stderr: create.attach_stderr,
        detach_keys: Some(create.detach_keys).filter(|keys| !keys.is_empty()),
        console_size: size_of(&create.console_size),
    };
    if !spec.user.is_empty() {
        let (engine, key, user) = (api.engine.clone(), key.to_owned(), spec.user.clone());
        blocking(move || engine.containers.exec_user(&key, &user)).await?;
    }
    let id = api.engine.containers.exec_create(key, spec)?;
    Ok(body::json_with(StatusCode::CREATED, &json!({"Id": id})))
}

/// `POST /exec/{id}/start`.
pub async fn start(api: &Api, id: &str, mut request: Request) -> Result<Response> {
    let (upgrade, version) = (request.take_upgrade(), request.version);
    let start: Start = request.json().await?;
    let console_size = size_of(&start.console_size);
    let start = ExecStart { detach: start.detach, raw: start.tty, console_size };
    match api.engine.containers.exec_start(id, start).await? {
        Some(attached) => Ok(hijack::respond(attached, upgrade, version)),
        None => Ok(body::empty(StatusCode::OK)),
    }
}

/// `POST /exec/{id}/resize`.
pub async fn resize(api: &Api, id: &str, request: &Request) -> Result<Response> {
    let (rows, columns) = super::containers::size(request)?;
    api.engine.containers.exec_resize(id, rows, columns).await?;
    Ok(body::empty(StatusCode::OK))
}

/// `GET /exec/{id}/json`.
pub fn inspect(api: &Api, id: &str) -> Result<Response> {
    let exec = api.engine.containers.exec(id)?;
    let spec = &exec.spec;
    let (entrypoint, arguments) = spec.command.split_first().map_or(("", &[][..]), |(e, a)| (e, a));
    let mut told = json!({
        "ID": exec.id,
        "Running": exec.running,
        "ExitCode": exec.exit_code,
        "ProcessConfig": {
            "tty": spec.tty,
            "entrypoint": entrypoint,
            "arguments": arguments,
            "privileged": spec.privileged,
        },
        "OpenStdin": spec.stdin,
        "OpenStderr": spec.stderr,
        "OpenStdout": spec.stdout,
        "CanRemove": false,
        "ContainerID": exec.container,
        "DetachKeys": STANDARD.encode(detach_bytes(spec.detach_keys.as_deref())),
        "Pid": exec.pid,
    });
    if !spec.user.is_empty() {
        told["ProcessConfig"]["user"] = json!(spec.user);
    }
    Ok(body::json(&told))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::go;
    use crate::api::wire::go::tests::check_null_is_absent;

    #[test]
    fn null_is_the_same_as_nothing_in_any_field_of_a_request() {
        check_null_is_absent(
            &json!({
                "AttachStdin": true, "AttachStdout": true, "AttachStderr": true, "Tty": true,
                "ConsoleSize": [24, 80], "DetachKeys": "ctrl-a", "Env": ["A=1"], "Cmd": ["sh"],
                "Privileged": true, "User": "1", "WorkingDir": "/",
            }),
            go::from_value::<Create>,
        );
        let start = json!({"Detach": true, "Tty": true, "ConsoleSize": [24, 80]});
        check_null_is_absent(&start, go::from_value::<Start>);
    }
}
