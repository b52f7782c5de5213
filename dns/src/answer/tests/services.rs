//! Services, by number and by name.

use super::*;

#[test]
fn a_service_is_found_by_number_and_by_name() {
    check(
        "_80._tcp.web",
        RecordType::SRV,
        expect![[r#"
        NoError aa rd ra
          _80._tcp.web. 2 IN SRV 0 1 80 shop_web_1.front.
          additional: shop_web_1.front. 2 IN A 10.1.0.2
          additional: shop_web_1.front. 2 IN AAAA fd00:1::2
    "#]],
    );
    let by_number = decoded(ask(&query("_53._udp.api", RecordType::SRV), &view(true), 1));
    let by_name = decoded(ask(&query("_domain._udp.API.front", RecordType::SRV), &view(true), 1));
    assert_eq!(by_number.answers.len(), 2);
    assert_eq!(by_name.answers.len(), 2);
    assert!(by_number.answers.iter().all(|record| record.record_type() == RecordType::SRV));
    check(
        "_postgresql._tcp.db",
        RecordType::SRV,
        expect![[r#"
        NoError aa rd ra
          _postgresql._tcp.db. 2 IN SRV 0 1 5432 db.Back.Net.
          additional: db.Back.Net. 2 IN A 10.2.0.2
    "#]],
    );
}

#[test]
fn a_service_nobody_offers_does_not_exist() {
    check(
        "_81._tcp.web",
        RecordType::SRV,
        expect![[r#"
        NXDomain aa rd ra
          authority: . 2 IN SOA rnet.internal. hostmaster.rnet.internal. 1 3600 600 86400 2
    "#]],
    );
    check(
        "_80._udp.web",
        RecordType::SRV,
        expect![[r#"
        NXDomain aa rd ra
          authority: . 2 IN SOA rnet.internal. hostmaster.rnet.internal. 1 3600 600 86400 2
    "#]],
    );
    check(
        "_nonsense._tcp.web",
        RecordType::SRV,
        expect![[r#"
        NXDomain aa rd ra
          authority: . 2 IN SOA rnet.internal. hostmaster.rnet.internal. 1 3600 600 86400 2
    "#]],
    );
}

#[test]
fn a_service_has_no_address() {
    check(
        "_80._tcp.web",
        RecordType::A,
        expect![[r#"
        NoError aa rd ra
          authority: _80._tcp.web. 2 IN SOA rnet.internal. hostmaster.rnet.internal. 1 3600 600 86400 2
    "#]],
    );
}

#[test]
fn services_of_unknown_names_are_forwarded() {
    for name in ["_80._tcp.nobody", "_ldap._tcp.dc._msdcs.example.org", "_dmarc.example.org"] {
        assert_eq!(ask(&query(name, RecordType::SRV), &view(true), 1), Answer::Forward, "{name}");
    }
}
