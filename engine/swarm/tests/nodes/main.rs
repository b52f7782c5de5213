//! Nodes of a swarm on machines of their own, with a genuine etcd.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod machine;

use std::time::{Duration, SystemTime};

use cluster::{ClusterStore, Outcome, StoreError, Txn, Write};
use engine_error::Kind;
use machine::Machine;
use swarm::client::{Identity, ask};
use swarm::node::ManagerStatus;
use swarm::protocol::Request;
use swarm::{Authority, Holder, KeyAndRequest, NODE_LIFE, Role, Subject, digest_of_pem};

fn put(key: &str) -> Txn {
    let write = Write::Put { key: key.to_owned(), value: b"x".to_vec(), lease: None };
    Txn { when: Vec::new(), then: vec![write] }
}

#[test]
fn a_worker_is_let_in_by_its_token_and_writes_shared_records_only() {
    let (_lan, [manager, worker]) = Machine::several();
    manager.init();
    let [_, token] = manager.tokens();
    worker.join(&token, &manager).unwrap();
    assert_eq!((manager.role(), worker.role()), (Some(Role::Manager), Some(Role::Worker)));
    let nodes = manager.nodes();
    assert_eq!(nodes.len(), 2);
    let led: Vec<_> = nodes.iter().filter_map(|node| node.manager.as_ref()).collect();
    assert!(led.len() == 1 && led[0].leads && led[0].reachable, "{led:?}");

    let store = worker.store();
    let written = worker.run(async move {
        let shared = store.transact(put("/rnet/v1/default/x")).await;
        let read = store.range("/rnet/swarm/").await.map(|found| found.entries.len());
        (shared, read, store.transact(put("/rnet/swarm/cluster")).await)
    });
    assert!(matches!(written.0, Ok(Outcome::Done(_))), "{written:?}");
    assert_eq!(written.1, Ok(4));
    assert!(matches!(written.2, Err(StoreError::Denied(_))), "{written:?}");
    assert!(!worker.directory.join("authority.key").exists());
    assert!(worker.member().is_none());
}

#[test]
fn a_wrong_token_or_that_of_another_cluster_gets_in_nowhere() {
    let (_lan, [manager, other, stranger]) = Machine::several();
    manager.init();
    other.init();
    let [own, foreign] = [manager.tokens()[1].clone(), other.tokens()[1].clone()];

    let error = stranger.join(&foreign, &manager).unwrap_err();
    assert!(error.to_string().contains("is of another cluster than the token"), "{error}");
    let (digest, _) = own.rsplit_once('-').unwrap();
    let guessed = format!("{digest}-{}", foreign.rsplit_once('-').unwrap().1);
    let error = stranger.join(&guessed, &manager).unwrap_err();
    assert!(error.to_string().starts_with("a valid join token is necessary"), "{error}");
    let error = stranger.join("SWMTKN-1-abc", &manager).unwrap_err();
    assert_eq!(error.to_string(), "invalid join token");
    assert!(!stranger.directory.exists() && stranger.role().is_none());
    assert_eq!(manager.nodes().len(), 1);

    for _ in 0..9 {
        stranger.join(&guessed, &manager).unwrap_err();
    }
    let error = stranger.join(&own, &manager).unwrap_err();
    assert!(error.to_string().starts_with("too many attempts"), "{error}");
}

#[test]
fn who_dies_before_it_knows_that_it_was_let_in_is_no_second_node_when_it_joins_again() {
    let (_lan, [manager, nobody, mut worker]) = Machine::several();
    manager.init();
    let token = &manager.tokens()[1];
    // Whom it asked does not answer: it may have been let in.
    worker.join(token, &nobody).unwrap_err();
    let begun = worker.file("joining.json");
    worker.join(token, &manager).unwrap();
    let id = worker.id();
    assert!(!worker.directory.join("joining.json").exists());

    // This is all that there is if it dies before it has written the answer down.
    worker.stop();
    std::fs::remove_dir_all(&worker.directory).unwrap();
    std::fs::create_dir(&worker.directory).unwrap();
    for (name, text) in [("joining.json", &*begun), ("node.key", "half of it")] {
        std::fs::write(worker.directory.join(name), text).unwrap();
    }
    worker.start();
    worker.wait("what is left is swept up", |worker| !worker.directory.join("node.key").exists());
    assert_eq!(worker.role(), None);
    worker.join(token, &manager).unwrap();
    let ids = |machine: &Machine| machine.nodes().into_iter().map(|node| node.id).collect();
    let nodes: std::collections::BTreeSet<String> = ids(&manager);
    assert_eq!(nodes, [manager.id(), id].into());
}

