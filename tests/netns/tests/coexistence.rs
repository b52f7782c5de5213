//! A host with somebody else's firewall: what containers need works, or `rnet system check` says which
//! chain keeps it from working, and what it advises helps.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use netns_tests::{Daemon, Host, Lab, SILENCE};

/// Two networks with a container each, one of them with a published port.
struct Scene {
    lab: Lab,
    daemon: Daemon,
    web: Host,
    other: Host,
}

/// What works.
#[derive(Debug, PartialEq, Eq)]
struct Works {
    /// The published port, from outside.
    published: bool,
    /// The outside, from a container.
    egress: bool,
    /// The published port by the host's address, from another network and from the container itself.
    near: bool,
}

const ALL: Works = Works { published: true, egress: true, near: true };
const NOTHING: Works = Works { published: false, egress: false, near: false };

impl Scene {
    fn new() -> Self {
        let lab = Lab::new();
        let daemon = Daemon::start(&lab.host, &[]);
        daemon.rnet("network create --ipv6 n1");
        daemon.rnet("network create --ipv6 n2");
        let web = daemon.run("web", "--network n1 -p 8080:80");
        let other = daemon.run("other", "--network n2");
        Self { lab, daemon, web, other }
    }

    /// What works, in both families alike; and other networks stay other networks.
    fn works(&self) -> Works {
        let _servers = [self.web.serve(80), self.lab.client.serve(7000)];
        let [ipv4, ipv6] = [0, 1].map(|family| {
            let [host, client] = [Lab::HOST, Lab::CLIENT].map(|pair| Lab::both(pair)[family]);
            let reached =
                |from: &Host, to, port| from.tcp_to(SocketAddr::new(to, port), SILENCE).is_ok();
            let own = self.daemon.addresses("web")["n1"][family];
            assert!(!reached(&self.other, own, 80), "{own} from another network");
            let published = reached(&self.lab.client, host, 8080);
            let near = [&self.other, &self.web].map(|from| reached(from, host, 8080));
            assert_eq!(near[0], near[1], "{host}");
            Works { published, egress: reached(&self.web, client, 7000), near: near[0] }
        });
        assert_eq!(ipv4, ipv6, "families differ");
        ipv4
    }

    /// Runs a script on the host, where programs in a directory come first.
    fn run(&self, script: &str) {
        let path = format!("{}:{}", self.programs().display(), std::env::var("PATH").unwrap());
        let run = || Command::new("sh").args(["-ec", script]).env("PATH", path).output();
        let output = self.lab.host.run(run).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {errors}");
    }

    fn programs(&self) -> std::path::PathBuf {
        self.daemon.file("programs")
    }

