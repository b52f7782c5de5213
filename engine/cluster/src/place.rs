//! Where a cluster's store is, and how this host is let in: as users write it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The port of a member of etcd for its clients.
const PORT: u16 = 2379;

/// The cluster's name where none is given.
pub const DEFAULT_NAME: &str = "default";

/// A cluster in a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The members of the store, as `host:port`.
    pub endpoints: Vec<String>,
    /// The cluster's name: several may share a store.
    pub cluster: String,
    /// How members and this host are known to each other; plain text if absent.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// What this host is called there; by its own name if absent.
    #[serde(default)]
    pub node: Option<String>,
    /// After how many hours a host that is away counts as gone for good, 0 for never; a day if absent.
    #[serde(default)]
    pub evict_after: Option<u32>,
    /// The UDP port for what is encrypted; the usual one if absent.
    #[serde(default)]
    pub wireguard_port: Option<u16>,
    /// As whom this host asks, where the store wants to know that.
    #[serde(default)]
    pub user: Option<User>,
}

/// Certificates, by the files that they are in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// Signs the members; the usual authorities if absent.
    #[serde(default)]
    pub authority: Option<PathBuf>,
    /// This host's own certificate, with its chain.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// Its key.
    #[serde(default)]
    pub key: Option<PathBuf>,
}

/// A user of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// The file with the password, which is kept nowhere else.
    pub password_file: PathBuf,
}

/// A place that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// It names no store that is known.
    #[error("`{0}` is no cluster: use etcd://host:port,host:port/name")]
    Scheme(String),
    /// One of its endpoints cannot be one.
    #[error("`{0}` is no endpoint of a cluster's store: use host, host:port or [address]:port")]
    Endpoint(String),
    /// Its name, or that of this host there, cannot be one.
    #[error(
        "`{0}` is no name in a cluster: letters, digits, dots, dashes and underscores make one"
    )]
    Name(String),
    /// There is no such option.
    #[error(
        "unknown cluster option `{0}`: cacert, cert, key, user, password-file, node, evict-after and \
         wireguard-port are known"
    )]
    Option(String),
    /// A time cannot be one.
    #[error("`{0}` is no time for cluster option evict-after: use hours, such as 24h; 0 is never")]
    Hours(String),
    /// A port cannot be one.
    #[error("`{0}` is no port for cluster option wireguard-port: use one from 1 to 65535")]
    Port(String),
    /// An option is of no use without another one.
    #[error("cluster option {given} needs {missing}, too")]
    Alone {
        /// The one that was given.
        given: &'static str,
        /// The other one.
        missing: &'static str,
    },
}

impl Place {
    /// Reads `etcd://host:port,host:port/name`, and options: `cacert`, `cert`, `key`, `user`,
    /// `password-file`, `node`, `evict-after`, `wireguard-port`, or dockerd's old words for the first three and for the name.
    pub fn parse(text: &str, options: &BTreeMap<String, String>) -> Result<Self, PlaceError> {
        let scheme = || PlaceError::Scheme(text.to_owned());
        let (secure, rest) = match text.split_once("://").ok_or_else(scheme)? {
            ("etcd" | "http", rest) => (false, rest),
            ("etcds" | "https", rest) => (true, rest),
            _ => return Err(scheme()),
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let endpoints = hosts.split(',').filter(|part| !part.is_empty()).map(endpoint);
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        if endpoints.is_empty() {
            return Err(scheme());
        }
        let mut given = Options::read(options)?;
        let named = Some(path.trim_matches('/')).filter(|name| !name.is_empty());
        let named = named.map(str::to_owned).or(given.name.take());
        let cluster = named.unwrap_or_else(|| DEFAULT_NAME.to_owned());
        check_name(&cluster)?;
        let tls = given.tls()?.or_else(|| secure.then(Tls::default));
        let node = given.node.take();
        if let Some(node) = &node {
            check_name(node)?;
        }
        let evict_after = given.evict_after.take();
        let wireguard_port = given.wireguard_port.take();
        let user = given.user()?;
        Ok(Self { endpoints, cluster, tls, node, evict_after, wireguard_port, user })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd://{}/{}", self.endpoints.join(","), self.cluster)
    }
}

/// The options that were given.
#[derive(Debug, Default)]
struct Options {
    authority: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    name: Option<String>,
    node: Option<String>,
    evict_after: Option<u32>,
    wireguard_port: Option<u16>,
}

impl Options {
    fn read(options: &BTreeMap<String, String>) -> Result<Self, PlaceError> {
        let mut read = Self::default();
        for (name, value) in options.iter().filter(|(_, value)| !value.is_empty()) {
            match name.as_str() {
                "cacert" | "kv.cacertfile" => read.authority = Some(value.into()),
                "cert" | "kv.certfile" => read.certificate = Some(value.into()),
                "key" | "kv.keyfile" => read.key = Some(value.into()),
                "user" => read.user = Some(value.clone()),
                "password-file" => read.password_file = Some(value.into()),
                "evict-after" => read.evict_after = Some(hours(value)?),
                "wireguard-port" => read.wireguard_port = Some(port(value)?),
                "node" => read.node = Some(value.clone()),
                "kv.path" => read.name = Some(value.trim_matches('/').to_owned()),
                // Who is there is known by leases of our own.
                "discovery.heartbeat" | "discovery.ttl" => {}
                other => return Err(PlaceError::Option(other.to_owned())),
            }
        }
        Ok(read)
    }

