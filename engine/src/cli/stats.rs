//! `stats`: what containers use, once or as a table that keeps itself up to date.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::client::{Client, documents, escape};
use super::commands::StatsArgs;
use super::error::CliError;
use super::template::{Format, short};
use super::{Outcome, complain, preferences, units};

/// How often the table is drawn.
const REFRESH: Duration = Duration::from_millis(500);

const COLUMNS: [(&str, &str); 8] = [
    ("CONTAINER ID", "ID"),
    ("NAME", "Name"),
    ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"),
    ("NET I/O", "NetIO"),
    ("BLOCK I/O", "BlockIO"),
    ("PIDS", "PIDs"),
];

/// `stats`.
pub(crate) async fn stats(client: &Arc<Client>, args: StatsArgs) -> Outcome {
    let wanted = preferences::format(args.format.clone(), "statsFormat");
    let format = Format::parse(wanted.as_deref());
    if args.no_stream {
        return once(client, &args, &format).await;
    }
    let watch = Arc::new(Watch::default());
    let screen = Screen { format, whole: args.no_trunc, ends: !args.names.is_empty() };
    if screen.ends {
        for name in args.names {
            watch.add(client, name);
        }
        return screen.draw(&watch).await;
    }
    // Before the list, so that none is missed between the two.
    let daemon = follow(client, &watch, args.all).await?;
    for name in names(client, &args).await? {
        watch.add(client, name);
    }
    tokio::select! {
        outcome = screen.draw(&watch) => outcome,
        // It ends with the daemon that tells who comes and goes.
        () = daemon => Ok(0),
    }
}

/// The containers that are asked for.
async fn names(client: &Client, args: &StatsArgs) -> Result<Vec<String>, CliError> {
    if !args.names.is_empty() {
        return Ok(args.names.clone());
    }
    let answer = client.get(&format!("/containers/json?all={}", u8::from(args.all))).await?;
    let all = answer.as_array().into_iter().flatten();
    Ok(all.filter_map(|container| Some(container["Id"].as_str()?.to_owned())).collect())
}

/// One look at each container, all at the same time.
async fn once(client: &Client, args: &StatsArgs, format: &Format) -> Outcome {
    let names = names(client, args).await?;
    let looks = names.iter().map(async |name| {
        client.get(&format!("/containers/{}/stats?stream=0", escape(name))).await
    });
    let (mut rows, mut code) = (Vec::new(), 0);
    for (name, look) in names.iter().zip(futures_util::future::join_all(looks).await) {
        match look {
            Ok(stats) => rows.push(row(name, &stats, args.no_trunc)),
            Err(error) => {
                complain(&error.message);
                code = 1;
            }
        }
    }
    if code == 0 || !rows.is_empty() {
        format.print(&COLUMNS, &[("CONTAINER", "Container")], &rows)?;
    }
    Ok(code)
}

/// What was last heard of each container, in the order in which they came.
#[derive(Default)]
struct Watch(Mutex<Vec<Watched>>);

/// A container that is listened to, as long as it is in the list.
struct Watched {
    name: String,
    heard: Heard,
    _listener: AbortOnDropHandle<()>,
}

/// What was heard of a container.
enum Heard {
    /// Nothing yet.
    Nothing,
    /// Its use.
    Stats(Box<Value>),
    /// That it cannot be watched.
    Failed(String),
}

impl Watch {
    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, name: &str, heard: Heard) {
        if let Some(watched) = self.list().iter_mut().find(|watched| watched.name == name) {
            watched.heard = heard;
        }
    }

    fn forget(&self, name: &str) {
        self.list().retain(|watched| watched.name != name);
    }

    /// Listens to a container's stream until it ends, unless it is listened to already.
    fn add(self: &Arc<Self>, client: &Arc<Client>, name: String) {
        let mut list = self.list();
        if list.iter().any(|watched| watched.name == name) {
            return;
        }
        let listener = tokio::spawn(self.clone().listen(client.clone(), name.clone()));
        list.push(Watched {
            name,
            heard: Heard::Nothing,
            _listener: AbortOnDropHandle::new(listener),
        });
    }

    async fn listen(self: Arc<Self>, client: Arc<Client>, name: String) {
        let path = format!("/containers/{}/stats?stream=1", escape(&name));
        let heard = match client.checked(Method::GET, &path, None).await {
            Ok(answer) => {
                documents(answer, |stats| {
                    self.note(&name, Heard::Stats(Box::new(stats)));
                    Ok(())
                })
                .await
            }
            Err(error) => Err(error),
        };
        match heard {
            Ok(()) => self.forget(&name),
            Err(error) => self.note(&name, Heard::Failed(error.message)),
        }
    }
}

