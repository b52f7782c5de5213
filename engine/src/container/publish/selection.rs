//! Which of a container's ports are meant by the name of a port. Pure.

use cnm::PortBinding;

use super::PublishedPort;

/// What is left, and what goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selected {
    /// The requests that are left.
    pub(super) kept: Vec<PublishedPort>,
    /// The bindings that go.
    pub(super) bindings: Vec<PortBinding>,
}

/// Takes what is named out of the requests and of the bindings that they got, of which there are none
/// where nothing runs. Returns a name that means nothing as the error.
pub(super) fn select(
    published: &[PublishedPort],
    bound: &[PortBinding],
    names: &[PublishedPort],
) -> Result<Selected, PublishedPort> {
    let mut found = vec![false; names.len()];
    let mut selected = Selected { kept: Vec::new(), bindings: Vec::new() };
    for (request, own) in owned(published, bound) {
        let mut left = Vec::new();
        for binding in &own {
            let meant = mark(names, &mut found, |name| means(name, binding));
            if meant { &mut selected.bindings } else { &mut left }.push(binding.clone());
        }
        if own.is_empty() {
            if !mark(names, &mut found, |name| covers(name, request)) {
                selected.kept.push(request.clone());
            }
        } else if left.len() == own.len() {
            selected.kept.push(request.clone());
        } else {
            // One family of two may be left.
            let rest = left.iter().map(|b| PublishedPort { host: Some(b.host), ..request.clone() });
            selected.kept.extend(rest);
        }
    }
    match found.iter().position(|found| !found) {
        Some(at) => Err(names[at].clone()),
        None => Ok(selected),
    }
}

/// Notes which names are of something; tells whether any is.
fn mark(names: &[PublishedPort], found: &mut [bool], is: impl Fn(&PublishedPort) -> bool) -> bool {
    let mut any = false;
    for (_, found) in names.iter().zip(found).filter(|(name, _)| is(name)) {
        *found = true;
        any = true;
    }
    any
}

/// The requests with the bindings that each of them got: those of one host port.
fn owned<'a>(
    published: &'a [PublishedPort],
    bound: &[PortBinding],
) -> Vec<(&'a PublishedPort, Vec<PortBinding>)> {
    let mut rest = bound.to_vec();
    let mut take = |request: &'a PublishedPort| {
        let number = rest.iter().find(|binding| got(request, binding)).map(|b| b.host_port);
        let is_its =
            |binding: &mut PortBinding| Some(binding.host_port) == number && got(request, binding);
        (request, rest.extract_if(.., is_its).collect())
    };
    published.iter().map(&mut take).collect()
}

/// Whether a binding may be what a request got.
fn got(request: &PublishedPort, binding: &PortBinding) -> bool {
    // A port at the endpoint's own address is bound nowhere.
    let bound = binding.host_port > 0;
    means(request, binding)
        || !bound && means(&PublishedPort { host_ports: (0, 0), ..request.clone() }, binding)
}

fn means(name: &PublishedPort, binding: &PortBinding) -> bool {
    let (first, last) = name.host_ports;
    (name.port, name.protocol) == (binding.port, binding.protocol)
        && name.host.is_none_or(|host| host == binding.host)
        && (last == 0 || (first..=last).contains(&binding.host_port))
}

fn covers(name: &PublishedPort, request: &PublishedPort) -> bool {
    let (first, last) = name.host_ports;
    let ports = request.host_ports;
    (name.port, name.protocol) == (request.port, request.protocol)
        && name.host.is_none_or(|host| request.host == Some(host))
        && (last == 0 || (first <= ports.0 && ports.1 <= last && ports.1 > 0))
}

/// `8080->80/tcp`.
pub(super) fn text(port: &PublishedPort) -> String {
    let PublishedPort { port: inside, protocol, host, host_ports, .. } = port;
    let numbers = match host_ports {
        (0, 0) => String::new(),
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    let host = match host {
        Some(host) if host.is_ipv6() => format!("[{host}]:"),
        Some(host) => format!("{host}:"),
        None => String::new(),
    };
    let outside = format!("{host}{numbers}");
    let arrow = if outside.is_empty() { "" } else { "->" };
    format!("{outside}{arrow}{inside}/{protocol}")
}

#[cfg(test)]
mod tests {
    use cnm::Protocol;

    use super::*;

    /// `[host ]first-last inside`, all of TCP.
    fn request(text: &str) -> PublishedPort {
        let words: Vec<_> = text.split(' ').collect();
        let [host @ .., numbers, inside] = words.as_slice() else { panic!("{text}") };
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        PublishedPort {
            port: inside.parse().unwrap(),
            protocol: Protocol::Tcp,
            host: host.first().map(|host| host.parse().unwrap()),
            host_ports: (first.parse().unwrap(), last.parse().unwrap()),
            when: None,
        }
    }

    fn binding(text: &str) -> PortBinding {
        let PublishedPort { port, protocol, host, host_ports, .. } = request(text);
        PortBinding { host: host.unwrap(), host_port: host_ports.0, protocol, port }
    }

    fn check(published: &[&str], bound: &[&str], names: &[&str], kept: &[&str], gone: &[&str]) {
        let requests = |texts: &[&str]| texts.iter().map(|t| request(t)).collect::<Vec<_>>();
        let bindings = |texts: &[&str]| texts.iter().map(|t| binding(t)).collect::<Vec<_>>();
        let selected = select(&requests(published), &bindings(bound), &requests(names)).unwrap();
        let expected = Selected { kept: requests(kept), bindings: bindings(gone) };
        assert_eq!(selected, expected, "{published:?} {bound:?} {names:?}");
    }

    #[test]
    fn a_port_is_meant_by_as_much_as_is_said_of_it() {
        let published = ["8080 80", "8081 80", "9090 90"];
        let bound = ["0.0.0.0 8080 80", ":: 8080 80", "0.0.0.0 8081 80", "0.0.0.0 9090 90"];
        check(&published, &bound, &["0 80"], &["9090 90"], &bound[..3]);
        check(&published, &bound, &["8080 80"], &["8081 80", "9090 90"], &bound[..2]);
        let rest = [":: 8080 80", "8081 80", "9090 90"];
        check(&published, &bound, &["0.0.0.0 8080 80"], &rest, &bound[..1]);
    }

    #[test]
    fn requests_for_any_port_keep_what_each_of_them_got() {
        let published = ["0 80", "8000-8010 80", "0 80"];
        let bound = ["0.0.0.0 40000 80", ":: 40000 80", "0.0.0.0 8000 80", ":: 40001 80"];
        check(&published, &bound, &["40000 80"], &published[1..], &bound[..2]);
        check(&published, &bound, &["8000 80"], &["0 80", "0 80"], &bound[2..3]);
        check(&published, &bound, &["40001 80"], &published[..2], &bound[3..]);
    }

    #[test]
    fn of_what_does_not_run_the_requests_are_meant() {
        let published = ["8080 80", "127.0.0.1 8081 80", "0 80"];
        check(&published, &[], &["8080 80"], &published[1..], &[]);
        check(&published, &[], &["127.0.0.1 0 80"], &["8080 80", "0 80"], &[]);
        check(&published, &[], &["0 80"], &[], &[]);
    }

    #[test]
    fn a_name_that_means_nothing_is_told() {
        let (published, bound) = ([request("8080 80")], [binding("0.0.0.0 8080 80")]);
        for name in ["8081 80", "8080 81", "127.0.0.1 8080 80"] {
            let name = request(name);
            assert_eq!(select(&published, &bound, std::slice::from_ref(&name)), Err(name.clone()));
        }
    }
}
