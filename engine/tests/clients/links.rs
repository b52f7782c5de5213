//! `--link` on the default network, as both clients see it.

use nix::sys::signal::Signal;

use crate::daemon::{Client, Daemon};

const IMAGE: &str = "rnet/toolbox";

/// A server with three ports, and a client of its.
fn linked(daemon: &Daemon, client: Client) {
    let flags = "run -d --name db --hostname dbhost --expose 5432 --expose 5433 --expose 53/udp \
                 -e PASSWORD=secret";
    let server: Vec<_> = flags.split_whitespace().chain([IMAGE, "trap", "0"]).collect();
    daemon.ok(client, &server);
    let flags = "run -d --name app --link db:sql -e SQL_ENV_PASSWORD=mine";
    let app: Vec<_> = flags.split_whitespace().chain([IMAGE, "trap", "0"]).collect();
    daemon.ok(client, &app);
}

fn address(daemon: &Daemon, container: &str) -> String {
    daemon.docker_ok(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", container])
}

/// The lines of `/etc/hosts` with a name.
fn hosts(daemon: &Daemon, name: &str) -> Vec<String> {
    let text = daemon.docker_ok(&["exec", "app", "cat", "/etc/hosts"]);
    let lines = text.lines().filter(|line| line.contains(name));
    lines.map(str::to_owned).collect()
}

fn links(daemon: &Daemon, container: &str) -> String {
    daemon.docker_ok(&["inspect", "-f", "{{json .HostConfig.Links}}", container])
}

fn names(daemon: &Daemon, client: Client) -> String {
    daemon.ok(client, &["ps", "-a", "--no-trunc", "--format", "{{.Names}}"])
}

#[test]
fn a_linked_container_is_told_of_by_variables_hosts_and_names() {
    for client in Client::ALL {
        let daemon = Daemon::start(&[]);
        linked(&daemon, client);
        let ip = address(&daemon, "db");
        let text = daemon.ok(client, &["exec", "app", "env"]);
        let env: Vec<_> = text.lines().collect();
        for variable in [
            "SQL_NAME=/app/sql".to_owned(),
            "SQL_ENV_PASSWORD=mine".to_owned(),
            format!("SQL_PORT=tcp://{ip}:5432"),
            format!("SQL_PORT_5432_TCP_ADDR={ip}"),
            format!("SQL_PORT_5432_TCP_END=tcp://{ip}:5433"),
            format!("SQL_PORT_53_UDP=udp://{ip}:53"),
        ] {
            assert!(env.contains(&variable.as_str()), "{client:?} {variable}: {text}");
        }
        assert_eq!(hosts(&daemon, "sql"), [format!("{ip}\tsql dbhost db")]);
        assert_eq!(links(&daemon, "app"), r#"["/db:/app/sql"]"#);
        assert_eq!(names(&daemon, client), "app\napp/sql,db");
        assert_eq!(daemon.ok(client, &["ps", "--format", "{{.Names}}"]), "app\ndb");
        assert_eq!(daemon.ok(client, &["inspect", "-f", "{{.Name}}", "app/sql"]), "/db");
        assert_eq!(daemon.ok(client, &["exec", "app", "lookup", "sql"]), ip);
    }
}

#[test]
fn a_link_follows_the_names_of_both_and_goes_by_its_own() {
    for client in Client::ALL {
        let daemon = Daemon::start(&[]);
        linked(&daemon, client);
        daemon.ok(client, &["rename", "db", "store"]);
        daemon.ok(client, &["rename", "app", "web"]);
        assert_eq!(links(&daemon, "web"), r#"["/store:/web/sql"]"#);
        assert_eq!(names(&daemon, client), "web\nstore,web/sql");
        daemon.ok(client, &["rename", "web", "app"]);
        let (code, _, error) = daemon.ask(client, &["rm", "--link", "app"]);
        let expected = "Conflict, cannot remove the default link name of the container";
        assert!(code == Some(1) && error.contains(expected), "{error}");
        let (_, _, error) = daemon.ask(client, &["rm", "--link", "app/none"]);
        assert!(error.contains("No such container: app/none"), "{error}");
        daemon.ok(client, &["rm", "--link", "app/sql"]);
        assert_eq!(links(&daemon, "app"), "null");
        assert_eq!(names(&daemon, client), "app\nstore");
        assert_eq!(hosts(&daemon, "sql"), [""; 0]);
    }
}

#[test]
fn a_link_leads_to_the_next_address_of_a_container_that_comes_back() {
    // With five addresses.
    let daemon = Daemon::start(&["--bip", "172.17.0.1/29"]);
    linked(&daemon, Client::Docker);
    let old = address(&daemon, "db");
    daemon.docker_ok(&["stop", "-t", "0", "db"]);
    let (code, error) = daemon.docker_err(&["restart", "-t", "0", "app"]);
    let expected = "Cannot link to a non running container: /db AS /app/sql";
    assert!(code == Some(1) && error.contains(expected), "{error}");
    // Somebody else has the address meanwhile.
    for name in ["one", "two", "three", "four", "five"] {
        daemon.docker_ok(&["run", "-d", "--name", name, IMAGE, "trap", "0"]);
    }
    let is_free = |name: &&str| address(&daemon, name) != old;
    let other = ["one", "two"].into_iter().find(is_free).unwrap();
    daemon.docker_ok(&["rm", "-f", other]);
    daemon.docker_ok(&["start", "db"]);
    let (code, _) = daemon.docker_err(&["start", "app"]);
    assert_eq!(code, Some(1), "there is no address left");
    daemon.docker_ok(&["rm", "-f", "three"]);
    daemon.docker_ok(&["start", "app"]);
    let new = address(&daemon, "db");
    assert_ne!(new, old);
    assert_eq!(hosts(&daemon, "sql"), [format!("{new}\tsql dbhost db")]);
    assert_eq!(daemon.docker_ok(&["exec", "app", "lookup", "sql"]), new);
    let env = daemon.docker_ok(&["exec", "app", "env"]);
    assert!(env.contains(&format!("SQL_PORT=tcp://{new}:5432")), "{env}");
}

#[test]
fn links_are_there_after_the_daemon_was_killed_and_lead_nowhere_without_their_container() {
    let mut daemon = Daemon::start(&[]);
    linked(&daemon, Client::Docker);
    let ip = address(&daemon, "db");
    daemon.restart_after(Signal::SIGKILL, &[]);
    assert_eq!(links(&daemon, "app"), r#"["/db:/app/sql"]"#);
    assert_eq!(names(&daemon, Client::Docker), "app\napp/sql,db");
    assert_eq!(daemon.docker_ok(&["exec", "app", "lookup", "sql"]), ip);
    daemon.docker_ok(&["rm", "-f", "db"]);
    let (_, error) = daemon.docker_err(&["restart", "-t", "0", "app"]);
    let expected = "Cannot link to a non running container: /db AS /app/sql, which was removed";
    assert!(error.contains(expected), "{error}");
    assert_eq!(links(&daemon, "app"), r#"["/db:/app/sql"]"#);
    daemon.docker_ok(&["rm", "--link", "app/sql"]);
    daemon.docker_ok(&["start", "app"]);
    assert_eq!((links(&daemon, "app").as_str(), hosts(&daemon, "sql")), ("null", Vec::new()));
}

#[test]
fn what_cannot_be_linked_is_refused_in_docker_s_words() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["create", "--name", "host", "--network", "host", IMAGE]);
    for (link, expected) in [
        ("none:x", "could not get container for none: No such container: none"),
        ("host:x", "conflicting options: host type networking can't be used with links"),
        ("a:b:c", "bad format for links: a:b:c"),
    ] {
        let (_, error) = daemon.docker_err(&["create", "--link", link, IMAGE]);
        assert!(error.contains(expected), "{link}: {error}");
    }
}
