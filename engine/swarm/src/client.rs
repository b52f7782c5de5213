//! A node's side of the managers' port.

use std::io;
use std::time::Duration;

use engine_error::{Error, Kind, Result};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::authority::{DIGEST, MANAGER};
use crate::protocol::{Admission, Answer, Request, receive, send};
pub use crate::tls::Identity;
use crate::{PORT, tls};

/// How long one manager may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks managers, one after the other, until one of them answers. A refusal is an answer.
pub async fn ask(
    managers: &[String],
    authority: [u8; DIGEST],
    own: Option<&Identity>,
    request: &Request,
) -> Result<Admission> {
    let config = tls::client(authority, own)?;
    let mut failures = Vec::new();
    for manager in managers {
        let place = with_port(manager);
        let asked = tokio::time::timeout(LIMIT, converse(&config, &place, request)).await;
        match asked.unwrap_or_else(|_| Err(io::Error::other("it does not answer"))) {
            Ok(Answer::Admitted(admission)) => return Ok(*admission),
            Ok(Answer::Refused { message, kind }) => return Err(kind.error(message)),
            Err(error) => failures.push(explain(&place, &error)),
        }
    }
    let message = match failures.as_slice() {
        [] => "there is no manager to ask: name one, as in 192.0.2.1:2377".to_owned(),
        failures => failures.join("; "),
    };
    Err(Error::new(Kind::Unavailable, message))
}

async fn converse(
    config: &std::sync::Arc<rustls::ClientConfig>,
    place: &str,
    request: &Request,
) -> io::Result<Answer> {
    let stream = TcpStream::connect(place).await?;
    let name = ServerName::try_from(MANAGER).map_err(io::Error::other)?;
    let mut stream = TlsConnector::from(config.clone()).connect(name, stream).await?;
    let sent = send(&mut stream, request).await;
    match (sent, receive(&mut stream).await) {
        (_, Ok(answer)) => Ok(answer),
        // Why the other side did not listen to the end was said before it hung up.
        (_, Err(error)) if is_tls(&error) => Err(error),
        (Err(error), _) | (Ok(()), Err(error)) => Err(error),
    }
}

fn is_tls(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some()
}

/// What a failure means.
fn explain(place: &str, error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            format!(
                "the manager at {place} is of another cluster than the token: ask a manager of this one \
             with `docker swarm join-token`"
            )
        }
        Some(rustls::Error::InvalidCertificate(problem)) => {
            format!("the manager at {place} cannot be trusted: {problem}")
        }
        _ => format!("cannot ask the manager at {place}: {error}"),
    }
}

/// `address:port` of a text that may lack the port.
pub fn with_port(place: &str) -> String {
    if place.parse::<std::net::SocketAddr>().is_ok() {
        return place.to_owned();
    }
    match place.parse::<std::net::IpAddr>() {
        Ok(address) => std::net::SocketAddr::new(address, PORT).to_string(),
        Err(_) if place.contains(':') => place.to_owned(),
        Err(_) => format!("{place}:{PORT}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_without_a_port_has_docker_s() {
        for (given, expected) in [
            ("192.0.2.1", "192.0.2.1:2377"),
            ("192.0.2.1:9", "192.0.2.1:9"),
            ("2001:db8::1", "[2001:db8::1]:2377"),
            ("[2001:db8::1]:9", "[2001:db8::1]:9"),
            ("host", "host:2377"),
            ("host:9", "host:9"),
        ] {
            assert_eq!(with_port(given), expected);
        }
    }
}
