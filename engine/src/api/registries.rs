//! What is done at registries: logging in, asking about images, searching, pushing.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::body::{self, Response};
use super::filters::Filters;
use super::request::Request;
use super::transfer::streamed;
use super::waiting::wanted;
use super::wire::{image as wire, registry};
use super::{Api, images};
use engine_error::{Error, Result};
use image::{Platform, Progress, PushRequest, SearchResult};

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
    streamed(lines, |line: Progress| wire::progress(&line), end, &request.left).await
}

/// `POST /auth`: whether a registry takes credentials.
pub async fn login(api: &Api, request: Request) -> Result<Response> {
    let left = request.left.clone();
    let config: registry::AuthConfig = request.json().await?;
    let server = config.serveraddress.clone();
    let auth = config.credentials().unwrap_or_default();
    let token = wanted(&left, api.engine.images.login(&server, &auth)).await??;
    Ok(body::json(&json!({"Status": "Login Succeeded", "IdentityToken": token})))
}

/// `GET /distribution/{name}/json`.
pub async fn describe(api: &Api, name: &str, request: &Request) -> Result<Response> {
    let auth = registry::auth(request);
    let described = wanted(&request.left, api.engine.images.describe(name, auth)).await??;
    Ok(body::json(&registry::described(&described)))
}

/// `GET /images/search`.
pub async fn search(api: &Api, request: &Request) -> Result<Response> {
    let filters = Filters::of(&request.query, &["is-automated", "is-official", "stars"])?;
    let (official, stars) = (official(&filters)?, stars(&filters)?);
    let limit = match request.query.text("limit") {
        None | Some("0") => 25,
        Some(text) => text.parse().map_err(|_| {
            let why = format!("strconv.Atoi: parsing {text:?}: invalid syntax");
            Error::invalid(format!("invalid limit specified: {why}"))
        })?,
    };
    let term = request.query.text("term").unwrap_or_default();
    let auth = registry::auth(request);
    let found = api.engine.images.search_registry(term, limit, auth.as_ref());
    let found = wanted(&request.left, found).await??;
    // Nothing is built automatically any more.
    let automated = filters.flag("is-automated")? == Some(true);
    let fits = |one: &&SearchResult| {
        !automated
            && official.is_none_or(|wanted| one.is_official == wanted)
            && one.star_count >= stars
    };
    Ok(body::json(&found.iter().filter(fits).map(registry::found).collect::<Vec<_>>()))
}

fn official(filters: &Filters) -> Result<Option<bool>> {
    filters.flag("is-official").map_err(|_| {
        let values = filters.values("is-official").join(" ");
        Error::invalid(format!("invalid filter 'is-official=[{values}]'"))
    })
}

/// As many as the highest of those named.
fn stars(filters: &Filters) -> Result<i64> {
    let parse = |text: &String| {
        text.parse::<i64>().map_err(|_| {
            let why = format!("strconv.Atoi: parsing {text:?}: invalid syntax");
            Error::invalid(format!("invalid filter 'stars={text}': {why}"))
        })
    };
    let stars = filters.values("stars").iter().map(parse).collect::<Result<Vec<_>>>()?;
    Ok(stars.into_iter().max().unwrap_or(0))
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
