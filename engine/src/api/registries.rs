//! What is done at registries: logging in, pushing.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::body::{self, Response};
use super::request::Request;
use super::transfer::streamed;
use super::wire::{image as wire, registry};
use super::{Api, images};
use engine_error::{Error, Result};
use image::{Platform, Progress, PushRequest};

/// `POST /images/{name}/push`.
pub async fn push(api: &Arc<Api>, name: &str, request: &Request) -> Result<Response> {
    let wanted = PushRequest {
        reference: name.to_owned(),
        tag: request.query.text("tag").map(str::to_owned),
        platform: request.query.text("platform").map(platform).transpose()?,
        auth: registry::auth(request),
    };
    let (sender, lines) = mpsc::channel(64);
    let engine = api.engine.clone();
    // Dropping the handle, because the client left, ends the transfer.
    let pushing = async move { engine.images.push(wanted, sender).await };
    let pushing = AbortOnDropHandle::new(tokio::spawn(pushing));
    let api = api.clone();
    let end = async move {
        let fault = |error| Error::internal("the push ended in a fault", error);
        for pushed in pushing.await.map_err(fault)?? {
            let name = pushed.reference.familiar_name();
            images::publish(&api, "push", &pushed.reference.to_string(), &name);
        }
        Ok(())
    };
    streamed(lines, |line: Progress| wire::progress(&line), end).await
}

/// `POST /auth`: whether a registry takes credentials.
pub async fn login(api: &Api, request: Request) -> Result<Response> {
    let config: registry::AuthConfig = request.json().await?;
    let server = config.serveraddress.clone();
    let auth = config.credentials().unwrap_or_default();
    let token = api.engine.images.login(&server, &auth).await?;
    Ok(body::json(&json!({"Status": "Login Succeeded", "IdentityToken": token})))
}

/// A platform as JSON: `{"os":"linux","architecture":"arm","variant":"v7"}`.
fn platform(text: &str) -> Result<Platform> {
    let wrong = |error: &dyn std::fmt::Display| {
        Error::invalid(format!("failed to parse platform: {error}"))
    };
    let value: Value = serde_json::from_str(text).map_err(|error| wrong(&error))?;
    let part = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let platform =
        Platform { os: part("os"), architecture: part("architecture"), variant: part("variant") };
    if platform.os.is_empty() || platform.architecture.is_empty() {
        return Err(wrong(&"both OS and Architecture must be provided"));
    }
    Ok(platform)
}
