//! Legacy links where containers do not talk to each other: what is linked passes, and nothing else.

use std::net::{IpAddr, SocketAddr};

use drivers::kernel::reconcile;
use netns_tests::{Daemon, Host, Lab, Model};

/// The linked container's ports: one that it exposes, and one that it does not.
const EXPOSED: u16 = 5432;
const OTHER: u16 = 5433;

fn addresses(daemon: &Daemon, name: &str) -> Vec<IpAddr> {
    daemon.addresses(name)["bridge"].clone()
}

fn passes(from: &Host, to: &[IpAddr]) {
    assert_eq!(to.len(), 2, "of both families");
    for address in to {
        assert!(from.tcp(*address, EXPOSED).is_ok(), "{address}");
        assert!(from.is_cut_off_from(SocketAddr::new(*address, OTHER)), "{address}");
    }
}

#[test]
fn what_is_linked_passes_where_containers_do_not_talk() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &["--icc=false"]);
    let port = EXPOSED.to_string();
    let db = daemon.run("db", &format!("--expose {port} --expose {port}/udp"));
    let app = daemon.run("app", "--link db");
    let stranger = daemon.run("stranger", "");
    let (_exposed, _other) = (db.serve(EXPOSED), db.serve(OTHER));
    let _back = app.serve(EXPOSED);
    let to = addresses(&daemon, "db");
    passes(&app, &to);
    for &address in &to {
        assert!(app.udp(address, EXPOSED).is_ok(), "{address}");
        assert!(stranger.is_cut_off_from(SocketAddr::new(address, EXPOSED)), "{address}");
    }
    for address in addresses(&daemon, "app") {
        assert!(db.is_cut_off_from(SocketAddr::new(address, EXPOSED)), "{address}");
    }
    daemon.kill();
    passes(&app, &to);
    daemon.restart();
    passes(&app, &to);
    daemon.rnet("rm --link app/db");
    for address in to {
        assert!(app.is_cut_off_from(SocketAddr::new(address, EXPOSED)), "{address}");
    }
}

#[test]
fn a_passage_ends_with_the_linked_container_and_comes_back_with_it() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &["--icc=false"]);
    daemon.run("db", &format!("--expose {EXPOSED}"));
    let app = daemon.run("app", "--link db");
    let passages = || {
        let mut listed = daemon.command("nft");
        listed.args(["list", "set", "inet", "rnet", "passages4"]);
        let output = listed.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.matches(&format!(" . {EXPOSED}")).count()
    };
    assert_eq!(passages(), 1, "{}", daemon.log());
    daemon.rnet("stop -t 0 db");
    assert_eq!(passages(), 0);
    daemon.rnet("start db");
    let db = daemon.inside("db");
    let (_exposed, _other) = (db.serve(EXPOSED), db.serve(OTHER));
    passes(&app, &addresses(&daemon, "db"));
    // The linked container starts anew while there is no daemon.
    daemon.kill();
    daemon.restart();
    daemon.rnet("restart -t 0 db");
    let db = daemon.inside("db");
    let (_exposed, _other) = (db.serve(EXPOSED), db.serve(OTHER));
    passes(&app, &addresses(&daemon, "db"));
}

#[test]
fn neighbours_that_do_not_talk_reach_each_other_by_no_route_of_theirs() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.set(1, "bridge.enable_icc", "false");
    model.sandbox(1, &[1]);
    model.sandbox(2, &[1]);
    let kernel = lab.open();
    reconcile(&kernel, &model.desired()).unwrap();
    let again = reconcile(&kernel, &model.desired()).unwrap();
    assert!(again.is_empty(), "{again}");
    let [one, two] = [1, 2].map(|n| lab.sandbox(&kernel, &model.sandboxes[&n].0.id));
    let _server = two.serve(EXPOSED);
    for (to, gateway) in model.addresses(2, 1).into_iter().zip(model.gateways(1)) {
        let length = if to.is_ipv4() { 32 } else { 128 };
        one.add_route(&format!("{to}/{length}"), "eth0", &gateway.to_string());
        assert!(one.is_cut_off_from(SocketAddr::new(to, EXPOSED)), "{to}");
    }
}
