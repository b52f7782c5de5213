//! `docs/networks/docker-cli.md`: networks and endpoints as the real `docker` makes them, and what `inspect`
//! tells of them: as Docker does, but for what the page says.
//!
//! `UPDATE=1 cargo test -p netns-tests --test creations` writes anew what rnet tells. With
//! `UPDATE=unix:///path/to/docker.sock`, a genuine Docker that may be littered for a moment, what Docker
//! tells as well.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use netns_tests::matrix::Engine;
use netns_tests::{Daemon, Host, Lab};
use serde_json::Value;

/// What `network create` is given. Docker's networks of the same kind are there one after the other.
const NETWORKS: &str = "
--driver bridge
--ipv6
--ipv4=false --ipv6
--subnet 10.60.0.0/24
--subnet 10.60.0.0/24 --gateway 10.60.0.9
--subnet 10.60.0.0/24 --ip-range 10.60.0.128/25
--subnet 10.60.0.0/24 --aux-address router=10.60.0.7 --aux-address printer=10.60.0.8
--subnet 10.60.0.0/24 --ipv6 --subnet fd00:60::/64 --gateway fd00:60::9
--subnet 10.60.0.0/24 --subnet fd00:60::/64
--internal
--attachable
--scope local
--label com.example.shop --label kind=test
--ipam-driver default --ipam-opt com.example.option=1
-o com.docker.network.bridge.name=br-cli
-o com.docker.network.bridge.enable_icc=false
-o com.docker.network.bridge.enable_ip_masquerade=false
-o com.docker.network.bridge.host_binding_ipv4=127.0.0.1
-o com.docker.network.bridge.inhibit_ipv4=true
-o com.docker.network.bridge.gateway_mode_ipv4=routed
-o com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected
--internal -o com.docker.network.bridge.gateway_mode_ipv4=isolated
-o com.docker.network.bridge.gateway_mode_ipv4=isolated
--ipv6 -o com.docker.network.bridge.gateway_mode_ipv6=routed
-o com.docker.network.bridge.trusted_host_interfaces=eth0
-o com.docker.network.driver.mtu=1400
-o com.docker.network.container_iface_prefix=lan
-o com.docker.network.host_ipv4=192.0.2.1
-o com.docker.network.host_ipv6=2001:db8:1::1
-o com.docker.network.enable_ipv4=true
-o com.docker.network.enable_ipv6=true
-o com.docker.network.internal=true
-o com.docker.network.advertise_addr_nmsgs=1
-o com.docker.network.advertise_addr_ms=200
-o com.docker.network.bridge.enable_icc=perhaps
--subnet 10.60.0.0/33
--subnet 10.60.0.0/24 --gateway 10.61.0.1
--subnet 10.60.0.0/24 --ip-range 10.61.0.0/24
--driver macvlan --subnet 10.60.0.0/24 --gateway 10.60.0.1 -o parent=eth0
--driver macvlan --subnet 10.60.0.0/24 --ip-range 10.60.0.0/25 --gateway 10.60.0.1 -o parent=eth0 -o macvlan_mode=private
--driver macvlan --subnet 10.60.0.0/24 --gateway 10.60.0.1 -o parent=eth0 -o macvlan_mode=nonsense
--driver macvlan --subnet 10.60.0.0/24 --gateway 10.60.0.1 --internal -o parent=eth0
--driver host
--driver null
";

/// What an endpoint of a container is given, on a network with both families.
const ENDPOINTS: &str = "
--network cli-net
--network cli-net --ip 10.62.0.9
--network cli-net --ip6 fd00:62::9
--network cli-net --mac-address 02:42:0a:3e:00:09
--network cli-net --network-alias web --network-alias shop
--network cli-net --link-local-ip 169.254.7.7
--network name=cli-net,alias=web,ip=10.62.0.9
--network name=cli-net,driver-opt=com.docker.network.endpoint.ifname=lan0
--network name=cli-net,driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1
--network name=cli-net,gw-priority=7
--network cli-net --publish 127.0.0.1:8099:80
--network cli-net --publish 8099:80/udp
--network cli-lan --publish 8099:80 --expose 90
--network cli-inside --publish 8099:80 --expose 90
--network host
--network none
--network cli-net --ip 10.99.0.9
";

