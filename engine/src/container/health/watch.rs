//! Runs the health checks of containers, and tells what has become of a container by them.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use chrono::Utc;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::super::live::Live;
use super::super::{Container, Containers, ExecSpec, ExecStart, Status};
use super::{HealthStatus, Healthcheck, Outcome, TIMEOUT, span};
use engine_error::Result;

/// How long to wait before a check that is to end is killed again.
const AGAIN: Duration = Duration::from_millis(50);
/// How much of a check's output is kept, in bytes.
const OUTPUT: usize = 4096;
/// The exit code of a check that could not be run, or was not done in time.
const NOT_DONE: i32 = -1;

impl Containers {
    /// Checks a running container now and then, until it ends.
    pub(crate) fn watch_health(&self, live: &Arc<Live>) {
        let container = live.get();
        let Some(check) = container.resolved.healthcheck.clone() else { return };
        let Some(command) = check.command(&container.resolved.shell) else { return };
        live.change(|container| {
            container.state.health.get_or_insert_default();
        });
        let mut progress = live.progress.subscribe();
        let ends = progress.borrow().ends;
        let checks = check_on(self.weak(), live.clone(), check, command);
        self.tasks.spawn(async move {
            tokio::select! {
                _ = progress.wait_for(|now| now.ends != ends || now.removed) => {}
                () = checks => {}
            }
        });
    }

    /// Runs a check once.
    async fn check_health(
        &self,
        container: &Container,
        command: &[String],
        limit: Duration,
    ) -> Outcome {
        let start = Utc::now();
        let spec = ExecSpec {
            command: command.to_vec(),
            stdout: true,
            stderr: true,
            ..ExecSpec::default()
        };
        let (exit_code, output) = match self.exec_create(&container.id, spec) {
            Err(error) => (NOT_DONE, error.chain()),
            Ok(id) => self.run_check_within(&id, limit).await,
        };
        Outcome { start, end: Utc::now(), exit_code, output }
    }

    /// Runs a prepared check; one that takes too long is over when this returns.
    async fn run_check_within(&self, id: &str, limit: Duration) -> (i32, String) {
        let mut run = pin!(self.run_check(id));
        match tokio::time::timeout(limit, &mut run).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => (NOT_DONE, error.chain()),
            Err(_) => {
                // It cannot be killed while the runtime is still starting it.
                let ended = loop {
                    self.kill_exec(id).await;
                    if let Ok(ended) = tokio::time::timeout(AGAIN, &mut run).await {
                        break ended;
                    }
                };
                let said = format!("Health check exceeded timeout ({})", span_in_words(limit));
                match ended {
                    Ok((_, output)) if !output.is_empty() => {
                        (NOT_DONE, format!("{said}: {output}"))
                    }
                    _ => (NOT_DONE, said),
                }
            }
        }
    }

    async fn run_check(&self, id: &str) -> Result<(i32, String)> {
        let output = match self.exec_start(id, ExecStart::default()).await? {
            Some(attached) => read_output(attached.stream).await,
            None => String::new(),
        };
        Ok((self.exec(id)?.exit_code.unwrap_or(NOT_DONE), output))
    }
}

/// Runs a container's checks one after another.
async fn check_on(
    engine: Weak<Containers>,
    live: Arc<Live>,
    check: Healthcheck,
    command: Vec<String>,
) {
    let limit = span(check.timeout, TIMEOUT);
    loop {
        let state = live.get().state.clone();
        let started = state.started.unwrap_or_else(Utc::now);
        let status = state.health.map_or_else(HealthStatus::default, |health| health.status);
        tokio::time::sleep(check.pause(status, Utc::now() - started)).await;
        let container = live.get();
        if container.state.status == Status::Paused {
            continue;
        }
        let Some(engine) = engine.upgrade() else { return };
        let outcome = engine.check_health(&container, &command, limit).await;
        let (container, news) = live.change(|container| {
            container.state.health.get_or_insert_default().take_in(outcome, &check, started)
        });
        if let Some(status) = news {
            engine.tell(&container, &format!("health_status: {}", status.as_str()), &[]);
            // Ports may wait for it.
            live.progress.send_modify(|_| ());
        }
    }
}

/// The beginning of what a check prints, without the frames of its streams.
async fn read_output(mut stream: UnixStream) -> String {
    let mut output = Vec::new();
    let mut header = [0; 8];
    while stream.read_exact(&mut header).await.is_ok() {
        let [.., a, b, c, d] = header;
        let mut body = (&mut stream).take(u32::from_be_bytes([a, b, c, d]).into());
        let mut part = Vec::new();
        if body.read_to_end(&mut part).await.is_err() {
            break;
        }
        part.truncate(OUTPUT - output.len().min(OUTPUT));
        output.extend(part);
    }
    String::from_utf8_lossy(&output).into_owned()
}

/// A time as Go's `Duration` says it: `50ms`, `1.5s`, `1m30s`, `2h0m0s`.
fn span_in_words(time: Duration) -> String {
    let nanos = time.as_nanos();
    let seconds = |nanos| decimal(nanos, 1_000_000_000);
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(nanos, 1_000_000)),
        1_000_000_000..60_000_000_000 => format!("{}s", seconds(nanos)),
        _ => {
            let (minutes, rest) = (time.as_secs() / 60, seconds(nanos % 60_000_000_000));
            match minutes / 60 {
                0 => format!("{minutes}m{rest}s"),
                hours => format!("{hours}h{}m{rest}s", minutes % 60),
            }
        }
    }
}

/// As many of a unit as there are, with the fraction that is left.
fn decimal(nanos: u128, unit: u128) -> String {
    let digits = unit.ilog10() as usize;
    let fraction = format!("{:0digits$}", nanos % unit);
    match fraction.trim_end_matches('0') {
        "" => (nanos / unit).to_string(),
        fraction => format!("{}.{fraction}", nanos / unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_clients_know_them() {
        let micros = |micros| span_in_words(Duration::from_micros(micros));
        let all =
            [0, 7, 50_000, 1_500, 30_000_000, 1_500_000, 90_000_000, 60_500_000, 7_200_000_000];
        let words = all.map(micros);
        let known = ["0s", "7µs", "50ms", "1.5ms", "30s", "1.5s", "1m30s", "1m0.5s", "2h0m0s"];
        assert_eq!(words, known);
    }
}
