//! Whether this host reaches the others: the hosts themselves, and containers there through tunnels.
//!
//! Packets of several sizes and forms are sent as tunnels send them, and which of them are answered
//! tells what is wrong on the way, and which command mends it.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use cluster::record::EndpointRecord;
use cnm::{Key, Link, LinkKind, LinkName, Network};
use drivers::kernel::echo::{self, Answer, Checksum, Path, Station};

use super::member::Member;
use super::nodes::NodeView;
use super::sharing::is_encrypted;

/// How long is waited for each answer.
const WAIT: Duration = Duration::from_millis(500);

/// How often a question is asked that nobody answers: one packet may get lost.
const TIMES: usize = 3;

/// A packet that passes everywhere.
const SMALL: usize = 64;

/// What was found out about the way to one host.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The host.
    pub node: NodeView,
    /// The network on which a container there was asked, by the name of both.
    pub asked: Option<(String, String)>,
    /// What was asked, in its order, and what came of it.
    pub stages: Vec<(Stage, usize, Outcome)>,
    /// What is wrong, if anything is.
    pub trouble: Option<Trouble>,
}

/// A question of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Whether the host can encrypt: nothing is asked.
    Encryption,
    /// To the host itself.
    Host,
    /// The same, as large as this host's way takes.
    HostLarge,
    /// Through the tunnel, as it is always sent.
    Tunnel,
    /// With a checksum that no card has filled in.
    Computed,
    /// Without a checksum.
    Absent,
    /// As large as the network allows.
    TunnelLarge,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// See [`Answer`].
    Asked(Answer),
    /// It could not be asked.
    Refused(String),
}

/// What is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The first question that was not answered.
    pub stage: Stage,
    /// What is wrong.
    pub says: String,
    /// A command that mends it, and where.
    pub mend: String,
}

/// What a diagnosis needs to know beside what was answered.
#[derive(Clone, Debug)]
struct Way {
    local: IpAddr,
    remote: IpAddr,
    interface: String,
    port: u16,
    mtu: usize,
}

/// Somebody behind a tunnel.
#[derive(Clone, Debug)]
struct Target {
    path: Path,
    /// The port that has to be open for it.
    open: u16,
    /// The network's MTU.
    mtu: usize,
    /// What the network and the container are called.
    asked: (String, String),
}

impl Member {
    /// Asks all other hosts, or one. Blocks.
    pub fn check(&self, only: Option<&str>) -> Vec<Finding> {
        let nodes = self.nodes().into_iter().filter(|node| !node.own);
        let wanted = nodes.filter(|node| only.is_none_or(|id| node.id == id));
        let nodes: Vec<_> = wanted.collect();
        // They wait for silent hosts side by side.
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                nodes.iter().map(|node| scope.spawn(|| self.check_node(node))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
        })
    }

    /// By a network of each sort, those that are encrypted and those that are not, if there is one.
    fn check_node(&self, node: &NodeView) -> Vec<Finding> {
        let (local, remote) = (self.address(), node.address);
        let own = usize::try_from(self.mtu()).unwrap_or(usize::MAX);
        let ask = |size| ask(|| echo::host(local, remote, size, WAIT));
        let stages = vec![(Stage::Host, SMALL, ask(SMALL)), (Stage::HostLarge, own, ask(own))];
        let way = Way {
            local,
            remote,
            interface: echo::interface_of(local).unwrap_or_else(|| "eth0".to_owned()),
            port: 4789,
            mtu: own,
        };
        let targets = [false, true].map(|encrypted| self.target(node, encrypted));
        let mut findings: Vec<_> = targets
            .into_iter()
            .flatten()
            .map(|target| check_tunnel(node, stages.clone(), way.clone(), Some(target)))
            .collect();
        if findings.is_empty() {
            findings.push(check_tunnel(node, stages, way, None));
        }
        findings.extend(self.check_encryption(node));
        findings
    }

    /// A host that cannot have a network which the others have.
    fn check_encryption(&self, node: &NodeView) -> Option<Finding> {
        let view = self.view();
        let encrypted = view.networks.values().find(|record| is_encrypted(record))?;
        if node.wireguard.is_some() {
            return None;
        }
        let trouble = Trouble {
            stage: Stage::Encryption,
            says: format!("it cannot encrypt, and so can have no containers on {}", encrypted.name),
            mend: "`rnet cluster inspect` there says why; modprobe wireguard, or a later release \
                   of rnet, and restart the daemon"
                .to_owned(),
        };
        let (asked, stages) = Default::default();
        Some(Finding { node: node.clone(), asked, stages, trouble: Some(trouble) })
    }

    /// A container of the host that a container here shares a network with, the way there, the
    /// network's MTU, and what both are called.
    fn target(&self, node: &NodeView, encrypted: bool) -> Option<Target> {
        let view = self.view();
        let (mut from, mut to, mut open) = (self.address(), node.address, None);
        if encrypted {
            let there = node.wireguard?;
            (from, to) = (self.wireguard().ok()?.address.into(), there.address.into());
            open = Some(there.port);
        }
        view.endpoints.iter().find_map(|(id, endpoints)| {
            let network = self.below.networks.network(id.as_str()).ok()?;
            let (link, vni, port, mtu) = tunnel(&network)?;
            if network.tunnel?.encrypted != encrypted {
                return None;
            }
            let of = |node: &str| endpoints.values().find(|record| record.node == node);
            let (here, there) = (of(self.id())?, of(&node.id)?);
            let (asks, answers) = stations(here, there)?;
            let path = Path { link, vni, port, local: from, remote: to, from: asks, to: answers };
            let open = open.unwrap_or(port);
            Some(Target { path, open, mtu, asked: (network.name.clone(), there.name.clone()) })
        })
    }
}