/// The commands of a table with what Docker tells and, where that is another thing, what rnet tells.
#[derive(Default)]
struct Table(BTreeMap<String, [String; 2]>);

impl Table {
    fn parse(text: &str) -> Self {
        let row = |line: &str| {
            let cells: Vec<_> =
                line.strip_prefix("| ")?.trim_end_matches('|').split(" | ").collect();
            let [command, docker, rnet] = cells[..] else { return None };
            Some((command.trim().to_owned(), [docker.trim().to_owned(), rnet.trim().to_owned()]))
        };
        Self(text.lines().filter_map(row).collect())
    }

    /// What Docker told of a command, if that was ever asked.
    fn docker(&self, command: &str) -> String {
        self.0.get(&format!("`{command}`")).map(|told| told[0].clone()).unwrap_or_default()
    }
}

/// What there is to ask of an engine: everything by its command.
fn ask(engine: &Engine) -> BTreeMap<String, String> {
    clear(engine);
    let plain = network(engine, "").unwrap();
    let mut all = BTreeMap::from([(String::new(), text(&plain, &Value::Null))]);
    for options in NETWORKS.lines().skip(1) {
        let told = match network(engine, options) {
            Ok(found) => text(&found, &plain),
            Err(error) => refusal(&error),
        };
        all.insert(options.to_owned(), told);
    }
    for options in [
        "--ipv6 --subnet 10.62.0.0/24 --subnet fd00:62::/64 cli-net",
        "-d macvlan -o parent=eth0 --subnet 10.63.0.0/24 --gateway 10.63.0.1 cli-lan",
        "--internal --subnet 10.61.0.0/24 --gateway 10.61.0.1 cli-inside",
    ] {
        engine.docker(&format!("network create {options}")).unwrap();
    }
    let plain = endpoint(engine, "--network cli-net").unwrap();
    for options in ENDPOINTS.lines().skip(1) {
        let same = !options.contains("cli-net ") && !options.contains("cli-net,");
        let told = match endpoint(engine, options) {
            Ok(found) => text(&found, if same { &Value::Null } else { &plain }),
            Err(error) => refusal(&error),
        };
        all.insert(options.to_owned(), told);
    }
    clear(engine);
    all
}

/// Removes what is ours, of an earlier time as well.
fn clear(engine: &Engine) {
    let _ = engine.docker("rm -f cli-container");
    for name in ["cli-net", "cli-lan", "cli-inside"] {
        let _ = engine.docker(&format!("network rm {name}"));
    }
}

fn network(engine: &Engine, options: &str) -> Result<Value, String> {
    engine.docker(&format!("network create {options} cli-net"))?;
    let mut told: Value = serde_json::from_str(&engine.docker("network inspect cli-net")?).unwrap();
    engine.docker("network rm cli-net")?;
    let mut told = told[0].take();
    let automatic = !options.contains("--subnet 10");
    for own in ["Id", "Created", "Name"] {
        told.as_object_mut().unwrap().remove(own);
    }
    for pool in told["IPAM"]["Config"].as_array_mut().into_iter().flatten() {
        let ipv6 = pool["Subnet"].as_str().is_some_and(|subnet| subnet.contains(':'));
        if automatic || (ipv6 && !options.contains("--subnet fd")) {
            for field in ["Subnet", "Gateway"] {
                if pool.get(field).is_some() {
                    pool[field] = "automatic".into();
                }
            }
        }
    }
    Ok(told)
}

