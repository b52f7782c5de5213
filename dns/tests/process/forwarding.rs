//! Questions that others answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{RData, Record, RecordType};

use crate::lab::{
    Lab, Upstream, addresses, ask, eventually, query, receive, receive_framed, reply_to,
    resolv_conf, send_framed, view, with_address, with_edns,
};

fn refusing(code: ResponseCode, beside: Option<&Upstream>) -> Upstream {
    Upstream::beside(beside, move |query, _| {
        let mut reply = reply_to(query);
        reply.metadata.response_code = code;
        Some(reply)
    })
}

fn answering(address: &str, beside: &Upstream) -> Upstream {
    let address = address.parse().unwrap();
    Upstream::beside(Some(beside), move |query, _| Some(with_address(query, address)))
}

#[test]
fn an_answer_is_kept_and_given_to_all_sandboxes() {
    let upstream = Upstream::answering("192.0.2.1");
    let lab = Lab::new(&[&upstream]);
    let (first, second) = (lab.sandbox(view(1)), lab.sandbox(view(2)));
    assert_eq!(first.addresses("example.org").len(), 1);
    assert_eq!(first.addresses("Example.ORG").len(), 1);
    assert_eq!(second.addresses("example.org").len(), 1);
    assert_eq!(upstream.heard(), 1);
    assert_eq!(first.addresses("other.example.org").len(), 1);
    assert_eq!(upstream.heard(), 2);
}

#[test]
fn the_question_comes_back_letter_by_letter() {
    let upstream = Upstream::answering("192.0.2.1");
    let lab = Lab::new(&[&upstream]);
    let sandbox = lab.sandbox(view(1));
    for name in ["example.org", "eXaMPle.oRg"] {
        let reply = sandbox.ask(name, RecordType::A);
        assert_eq!(reply.queries[0].name.to_ascii(), format!("{name}."));
        assert_eq!(addresses(&reply).len(), 1);
    }
}

#[test]
fn no_such_name_is_kept_too() {
    let upstream = Upstream::new(|query, _| {
        let mut reply = reply_to(query);
        reply.metadata.response_code = ResponseCode::NXDomain;
        let soa = hickory_proto::rr::rdata::SOA::new(
            hickory_proto::rr::Name::root(),
            hickory_proto::rr::Name::root(),
            1,
            1,
            1,
            1,
            60,
        );
        let owner = hickory_proto::rr::Name::root();
        reply.add_authority(Record::from_rdata(owner, 60, RData::SOA(soa)));
        Some(reply)
    });
    let lab = Lab::new(&[&upstream]);
    let sandbox = lab.sandbox(view(1));
    for _ in 0..2 {
        let reply = sandbox.ask("nothing.example.org", RecordType::A);
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    }
    assert_eq!(upstream.heard(), 1);
}

#[test]
fn what_we_do_not_know_of_reaches_the_client_unchanged() {
    let upstream = Upstream::new(|query, _| {
        let mut reply = reply_to(query);
        let owner = query.queries[0].name.clone();
        let text = TXT::new(vec!["some text".to_owned()]);
        reply.add_answer(Record::from_rdata(owner, 300, RData::TXT(text)));
        let edns = reply.edns.as_mut().unwrap();
        edns.options_mut().insert(EdnsOption::Unknown(65001, b"payload".to_vec()));
        Some(reply)
    });
    let lab = Lab::new(&[&upstream]);
    let sandbox = lab.sandbox(view(1));
    let question = with_edns(query("example.org", RecordType::TXT), 1232);
    let reply = ask(&sandbox.asker(), &question);
    let option = reply.edns.as_ref().unwrap().option(65001.into()).cloned();
    assert_eq!(option, Some(EdnsOption::Unknown(65001, b"payload".to_vec())));
    assert_eq!(reply.answers.len(), 1);
}

#[test]
fn equal_questions_under_way_are_asked_once() {
    let upstream = Upstream::answering("192.0.2.1");
    let lab = Lab::new(&[&upstream]);
    let sandboxes = [lab.sandbox(view(1)), lab.sandbox(view(2))];
    upstream.hold();
    let question = query("example.org", RecordType::A);
    let askers: Vec<_> = (0..40).map(|n| sandboxes[n % 2].asker()).collect();
    for asker in &askers {
        asker.send(&question.to_vec().unwrap()).unwrap();
    }
    eventually(|| upstream.heard() == 1);
    upstream.release();
    for asker in &askers {
        assert_eq!(addresses(&receive(asker)).len(), 1);
    }
    assert_eq!(upstream.heard(), 1);
}

