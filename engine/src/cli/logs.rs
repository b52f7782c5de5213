//! `logs`.

use std::fmt::Write as _;

use http_body_util::BodyExt;
use hyper::Method;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio_util::io::StreamReader;

use super::attach::demultiplex;
use super::client::{Client, escape};
use super::commands::LogsArgs;
use super::{Outcome, units};

/// `logs`: standard output and error of the container go to ours.
pub(crate) async fn logs(client: &Client, args: LogsArgs) -> Outcome {
    let name = escape(&args.container);
    let found = client.get(&format!("/containers/{name}/json")).await?;
    let tty = found["Config"]["Tty"] == Value::Bool(true);
    let mut query = format!("stdout=1&stderr=1&tail={}", escape(&args.tail));
    for (key, set) in
        [("follow", args.follow), ("timestamps", args.timestamps), ("details", args.details)]
    {
        if set {
            let _ = write!(query, "&{key}=1");
        }
    }
    for (key, value) in [("since", &args.since), ("until", &args.until)] {
        if let Some(value) = value {
            let _ = write!(query, "&{key}={}", units::timestamp(value)?);
        }
    }
    let path = format!("/containers/{name}/logs?{query}");
    let response = client.checked(Method::GET, &path, None).await?;
    let data = response.into_body().into_data_stream();
    let data = futures_util::TryStreamExt::map_err(data, std::io::Error::other);
    let mut reader = StreamReader::new(data);
    if tty {
        tokio::io::copy(&mut reader, &mut tokio::io::stdout()).await?;
        tokio::io::stdout().flush().await?;
    } else {
        demultiplex(&mut reader).await?;
    }
    Ok(0)
}
