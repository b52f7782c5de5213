//! Well-known services, so that `_http._tcp.web` is answered like `_80._tcp.web`.
//!
//! A short list of what runs in containers, after IANA's registry; the image's or host's
//! `/etc/services` is not consulted, as answers should not depend on it.

/// Name and port, the same for TCP and UDP.
const SERVICES: &[(&str, u16)] = &[
    ("ftp", 21),
    ("ssh", 22),
    ("telnet", 23),
    ("smtp", 25),
    ("domain", 53),
    ("tftp", 69),
    ("http", 80),
    ("kerberos", 88),
    ("pop3", 110),
    ("ntp", 123),
    ("imap", 143),
    ("snmp", 161),
    ("bgp", 179),
    ("ldap", 389),
    ("https", 443),
    ("submissions", 465),
    ("syslog", 514),
    ("submission", 587),
    ("ldaps", 636),
    ("rsync", 873),
    ("imaps", 993),
    ("pop3s", 995),
    ("socks", 1080),
    ("ms-sql-s", 1433),
    ("mqtt", 1883),
    ("nfs", 2049),
    ("etcd-client", 2379),
    ("etcd-server", 2380),
    ("mysql", 3306),
    ("turn", 3478),
    ("stun", 3478),
    ("sip", 5060),
    ("sips", 5061),
    ("xmpp-client", 5222),
    ("xmpp-server", 5269),
    ("postgresql", 5432),
    ("amqps", 5671),
    ("amqp", 5672),
    ("redis", 6379),
    ("http-alt", 8080),
    ("secure-mqtt", 8883),
    ("cassandra", 9042),
    ("elasticsearch", 9200),
    ("kafka", 9092),
    ("prometheus", 9090),
    ("memcache", 11211),
    ("mongodb", 27017),
];

/// The port that the first label of a service name stands for, without its underscore: a number or
/// a well-known name.
pub(crate) fn port(service: &str) -> Option<u16> {
    service.parse().ok().or_else(|| {
        SERVICES.iter().find(|(name, _)| name.eq_ignore_ascii_case(service)).map(|(_, port)| *port)
    })
}
