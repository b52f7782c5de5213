//! `rnet system check`: what is wrong and does not show by itself.
//!
//! Records that cannot be read, and facts of the host that keep packets from their containers.

mod firewall;

use std::fs;

use cnm::controller::Subject;
use cnm::store::record::{self, Unreadable};
use cnm::{Element, Key, Kind};

use super::Engine;
use crate::network::Overlap;
use engine_error::{Error, Result};
use firewall::Surroundings;
use volume::Damaged;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub subject: String,
    /// What is wrong, as a clause about it.
    pub problem: String,
    /// What to do.
    pub advice: String,
}

impl Engine {
    /// All that is wrong. Blocks.
    pub fn check(&self) -> Result<Vec<Finding>> {
        let mut findings: Vec<_> = self.unreadable()?.into_iter().map(Finding::of_record).collect();
        findings.extend(self.images.unreadable().into_iter().map(Finding::of_image));
        findings.extend(self.volumes.damaged().into_iter().map(Finding::of_volume));
        findings.extend(self.ill());
        findings.extend(self.owed_to_plugins());
        findings.extend(self.cluster());
        findings.extend(self.swarm());
        findings.extend(self.networks.overlaps()?.into_iter().map(Finding::of_overlap));
        findings.extend(forwarding(|path| fs::read_to_string(path).ok()));
        findings.extend(self.surroundings()?.findings());
        Ok(findings)
    }

    /// What plugins hold that nobody needs, because they could not be told so yet.
    fn owed_to_plugins(&self) -> Vec<Finding> {
        let finding = |(subject, plugin): (String, String)| Finding {
            subject,
            problem: format!("plugin {plugin} could not be told yet that it is gone"),
            advice: format!("it is told as soon as plugin {plugin} answers"),
        };
        self.networks.owed_to_plugins().into_iter().map(finding).collect()
    }

    /// What is wrong with the cluster's store itself, which is asked for that. Blocks.
    pub fn check_store(&self) -> Vec<Finding> {
        let Some(member) = self.membership.member() else { return Vec::new() };
        let finding = |problem: String, advice: &str| {
            let subject = format!("cluster {}", member.place());
            Finding { subject, problem, advice: advice.to_owned() }
        };
        match member.health() {
            Ok(report) => {
                let advice = "what runs goes on; see `etcdctl endpoint status` and docs/overlay.md";
                report.hints.into_iter().map(|hint| finding(hint, advice)).collect()
            }
            // That it does not answer is told already.
            Err(error) if error.kind() == Kind::Unavailable => Vec::new(),
            Err(error) => vec![finding(error.chain(), "see the store's own log")],
        }
    }

    /// What of the cluster cannot be had or made true here.
    fn cluster(&self) -> Vec<Finding> {
        let Some(member) = self.membership.member() else {
            let finding = |problem: String| Finding {
                subject: "cluster".to_owned(),
                problem,
                advice: "restart the daemon when the cause is gone".to_owned(),
            };
            return self.membership.failure().map(finding).into_iter().collect();
        };
        let mut findings = Vec::new();
        let status = member.status();
        if let Some(problem) = status.problem {
            let advice = "what runs goes on; look at the store, and at the way to it";
            let subject = format!("cluster {}", member.place());
            findings.push(Finding { subject, problem, advice: advice.to_owned() });
        }
        let advice = "it is tried again by itself; mend what is in its way on this host";
        findings.extend(member.troubles().into_iter().map(|(subject, problem)| Finding {
            subject,
            problem,
            advice: advice.to_owned(),
        }));
        findings
    }

    /// Why this host is not what it is to be in its swarm.
    fn swarm(&self) -> Option<Finding> {
        let standing = self.swarm.standing();
        let problem = standing.problem?;
        let log = self.settings.exec_root.join("etcd.log");
        let advice = if standing.unreadable {
            "mend that file, or use the release that wrote it: nothing is deleted until `rnet swarm \
             leave --force`"
                .to_owned()
        } else {
            format!("it is tried again by itself; {} has what etcd says", log.display())
        };
        Some(Finding { subject: "swarm".to_owned(), problem, advice })
    }

    /// What of networks and sandboxes cannot be healed.
    fn ill(&self) -> Vec<Finding> {
        let containers = self.containers.list();
        let finding = |(subject, why): (Subject, String)| {
            let owner = match &subject {
                Subject::Sandbox(id) => {
                    self.networks.sandbox(id).ok().map(|(of, _)| of.owner.clone())
                }
                Subject::Network(_) | Subject::Cluster => None,
            };
            let name = containers.iter().find(|c| owner.as_deref() == Some(c.id.as_str()));
            let advice = match name {
                Some(container) => format!("`rnet restart {}` makes it anew", container.name),
                None => "restart the daemon when the cause is gone".to_owned(),
            };
            let subject = match subject {
                Subject::Sandbox(id) => format!("sandbox {}", id.short()),
                Subject::Network(id) => format!("network {}", id.short()),
                Subject::Cluster => "the ways to the cluster's other hosts".to_owned(),
            };
            Finding { subject, problem: format!("it cannot be healed: {why}"), advice }
        };
        self.networks.ill().into_iter().map(finding).collect()
    }

