//! What other programs' firewalls do to packets of containers, in words, and what helps.
//!
//! A pure function of what was read: a packet that any chain at the hook `forward` refuses is lost,
//! whatever our table says.

use drivers::kernel::nft::{Foreign, ForeignChain};

use super::Finding;

/// What of the host matters to packets that go through it.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    /// What others have in nf_tables.
    pub(super) foreign: Foreign,
    /// Programs of the iptables of old that filter here, which nf_tables knows nothing of.
    pub(super) legacy: Vec<&'static str>,
    /// The bridges of our networks, and whether they have IPv6.
    pub(super) bridges: Vec<(String, bool)>,
    /// Whether frames within a bridge are shown to firewalls.
    pub(super) bridged_frames: bool,
    /// Bridges where a source is accepted only if its route leads back there.
    pub(super) strict: Vec<String>,
    /// Whether a container is on several networks.
    pub(super) several: bool,
}

impl Surroundings {
    /// All that is wrong.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings: Vec<_> =
            self.foreign.chains.iter().filter_map(|chain| self.refusing(chain)).collect();
        findings.extend(self.foreign.abandoned.iter().map(|table| Finding {
            subject: format!("table inet {table}"),
            problem: "a daemon of rnet made it, and none is there that owns it".to_owned(),
            advice: format!("`nft delete table inet {table}`, if that daemon is gone for good"),
        }));
        findings.extend(self.legacy());
        findings.extend(self.reverse_path());
        findings
    }

    /// What a chain of somebody else's refuses, unless its table's rules name our bridges.
    fn refusing(&self, chain: &ForeignChain) -> Option<Finding> {
        let concerned = |(bridge, ipv6): &&(String, bool)| {
            (*ipv6 || chain.family != "ip6") && !chain.names(bridge)
        };
        let bridges: Vec<_> = self.bridges.iter().filter(concerned).map(|(name, _)| name).collect();
        let first = *bridges.first().filter(|_| chain.refuses)?;
        let all = bridges.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        let within = if self.bridged_frames {
            ", and containers of one network may not reach each other \
             (net.bridge.bridge-nf-call-iptables is 1)"
        } else {
            ""
        };
        let ForeignChain { family, table, name, .. } = chain;
        Some(Finding {
            subject: format!("chain {name} of table {family} {table}"),
            problem: format!(
                "it refuses what goes through this host and none of its rules lets pass: \
                 containers on {all} do not reach the outside, nor does the outside reach their \
                 published ports{within}"
            ),
            advice: format!("for each of these bridges {}", self.cure(chain, first)),
        })
    }

    /// What lets a bridge pass, in the words of whoever made the chain.
    fn cure(&self, chain: &ForeignChain, bridge: &str) -> String {
        let ForeignChain { family, table, name, .. } = chain;
        let same_table = |other: &&ForeignChain| other.family == *family && other.table == *table;
        let has = |prefix: &str| {
            let mut chains = self.foreign.chains.iter().filter(same_table);
            chains.any(|other| other.name.starts_with(prefix))
        };
        let program = if *family == "ip6" { "ip6tables" } else { "iptables" };
        let accept = |chain: &str| {
            format!(
                "`{program} -I {chain} -i {bridge} -j ACCEPT` and \
                 `{program} -I {chain} -o {bridge} -j ACCEPT`"
            )
        };
        if table == "firewalld" {
            return format!(
                "`firewall-cmd --permanent --zone=trusted --add-interface={bridge}`, then \
                            `firewall-cmd --reload`"
            );
        }
        if has("ufw") {
            return format!(
                "`ufw route allow in on {bridge}` and `ufw route allow out on {bridge}`"
            );
        }
        if has("DOCKER-USER") {
            return accept("DOCKER-USER");
        }
        if table == "filter" && name == "FORWARD" {
            return accept("FORWARD");
        }
        format!(
            "`nft insert rule {family} {table} {name} iifname {bridge} accept` and \
             `nft insert rule {family} {table} {name} oifname {bridge} accept`"
        )
    }

    fn legacy(&self) -> Vec<Finding> {
        let finding = |program: &&str| Finding {
            subject: format!("{program}-legacy"),
            problem: "it filters packets beside nf_tables, where its rules are not seen".to_owned(),
            advice: format!(
                "`{program}-legacy -S FORWARD` shows whether it drops what goes through this host; \
                 `{program}-legacy -P FORWARD ACCEPT` lets it pass"
            ),
        };
        let filters = self.legacy.iter().filter(|_| !self.bridges.is_empty());
        filters.map(finding).collect()
    }

    fn reverse_path(&self) -> Option<Finding> {
        let first = self.strict.first().filter(|_| self.several)?;
        Some(Finding {
            subject: format!("rp_filter of {}", self.strict.join(", ")),
            problem:
                "it is strict: a container on several networks is not heard when it answers by \
                      another one than it was asked by"
                    .to_owned(),
            advice: format!("`sysctl -w net.ipv4.conf.all.rp_filter=2` or of {first} alone"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(family: &'static str, table: &str, name: &str, refuses: bool) -> ForeignChain {
        let (table, name) = (table.to_owned(), name.to_owned());
        ForeignChain { family, table, name, refuses, links: Vec::new() }
    }

    fn with(chains: Vec<ForeignChain>) -> Surroundings {
        Surroundings {
            foreign: Foreign { chains, abandoned: Vec::new() },
            bridges: vec![("br-a".to_owned(), true), ("br-b".to_owned(), false)],
            ..Surroundings::default()
        }
    }

    fn lines(of: &Surroundings) -> Vec<String> {
        of.findings().iter().map(Finding::line).collect()
    }

    #[test]
    fn a_chain_that_refuses_by_default_is_told_with_what_lets_bridges_pass() {
        let cures = |chains| with(chains).findings().remove(0).advice;
        let forward = || chain("ip", "filter", "FORWARD", true);
        assert!(cures(vec![forward()]).contains("`iptables -I FORWARD -i br-a -j ACCEPT`"));
        let docker = cures(vec![forward(), chain("ip", "filter", "DOCKER-USER", false)]);
        assert!(docker.contains("`iptables -I DOCKER-USER -o br-a -j ACCEPT`"), "{docker}");
        let ufw = cures(vec![forward(), chain("ip", "filter", "ufw-before-forward", false)]);
        assert!(ufw.contains("`ufw route allow in on br-a`"), "{ufw}");
        let firewalld = cures(vec![chain("inet", "firewalld", "filter_FORWARD", true)]);
        assert!(firewalld.contains("--add-interface=br-a"), "{firewalld}");
        let own = cures(vec![chain("inet", "mine", "fwd", true)]);
        assert!(own.contains("`nft insert rule inet mine fwd iifname br-a accept`"), "{own}");
    }

    #[test]
    fn only_bridges_that_a_chain_does_not_name_are_told() {
        let text = |of: &Surroundings| lines(of).join("\n");
        let mut all = with(vec![chain("ip6", "filter", "FORWARD", true)]);
        assert!(text(&all).contains("containers on br-a do not"), "br-b has no IPv6");
        all.foreign.chains[0].family = "inet";
        assert!(text(&all).contains("containers on br-a, br-b do not"));
        all.foreign.chains[0].links = vec!["br-a".to_owned()];
        assert!(text(&all).contains("containers on br-b do not"));
        assert!(!text(&all).contains("bridge-nf-call"));
        all.bridged_frames = true;
        assert!(text(&all).contains("bridge-nf-call-iptables is 1"));
        all.foreign.chains[0].links = vec!["br-*".to_owned()];
        assert_eq!(text(&all), "");
        all.foreign.chains[0] = chain("inet", "filter", "FORWARD", false);
        assert_eq!(text(&all), "");
    }

    #[test]
    fn leftovers_and_switches_are_told_where_they_matter() {
        let mut host = with(Vec::new());
        assert_eq!(lines(&host), Vec::<String>::new());
        host.foreign.abandoned = vec!["rnet-old".to_owned()];
        host.legacy = vec!["iptables"];
        host.strict = vec!["br-a".to_owned()];
        assert_eq!(lines(&host).len(), 2, "strictness matters to a container on several networks");
        host.several = true;
        let all = lines(&host);
        assert!(all[0].contains("`nft delete table inet rnet-old`"), "{all:?}");
        assert!(all[1].contains("iptables-legacy -S FORWARD"), "{all:?}");
        assert!(all[2].starts_with("rp_filter of br-a: it is strict"), "{all:?}");
        host.bridges.clear();
        assert_eq!(lines(&host).len(), 2);
    }
}
