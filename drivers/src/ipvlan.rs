//! The `ipvlan` driver: endpoints that share the hardware address of a link of the host, which tells
//! them apart by their addresses.

use std::collections::BTreeMap;

use cnm::controller::HostFacts;
use cnm::driver::{Driver, Probe, Profile, Reach, Reading};
use cnm::link::{IpvlanFlag, IpvlanMode};
use cnm::network::Parent;
use cnm::options::{Described, OptionError, Spec, manual, put};
use cnm::sandbox::Attachment;
use cnm::{LinkKind, Network, Ns, PlanError, Sandbox, State};

use crate::parent::{self, Draft, Options};

/// The `ipvlan` driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ipvlan;

/// The options that only it has.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    /// `ipvlan_mode`.
    mode: IpvlanMode,
    /// `ipvlan_flag`.
    flag: IpvlanFlag,
}

fn specs() -> Vec<Spec<Draft<Own>>> {
    vec![
        Spec {
            names: &["ipvlan_mode"],
            manual: manual(
                "Whether the links have neighbours (l2), or the host routes (l3, l3s).",
                "l2",
                "l3",
            ),
            expected: "l2, l3 or l3s",
            set: |to, text| put(&mut to.own.mode, mode(text)),
            idle: false,
        },
        Spec {
            names: &["ipvlan_flag"],
            manual: manual("Whom the links of the parent may talk to.", "bridge", "private"),
            expected: "bridge, private or vepa",
            set: |to, text| put(&mut to.own.flag, flag(text)),
            idle: false,
        },
    ]
}

fn options(network: &Network) -> (Own, Options) {
    parent::options(specs(), network)
}

fn mode(text: &str) -> Option<IpvlanMode> {
    match text {
        "" | "l2" => Some(IpvlanMode::L2),
        "l3" => Some(IpvlanMode::L3),
        "l3s" => Some(IpvlanMode::L3s),
        _ => None,
    }
}

fn flag(text: &str) -> Option<IpvlanFlag> {
    match text {
        "" | "bridge" => Some(IpvlanFlag::Bridge),
        "private" => Some(IpvlanFlag::Private),
        "vepa" => Some(IpvlanFlag::Vepa),
        _ => None,
    }
}

impl Driver for Ipvlan {
    fn name(&self) -> &'static str {
        "ipvlan"
    }

    fn about(&self) -> &'static str {
        "As macvlan, for networks that take one hardware address of a host only: containers share that of \
         the parent, which tells them apart by their addresses."
    }

    fn read(&self, options: &BTreeMap<String, String>) -> Result<Reading, OptionError> {
        parent::parse(specs(), options, self.name()).map(|(_, _, reading)| reading)
    }

    fn options(&self) -> Vec<Described> {
        parent::described(specs())
    }

    fn parent(
        &self,
        network: &Network,
        host: &HostFacts,
    ) -> Result<Option<(Parent, Vec<String>)>, OptionError> {
        parent::place(network, &options(network).1, host).map(Some)
    }

    /// All of a parent have one mode, so that there is one network.
    fn check_beside(&self, network: &Network, other: &Network) -> Result<(), OptionError> {
        parent::check_kind(network, other)?;
        Err(OptionError::Contradiction(format!(
            "network {} is already using parent interface {}: there can be one ipvlan network on \
             each, with several subnets if need be",
            other.name,
            parent::of(network)
        )))
    }

    fn kinds(&self, network: &Network) -> Vec<LinkKind> {
        parent::kinds(network, kind(network))
    }

    fn has_hardware_addresses(&self) -> bool {
        false
    }

    /// The parent asks: answers go to the hardware address and to no address, which is none of the
    /// endpoint's. Where the host routes nobody is asked for neighbours at all.
    fn probe(&self, of: Attachment<'_>) -> Option<Probe> {
        let (own, common) = options(of.network);
        let parent = (Ns::Host, parent::of(of.network));
        (own.mode == IpvlanMode::L2).then(|| parent::probe(of, &common, parent)).flatten()
    }

    fn profile(&self, network: &Network) -> Profile {
        let (own, common) = options(network);
        let reach = if own.mode == IpvlanMode::L2 { Reach::Attached } else { Reach::OnLink };
        Profile {
            device: None,
            interface_prefix: Some(common.interface_prefix),
            bindings: Vec::new(),
            reach: [reach; 2],
        }
    }

    fn network(&self, network: &Network) -> Result<State, PlanError> {
        Ok(parent::state(network))
    }

    fn endpoint(&self, sandbox: &Sandbox, of: Attachment<'_>) -> Result<State, PlanError> {
        parent::endpoint(sandbox, of, kind(of.network))
    }
}

fn kind(network: &Network) -> LinkKind {
    let (own, _) = options(network);
    LinkKind::Ipvlan { parent: parent::of(network), mode: own.mode, flag: own.flag }
}