/// Adds and takes away containers as they come and go, until the daemon tells no more.
async fn follow(
    client: &Arc<Client>,
    watch: &Arc<Watch>,
    all: bool,
) -> Result<impl Future<Output = ()> + use<>, CliError> {
    let wanted = json!({"type": ["container"], "event": ["create", "start", "die", "destroy"]});
    let path = format!("/events?filters={}", escape(&wanted.to_string()));
    let events = client.checked(Method::GET, &path, None).await?;
    let (client, watch) = (client.clone(), watch.clone());
    Ok(async move {
        let _ = documents(events, |event| {
            let id = event["Actor"]["ID"].as_str().unwrap_or_default().to_owned();
            match event["Action"].as_str() {
                Some("start") => watch.add(&client, id),
                Some("create") if all => watch.add(&client, id),
                Some("die") if !all => watch.forget(&id),
                Some("destroy") => watch.forget(&id),
                _ => {}
            }
            Ok(())
        })
        .await;
    })
}

/// The table on the terminal.
struct Screen {
    format: Format,
    whole: bool,
    /// Whether it ends with the containers that were named.
    ends: bool,
}

impl Screen {
    async fn draw(&self, watch: &Watch) -> Outcome {
        let mut out = std::io::stdout();
        let mut ticks = tokio::time::interval(REFRESH);
        // The whole screen is ours.
        let mut text = "\u{1b}[2J".to_owned();
        loop {
            ticks.tick().await;
            let (rows, failed) = self.rows(watch);
            if self.ends && rows.is_empty() {
                let code = u8::from(!failed.is_empty());
                for error in &failed {
                    complain(error);
                }
                return Ok(code);
            }
            let table = self.format.render(&COLUMNS, &[("CONTAINER", "Container")], &rows)?;
            text.push_str("\u{1b}[H");
            for line in table.unwrap_or_default().split('\n') {
                text.push_str(line);
                text.push_str(" \u{1b}[K\n");
            }
            text.push_str("\u{1b}[J");
            if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
                return Ok(0);
            }
            text.clear();
        }
    }

    /// The rows, and what failed.
    fn rows(&self, watch: &Watch) -> (Vec<Value>, Vec<String>) {
        let (mut rows, mut failed) = (Vec::new(), Vec::new());
        for Watched { name, heard, .. } in watch.list().iter() {
            match heard {
                Heard::Nothing => rows.push(unknown(name, self.whole)),
                Heard::Stats(stats) => rows.push(row(name, stats, self.whole)),
                Heard::Failed(error) => failed.push(error.clone()),
            }
        }
        (rows, failed)
    }
}

/// A container that nothing was heard of yet.
fn unknown(name: &str, whole: bool) -> Value {
    json!({
        "BlockIO": "--", "CPUPerc": "--", "Container": name, "ID": short(name, whole),
        "MemPerc": "--", "MemUsage": "-- / --", "Name": "--", "NetIO": "--", "PIDs": "--",
    })
}