/// What is told of a container's networks, its ports and what it was asked for.
fn endpoint(engine: &Engine, options: &str) -> Result<Value, String> {
    let run =
        engine.docker(&format!("run -d --name cli-container {options} rnet/toolbox sleep 1000"));
    let told = run.and_then(|_| engine.docker("inspect cli-container"));
    let _ = engine.docker("rm -f cli-container");
    let told: Value = serde_json::from_str(&told?).unwrap();
    let id = told[0]["Id"].as_str().unwrap()[..12].to_owned();
    let mut networks = told[0]["NetworkSettings"]["Networks"].clone();
    for network in networks.as_object_mut().unwrap().values_mut() {
        for own in ["EndpointID", "NetworkID"] {
            network[own] = "its own".into();
        }
        let chosen = [
            ("MacAddress", options.contains("mac-address")),
            ("IPAddress", options.contains("--ip ") || options.contains("ip=")),
            ("GlobalIPv6Address", options.contains("--ip6 ")),
        ];
        for (field, _) in chosen.into_iter().filter(|(_, chosen)| !chosen) {
            if network[field] != "" {
                network[field] = "its own".into();
            }
        }
        for name in network["DNSNames"].as_array_mut().into_iter().flatten() {
            if *name == id.as_str() {
                *name = "its short id".into();
            }
        }
    }
    let ports = told[0]["NetworkSettings"]["Ports"].clone();
    Ok(serde_json::json!({ "Networks": networks, "Ports": ports }))
}

/// What is told, where it is not what is told of the plain one.
fn text(told: &Value, plain: &Value) -> String {
    let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
    flatten("", told, &mut ours);
    flatten("", plain, &mut theirs);
    let mut words: Vec<String> = Vec::new();
    for (path, value) in &ours {
        if theirs.get(path) != Some(value) {
            words.push(format!("`{path}` {value}"));
        }
    }
    let gone = theirs.keys().filter(|path| !path.is_empty() && !ours.contains_key(*path));
    words.extend(gone.map(|path| format!("no `{path}`")));
    if words.is_empty() { "nothing else".to_owned() } else { words.join(", ") }
}

fn flatten(path: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { " " };
                flatten(&format!("{path}{dot}{name}"), value, into);
            }
        }
        Value::Array(values) if values.iter().any(Value::is_object) => {
            for (number, value) in values.iter().enumerate() {
                flatten(&format!("{path} {number}"), value, into);
            }
        }
        value => {
            into.insert(path.to_owned(), value.to_string());
        }
    }
}

/// A refusal in one line, without the command.
fn refusal(error: &str) -> String {
    let lines: Vec<_> = error.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = lines.join("; ").replace('|', "/");
    let words = line.split_once("cli-net: ").or_else(|| line.split_once("sleep 1000: "));
    let words = words.map_or(&*line, |(_, words)| words);
    let told = words.strip_prefix("Error response from daemon: ").unwrap_or(words);
    // What `docker run` adds by itself.
    let told = told.split("; Run 'docker").next().unwrap_or_default();
    format!("refused: {}", told.trim_start_matches("docker: Error response from daemon: "))
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/networks/docker-cli.md")
}

const HEAD: &str = "\
# Networks by Docker's command line

<!-- Made by tests/netns/tests/creations.rs (UPDATE), from what docker tells of each of them. -->

What the real `docker` makes by each option, and what `inspect` tells of it. The second column was told by
Docker 28.5.2; the third is empty where rnet tells the same, and says what rnet tells where it does not.
Subnets and addresses that nobody chose, ids and hardware addresses are left out.

- rnet tells the gateway that it chose, also where the subnet was given.
- A subnet of IPv6 is enough for a network to have IPv6, and `com.docker.network.internal` is the same as `--internal`.
- What is refused is told with what would be accepted.
";

const PLAIN: &str = "
## `docker network create`

The first row is a network without any option; the others say what is told beside that or instead of it.
";

const CONTAINERS: &str = "
## `docker run`

On a network with the subnets 10.62.0.0/24 and fd00:62::/64: `NetworkSettings` of the container. The first row is
of a container with nothing but the network; the others say what is told beside that or instead of it. Those on
`cli-lan`, a macvlan network, on `cli-inside`, an internal one, on `host` and `none` are told whole.
";

fn page(docker: &dyn Fn(&str) -> String, rnet: &BTreeMap<String, String>) -> String {
    let mut page = HEAD.to_owned();
    let mut table = |head: &str, commands: &str| {
        let _ = write!(page, "{head}\n| options | inspect | rnet |\n|---|---|---|\n");
        for command in commands.lines() {
            let (theirs, ours) = (docker(command), &rnet[command]);
            let ours = if theirs == *ours { "" } else { ours };
            let _ = writeln!(page, "| `{command}` | {theirs} | {ours} |");
        }
    };
    table(PLAIN, NETWORKS.trim_end());
    table(CONTAINERS, ENDPOINTS.trim());
    page
}