/// Asks a host and, if there is one, a container there.
fn check_tunnel(
    node: &NodeView,
    mut stages: Vec<(Stage, usize, Outcome)>,
    mut way: Way,
    target: Option<Target>,
) -> Finding {
    let asked = target.map(|Target { path, open, mtu, asked }| {
        way.port = open;
        let forms = [
            (Stage::Tunnel, SMALL, Checksum::Offloaded),
            (Stage::Computed, SMALL, Checksum::Computed),
            (Stage::Absent, SMALL, Checksum::Absent),
            (Stage::TunnelLarge, mtu, Checksum::Offloaded),
        ];
        for (stage, size, checksum) in forms {
            // IPv6 has no datagrams without a checksum.
            if stage != Stage::Absent || path.local.is_ipv4() {
                stages.push((stage, size, ask(|| path.ask(size, checksum, WAIT))));
            }
        }
        asked
    });
    let trouble = diagnose(&stages, &way);
    Finding { node: node.clone(), asked, stages, trouble }
}

/// The link of a network's tunnel here, its number and port, and the network's MTU.
fn tunnel(network: &Network) -> Option<(LinkName, u32, u16, usize)> {
    let planned = network.driver.network(network).ok()?;
    planned.iter().find_map(|(key, value)| match (key, value.link()?) {
        (Key::Link { name, .. }, Link { kind: LinkKind::Vxlan { vni, port, .. }, mtu, .. }) => {
            let mtu = usize::try_from(mtu.unwrap_or(1500)).ok()?;
            Some((name.clone(), *vni, *port, mtu))
        }
        _ => None,
    })
}

/// Two endpoints by addresses of the same family.
fn stations(here: &EndpointRecord, there: &EndpointRecord) -> Option<(Station, Station)> {
    here.addresses.iter().map(ipnetwork::IpNetwork::ip).find_map(|own| {
        let others = there.addresses.iter().map(ipnetwork::IpNetwork::ip);
        let other = others.into_iter().find(|other| other.is_ipv4() == own.is_ipv4())?;
        let station = |record: &EndpointRecord, address| Station { mac: record.mac, address };
        Some((station(here, own), station(there, other)))
    })
}

fn ask(question: impl Fn() -> io::Result<Answer>) -> Outcome {
    let mut outcome = Outcome::Asked(Answer::Silence);
    for _ in 0..TIMES {
        outcome = match question() {
            Ok(answer) => Outcome::Asked(answer),
            Err(error) => Outcome::Refused(error.to_string()),
        };
        if outcome != Outcome::Asked(Answer::Silence) {
            break;
        }
    }
    outcome
}

