//! The text of `/etc/hosts` and `/etc/resolv.conf` of a container.

use std::fmt::Write;
use std::net::IpAddr;

/// Every container's first lines.
const LOCAL: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// What `/etc/hosts` is made of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts<'a> {
    /// The host name.
    pub(crate) hostname: &'a str,
    /// The domain name; may be empty.
    pub(crate) domainname: &'a str,
    /// The container's own addresses.
    pub(crate) addresses: &'a [IpAddr],
    /// Further addresses with their names, in order.
    pub(crate) extra: &'a [(IpAddr, String)],
    /// The host's own file, for a container in the host's namespace.
    pub(crate) host_file: Option<&'a str>,
}

/// The text of `/etc/hosts`.
pub(crate) fn hosts(hosts: &Hosts<'_>) -> String {
    let mut text = hosts.host_file.unwrap_or(LOCAL).to_owned();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for (address, name) in hosts.extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    for address in hosts.addresses {
        let _ = match hosts.domainname {
            "" => match hosts.hostname.split_once('.') {
                Some((short, _)) => writeln!(text, "{address}\t{} {short}", hosts.hostname),
                None => writeln!(text, "{address}\t{}", hosts.hostname),
            },
            domain => writeln!(text, "{address}\t{}.{domain} {}", hosts.hostname, hosts.hostname),
        };
    }
    text
}

/// The text of `/etc/hosts` with other addresses for a name, which stands first in its lines. Further
/// names of its stay; without addresses its lines go.
pub(crate) fn readdress(text: &str, name: &str, addresses: &[IpAddr]) -> String {
    let rest = |line: &str| {
        let (_, names) = line.split_once('\t')?;
        (names.split(' ').next() == Some(name)).then(|| names.to_owned())
    };
    let mut left = addresses.iter();
    let mut changed = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let Some(own) = rest(line.trim_end_matches('\n')) else {
            changed.push_str(line);
            continue;
        };
        // All addresses stand where the first one stood.
        for address in left.by_ref() {
            let _ = writeln!(changed, "{address}\t{own}");
        }
    }
    if !changed.is_empty() && !changed.ends_with('\n') {
        changed.push('\n');
    }
    for address in left {
        let _ = writeln!(changed, "{address}\t{name}");
    }
    changed
}

/// What `/etc/resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    /// The name servers.
    pub(crate) servers: Vec<IpAddr>,
    /// The search domains.
    pub(crate) search: Vec<String>,
    /// The options.
    pub(crate) options: Vec<String>,
}

/// Whom the resolver in a sandbox asks for what it does not know.
#[derive(Debug)]
pub(crate) enum Asked {
    /// The host's own servers, whichever those are at the time; these were it first.
    Host(Vec<IpAddr>),
    /// Those that were given for the container, or for all.
    Given(Vec<IpAddr>),
}

impl Asked {
    /// What a `resolv.conf` that only names the resolver says about the servers behind it, in the
    /// words in which Docker says it.
    pub(crate) fn explain(&self, overrides: &[&str]) -> String {
        let servers: Vec<_> = match self {
            Self::Host(servers) => servers.iter().map(|server| format!("host({server})")).collect(),
            Self::Given(servers) => servers.iter().map(ToString::to_string).collect(),
        };
        let (servers, overrides) = (servers.join(" "), overrides.join(" "));
        format!("\n# ExtServers: [{servers}]\n# Overrides: [{overrides}]\n")
    }
}

impl Resolver {
    /// Reads a `resolv.conf`. What it does not understand it leaves out.
    pub(crate) fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.split('%').next());
                    resolver.servers.extend(address.and_then(|a| a.parse::<IpAddr>().ok()));
                }
                // The last one counts: resolv.conf(5).
                Some("search" | "domain") => {
                    resolver.search = words.map(str::to_owned).collect();
                }
                Some("options") => resolver.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        resolver
    }

    /// Replaces the parts that a user gave.
    pub(crate) fn with(
        mut self,
        servers: &[IpAddr],
        search: &[String],
        options: &[String],
    ) -> Self {
        if !servers.is_empty() {
            self.servers = servers.to_vec();
        }
        // A single dot asks for no search domain at all.
        match search {
            [] => {}
            [dot] if dot == "." => self.search.clear(),
            _ => self.search = search.to_vec(),
        }
        if !options.is_empty() {
            self.options = options.to_vec();
        }
        self
    }

    /// The text of the file.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_host_name_with_a_domain_is_told_without_it_too() {
        let text = hosts(&Hosts {
            hostname: "web.example.org",
            domainname: "",
            addresses: &["10.1.0.2".parse().unwrap()],
            extra: &[],
            host_file: Some(""),
        });
        assert_eq!(text.trim_start(), "10.1.0.2\tweb.example.org web\n");
    }

    #[test]
    fn hosts_has_both_families_and_the_domain() {
        let addresses: Vec<IpAddr> =
            ["10.1.0.2", "fd00::2"].iter().map(|a| a.parse().unwrap()).collect();
        let text = hosts(&Hosts {
            hostname: "web",
            domainname: "example.org",
            addresses: &addresses,
            extra: &[("192.0.2.7".parse().unwrap(), "db".to_owned())],
            host_file: None,
        });
        expect![[r#"
            127.0.0.1	localhost
            ::1	localhost ip6-localhost ip6-loopback
            fe00::	ip6-localnet
            ff00::	ip6-mcastprefix
            ff02::1	ip6-allnodes
            ff02::2	ip6-allrouters
            192.0.2.7	db
            10.1.0.2	web.example.org web
            fd00::2	web.example.org web
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn a_name_gets_other_addresses_and_all_else_stays() {
        let text = "127.0.0.1\tlocalhost\n10.1.0.2\tdb 0a1b sql\n10.1.0.9\tdb2\n10.1.0.2\tdb\n10.1.0.3\tweb\n";
        let changed = |addresses: &[&str]| {
            let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            readdress(text, "db", &addresses)
        };
        let head = "127.0.0.1\tlocalhost\n";
        let tail = "10.1.0.9\tdb2\n10.1.0.3\tweb\n";
        let both = "10.1.0.7\tdb 0a1b sql\nfd00::7\tdb 0a1b sql\n";
        assert_eq!(changed(&["10.1.0.7", "fd00::7"]), format!("{head}{both}{tail}"));
        assert_eq!(changed(&[]), format!("{head}{tail}"));
        let one = ["10.1.0.5".parse().unwrap()];
        assert_eq!(readdress("", "db", &one), "10.1.0.5\tdb\n");
    }

    #[test]
    fn the_users_resolver_options_replace_the_hosts() {
        let host = Resolver::parse(
            "# made by hand\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch a.org b.org\noptions edns0\n",
        );
        let own = host.with(&["127.0.0.11".parse().unwrap()], &[], &["ndots:0".to_owned()]);
        expect![[r#"
            nameserver 127.0.0.11
            search a.org b.org
            options ndots:0
        "#]]
        .assert_eq(&own.render());
    }

    #[test]
    fn a_dot_clears_the_search_domains() {
        let host = Resolver::parse("search a.org");
        assert_eq!(host.with(&[], &[".".to_owned()], &[]).render(), "");
    }
}