#[test]
fn a_rotated_token_is_worth_nothing() {
    let (_lan, [manager, worker]) = Machine::several();
    manager.init();
    let [managers, old] = manager.tokens();
    let node = manager.node();
    manager.run(async move {
        let version = node.records().await.unwrap().swarm().unwrap().revision;
        let rotate = swarm::node::Rotate { worker: true, manager: false };
        node.update(version, rotate, |_| Ok(())).await.unwrap();
    });
    worker.join(&old, &manager).unwrap_err();
    let [same, new] = manager.tokens();
    assert!(same == managers && new != old);
    worker.join(&new, &manager).unwrap();
}

#[test]
fn three_managers_go_on_without_one_and_take_it_back() {
    let (_lan, [mut one, mut two, three]) = Machine::several();
    one.init();
    let [token, _] = one.tokens();
    two.join(&token, &one).unwrap();
    three.join(&token, &two).unwrap();
    let votes = three.nodes();
    assert!(votes.iter().all(|node| node.manager.as_ref().is_some_and(|m| m.reachable)));

    // A machine that is switched off.
    one.stop();
    let member = one.member().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(member), nix::sys::signal::SIGKILL).unwrap();
    three.wait("the others lead", |three| {
        let nodes = three.seen();
        let managers: Vec<_> = nodes.iter().filter_map(|node| node.manager.as_ref()).collect();
        managers.iter().any(|m| m.leads) && managers.iter().filter(|m| m.reachable).count() == 2
    });
    let store = two.store();
    let written = two.run(async move { store.transact(put("/rnet/v1/default/y")).await });
    assert!(matches!(written, Ok(Outcome::Done(_))), "{written:?}");

    one.start();
    three.wait("it is back", |three| {
        let nodes = three.seen();
        let reachable = |m: &ManagerStatus| m.reachable;
        nodes.len() == 3 && nodes.iter().all(|node| node.manager.as_ref().is_some_and(reachable))
    });
    // Its member goes on without the daemon, and is adopted by the next one.
    let before = two.member();
    two.stop();
    assert_eq!(two.member(), before);
    two.start();
    two.wait("it is itself again", |two| {
        two.node().standing().enrolment.is_some_and(|enrolment| enrolment.settled)
    });
    assert_eq!(two.member(), before);
}

#[test]
fn a_worker_becomes_a_manager_and_a_worker_again() {
    let (_lan, [manager, worker]) = Machine::several();
    manager.init();
    let error = manager.give(&manager.id(), Role::Worker).unwrap_err();
    assert!(error.to_string().ends_with("demote the last manager of the swarm"), "{error}");
    worker.join(&manager.tokens()[1], &manager).unwrap();
    let id = worker.id();

    manager.give(&id, Role::Manager).unwrap();
    worker.wait("it is a manager", |worker| worker.role() == Some(Role::Manager));
    manager.wait("it has a vote", |manager| {
        let nodes = manager.seen();
        let reachable = |m: &ManagerStatus| m.reachable;
        nodes.len() == 2 && nodes.iter().all(|node| node.manager.as_ref().is_some_and(reachable))
    });
    assert_eq!(worker.tokens(), manager.tokens());

    manager.give(&id, Role::Worker).unwrap();
    worker.wait("it is a worker", |worker| {
        worker.role() == Some(Role::Worker) && worker.member().is_none()
    });
    worker.wait("the key is gone", |worker| !worker.directory.join("authority.key").exists());
    let store = worker.store();
    let written = worker.run(async move { store.transact(put("/rnet/swarm/cluster")).await });
    assert!(matches!(written, Err(StoreError::Denied(_))), "{written:?}");
}

#[test]
fn who_left_or_was_removed_is_out_and_may_join_again() {
    let (_lan, [manager, second, worker]) = Machine::several();
    manager.init();
    let [managers, workers] = manager.tokens();
    second.join(&managers, &manager).unwrap();
    worker.join(&workers, &manager).unwrap();

    let (left, place) = (worker.id(), worker.store());
    let node = manager.node();
    manager.run(async move { node.remove_node(&left).await }).unwrap();
    let refused = worker.run(async move { place.range("/rnet/v1/").await });
    assert!(matches!(refused, Err(StoreError::Denied(_))), "{refused:?}");
    worker.leave(false).unwrap();
    assert!(!worker.directory.exists());
    assert_eq!(worker.leave(false).unwrap_err().kind(), Kind::Unavailable);
    worker.join(&workers, &second).unwrap();

    let error = second.leave(false).unwrap_err();
    assert!(error.to_string().starts_with("You are attempting to leave"), "{error}");
    let left = second.id();
    second.leave(true).unwrap();
    assert!(second.member().is_none() && !second.directory.exists());
    let nodes = manager.nodes();
    let record = &nodes.iter().find(|node| node.id == left).unwrap().node.record;
    assert_eq!(record.role, Role::Worker);
    second.join(&managers, &manager).unwrap();
    assert_eq!(second.role(), Some(Role::Manager));

    manager.leave(true).unwrap();
    second.wait("it leads alone", |second| {
        second.seen().iter().any(|node| node.manager.as_ref().is_some_and(|m| m.leads))
    });
}

