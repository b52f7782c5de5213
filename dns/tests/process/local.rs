//! Names of our own networks, question for over real sockets.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::lab::{
    Lab, addresses, ask, endpoint, named, network, query, receive_framed, send_framed, view,
    with_edns,
};

#[test]
fn a_name_is_answered_as_soon_as_publish_returns() {
    let lab = Lab::new(&[]);
    let sandbox = lab.sandbox(view(1));
    let asker = sandbox.asker();
    for number in 0..1000 {
        let name = format!("web-{number}");
        let address = format!("10.0.{}.{}", number / 250, number % 250 + 1);
        lab.client.publish(&network('a'), "app", &[named(number, &name, &address)]).unwrap();
        let reply = ask(&asker, &query(&name, RecordType::A));
        let expected: Vec<std::net::IpAddr> = vec![address.parse().unwrap()];
        assert_eq!(addresses(&reply), expected, "{name}");
    }
}

#[test]
fn many_names_are_published_in_one_call() {
    let lab = Lab::new(&[]);
    let sandbox = lab.sandbox(view(1));
    let endpoints: Vec<_> = (0..5000).map(|n| named(n, &format!("web-{n}"), "10.0.0.1")).collect();
    lab.client.publish(&network('a'), "app", &endpoints).unwrap();
    for number in [0, 199, 200, 4999] {
        assert_eq!(sandbox.addresses(&format!("web-{number}")).len(), 1);
    }
}

#[test]
fn a_withdrawn_name_is_unknown() {
    let lab = Lab::new(&[]);
    let mut internal = view(1);
    internal.forward = false;
    let sandbox = lab.sandbox(internal);
    lab.client.publish(&network('a'), "app", &[named(1, "web", "10.0.0.1")]).unwrap();
    assert_eq!(sandbox.addresses("web.app").len(), 1);
    lab.client.withdraw(&network('a'), &[endpoint(1)]).unwrap();
    let reply = sandbox.ask("web.app", RecordType::A);
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
}

#[test]
fn retain_drops_what_the_daemon_no_longer_knows() {
    let lab = Lab::new(&[]);
    let mut internal = view(1);
    internal.networks.push(network('b'));
    internal.forward = false;
    let sandbox = lab.sandbox(internal);
    let names = [named(1, "web", "10.0.0.1"), named(2, "db", "10.0.0.2")];
    lab.client.publish(&network('a'), "app", &names).unwrap();
    lab.client.publish(&network('b'), "other", &[named(3, "old", "10.1.0.1")]).unwrap();
    lab.client.retain([(network('a'), vec![endpoint(2)])].into()).unwrap();
    let found = ["web", "db", "old"].map(|name| sandbox.addresses(name).len());
    assert_eq!(found, [0, 1, 0]);
}

#[test]
fn update_changes_what_is_seen_on_the_same_sockets() {
    let lab = Lab::new(&[]);
    let sandbox = lab.sandbox(view(1));
    lab.client.publish(&network('b'), "other", &[named(1, "db", "10.1.0.1")]).unwrap();
    let mut both = view(1);
    both.networks.push(network('b'));
    lab.client.update(both).unwrap();
    assert_eq!(sandbox.addresses("db").len(), 1);
}

#[test]
fn updating_a_sandbox_that_is_not_served_is_refused() {
    let lab = Lab::new(&[]);
    let error = lab.client.update(view(7)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot update a sandbox in rnet-dns: sandbox 000000000000 is not served: serve it first",
    );
    assert!(lab.client.is_connected());
}

#[test]
fn every_sandbox_sees_its_own_networks_only() {
    let lab = Lab::new(&[]);
    let mut other = view(2);
    other.networks = vec![network('b')];
    other.forward = false;
    let (first, second) = (lab.sandbox(view(1)), lab.sandbox(other));
    lab.client.publish(&network('a'), "app", &[named(1, "web", "10.0.0.1")]).unwrap();
    assert_eq!(first.addresses("web").len(), 1);
    assert_eq!(second.addresses("web").len(), 0);
}

#[test]
fn a_stream_answers_several_questions() {
    let lab = Lab::new(&[]);
    let sandbox = lab.sandbox(view(1));
    let endpoints = [named(1, "web", "10.0.0.1"), named(2, "db", "10.0.0.2")];
    lab.client.publish(&network('a'), "app", &endpoints).unwrap();
    let mut stream = sandbox.connect();
    let queries = ["web", "db", "web"].map(|name| query(name, RecordType::A));
    for query in &queries {
        send_framed(&mut stream, query);
    }
    for query in &queries {
        let reply = receive_framed(&mut stream);
        assert_eq!(reply.metadata.id, query.metadata.id);
        assert_eq!(addresses(&reply).len(), 1);
    }
}

#[test]
fn a_long_answer_is_cut_in_a_datagram_and_whole_in_a_stream() {
    let lab = Lab::new(&[]);
    let sandbox = lab.sandbox(view(1));
    let endpoints: Vec<_> = (1..=100).map(|n| named(n, "web", &format!("10.0.0.{n}"))).collect();
    lab.client.publish(&network('a'), "app", &endpoints).unwrap();
    let question = query("web", RecordType::A);
    let short = ask(&sandbox.asker(), &question);
    assert!(short.metadata.truncation);
    assert!(short.answers.len() > 20 && short.to_vec().unwrap().len() <= 512);
    let longer = ask(&sandbox.asker(), &with_edns(question.clone(), 4096));
    assert!(!longer.metadata.truncation);
    assert_eq!(longer.answers.len(), 100);
    assert_eq!(sandbox.ask_over_tcp(&question).answers.len(), 100);
}

#[test]
fn idle_streams_hold_up_nobody() {
    let lab = Lab::new(&[]);
    let (sandbox, other) = (lab.sandbox(view(1)), lab.sandbox(view(2)));
    lab.client.publish(&network('a'), "app", &[named(1, "web", "10.0.0.1")]).unwrap();
    let idle: Vec<_> = (0..64).map(|_| sandbox.connect()).collect();
    let mut one_too_many = sandbox.connect();
    let closed = std::io::Read::read(&mut one_too_many, &mut [0; 1]);
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    let question = query("web", RecordType::A);
    assert_eq!(addresses(&ask(&sandbox.asker(), &question)).len(), 1);
    assert_eq!(addresses(&other.ask_over_tcp(&question)).len(), 1);
    drop(idle);
}

#[test]
fn rubbish_ends_nothing() {
    let lab = Lab::new(&[]);
    let sandbox = lab.sandbox(view(1));
    lab.client.publish(&network('a'), "app", &[named(1, "web", "10.0.0.1")]).unwrap();
    let asker = sandbox.asker();
    for length in 0..100 {
        asker.send(&vec![0xc0; length]).unwrap();
    }
    assert_eq!(sandbox.addresses("web").len(), 1);
}
