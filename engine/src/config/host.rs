//! Where to listen: `unix://`, `tcp://` and `fd://`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// One `--host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP address; always with mutual TLS.
    Tcp(SocketAddr),
    /// Sockets that systemd made (`fd://`), all of them or the one with that name or number.
    Activated(Option<String>),
}

/// A text that names no place to listen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address to listen on: use unix:///path, tcp://address:port or fd://")]
pub struct HostError(String);

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let error = || HostError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            return match path {
                "" => Ok(Self::Unix("/run/docker.sock".into())),
                path if path.starts_with('/') => Ok(Self::Unix(path.into())),
                _ => Err(error()),
            };
        }
        if let Some(name) = text.strip_prefix("fd://") {
            let all = name.is_empty() || name == "*";
            return Ok(Self::Activated((!all).then(|| name.to_owned())));
        }
        let rest = match text.strip_prefix("tcp://") {
            Some(rest) => rest,
            None if text.contains("://") || text.is_empty() => return Err(error()),
            None if text.starts_with('/') => return Ok(Self::Unix(text.into())),
            None => text,
        };
        tcp(rest.trim_end_matches('/')).map(Self::Tcp).ok_or_else(error)
    }
}

/// An address with or without a port: 2376 is the port of Docker over TLS.
fn tcp(text: &str) -> Option<SocketAddr> {
    const PORT: u16 = 2376;
    let text = text.replacen("localhost", "127.0.0.1", 1);
    if text.is_empty() {
        return Some((std::net::Ipv4Addr::LOCALHOST, PORT).into());
    }
    if let Some(port) = text.strip_prefix(':') {
        return Some((std::net::Ipv6Addr::UNSPECIFIED, port.parse().ok()?).into());
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    text.parse().ok().or_else(|| Some(SocketAddr::new(bare.parse().ok()?, PORT)))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Activated(name) => write!(f, "fd://{}", name.as_deref().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_docker_reads_them() {
        let table = [
            ("unix:///run/x.sock", "unix:///run/x.sock"),
            ("unix://", "unix:///run/docker.sock"),
            ("/run/x.sock", "unix:///run/x.sock"),
            ("tcp://127.0.0.1:2400", "tcp://127.0.0.1:2400"),
            ("tcp://127.0.0.1", "tcp://127.0.0.1:2376"),
            ("tcp://[::1]:2376", "tcp://[::1]:2376"),
            ("tcp://[::1]", "tcp://[::1]:2376"),
            ("tcp://localhost:2376", "tcp://127.0.0.1:2376"),
            ("tcp://:2376", "tcp://[::]:2376"),
            ("fd://", "fd://"),
            ("fd://*", "fd://"),
            ("fd://api", "fd://api"),
        ];
        for (text, shown) in table {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_place_to_listen_is_refused() {
        for text in ["", "http://x", "unix://relative", "tcp://host.name:1", "tcp://1.2.3.4:99999"]
        {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }
}
