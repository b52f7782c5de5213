//! `GET /containers/{id}/stats`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Api;
use super::body::{self, Response};
use super::containers::blocking;
use super::request::Request;
use super::version::Version;
use super::waiting::turn;
use super::wire::stats::{self as wire, Stats};
use crate::container::stats::Watched;
use crate::container::{Container, Sample, Status};
use engine_error::{Error, Result};

/// How far two samples are apart.
const PERIOD: Duration = Duration::from_secs(1);

/// What a container uses, once or every second until it is removed.
pub async fn stream(api: &Arc<Api>, key: &str, request: &Request) -> Result<Response> {
    let streams = request.query.flag_or("stream", true);
    let at_once = request.version >= Version(41) && request.query.flag("one-shot");
    if streams && at_once {
        return Err(Error::invalid("cannot have stream=true and one-shot=true"));
    }
    let watched = api.engine.containers.watch_usage(key)?;
    if streams {
        return Ok(body::stream(
            "application/json",
            samples(api.clone(), watched, request.left.clone()),
        ));
    }
    let container = watched.container();
    if !container.state.has_process() || container.state.status == Status::Restarting {
        return Ok(body::json(&wire::stats(&container, None, None)));
    }
    let first = sample(api, &request.left, &container).await?;
    if at_once {
        return Ok(body::json(&wire::nameless(first.as_ref(), None)));
    }
    tokio::time::sleep(PERIOD).await;
    let container = watched.container();
    let second = sample(api, &request.left, &container).await?;
    let first = first.filter(|_| second.is_some());
    Ok(body::json(&wire::stats(&container, second.as_ref(), first.as_ref())))
}

/// What is known between two samples of one client.
struct Ticks {
    api: Arc<Api>,
    left: CancellationToken,
    stop: watch::Receiver<bool>,
    watched: Watched,
    before: Option<Sample>,
    next: Instant,
}

fn samples(
    api: Arc<Api>,
    watched: Watched,
    left: CancellationToken,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    let stop = api.stop.subscribe();
    let ticks = Ticks { api, left, stop, watched, before: None, next: Instant::now() };
    stream::unfold(ticks, |mut ticks| async move {
        let stats = ticks.next().await?;
        let mut line = serde_json::to_vec(&stats).ok()?;
        line.push(b'\n');
        Some((Ok(Bytes::from(line)), ticks))
    })
}

impl Ticks {
    /// The next answer; none once the container is gone, or the daemon ends.
    async fn next(&mut self) -> Option<Stats> {
        tokio::select! {
            () = sleep_until(self.next) => {}
            () = self.watched.removed() => return None,
            _ = self.stop.wait_for(|stop| *stop) => return None,
        }
        // A client that reads slowly gets fewer, not all of them late.
        self.next = Instant::now() + PERIOD;
        let container = self.watched.container();
        let now = sample(&self.api, &self.left, &container).await.ok()?;
        if self.watched.is_removed() {
            return None;
        }
        let before = self.before.as_ref().filter(|_| now.is_some());
        let stats = wire::stats(&container, now.as_ref(), before);
        self.before = now;
        Some(stats)
    }
}

/// A sample, taken where reading holds nobody up, a few at a time however many are watched.
async fn sample(
    api: &Arc<Api>,
    left: &CancellationToken,
    container: &Arc<Container>,
) -> Result<Option<Sample>> {
    if !container.state.has_process() {
        return Ok(None);
    }
    let permit = turn(&api.samples, left).await?;
    let (api, container) = (api.clone(), container.clone());
    blocking(move || {
        let _permit = permit;
        Ok(api.engine.containers.sample(&container))
    })
    .await
}