/// What a template may name of one container.
fn row(container: &str, stats: &Value, whole: bool) -> Value {
    let memory = &stats["memory_stats"];
    let (used, limit) = (used(memory), number(&memory["limit"]));
    let share = if limit > 0.0 { used / limit * 100.0 } else { 0.0 };
    let [received, sent] = traffic(&stats["networks"]);
    let [read, written] = transfers(&stats["blkio_stats"]["io_service_bytes_recursive"]);
    let pair = |a: i64, b: i64| format!("{} / {}", units::human_size(a), units::human_size(b));
    json!({
        "BlockIO": pair(read, written),
        "CPUPerc": format!("{:.2}%", processors(stats)),
        "Container": container,
        "ID": short(stats["id"].as_str().unwrap_or(container), whole),
        "MemPerc": format!("{share:.2}%"),
        "MemUsage": format!("{} / {}", units::bytes_size(used), units::bytes_size(limit)),
        "Name": stats["name"].as_str().unwrap_or_default().trim_start_matches('/'),
        "NetIO": pair(received, sent),
        "PIDs": stats["pids_stats"]["current"].as_u64().unwrap_or_default().to_string(),
    })
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

/// How much of a processor was used between two samples, in percent.
fn processors(stats: &Value) -> f64 {
    let (now, before) = (&stats["cpu_stats"], &stats["precpu_stats"]);
    let between = |value: fn(&Value) -> &Value| number(value(now)) - number(value(before));
    let used = between(|cpu| &cpu["cpu_usage"]["total_usage"]);
    let passed = between(|cpu| &cpu["system_cpu_usage"]);
    let online = number(&now["online_cpus"]);
    if used > 0.0 && passed > 0.0 { used / passed * online * 100.0 } else { 0.0 }
}

/// Memory without what the kernel keeps of files and can give back.
fn used(memory: &Value) -> f64 {
    let usage = number(&memory["usage"]);
    let figures = &memory["stats"];
    let names = ["total_inactive_file", "inactive_file"];
    let kept = names.into_iter().find_map(|name| figures[name].as_f64());
    kept.filter(|kept| *kept < usage).map_or(usage, |kept| usage - kept)
}

/// Bytes that came in and went out by all interfaces.
fn traffic(networks: &Value) -> [i64; 2] {
    let all: BTreeMap<_, _> = networks.as_object().into_iter().flatten().collect();
    ["rx_bytes", "tx_bytes"]
        .map(|name| all.values().map(|one| one[name].as_i64().unwrap_or_default()).sum())
}

/// Bytes that were read and written.
fn transfers(entries: &Value) -> [i64; 2] {
    ["r", "w"].map(|first| {
        let all = entries.as_array().into_iter().flatten();
        let these = all.filter(|entry| {
            entry["op"].as_str().is_some_and(|op| op.to_ascii_lowercase().starts_with(first))
        });
        these.map(|entry| entry["value"].as_i64().unwrap_or_default()).sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_what_docker_shows() {
        let stats = json!({
            "name": "/web", "id": "ade0682a5fd66ed40c68", "pids_stats": {"current": 3},
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 200}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 2_174_976, "limit": 25_325_268_992_u64,
                             "stats": {"inactive_file": 1, "total_inactive_file": 1_437_696}},
            "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 1}, "eth1": {"rx_bytes": 112, "tx_bytes": 125}},
            "blkio_stats": {"io_service_bytes_recursive": [
                {"op": "Read", "value": 4096}, {"op": "write", "value": 1}, {"op": "Total", "value": 9}]},
        });
        let row = row("web", &stats, false);
        let expected = json!({
            "BlockIO": "4.1kB / 1B", "CPUPerc": "20.00%", "Container": "web", "ID": "ade0682a5fd6",
            "MemPerc": "0.00%", "MemUsage": "720KiB / 23.59GiB", "Name": "web",
            "NetIO": "1.11kB / 126B", "PIDs": "3",
        });
        assert_eq!(row, expected);
    }

    #[test]
    fn a_container_without_a_process_uses_nothing() {
        let stats = json!({"name": "/x", "id": "ab", "memory_stats": {}, "networks": null});
        let row = row("x", &stats, true);
        assert_eq!((&row["MemUsage"], &row["CPUPerc"]), (&json!("0B / 0B"), &json!("0.00%")));
        assert_eq!((&row["NetIO"], &row["PIDs"]), (&json!("0B / 0B"), &json!("0")));
    }
}