#[test]
fn a_silent_upstream_costs_a_quarter_of_a_second_and_then_nothing() {
    let silent = Upstream::new(|_, _| None);
    let good = answering("192.0.2.1", &silent);
    let lab = Lab::new(&[&silent, &good]);
    let sandbox = lab.sandbox(view(1));
    let start = Instant::now();
    assert_eq!(sandbox.addresses("one.example.org").len(), 1);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_millis(900), "{took:?}");
    assert_eq!(sandbox.addresses("two.example.org").len(), 1);
    // Two failures in a row put it behind the other.
    let heard = silent.heard();
    assert_eq!(sandbox.addresses("three.example.org").len(), 1);
    assert_eq!(silent.heard(), heard);
}

#[test]
fn an_upstream_that_cannot_hands_over_at_once() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let bad = refusing(code, None);
        let good = answering("192.0.2.1", &bad);
        let lab = Lab::new(&[&bad, &good]);
        let sandbox = lab.sandbox(view(1));
        let start = Instant::now();
        assert_eq!(sandbox.addresses("example.org").len(), 1);
        assert!(start.elapsed() < Duration::from_millis(200), "{code}: {:?}", start.elapsed());
    }
}

#[test]
fn when_all_fail_the_answer_is_servfail_at_once() {
    let first = refusing(ResponseCode::ServFail, None);
    let second = refusing(ResponseCode::Refused, Some(&first));
    let lab = Lab::new(&[&first, &second]);
    let sandbox = lab.sandbox(view(1));
    let start = Instant::now();
    let reply = sandbox.ask("example.org", RecordType::A);
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn nobody_listening_upstream_is_servfail_at_once() {
    let lab = Lab::new(&[]);
    let mut nowhere = view(1);
    nowhere.upstreams = vec!["127.250.250.250".parse().unwrap()];
    for view in [view(2), nowhere] {
        let sandbox = lab.sandbox(view);
        let start = Instant::now();
        let reply = sandbox.ask("example.org", RecordType::A);
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}

#[test]
fn an_old_answer_is_better_than_none() {
    let first = AtomicBool::new(true);
    let upstream = Upstream::new(move |query, _| {
        let mut reply = with_address(query, "192.0.2.1".parse().unwrap());
        reply.answers[0].ttl = 1;
        if !first.swap(false, Ordering::SeqCst) {
            reply = reply_to(query);
            reply.metadata.response_code = ResponseCode::ServFail;
        }
        Some(reply)
    });
    let lab = Lab::new(&[&upstream]);
    let sandbox = lab.sandbox(view(1));
    eventually(|| {
        assert_eq!(sandbox.addresses("example.org").len(), 1);
        upstream.heard() >= 2
    });
}

#[test]
fn a_sandbox_may_have_upstreams_of_its_own() {
    let host = Upstream::answering("192.0.2.1");
    let own = answering("192.0.2.2", &host);
    let lab = Lab::new(&[&host]);
    let mut special = view(1);
    special.upstreams = vec!["127.0.0.11".parse().unwrap(), own.address.ip()];
    let sandbox = lab.sandbox(special);
    assert_eq!(
        sandbox.addresses("example.org"),
        ["192.0.2.2".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(host.heard(), 0);
    let other = lab.sandbox(view(2));
    assert_eq!(other.addresses("example.org"), ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn cve_2024_29018_a_sandbox_with_internal_networks_only_asks_nobody() {
    let upstream = Upstream::answering("192.0.2.1");
    let lab = Lab::new(&[&upstream]);
    let mut internal = view(1);
    internal.forward = false;
    let sandbox = lab.sandbox(internal);
    let asker = sandbox.asker();
    for name in ["example.org", "single", "a.b.c.example", "1.2.0.192.in-addr.arpa", "_x._tcp.y.z"]
    {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::PTR] {
            let question = query(name, kind);
            for reply in [
                ask(&asker, &question),
                ask(&asker, &with_edns(question.clone(), 4096)),
                sandbox.ask_over_tcp(&question),
            ] {
                assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
                assert_eq!(reply.authorities.len(), 1);
            }
        }
    }
    assert_eq!(upstream.heard(), 0);
}

#[test]
fn a_truncated_answer_is_fetched_over_tcp() {
    let upstream = Upstream::new(|query, tcp| {
        let mut reply = reply_to(query);
        reply.metadata.truncation = !tcp;
        let owner = query.queries[0].name.clone();
        for last in 1..=if tcp { 60 } else { 1 } {
            let data = RData::A(A::new(192, 0, 2, last));
            reply.add_answer(Record::from_rdata(owner.clone(), 300, data));
        }
        Some(reply)
    });
    let lab = Lab::new(&[&upstream]);
    let sandbox = lab.sandbox(view(1));
    let question = query("example.org", RecordType::A);
    let whole = sandbox.ask_over_tcp(&question);
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (60, false));
    let cut = ask(&sandbox.asker(), &question);
    assert!(cut.metadata.truncation && cut.answers.len() > 20);
    assert!(cut.to_vec().unwrap().len() <= 512);
    assert_eq!(upstream.heard(), 2, "once over UDP, once over TCP, and kept");
}

#[test]
fn answers_to_other_questions_are_not_taken() {
    let upstream = Upstream::new(|query, _| {
        let mut reply = with_address(query, "192.0.2.66".parse().unwrap());
        if query.queries[0].name.to_ascii().starts_with("id") {
            reply.metadata.id = reply.metadata.id.wrapping_add(1);
        } else {
            reply.queries[0].set_name(hickory_proto::rr::Name::from_ascii("evil.").unwrap());
        }
        Some(reply)
    });
    let lab = Lab::new(&[&upstream]);
    let sandbox = lab.sandbox(view(1));
    let (first, second) = (sandbox.asker(), sandbox.asker());
    first.send(&query("id.example.org", RecordType::A).to_vec().unwrap()).unwrap();
    second.send(&query("name.example.org", RecordType::A).to_vec().unwrap()).unwrap();
    for asker in [first, second] {
        assert_eq!(receive(&asker).metadata.response_code, ResponseCode::ServFail);
    }
}

#[test]
fn a_sandbox_that_floods_does_not_hold_up_another() {
    let upstream = Upstream::new(|query, _| {
        let slow = query.queries[0].name.to_ascii().starts_with("slow");
        (!slow).then(|| with_address(query, "192.0.2.1".parse().unwrap()))
    });
    let lab = Lab::new(&[&upstream]);
    let (flooding, other) = (lab.sandbox(view(1)), lab.sandbox(view(2)));
    let asker = flooding.asker();
    for number in 0..5000 {
        let question = query(&format!("slow{number}.example.org"), RecordType::A);
        asker.send(&question.to_vec().unwrap()).unwrap();
    }
    eventually(|| upstream.heard() > 100);
    for number in 0..50 {
        let start = Instant::now();
        assert_eq!(other.addresses(&format!("fast{number}.example.org")).len(), 1);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}

#[test]
fn a_stream_answers_what_it_knows_before_what_it_must_ask_for() {
    let upstream = Upstream::answering("192.0.2.1");
    let lab = Lab::new(&[&upstream]);
    let sandbox = lab.sandbox(view(1));
    upstream.hold();
    let mut stream = sandbox.connect();
    let (slow, fast) = (query("example.org", RecordType::A), query("localhost", RecordType::A));
    send_framed(&mut stream, &slow);
    send_framed(&mut stream, &fast);
    assert_eq!(receive_framed(&mut stream).metadata.id, fast.metadata.id);
    upstream.release();
    assert_eq!(receive_framed(&mut stream).metadata.id, slow.metadata.id);
}

#[test]
fn a_replaced_resolv_conf_is_followed() {
    let old = Upstream::answering("192.0.2.1");
    let new = answering("192.0.2.2", &old);
    let newest = answering("192.0.2.3", &old);
    let lab = Lab::new(&[&old]);
    let sandbox = lab.sandbox(view(1));
    let path = lab.dir.join("resolv.conf");
    let follows = |expected: &str| {
        let expected: std::net::IpAddr = expected.parse().unwrap();
        let mut number = 0;
        eventually(|| {
            number += 1;
            let name = format!("{number}.{}.example.org", expected.to_string().replace('.', "-"));
            sandbox.addresses(&name) == [expected]
        });
    };
    follows("192.0.2.1");
    std::fs::write(lab.dir.join("new"), resolv_conf(&[&new])).unwrap();
    std::fs::rename(lab.dir.join("new"), &path).unwrap();
    follows("192.0.2.2");
    std::fs::write(&path, resolv_conf(&[&newest])).unwrap();
    follows("192.0.2.3");
    // A link into another directory, then the file there replaced, then the link swapped.
    let elsewhere = lab.dir.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::write(elsewhere.join("a"), resolv_conf(&[&old])).unwrap();
    std::os::unix::fs::symlink("elsewhere/a", lab.dir.join("link")).unwrap();
    std::fs::rename(lab.dir.join("link"), &path).unwrap();
    follows("192.0.2.1");
    std::fs::write(elsewhere.join("b"), resolv_conf(&[&new])).unwrap();
    std::fs::rename(elsewhere.join("b"), elsewhere.join("a")).unwrap();
    follows("192.0.2.2");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(sandbox.addresses("after-removal.example.org").len(), 1);
    std::fs::write(&path, resolv_conf(&[&newest])).unwrap();
    follows("192.0.2.3");
}

#[test]
fn another_resolv_conf_can_be_followed() {
    let old = Upstream::answering("192.0.2.1");
    let new = answering("192.0.2.2", &old);
    let lab = Lab::new(&[&old]);
    let sandbox = lab.sandbox(view(1));
    let path = lab.dir.join("other.conf");
    std::fs::write(&path, resolv_conf(&[&new])).unwrap();
    lab.client.follow_host(&path).unwrap();
    assert_eq!(
        sandbox.addresses("example.org"),
        ["192.0.2.2".parse::<std::net::IpAddr>().unwrap()]
    );
}