/// What is wrong on a way where these questions were answered and those were not.
fn diagnose(stages: &[(Stage, usize, Outcome)], way: &Way) -> Option<Trouble> {
    let of = |wanted| stages.iter().find(|(stage, _, _)| *stage == wanted);
    let came = |stage| of(stage).is_some_and(|(_, _, it)| *it == Outcome::Asked(Answer::Came));
    let Way { local, remote, interface, port, mtu } = way;
    let trouble = |stage, says: String, mend: String| Some(Trouble { stage, says, mend });
    if of(Stage::Tunnel).is_none() {
        return if !came(Stage::Host) {
            trouble(
                Stage::Host,
                format!("{remote} does not answer"),
                format!("ip route get {remote}"),
            )
        } else if came(Stage::HostLarge) {
            None
        } else {
            trouble(
                Stage::HostLarge,
                format!("packets of {mtu} bytes do not get to {remote}"),
                format!("ip link set dev {interface} mtu <what the way takes>"),
            )
        };
    }
    if came(Stage::Tunnel) {
        let (_, size, _) = of(Stage::TunnelLarge).filter(|_| !came(Stage::TunnelLarge))?;
        return trouble(
            Stage::TunnelLarge,
            format!("packets of the network's {size} bytes do not get through the tunnel"),
            format!("ip link set dev {interface} mtu <what the way takes>; networks follow it"),
        );
    }
    if came(Stage::Computed) {
        return trouble(
            Stage::Tunnel,
            format!("the card of {interface} does not fill in the checksums of tunnels"),
            format!("ethtool -K {interface} tx-checksum-ip-generic off"),
        );
    }
    if came(Stage::Absent) {
        return trouble(
            Stage::Computed,
            format!("checksums are damaged between {local} and {remote}"),
            format!("ethtool -K {interface} tx off rx off; on {remote} the same"),
        );
    }
    if came(Stage::Host) {
        return trouble(
            Stage::Tunnel,
            format!("{remote} answers, but nothing gets through to its UDP port {port}"),
            format!(
                "open UDP port {port} on {remote} for {local}, and here for {remote}; if it is, \
                 ethtool -K {interface} tx-checksum-ip-generic off on both"
            ),
        );
    }
    trouble(Stage::Host, format!("{remote} does not answer"), format!("ip route get {remote}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Stage; 6] = [
        Stage::Host,
        Stage::HostLarge,
        Stage::Tunnel,
        Stage::Computed,
        Stage::Absent,
        Stage::TunnelLarge,
    ];

    /// What is said where only these are answered, of these that are asked.
    fn said(asked: &[Stage], answered: &[Stage]) -> Option<(Stage, String)> {
        let way = Way {
            local: [192, 0, 2, 1].into(),
            remote: [192, 0, 2, 2].into(),
            interface: "eth0".to_owned(),
            port: 4789,
            mtu: 1500,
        };
        let outcome = |stage: &Stage| {
            let came = answered.contains(stage);
            Outcome::Asked(if came { Answer::Came } else { Answer::Silence })
        };
        let stages: Vec<_> = asked.iter().map(|stage| (*stage, 64, outcome(stage))).collect();
        diagnose(&stages, &way).map(|trouble| (trouble.stage, trouble.mend))
    }

    #[test]
    fn the_first_question_that_is_not_answered_tells_what_is_wrong() {
        use Stage::{Absent, Computed, Host, HostLarge, Tunnel, TunnelLarge};
        assert_eq!(said(&ALL, &ALL), None);
        let no_echo = [Tunnel, Computed, Absent, TunnelLarge];
        assert_eq!(said(&ALL, &no_echo), None, "hosts need not answer, tunnels do");
        let (stage, mend) = said(&ALL, &[]).unwrap();
        assert_eq!((stage, mend.as_str()), (Host, "ip route get 192.0.2.2"));
        let (stage, mend) = said(&ALL, &[Host, HostLarge]).unwrap();
        assert!(stage == Tunnel && mend.contains("open UDP port 4789"), "{mend}");
        let (stage, mend) = said(&ALL, &[Host, HostLarge, Computed, Absent]).unwrap();
        assert!(stage == Tunnel && mend.contains("tx-checksum-ip-generic off"), "{mend}");
        let (stage, mend) = said(&ALL, &[Host, HostLarge, Absent]).unwrap();
        assert!(stage == Computed && mend.contains("ethtool"), "{mend}");
        let (stage, mend) = said(&ALL, &[Host, Tunnel, Computed, Absent]).unwrap();
        assert!(stage == TunnelLarge && mend.contains("mtu"), "{mend}");
        assert_eq!(said(&ALL[..2], &[Host, HostLarge]), None, "there is no container to ask");
        assert_eq!(said(&ALL[..2], &[Host]).unwrap().0, HostLarge);
    }
}