#[test]
fn what_docker_makes_is_told_as_docker_tells_it() {
    let lab = Lab::new();
    let other = Host::new();
    lab.host.connect("eth0", &other, "eth0");
    let daemon = Daemon::start(&lab.host, &[]);
    let rnet = ask(&Engine::of(&daemon));
    let update = std::env::var("UPDATE").ok();
    let found = std::fs::read_to_string(path()).unwrap_or_default();
    let recorded = Table::parse(&found);
    let genuine = update.as_deref().filter(|url| url.starts_with("unix:"));
    let genuine = genuine.map(|url| ask(&Engine::new(url, Path::new("/"), None, "rnet/toolbox")));
    let docker = |command: &str| match &genuine {
        Some(told) => told[command].clone(),
        None => recorded.docker(command),
    };
    let page = page(&docker, &rnet);
    if update.is_some() {
        std::fs::write(path(), &page).unwrap();
    } else {
        let differ = page.lines().zip(found.lines()).filter(|(is, was)| is != was);
        let differ: Vec<_> = differ.map(|(is, was)| format!("{is}\nand was\n{was}")).collect();
        assert!(
            page == found,
            "run this test with UPDATE=1 if that is meant:\n{}",
            differ.join("\n")
        );
    }
}

/// Two services on networks of each kind that compose can say.
const COMPOSE: &str = r#"
services:
  web:
    image: rnet/toolbox
    command: sleep 1000
    ports: ["8099:80"]
    networks:
      front:
        ipv4_address: 10.64.0.9
        ipv6_address: fd00:64::9
        aliases: [shop]
      back:
  db:
    image: rnet/toolbox
    command: sleep 1000
    networks: [back]
networks:
  front:
    driver: bridge
    enable_ipv6: true
    driver_opts:
      com.docker.network.driver.mtu: "1400"
      com.docker.network.bridge.name: br-compose
    labels: {kind: test}
    ipam:
      config: [{subnet: 10.64.0.0/24, gateway: 10.64.0.1}, {subnet: "fd00:64::/64"}]
  back:
    internal: true
"#;

#[test]
fn compose_makes_networks_of_each_kind_and_takes_them_away_again() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    let file = daemon.file("compose.yaml");
    std::fs::write(&file, format!("version: '2.4'\n{COMPOSE}")).unwrap();
    let compose = |words: &[&str]| {
        let mut command = std::process::Command::new("docker-compose");
        command.env("DOCKER_HOST", daemon.url()).args(["-p", "shop", "-f"]).arg(&file);
        let output = command.args(words).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "docker-compose {words:?}: {told}\n{}", daemon.log());
    };
    compose(&["up", "-d"]);
    // What is there already is left as it is.
    compose(&["up", "-d"]);
    let engine = Engine::of(&daemon);
    let told = |kind: &str, name: &str| -> Value {
        let told: Value =
            serde_json::from_str(&engine.docker(&format!("{kind} inspect {name}")).unwrap())
                .unwrap();
        told[0].clone()
    };
    let front = told("network", "shop_front");
    assert_eq!(front["Options"]["com.docker.network.driver.mtu"], "1400");
    assert_eq!((&front["EnableIPv6"], &front["Labels"]["kind"]), (&true.into(), &"test".into()));
    assert_eq!(told("network", "shop_back")["Internal"], true);
    let web = told("container", "shop_web_1");
    let networks = &web["NetworkSettings"]["Networks"];
    assert_eq!(networks["shop_front"]["IPAddress"], "10.64.0.9");
    assert_eq!(networks["shop_front"]["GlobalIPv6Address"], "fd00:64::9");
    let aliases = networks["shop_front"]["Aliases"].as_array().unwrap();
    assert!(aliases.contains(&"shop".into()) && aliases.contains(&"web".into()), "{aliases:?}");
    assert!(lab.host.link("br-compose").is_some());
    let inside = daemon.inside("shop_db_1");
    assert!(!netns_tests::lookup::addresses(&inside, "web").is_empty());
    compose(&["down"]);
    let left = daemon.rnet("network ls --format {{.Name}}");
    assert_eq!(left.lines().collect::<std::collections::BTreeSet<_>>().len(), 3, "{left}");
}
