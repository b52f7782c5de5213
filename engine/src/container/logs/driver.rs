//! Log drivers and their options: who is to have what a container writes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cnm::options::boolean;
use gtmpl_ng::{Context, Value as Item};
use regex::Regex;

use super::super::Container;
use super::rotation::{Rotation, bytes};
use crate::templates;
use engine_error::{Error, Result};
use shim::protocol::{
    Destination, Fluentd, FluentdTo, LOG_DRIVERS, Log, Syslog, SyslogFormat, SyslogTo,
};

/// Drivers of Docker that are not there.
const ELSEWHERE: [&str; 4] = ["awslogs", "gcplogs", "gelf", "splunk"];

/// How much waits for somebody who does not take it, unless `max-buffer-size` says.
const BOUND: u64 = 4 << 20;

/// The port of syslog.
const SYSLOG_PORT: u16 = 514;

/// Where fluentd is, if nobody says.
const FLUENTD: &str = "127.0.0.1:24224";

/// Options of every driver that tells of the container.
const ATTRIBUTES: [&str; 5] = ["labels", "labels-regex", "env", "env-regex", "tag"];

/// Options of how a log is passed on and what is kept of it here, whichever driver it has.
pub(crate) const DELIVERY: [&str; 6] = [
    "mode",
    "max-buffer-size",
    "cache-disabled",
    "cache-max-size",
    "cache-max-file",
    "cache-compress",
];

/// The facilities of syslog, by their numbers.
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];

type Options = BTreeMap<String, String>;

/// Where a container's output goes, and what of it is kept here.
pub(crate) fn log(
    container: &Container,
    driver: &str,
    daemon: &Options,
    host: &str,
) -> Result<Log> {
    let own = &container.spec.log_options;
    let plan = Plan { container, options: own, host };
    let to = match driver {
        "none" => return Ok(Log::None),
        "syslog" => Destination::Syslog(plan.syslog()?),
        "journald" => Destination::Journald { fields: plan.journald()? },
        "fluentd" => Destination::Fluentd(plan.fluentd()?),
        _ => {
            let compress = flag(own, "compress", driver == "local")?;
            let Rotation { max_size, max_files } = Rotation::of(own, daemon)?;
            let attributes = if driver == "local" { Options::new() } else { plan.attributes()? };
            let path = container.paths.log.clone();
            return Ok(Log::JsonFile { path, max_size, max_files, compress, attributes });
        }
    };
    let bound = own.get("max-buffer-size").and_then(|text| bytes(text)).unwrap_or(BOUND);
    let copy = keeps_copy(own)?.then(|| plan.copy()).transpose()?;
    Ok(Log::Sent { to, bound, copy: copy.map(Box::new) })
}

/// What each record of a container's log has of the container: labels, variables and the tag.
pub(crate) fn marks(container: &Container) -> Options {
    let plan = Plan { container, options: &container.spec.log_options, host: "" };
    plan.attributes().unwrap_or_default()
}

/// Refuses options that no start could use.
pub(crate) fn check(driver: &str, options: &Options) -> Result<()> {
    if ELSEWHERE.contains(&driver) {
        return Err(Error::invalid(format!(
            "failed to create task for container: failed to initialize logging driver: {driver} is \
             not there: use one of {}",
            LOG_DRIVERS.join(", ")
        )));
    }
    if !LOG_DRIVERS.contains(&driver) {
        return Err(Error::invalid(format!(
            "error looking up logging plugin {driver}: plugin \"{driver}\" not found"
        )));
    }
    let own: &[&str] = match driver {
        "none" => return Ok(()),
        "syslog" => &["syslog-address", "syslog-facility", "syslog-format"],
        "journald" => &[],
        "fluentd" => &[
            "fluentd-address",
            "fluentd-async",
            "fluentd-async-connect",
            "fluentd-async-reconnect-interval",
            "fluentd-buffer-limit",
            "fluentd-max-retries",
            "fluentd-request-ack",
            "fluentd-retry-wait",
            "fluentd-sub-second-precision",
            "fluentd-write-timeout",
        ],
        _ => &["compress", "max-size", "max-file"],
    };
    let known = |name: &str| [own, &ATTRIBUTES, &DELIVERY].iter().any(|set| set.contains(&name));
    if let Some(name) = options.keys().find(|name| !known(name)) {
        let hint = if name.starts_with("syslog-tls") { ": TLS is not there yet" } else { "" };
        let text = format!("unknown log opt '{name}' for {driver} log driver{hint}");
        return Err(Error::invalid(text));
    }
    let container = Container::default();
    let plan = Plan { container: &container, options, host: "" };
    flag(options, "compress", false)?;
    keeps_copy(options)?;
    plan.copy()?;
    plan.marks()?;
    match driver {
        "syslog" => plan.syslog().map(drop),
        "fluentd" => plan.fluentd().map(drop),
        "journald" => plan.journald().map(drop),
        _ => tag(options, &Options::new()).map(drop),
    }
}