    /// Puts a program in the place of one of a firewall's, which does to the rules what that does.
    fn program(&self, name: &str, script: &str) {
        fs::create_dir_all(self.programs()).unwrap();
        let file = self.programs().join(name);
        fs::write(&file, format!("#!/bin/sh -e\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What is told, after which everything that is advised is done.
    fn follow_the_advice(&self) -> String {
        let told = self.daemon.output("system check");
        for line in told.lines() {
            // The cure is told of the first bridge, and is one for each.
            let first = ["n1", "n2"].map(|name| self.bridge(name));
            let shown = first.iter().find(|name| line.contains(&format!(" {name} "))).cloned();
            for bridge in ["n1", "n2", "bridge"].map(|name| self.bridge(name)) {
                for advice in line.split('`').skip(1).step_by(2) {
                    let advice = match &shown {
                        Some(shown) => advice.replace(shown.as_str(), &bridge),
                        None => advice.replace("rnet0", &bridge),
                    };
                    self.run(&advice);
                }
            }
        }
        told
    }

    fn bridge(&self, network: &str) -> String {
        if network == "bridge" {
            return "rnet0".to_owned();
        }
        let id = self.daemon.rnet(&format!("network inspect -f {{{{.Id}}}} {network}"));
        format!("br-{}", &id[..12])
    }
}

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/firewalls").join(name);
    path.to_str().unwrap().to_owned()
}

/// The rules are those of Docker 28 with a container, as `iptables-save` shows them.
#[test]
fn beside_a_docker_that_refuses_to_forward_the_advice_helps() {
    let scene = Scene::new();
    assert_eq!(scene.works(), ALL);
    for (family, program) in [("v4", "iptables"), ("v6", "ip6tables")] {
        let rules = fixture(&format!("docker-28.{family}"));
        scene.run(&format!("{program}-nft-restore {rules}"));
    }
    assert_eq!(scene.works(), NOTHING);
    scene.program("iptables", "exec iptables-nft \"$@\"");
    scene.program("ip6tables", "exec ip6tables-nft \"$@\"");
    let told = scene.follow_the_advice();
    for program in ["iptables", "ip6tables"] {
        assert!(told.contains(&format!("`{program} -I DOCKER-USER -i ")), "{told}");
    }
    assert_eq!((scene.works(), scene.daemon.rnet("system check").as_str()), (ALL, ""));
}

#[test]
fn beside_ufw_the_advice_helps() {
    let scene = Scene::new();
    for (family, program) in [("v4", "iptables"), ("v6", "ip6tables")] {
        scene.run(&format!("{program}-nft-restore {}", fixture(&format!("ufw.{family}"))));
    }
    assert_eq!(scene.works(), NOTHING);
    // `ufw route allow in on LINK`
    let rule = "[ \"$1 $2 $4\" = 'route allow on' ]; [ $3 = in ] && flag=-i || flag=-o; \
                for program in iptables ip6tables; do \
                $program-nft -A ufw-user-forward $flag $5 -j ACCEPT; done";
    scene.program("ufw", rule);
    let told = scene.follow_the_advice();
    assert!(told.contains("`ufw route allow in on "), "{told}");
    assert_eq!((scene.works(), scene.daemon.rnet("system check").as_str()), (ALL, ""));
}

#[test]
fn beside_firewalld_the_advice_helps() {
    let scene = Scene::new();
    scene.run(&format!("nft -f {}", fixture("firewalld.nft")));
    assert_eq!(scene.works(), NOTHING);
    // A link in the zone `trusted`
    let rule = "case $3 in --add-interface=*) ;; *) exit 0;; esac; link=${3#*=}; \
                for way in iifname oifname; do \
                nft add rule inet firewalld filter_FORWARD_POLICIES $way $link accept; done";
    scene.program("firewall-cmd", rule);
    let told = scene.follow_the_advice();
    assert!(told.contains("`firewall-cmd --permanent --zone=trusted --add-interface="), "{told}");
    assert_eq!((scene.works(), scene.daemon.rnet("system check").as_str()), (ALL, ""));
}

/// The iptables of old, which nf_tables does not know of.
#[test]
fn beside_iptables_of_old_everything_works_and_a_policy_of_theirs_is_told() {
    let scene = Scene::new();
    let rules = "for program in iptables-legacy ip6tables-legacy; do \
                 $program -A INPUT -p tcp --dport 22 -j ACCEPT; \
                 $program -t nat -A POSTROUTING -o nowhere0 -j MASQUERADE; done";
    scene.run(rules);
    assert_eq!(scene.works(), ALL);
    scene.run("iptables-legacy -P FORWARD DROP; ip6tables-legacy -P FORWARD DROP");
    assert_eq!(scene.works(), NOTHING);
    let told = scene.follow_the_advice();
    for program in ["iptables-legacy", "ip6tables-legacy"] {
        assert!(told.contains(&format!("`{program} -P FORWARD ACCEPT`")), "{told}");
    }
    assert_eq!(scene.works(), ALL);
}

#[test]
fn rules_of_users_stay_where_they_are_through_a_hundred_networks_and_a_restart() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    let rules = "nft add rule inet rnet-user before-forward ip saddr 192.0.2.99 counter drop; \
                 nft add rule inet rnet-user before-forward meta mark 7 accept; \
                 nft insert rule inet rnet-user before-forward tcp dport 9 drop";
    let set = daemon.command("sh").args(["-ec", rules]).status().unwrap();
    assert!(set.success());
    let listed = |daemon: &Daemon| {
        let list = ["-a", "list", "table", "inet", "rnet-user"];
        String::from_utf8(daemon.command("nft").args(list).output().unwrap().stdout).unwrap()
    };
    let before = listed(&daemon);
    assert!(before.contains("192.0.2.99"), "{before}");
    for n in 0..100 {
        daemon.rnet(&format!("network create n{n}"));
        daemon.rnet(&format!("network rm n{n}"));
    }
    let web = daemon.run("web", "-p 8080:80");
    daemon.kill();
    daemon.restart();
    assert_eq!(listed(&daemon), before);
    let _server = web.serve(80);
    assert!(lab.client.tcp(Lab::both(Lab::HOST)[0], 8080).is_ok());
}
