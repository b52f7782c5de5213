//! `GET /metrics`: figures of the daemon and its host in Prometheus' text form, on an address of
//! their own. It tells nothing that is not a figure, and takes nothing.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::core::Engine;
use crate::core::figures::Figures;

/// The longest request that is read.
const LONGEST: usize = 8 << 10;
/// How long a client may take to ask and to read.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many clients are served at the same time.
const CLIENTS: usize = 8;

/// Listens where readers of figures come.
pub(super) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| anyhow::anyhow!("cannot listen on {address} (--metrics-addr): {error}"))
}

/// Serves figures until the daemon ends.
pub(super) async fn serve(listener: TcpListener, engine: Arc<Engine>) {
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor is free, say: there will be one.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let engine = engine.clone();
        tokio::spawn(async move {
            let _place = place;
            match tokio::time::timeout(PATIENCE, answer(stream, engine)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a reader of figures went away"),
                Err(_) => tracing::debug!("a reader of figures is too slow"),
            }
        });
    }
}

async fn answer(mut stream: TcpStream, engine: Arc<Engine>) -> io::Result<()> {
    let head = read_head(&mut stream).await?;
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    let (status, text) = match (method, path) {
        ("GET" | "HEAD", "/metrics") => {
            let figures = tokio::task::spawn_blocking(move || engine.figures()).await;
            ("200 OK", text(&figures.map_err(io::Error::other)?))
        }
        ("GET" | "HEAD", _) => ("404 Not Found", "404 page not found\n".to_owned()),
        _ => ("405 Method Not Allowed", "Method Not Allowed\n".to_owned()),
    };
    let length = text.len();
    let body = if method == "HEAD" { "" } else { &text };
    let reply = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if head.len() >= LONGEST || stream.read_buf(&mut head).await? == 0 {
            return Err(io::Error::other("no whole request"));
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The figures, under the names that users of Docker know, and ours.
fn text(figures: &Figures) -> String {
    let mut out = String::new();
    let mut one = |name: &str, kind: &str, help: &str, lines: &[(String, u64)]| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in lines {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let bare = |value: u64| vec![(String::new(), value)];
    let states = figures.containers.iter();
    let states: Vec<_> =
        states.map(|(state, count)| (format!("{{state=\"{state}\"}}"), *count)).collect();
    one(
        "engine_daemon_container_states_containers",
        "gauge",
        "The count of containers in various states",
        &states,
    );
    let about = format!(
        "{{version=\"{}\",kernel=\"{}\",architecture=\"{}\",graphdriver=\"{}\"}}",
        env!("CARGO_PKG_VERSION"),
        figures.kernel,
        std::env::consts::ARCH,
        figures.storage_driver
    );
    let help = "The information related to the engine and the OS it is running on";
    one("engine_daemon_engine_info", "gauge", help, &[(about, 1)]);
    let help = "The number of cpus that the host system of the engine has";
    one("engine_daemon_engine_cpus_cpus", "gauge", help, &bare(figures.processors));
    let help = "The number of bytes of memory that the host system of the engine has";
    one("engine_daemon_engine_memory_bytes", "gauge", help, &bare(figures.memory));
    one(
        "engine_daemon_events_total",
        "counter",
        "The number of events logged",
        &bare(figures.events),
    );
    let drivers = figures.networks.iter();
    let drivers: Vec<_> =
        drivers.map(|(driver, count)| (format!("{{driver=\"{driver}\"}}"), *count)).collect();
    one("rnet_networks", "gauge", "The count of networks by driver", &drivers);
    one("rnet_sandboxes", "gauge", "The count of network sandboxes", &bare(figures.sandboxes));
    one("rnet_endpoints", "gauge", "The count of endpoints on networks", &bare(figures.endpoints));
    let help = "The count of published ports of running containers";
    one("rnet_published_ports", "gauge", help, &bare(figures.ports));
    let help = "The number of descriptors that the daemon has open";
    one("process_open_fds", "gauge", help, &bare(figures.descriptors));
    let help = "The bytes of memory that the daemon has";
    one("process_resident_memory_bytes", "gauge", help, &bare(figures.resident));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_in_the_text_form() {
        let figures = Figures {
            containers: [("running", 2), ("paused", 0)].into(),
            events: 7,
            networks: [("bridge".to_owned(), 1)].into(),
            ..Figures::default()
        };
        let text = text(&figures);
        let states = "# TYPE engine_daemon_container_states_containers gauge\n\
                      engine_daemon_container_states_containers{state=\"paused\"} 0\n\
                      engine_daemon_container_states_containers{state=\"running\"} 2\n";
        assert!(text.contains(states), "{text}");
        assert!(text.contains("\nengine_daemon_events_total 7\n"), "{text}");
        assert!(text.contains("\nrnet_networks{driver=\"bridge\"} 1\n"), "{text}");
    }
}
