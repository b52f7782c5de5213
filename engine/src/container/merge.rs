//! What a request and its image's configuration make together.

use std::collections::{BTreeMap, BTreeSet};

use cnm::Protocol;
use oci_spec::image::{Config, ImageConfiguration};

use super::spec::ports_of;
use super::{Resolved, Spec};
use engine_error::{Error, Result};

/// Merges a request with the configuration of its image. `id` is the container's.
pub(crate) fn resolve(spec: &Spec, image: &ImageConfiguration, id: &str) -> Result<Resolved> {
    let empty = Config::default();
    let image = image.config().as_ref().unwrap_or(&empty);
    let (entrypoint, command) = process(spec, image);
    let mut words = entrypoint.iter().chain(&command).flatten().cloned();
    // An empty word is one: what it names is not found at the start.
    let path = words.next().ok_or_else(|| Error::invalid("no command specified"))?;
    Ok(Resolved {
        path,
        args: words.collect(),
        env: merge_env(&spec.env, image.env().as_deref().unwrap_or_default()),
        working_dir: first(&spec.working_dir, image.working_dir().as_deref()),
        user: first(&spec.user, image.user().as_deref()),
        hostname: first(&spec.hostname, id.get(..12)),
        domainname: spec.domainname.clone(),
        labels: merge_labels(spec, image),
        exposed: exposed(spec, image)?,
        volumes: image.volumes().clone().unwrap_or_default(),
        stop_signal: first(
            spec.stop_signal.as_deref().unwrap_or_default(),
            Some(image.stop_signal().as_deref().filter(|s| !s.is_empty()).unwrap_or("SIGTERM")),
        ),
        entrypoint,
        command,
        ..Resolved::default()
    })
}

/// The image's command goes with the image's entrypoint: replacing the entrypoint drops it.
fn process(spec: &Spec, image: &Config) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let given = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if spec.entrypoint.as_deref() == Some(&[String::new()]) {
        // The command line's way to say none.
        return (None, spec.command.clone());
    }
    if given(&spec.entrypoint) {
        return (spec.entrypoint.clone(), spec.command.clone());
    }
    let entrypoint = match &spec.entrypoint {
        None => image.entrypoint().clone(),
        Some(_) => None,
    };
    let command = if given(&spec.command) { spec.command.clone() } else { image.cmd().clone() };
    (entrypoint, command)
}

fn merge_env(own: &[String], image: &[String]) -> Vec<String> {
    let known: BTreeSet<&str> = own.iter().map(|entry| key(entry)).collect();
    let rest = image.iter().filter(|entry| !known.contains(key(entry)));
    own.iter().chain(rest).cloned().collect()
}

fn merge_labels(spec: &Spec, image: &Config) -> BTreeMap<String, String> {
    let image = image.labels().iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
    let own = spec.labels.iter().map(|(key, value)| (key.clone(), value.clone()));
    image.chain(own).collect()
}

/// The ports that a request and its image's configuration expose.
pub(crate) fn exposed_by(spec: &Spec, image: &ImageConfiguration) -> Result<Vec<(u16, Protocol)>> {
    exposed(spec, image.config().as_ref().unwrap_or(&Config::default()))
}

fn exposed(spec: &Spec, image: &Config) -> Result<Vec<(u16, Protocol)>> {
    let mut ports: BTreeSet<(u16, Protocol)> = spec.exposed.iter().copied().collect();
    ports.extend(spec.ports.iter().map(|published| (published.port, published.protocol)));
    let ranges = image.exposed_ports().iter().flatten().map(|text| range(text));
    ports.append(&mut ports_of(ranges.collect::<Result<Vec<_>>>()?));
    Ok(ports.into_iter().collect())
}

/// `80`, `80/tcp` or `8000-8010/udp`.
fn range(text: &str) -> Result<((u16, u16), Protocol)> {
    let wrong = || Error::invalid(format!("invalid port `{text}` in the image: use 80/tcp"));
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let protocol: Protocol = protocol.parse().map_err(|_| wrong())?;
    let from: u16 = from.parse().map_err(|_| wrong())?;
    let to: u16 = to.parse().map_err(|_| wrong())?;
    Ok(((from, to), protocol))
}