#[test]
fn a_member_that_is_killed_is_started_again() {
    let (_lan, [manager]) = Machine::several();
    manager.init();
    let before = manager.member().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(before), nix::sys::signal::SIGKILL).unwrap();
    manager.wait("another one runs", |manager| {
        manager.member().is_some_and(|member| member != before)
    });
    manager.wait("it answers", |manager| {
        let node = manager.node();
        manager.run(async move { node.records().await }).is_ok()
    });
}

#[test]
fn no_certificate_an_expired_one_and_that_of_a_node_open_no_door_that_is_not_theirs() {
    let (_lan, [manager, worker]) = Machine::several();
    manager.init();
    worker.join(&manager.tokens()[1], &manager).unwrap();
    let (at, directory) = (&manager.address, worker.directory.display());
    let ask_member = |port: u16, files: &str| {
        let url = format!("https://{at}:{port}/version");
        format!("curl -sS --http1.1 --max-time 5 --cacert {directory}/authority.pem {files}{url}")
    };
    let own = format!("--cert {directory}/node.pem --key {directory}/node.key ");
    assert!(worker.host.output(&ask_member(2387, &own)).contains("etcdserver"));
    let members = manager.directory.display();
    let peer = format!("--cert {members}/peer.pem --key {members}/peer.key ");
    // The members look where a member comes from, too.
    assert!(manager.host.output(&ask_member(2388, &peer)).contains("etcdserver"));
    for refused in [ask_member(2387, ""), ask_member(2388, ""), ask_member(2388, &own)] {
        // In whichever words: that the port is open was seen.
        worker.host.complaint(&refused);
    }

    // One that was good once.
    let authority = Authority::load(&manager.file("authority.pem"), &manager.file("authority.key"));
    let (keys, node) = (KeyAndRequest::new().unwrap(), worker.id());
    let cluster = worker.node().standing().enrolment.unwrap().state.cluster;
    let subject = Subject { cluster: &cluster, node: &node, role: Role::Worker, addresses: &[] };
    let then = SystemTime::now() - NODE_LIFE - Duration::from_secs(1);
    let late = authority.unwrap().certify_since(then, &keys.request, &subject, NODE_LIFE).unwrap();
    let authority = manager.file("authority.pem");
    let late = Identity { certificate: late, key: keys.key, authority: authority.clone() };
    let request =
        Request::Renew { request: keys.request, address: worker.address.parse().unwrap() };
    let (digest, to) = (digest_of_pem(&authority).unwrap(), vec![at.clone()]);
    let renewals = worker.run(async move {
        let nobody = ask(&to, digest, None, &request).await.unwrap_err();
        (nobody, ask(&to, digest, Some(&late), &request).await.unwrap_err())
    });
    assert_eq!(renewals.0.to_string(), "only a node with a certificate gets another one");
    assert!(renewals.1.to_string().contains("xpired"), "{}", renewals.1);
}

#[test]
fn a_certificate_is_renewed_at_half_time_and_the_store_stays_open() {
    let (_lan, [manager, worker]) = Machine::several();
    manager.init_for(Duration::from_secs(16));
    worker.join(&manager.tokens()[1], &manager).unwrap();
    let machines = [&manager, &worker];
    let until = |machine: &Machine| Holder::of_pem(&machine.file("node.pem")).unwrap().until;
    let first = machines.map(until);
    for (machine, first) in machines.into_iter().zip(first) {
        machine.wait("the first certificate is over", |_| SystemTime::now() > first);
        assert!(until(machine) > first);
        let store = machine.store();
        let written = machine.run(async move { store.transact(put("/rnet/v1/default/z")).await });
        assert!(matches!(written, Ok(Outcome::Done(_))), "{written:?}");
    }
    assert!(machines.iter().all(|machine| machine.node().standing().problem.is_none()));
}

#[test]
fn a_manager_that_was_off_until_its_certificate_had_ended_comes_back() {
    let (_lan, [mut manager, worker]) = Machine::several();
    manager.init_for(Duration::from_secs(8));
    worker.join(&manager.tokens()[1], &manager).unwrap();
    manager.stop();
    let member = manager.member().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(member), nix::sys::signal::SIGKILL).unwrap();
    let until = |machine: &Machine| Holder::of_pem(&machine.file("node.pem")).unwrap().until;
    let last = until(&manager).max(until(&worker));
    worker.wait("the certificates are over", |_| SystemTime::now() > last);
    manager.start();
    manager.wait("it is itself again", |manager| {
        let node = manager.node();
        manager.run(async move { node.records().await }).is_ok()
    });
    assert!(until(&manager) > SystemTime::now());
    assert_eq!(manager.nodes().len(), 2);
    // A worker has nothing to help itself with.
    worker.wait("it is told", |worker| {
        let problem = worker.node().standing().problem.unwrap_or_default();
        problem.contains("longer than its certificate was good for")
    });
}
