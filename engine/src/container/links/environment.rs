//! What the environment of a linking container says of those that it links to.

use std::net::IpAddr;

use cnm::Protocol;

use super::super::{Container, Containers};
use super::{addresses, of_default};

/// What the linked container's own environment has that says nothing to others.
const OWN: [&str; 2] = ["HOME", "PATH"];

/// A container that is linked to.
#[derive(Debug)]
struct Target<'a> {
    /// What it is called: `/app/db`.
    name: &'a str,
    /// Its address.
    address: IpAddr,
    /// Its environment.
    env: &'a [String],
    /// The ports that it exposes.
    exposed: &'a [(u16, Protocol)],
}

impl Containers {
    /// The variables that a container gets by its links.
    pub(crate) fn link_environment(&self, container: &Container) -> Vec<String> {
        let mut variables = Vec::new();
        for (link, other) in self.link_targets(container) {
            let address = of_default(&other).and_then(|own| addresses(own).first().copied());
            let Some(address) = address else { continue };
            let target = Target {
                name: &format!("/{}/{}", container.name, link.alias),
                address,
                env: &other.resolved.env,
                exposed: &other.resolved.exposed,
            };
            variables.extend(of_target(&target));
        }
        variables
    }

    /// Those of them that are not the container's own.
    pub(crate) fn link_environment_of_exec(&self, container: &Container) -> Vec<String> {
        let mut variables = self.link_environment(container);
        let own = |variable: &String| {
            container.resolved.env.iter().any(|known| key(known) == key(variable))
        };
        variables.retain(|variable| !own(variable));
        variables
    }
}

fn of_target(target: &Target<'_>) -> Vec<String> {
    let alias = target.name.rsplit('/').next().unwrap_or_default();
    let prefix = alias.to_uppercase().replace('-', "_");
    let mut variables = of_ports(&prefix, target);
    variables.push(format!("{prefix}_NAME={}", target.name));
    let told = target.env.iter().filter_map(|variable| variable.split_once('='));
    let told = told.filter(|(name, _)| !OWN.contains(name));
    variables.extend(told.map(|(name, value)| format!("{prefix}_ENV_{name}={value}")));
    variables
}

fn of_ports(prefix: &str, target: &Target<'_>) -> Vec<String> {
    let mut ports = target.exposed.to_vec();
    ports.sort_by_key(|&(port, protocol)| (protocol != Protocol::Tcp, protocol.as_str(), port));
    let host = match target.address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let url = |(port, protocol): (u16, Protocol)| format!("{}://{host}:{port}", protocol.as_str());
    let of = |(port, protocol): (u16, Protocol)| {
        format!("{prefix}_PORT_{port}_{}", protocol.as_str().to_uppercase())
    };
    let first = ports.first().map(|first| format!("{prefix}_PORT={}", url(*first)));
    let mut variables: Vec<_> = first.into_iter().collect();
    let mut range: Vec<(u16, Protocol)> = Vec::new();
    let told = |range: &[(u16, Protocol)]| match *range {
        [start, .., end] => {
            let of = of(start);
            vec![
                format!("{of}_START={}", url(start)),
                format!("{of}_PORT_START={}", start.0),
                format!("{of}_END={}", url(end)),
                format!("{of}_PORT_END={}", end.0),
            ]
        }
        _ => Vec::new(),
    };
    for port in ports {
        let of = of(port);
        variables.extend([
            format!("{of}={}", url(port)),
            format!("{of}_ADDR={}", target.address),
            format!("{of}_PORT={}", port.0),
            format!("{of}_PROTO={}", port.1.as_str()),
        ]);
        // A row of ports is told behind the first one that is not of it, as Docker does it.
        let is_next =
            |last: &(u16, Protocol)| last.1 == port.1 && last.0.checked_add(1) == Some(port.0);
        if !range.last().is_some_and(is_next) {
            variables.extend(told(&range));
            range.clear();
        }
        range.push(port);
    }
    variables.extend(told(&range));
    variables
}

fn key(variable: &str) -> &str {
    variable.split('=').next().unwrap_or(variable)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(address: &str, exposed: &[(u16, Protocol)], expected: &Expect) {
        let env = ["PATH=/bin", "HOME=/root", "PASSWORD=a=b", "EMPTY="].map(str::to_owned);
        let address = address.parse().unwrap();
        let target = Target { name: "/app/my-db", address, env: &env, exposed };
        expected.assert_eq(&(of_target(&target).join("\n") + "\n"));
    }

    #[test]
    fn ports_in_a_row_are_told_one_by_one_and_as_a_range() {
        let ports = [(53, Protocol::Udp), (81, Protocol::Tcp), (80, Protocol::Tcp)];
        check(
            "172.17.0.2",
            &ports,
            &expect![[r#"
                MY_DB_PORT=tcp://172.17.0.2:80
                MY_DB_PORT_80_TCP=tcp://172.17.0.2:80
                MY_DB_PORT_80_TCP_ADDR=172.17.0.2
                MY_DB_PORT_80_TCP_PORT=80
                MY_DB_PORT_80_TCP_PROTO=tcp
                MY_DB_PORT_81_TCP=tcp://172.17.0.2:81
                MY_DB_PORT_81_TCP_ADDR=172.17.0.2
                MY_DB_PORT_81_TCP_PORT=81
                MY_DB_PORT_81_TCP_PROTO=tcp
                MY_DB_PORT_53_UDP=udp://172.17.0.2:53
                MY_DB_PORT_53_UDP_ADDR=172.17.0.2
                MY_DB_PORT_53_UDP_PORT=53
                MY_DB_PORT_53_UDP_PROTO=udp
                MY_DB_PORT_80_TCP_START=tcp://172.17.0.2:80
                MY_DB_PORT_80_TCP_PORT_START=80
                MY_DB_PORT_80_TCP_END=tcp://172.17.0.2:81
                MY_DB_PORT_80_TCP_PORT_END=81
                MY_DB_NAME=/app/my-db
                MY_DB_ENV_PASSWORD=a=b
                MY_DB_ENV_EMPTY=
            "#]],
        );
    }

    #[test]
    fn without_ports_the_name_and_the_environment_are_left() {
        check(
            "fd00::2",
            &[],
            &expect![[r#"
                MY_DB_NAME=/app/my-db
                MY_DB_ENV_PASSWORD=a=b
                MY_DB_ENV_EMPTY=
            "#]],
        );
    }
}