/// Whether the log of a driver can be read here.
pub(crate) fn can_be_read(driver: &str, options: &Options) -> bool {
    driver != "none"
        && (matches!(driver, "json-file" | "local") || keeps_copy(options).unwrap_or(true))
}

fn keeps_copy(options: &Options) -> Result<bool> {
    flag(options, "cache-disabled", false).map(|disabled| !disabled)
}

/// A boolean as Go reads it.
fn flag(options: &Options, name: &str, default: bool) -> Result<bool> {
    let Some(text) = options.get(name) else { return Ok(default) };
    boolean(text).ok_or_else(|| {
        Error::invalid(format!(
            "failed to initialize logging driver: error reading {name} log option: \
             strconv.ParseBool: parsing \"{text}\": invalid syntax"
        ))
    })
}

/// A container, and the options of its log.
struct Plan<'a> {
    container: &'a Container,
    options: &'a Options,
    host: &'a str,
}

impl Plan<'_> {
    fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// What is kept here of a log that somebody else has.
    fn copy(&self) -> Result<Log> {
        let named = [("max-size", "cache-max-size"), ("max-file", "cache-max-file")];
        let own = named
            .into_iter()
            .filter_map(|(name, cache)| Some((name.to_owned(), self.options.get(cache)?.clone())));
        let Rotation { max_size, max_files } = Rotation::of(&own.collect(), &Options::new())?;
        Ok(Log::JsonFile {
            path: self.container.paths.log.clone(),
            max_size,
            max_files,
            compress: flag(self.options, "cache-compress", true)?,
            attributes: Options::new(),
        })
    }

    fn syslog(&self) -> Result<Syslog> {
        let format = match self.option("syslog-format").unwrap_or_default() {
            "" => SyslogFormat::Local,
            "rfc3164" => SyslogFormat::Rfc3164,
            "rfc5424" => SyslogFormat::Rfc5424,
            "rfc5424micro" => SyslogFormat::Rfc5424Micro,
            _ => return Err(Error::invalid("Invalid syslog format")),
        };
        let to = syslog_address(self.option("syslog-address").unwrap_or_default())?;
        let facility = facility(self.option("syslog-facility").unwrap_or("daemon"))?;
        Ok(Syslog { to, facility, format, tag: self.tag()?, hostname: self.host.to_owned() })
    }

    fn journald(&self) -> Result<Vec<(String, String)>> {
        let (container, tag) = (self.container, self.tag()?);
        let mut fields = vec![
            ("CONTAINER_ID".to_owned(), container.short_id().to_owned()),
            ("CONTAINER_ID_FULL".to_owned(), container.id.to_string()),
            ("CONTAINER_NAME".to_owned(), container.name.clone()),
            ("CONTAINER_TAG".to_owned(), tag.clone()),
            ("IMAGE_NAME".to_owned(), container.spec.image.clone()),
            ("SYSLOG_IDENTIFIER".to_owned(), tag),
        ];
        fields.extend(self.marks()?.into_iter().map(|(name, value)| (field_name(&name), value)));
        Ok(fields)
    }

    fn fluentd(&self) -> Result<Fluentd> {
        let address = self.option("fluentd-address").unwrap_or(FLUENTD);
        let to = match address.split_once("://") {
            Some(("unix", path)) => FluentdTo::Unix { path: PathBuf::from(path) },
            None => FluentdTo::Tcp { address: with_port(address, 24224) },
            Some(("tcp", rest)) => FluentdTo::Tcp { address: with_port(rest, 24224) },
            Some((scheme, _)) => {
                return Err(Error::invalid(format!(
                    "unsupported scheme: '{scheme}' in '{address}'"
                )));
            }
        };
        let mut fields = vec![
            ("container_id".to_owned(), self.container.id.to_string()),
            ("container_name".to_owned(), format!("/{}", self.container.name)),
        ];
        fields.extend(self.marks()?);
        let fine = flag(self.options, "fluentd-sub-second-precision", false)?;
        let may_be_away = flag(self.options, "fluentd-async", false)?
            || flag(self.options, "fluentd-async-connect", false)?;
        Ok(Fluentd { to, tag: self.tag()?, fields, fine, may_be_away })
    }

    /// What each record of a file has of its container, if that is wanted.
    fn attributes(&self) -> Result<Options> {
        let mut marks = self.marks()?;
        if self.option("tag").is_some() {
            marks.insert("tag".to_owned(), self.tag()?);
        }
        Ok(marks)
    }

    fn tag(&self) -> Result<String> {
        let container = self.container;
        let image = container.image.trim_start_matches("sha256:");
        let short: String = image.chars().take(12).collect();
        let command = [&[container.resolved.path.clone()][..], &container.resolved.args].concat();
        let known = [
            ("ID", container.short_id().to_owned()),
            ("FullID", container.id.to_string()),
            ("Name", container.name.clone()),
            ("ImageID", short),
            ("ImageFullID", container.image.clone()),
            ("ImageName", container.spec.image.clone()),
            ("DaemonName", "rnet".to_owned()),
            ("Command", command.join(" ")),
            ("Hostname", self.host.to_owned()),
        ];
        let known = known.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        tag(self.options, &known)
    }

    /// The labels and variables that the options name.
    fn marks(&self) -> Result<Options> {
        let resolved = &self.container.resolved;
        let labels = resolved.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let variables = resolved.env.iter().filter_map(|entry| entry.split_once('='));
        let mut marks = self.chosen("labels", labels)?;
        marks.extend(self.chosen("env", variables)?);
        Ok(marks)
    }

    fn chosen<'a>(
        &self,
        option: &str,
        all: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Options> {
        let names: Vec<_> = self.option(option).unwrap_or_default().split(',').collect();
        let pattern = self.option(&format!("{option}-regex")).map(|text| {
            Regex::new(text).map_err(|_| {
                Error::invalid(format!(
                    "failed to initialize logging driver: error parsing regexp of {option}-regex: \
                     `{text}`"
                ))
            })
        });
        let pattern = pattern.transpose()?;
        let wanted = |name: &str| {
            names.contains(&name) || pattern.as_ref().is_some_and(|pattern| pattern.is_match(name))
        };
        let chosen = all.filter(|(name, _)| wanted(name));
        Ok(chosen.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// The tag that a template makes of what is known of a container.
fn tag(options: &Options, known: &Options) -> Result<String> {
    let source = options.get("tag").map_or("{{.ID}}", String::as_str);
    let wrong =
        |error: String| Error::invalid(format!("failed to initialize logging driver: {error}"));
    let template = templates::compile("log-tag", source, &[]).map_err(wrong)?;
    if known.is_empty() {
        return Ok(String::new());
    }
    let fields = known.iter().map(|(name, value)| (name.clone(), Item::from(value.as_str())));
    let context = Context::from(Item::Object(fields.collect()));
    template.render(&context).map_err(|error| wrong(error.to_string()))
}

fn facility(text: &str) -> Result<u8> {
    let named = FACILITIES.iter().position(|name| !name.is_empty() && *name == text);
    let number = named.or_else(|| text.parse().ok().filter(|number| *number < FACILITIES.len()));
    let number = number.and_then(|number| u8::try_from(number).ok());
    number.ok_or_else(|| Error::invalid("invalid syslog facility"))
}

fn syslog_address(text: &str) -> Result<SyslogTo> {
    if text.is_empty() {
        return Ok(SyslogTo::Local);
    }
    let unusable =
        || Error::invalid(format!("syslog-address should be in form proto://address, got {text}"));
    let (scheme, rest) = text.split_once("://").ok_or_else(unusable)?;
    let path = || PathBuf::from(rest);
    Ok(match scheme {
        "unix" => SyslogTo::Unix { path: path() },
        "unixgram" => SyslogTo::UnixDatagram { path: path() },
        "udp" => SyslogTo::Udp { address: with_port(rest, SYSLOG_PORT) },
        "tcp" => SyslogTo::Tcp { address: with_port(rest, SYSLOG_PORT) },
        "tcp+tls" => {
            return Err(Error::invalid("syslog-address tcp+tls:// is not there yet: use tcp://"));
        }
        _ => return Err(unusable()),
    })
}

/// An address with a port, if it has none.
fn with_port(address: &str, port: u16) -> String {
    let bare = address.rsplit_once(':').is_none_or(|(_, end)| end.parse::<u16>().is_err());
    if bare { format!("{address}:{port}") } else { address.to_owned() }
}

/// A name as journald lets it be.
fn field_name(name: &str) -> String {
    let letter = |letter: char| match letter.to_ascii_uppercase() {
        letter @ ('A'..='Z' | '0'..='9') => letter,
        _ => '_',
    };
    name.chars().map(letter).collect::<String>().trim_start_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn container(pairs: &[(&str, &str)]) -> Container {
        let mut container = Container { name: "web".to_owned(), ..Container::default() };
        container.spec.log_options = options(pairs);
        container.resolved.labels = options(&[("com.team", "a"), ("other", "b")]);
        container.resolved.env = vec!["STAGE=test".to_owned(), "PATH=/bin".to_owned()];
        container
    }

    #[test]
    fn options_that_no_start_could_use_are_refused() {
        let refused = |driver: &str, pairs: &[(&str, &str)]| {
            check(driver, &options(pairs)).unwrap_err().to_string()
        };
        assert_eq!(
            refused("nope", &[]),
            "error looking up logging plugin nope: plugin \"nope\" not found"
        );
        let unknown = "unknown log opt 'max-size' for syslog log driver";
        assert_eq!(refused("syslog", &[("max-size", "1")]), unknown);
        assert_eq!(refused("syslog", &[("syslog-format", "x")]), "Invalid syslog format");
        assert_eq!(refused("syslog", &[("syslog-facility", "99")]), "invalid syslog facility");
        assert!(refused("syslog", &[("syslog-address", "host")]).contains("proto://address"));
        assert!(refused("fluentd", &[("fluentd-address", "x://h")]).contains("unsupported scheme"));
        assert!(refused("json-file", &[("tag", "{{.Name")]).contains("log-tag"));
        // The crate that renders templates reads this one for ever.
        assert!(refused("json-file", &[("tag", r#"{{"\u1"}}"#)]).contains("invalid syntax"));
        assert!(refused("local", &[("compress", "maybe")]).contains("parsing \"maybe\""));
        for driver in ["json-file", "syslog", "journald", "fluentd"] {
            let wrong = [
                ("cache-disabled", "maybe"),
                ("cache-compress", "maybe"),
                ("cache-max-size", "big"),
                ("cache-max-file", "0"),
                ("labels-regex", "("),
                ("env-regex", "("),
            ];
            for (name, value) in wrong {
                assert!(check(driver, &options(&[(name, value)])).is_err(), "{driver} {name}");
            }
        }
        assert!(refused("fluentd", &[("fluentd-async", "maybe")]).contains("parsing \"maybe\""));
        assert!(
            check("journald", &options(&[("tag", "{{.Name}}"), ("cache-disabled", "true")]))
                .is_ok()
        );
    }

    #[test]
    fn a_log_says_whose_it_is() {
        let pairs = [("tag", "{{.Name}}/x"), ("labels", "com.team"), ("env-regex", "^STA")];
        let Log::JsonFile { attributes, compress, .. } =
            log(&container(&pairs), "json-file", &Options::new(), "h1").unwrap()
        else {
            panic!("no file");
        };
        let expected = options(&[("STAGE", "test"), ("com.team", "a"), ("tag", "web/x")]);
        assert_eq!((attributes, compress), (expected, false));
        let pairs = [("syslog-address", "udp://[::1]"), ("tag", "{{.Name}}")];
        let sent = log(&container(&pairs), "syslog", &Options::new(), "h1").unwrap();
        let Log::Sent { to: Destination::Syslog(syslog), copy, .. } = sent else {
            panic!("it stays here");
        };
        assert_eq!(syslog.to, SyslogTo::Udp { address: "[::1]:514".to_owned() });
        assert_eq!(
            (syslog.tag.as_str(), syslog.facility, syslog.hostname.as_str()),
            ("web", 3, "h1")
        );
        assert!(copy.is_some());
    }

    #[test]
    fn a_tag_has_docker_s_functions_and_fields_and_no_others() {
        let made = |template: &str| {
            let known = options(&[("ID", "0123456789ab"), ("Name", "web")]);
            tag(&options(&[("tag", template)]), &known).map_err(|error| error.to_string())
        };
        assert_eq!(made("{{upper .Name}}/{{truncate .ID 3}}").unwrap(), "WEB/012");
        assert_eq!(made("{{json .Name}}").unwrap(), "\"web\"");
        let said = made(r#"{{"\u1"}}"#).unwrap_err();
        assert!(said.ends_with("logging driver: template: log-tag:1: invalid syntax"), "{said}");
        let said = made("{{.Nam}}").unwrap_err();
        assert!(said.contains("Nam") && said.contains("log-tag"), "{said}");
    }

    #[test]
    fn a_fluentd_that_is_connected_to_later_may_be_away_at_the_start() {
        let away = |pairs: &[(&str, &str)]| {
            let sent = log(&container(pairs), "fluentd", &Options::new(), "h1").unwrap();
            let Log::Sent { to: Destination::Fluentd(fluentd), .. } = sent else {
                panic!("it goes elsewhere");
            };
            fluentd.may_be_away
        };
        assert!(!away(&[]) && !away(&[("fluentd-async", "false")]));
        assert!(away(&[("fluentd-async", "true")]) && away(&[("fluentd-async-connect", "1")]));
    }

    #[test]
    fn a_log_that_is_not_kept_here_cannot_be_read() {
        assert!(
            can_be_read("json-file", &Options::new()) && can_be_read("syslog", &Options::new())
        );
        assert!(!can_be_read("none", &Options::new()));
        assert!(!can_be_read("syslog", &options(&[("cache-disabled", "true")])));
        assert_eq!(field_name("_com.team-x"), "COM_TEAM_X");
    }
}