    /// What of the host matters to packets of containers.
    fn surroundings(&self) -> Result<Surroundings> {
        let read = |path: String| fs::read_to_string(path).unwrap_or_default();
        let switch = |path: &str| read(format!("/proc/sys/net/{path}")).trim().to_owned();
        let model = self.networks.controller();
        let mut bridges = Vec::new();
        for network in model.networks() {
            for (key, _) in model.desired_of_network(&network.id) {
                if let Key::Element(Element::Bridge { link }) = key {
                    bridges.push((link.as_str().to_owned(), network.ipv6));
                }
            }
        }
        let several = model.sandboxes().iter().any(|sandbox| {
            model.sandbox(&sandbox.id).is_some_and(|(_, endpoints)| endpoints.len() > 1)
        });
        drop(model);
        // The stricter of the two is in force.
        let filter = |link: &str| switch(&format!("ipv4/conf/{link}/rp_filter"));
        let strict =
            |link: &str| [filter("all"), filter(link)].iter().max().is_some_and(|v| v == "1");
        Ok(Surroundings {
            foreign: self.networks.kernel().foreign_rules()?,
            legacy: [("iptables", "ip_tables"), ("ip6tables", "ip6_tables")]
                .into_iter()
                .filter(|(_, file)| {
                    let tables = read(format!("/proc/net/{file}_names"));
                    tables.lines().any(|table| table == "filter")
                })
                .map(|(program, _)| program)
                .collect(),
            bridged_frames: switch("bridge/bridge-nf-call-iptables") == "1",
            strict: bridges.iter().map(|(name, _)| name.clone()).filter(|n| strict(n)).collect(),
            bridges,
            several,
        })
    }

    /// The records that cannot be read: those that were set aside, and those of a later release.
    pub fn unreadable(&self) -> Result<Vec<Unreadable>> {
        let mut all = record::set_aside_in(self.store.as_ref())?;
        let moved: Vec<_> = all.iter().map(|record| record.place.clone()).collect();
        let stayed = self.stayed.iter().filter(|record| !moved.contains(&record.place));
        all.extend(stayed.cloned());
        Ok(all)
    }

    /// Forgets a record that was set aside, with what its object has on the disk: the next start of
    /// the daemon sweeps that.
    pub fn discard(&self, key: &str) -> Result<()> {
        let key = key.strip_prefix(record::DAMAGED).unwrap_or(key);
        if record::discard(self.store.as_ref(), key)? {
            self.networks.controller().discarded(key);
            tracing::info!(record = key, "discarded a damaged record");
            return Ok(());
        }
        Err(Error::not_found(format!(
            "no damaged record {key} is set aside: `rnet system check` lists them"
        )))
    }
}

impl Finding {
    fn of_record(record: Unreadable) -> Self {
        let Unreadable { key, why, place } = record;
        let advice = match place.strip_prefix(record::DAMAGED) {
            Some(name) => format!(
                "it is kept as {place}; nothing of it is deleted until `rnet system check --discard {name}`"
            ),
            None => "use the release that wrote it, or a later one".to_owned(),
        };
        Self { subject: format!("record {key}"), problem: why, advice }
    }

    fn of_overlap((network, subnet, what): Overlap) -> Self {
        let problem = format!("its subnet {subnet} overlaps {what}: one of them is out of reach");
        let advice = "make it anew with another --subnet, or take the route away".to_owned();
        Self { subject: format!("network {}", network.name), problem, advice }
    }

    fn of_image((what, why): (String, String)) -> Self {
        let advice = "until that is mended nothing of images is swept: pull or load a damaged image \
                      again, or remove it";
        Self { subject: format!("record {what}"), problem: why, advice: advice.to_owned() }
    }

    fn of_volume(damaged: Damaged) -> Self {
        let advice = "the volume is whole and has lost its labels: mend the file or remove it";
        let subject = format!("record {}", damaged.path.display());
        Self { subject, problem: damaged.error, advice: advice.to_owned() }
    }

    /// The finding in one line.
    pub fn line(&self) -> String {
        format!("{}: {}; {}", self.subject, self.problem, self.advice)
    }
}

/// What the switches of the kernel say about packets that go through this host.
fn forwarding(read: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let switches = [("IPv4", "net/ipv4/ip_forward"), ("IPv6", "net/ipv6/conf/all/forwarding")];
    let off =
        |path: &str| read(&format!("/proc/sys/{path}")).is_some_and(|text| text.trim() == "0");
    let finding = |(family, path): (&str, &str)| Finding {
        subject: format!("forwarding of {family}"),
        problem: "it is off: containers reach nothing but this host and their networks".to_owned(),
        advice: format!("`sysctl -w {}=1`", path.replace('/', ".")),
    };
    switches.into_iter().filter(|(_, path)| off(path)).map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_record_is_told_with_what_to_do_about_it() {
        let record = |place: &str| Unreadable {
            key: "network/1".to_owned(),
            why: "it is damaged: no".to_owned(),
            place: place.to_owned(),
        };
        assert_eq!(
            Finding::of_record(record("damaged/network/1~")).line(),
            "record network/1: it is damaged: no; it is kept as damaged/network/1~; nothing of it \
             is deleted until `rnet system check --discard network/1~`"
        );
        let newer = Finding::of_record(record("network/1"));
        assert_eq!(newer.advice, "use the release that wrote it, or a later one");
    }

    #[test]
    fn a_host_that_does_not_forward_is_told_of_with_the_family() {
        let host = |path: &str| Some(if path.contains("ipv4") { "1\n" } else { "0\n" }.to_owned());
        let found = forwarding(host);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].advice, "`sysctl -w net.ipv6.conf.all.forwarding=1`");
        assert_eq!(forwarding(|_| None), []);
    }
}