fn first(own: &str, other: Option<&str>) -> String {
    if own.is_empty() { other.unwrap_or_default().to_owned() } else { own.to_owned() }
}

fn key(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn image(json: &str) -> ImageConfiguration {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},
                 "history":[],"config":{json}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    /// Entrypoint and command of the image and of the request, and what is run.
    fn check(image_json: &str, entrypoint: Option<&str>, command: Option<&str>, run: &str) {
        let spec = Spec {
            entrypoint: entrypoint.map(|text| text.split(' ').map(str::to_owned).collect()),
            command: command.map(list),
            ..Spec::default()
        };
        let resolved = resolve(&spec, &image(image_json), ID).unwrap();
        let line = [&[resolved.path][..], &resolved.args].concat().join(" ");
        assert_eq!(line, run, "{image_json} {entrypoint:?} {command:?}");
    }

    #[test]
    fn entrypoint_and_command_follow_dockers_table() {
        let both = r#"{"Entrypoint":["/e","-x"],"Cmd":["c"]}"#;
        let command = r#"{"Cmd":["c","d"]}"#;
        check(both, None, None, "/e -x c");
        check(both, None, Some("mine"), "/e -x mine");
        check(both, Some("/own"), None, "/own");
        check(both, Some("/own"), Some("a b"), "/own a b");
        check(both, Some(""), Some("a b"), "a b");
        check(command, None, None, "c d");
        check(command, None, Some("x"), "x");
    }

    #[test]
    fn nothing_to_run_is_an_error() {
        let error = resolve(&Spec::default(), &image("{}"), ID).unwrap_err();
        assert_eq!(error.to_string(), "no command specified");
    }

    #[test]
    fn an_empty_word_is_a_command() {
        let spec = Spec { command: Some(vec![String::new()]), ..Spec::default() };
        assert_eq!(resolve(&spec, &image("{}"), ID).unwrap().path, "");
    }

    #[test]
    fn the_requests_environment_wins_over_the_images() {
        let spec = Spec { env: list("A=own B"), command: Some(list("x")), ..Spec::default() };
        let resolved = resolve(&spec, &image(r#"{"Env":["PATH=/p","A=1","B=2","C=3"]}"#), ID);
        assert_eq!(resolved.unwrap().env, list("A=own B PATH=/p C=3"));
    }

    #[test]
    fn exposed_ports_come_from_everywhere_once() {
        let mut spec = Spec { command: Some(list("x")), ..Spec::default() };
        spec.exposed = vec![(80, Protocol::Tcp), (53, Protocol::Udp)];
        let json = r#"{"ExposedPorts":{"80":{},"8000-8001/tcp":{}}}"#;
        let resolved = resolve(&spec, &image(json), ID).unwrap();
        let ports: Vec<_> = resolved.exposed.iter().map(|(p, q)| format!("{p}/{q}")).collect();
        assert_eq!(ports.join(" "), "53/udp 80/tcp 8000/tcp 8001/tcp");
    }

    #[test]
    fn an_image_that_exposes_all_ports_in_many_ways_holds_nobody_up() {
        let mut spec = Spec { command: Some(list("x")), ..Spec::default() };
        spec.exposed = vec![(80, Protocol::Udp)];
        let zeros = |count: usize| "0".repeat(count);
        let keys = (0..200).flat_map(|a| (0..200).map(move |b| (a, b)));
        let keys = keys.map(|(a, b)| format!("\"{}1-{}65535\":{{}}", zeros(a), zeros(b)));
        let json = format!("{{\"ExposedPorts\":{{{}}}}}", keys.collect::<Vec<_>>().join(","));
        assert_eq!(resolve(&spec, &image(&json), ID).unwrap().exposed.len(), 65536);
    }
}