    fn tls(&mut self) -> Result<Option<Tls>, PlaceError> {
        let alone = |given, missing| Err(PlaceError::Alone { given, missing });
        match (&self.certificate, &self.key) {
            (Some(_), None) => return alone("cert", "key"),
            (None, Some(_)) => return alone("key", "cert"),
            _ => {}
        }
        let authority = self.authority.take();
        let (certificate, key) = (self.certificate.take(), self.key.take());
        let any = authority.is_some() || certificate.is_some();
        Ok(any.then_some(Tls { authority, certificate, key }))
    }

    fn user(self) -> Result<Option<User>, PlaceError> {
        let alone = |given, missing| Err(PlaceError::Alone { given, missing });
        match (self.user, self.password_file) {
            (None, None) => Ok(None),
            (Some(name), Some(password_file)) => Ok(Some(User { name, password_file })),
            (Some(_), None) => alone("user", "password-file"),
            (None, Some(_)) => alone("password-file", "user"),
        }
    }
}

fn hours(text: &str) -> Result<u32, PlaceError> {
    let number = text.strip_suffix('h').unwrap_or(text);
    number.parse().map_err(|_| PlaceError::Hours(text.to_owned()))
}

fn port(text: &str) -> Result<u16, PlaceError> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| PlaceError::Port(text.to_owned()))
}

/// `host:port` of a text that may lack the port.
fn endpoint(text: &str) -> Result<String, PlaceError> {
    let wrong = || PlaceError::Endpoint(text.to_owned());
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(wrong)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
        (format!("[{address}]"), port.strip_prefix(':').or((port.is_empty()).then_some("")))
    } else {
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        (host.to_owned(), Some(port))
    };
    let known = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
    if host.is_empty() || !host.chars().all(known) {
        return Err(wrong());
    }
    match port.ok_or_else(wrong)? {
        "" => Ok(format!("{host}:{PORT}")),
        port => port.parse::<u16>().map(|port| format!("{host}:{port}")).map_err(|_| wrong()),
    }
}

/// A cluster's name is one part of the keys, and hosts are named like it.
fn check_name(name: &str) -> Result<(), PlaceError> {
    let known = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if !name.is_empty() && name.len() <= 64 && name.chars().all(known) {
        return Ok(());
    }
    Err(PlaceError::Name(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, options: &[(&str, &str)]) -> Result<Place, String> {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Place::parse(text, &options.collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_cluster_is_written_with_its_members_and_its_name() {
        let place = parse("etcd://h1,10.0.0.2:4001,[fd00::3]/blue", &[]).unwrap();
        assert_eq!(place.endpoints, ["h1:2379", "10.0.0.2:4001", "[fd00::3]:2379"]);
        assert_eq!((place.cluster.as_str(), &place.tls), ("blue", &None));
        assert_eq!(place.to_string(), "etcd://h1:2379,10.0.0.2:4001,[fd00::3]:2379/blue");
        assert_eq!(parse("etcd://h1", &[]).unwrap().cluster, DEFAULT_NAME);
        assert_eq!(parse("etcd://h1", &[("evict-after", "48h")]).unwrap().evict_after, Some(48));
    }

    #[test]
    fn dockerds_old_options_mean_what_they_meant() {
        let old = [("kv.cacertfile", "/ca"), ("kv.certfile", "/c"), ("kv.keyfile", "/k")];
        let new = [("cacert", "/ca"), ("cert", "/c"), ("key", "/k")];
        let place = parse("etcd://h1", &old).unwrap();
        assert_eq!(parse("etcds://h1", &new).unwrap(), place);
        assert_eq!(parse("etcd://h1", &[("kv.path", "team/")]).unwrap().cluster, "team");
        assert_eq!(place.tls.unwrap().authority, Some("/ca".into()));
    }

    #[test]
    fn what_cannot_be_a_cluster_is_refused_by_name() {
        for (text, options, said) in [
            ("consul://h1", &[][..], "`consul://h1` is no cluster: use etcd://"),
            ("h1:2379", &[], "`h1:2379` is no cluster"),
            ("etcd://", &[], "`etcd://` is no cluster"),
            ("etcd://h1:port", &[], "`h1:port` is no endpoint"),
            ("etcd://[fd00", &[], "`[fd00` is no endpoint"),
            ("etcd://[fd00::1]2379", &[], "`[fd00::1]2379` is no endpoint"),
            ("etcd://h1/a/b", &[], "`a/b` is no name in a cluster"),
            ("etcd://h1", &[("certs", "/x")], "unknown cluster option `certs`"),
            ("etcd://h1", &[("evict-after", "soon")], "`soon` is no time for cluster option"),
            ("etcd://h1", &[("cert", "/x")], "cluster option cert needs key, too"),
            ("etcd://h1", &[("key", "/x")], "cluster option key needs cert, too"),
            ("etcd://h1", &[("user", "x")], "cluster option user needs password-file, too"),
        ] {
            let error = parse(text, options).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
