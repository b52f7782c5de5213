//! Networks with as many endpoints as there can be, all of which are reached.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;

use cnm::sandbox::Attachment;
use cnm::{Endpoint, EndpointId, Mac, Network, Planner, Sandbox, SandboxId, State, diff};
use drivers::Drivers;
use drivers::kernel::netlink::Socket;
use drivers::kernel::{Kernel, Linux, neighbour};
use ipnetwork::IpNetwork;
use netns_tests::{Host, Lab, Model, TIMEOUT, wait_until};

/// A network with room for thousands of addresses, without a bridge or with one.
fn network(options: &[(&str, &str)]) -> Model {
    let mut model = Model::default();
    let network = model.network(1);
    let given = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    network.given_options.extend(given);
    network.pools[0].subnet = "10.1.0.0/20".parse().unwrap();
    model.sandbox(1, &[1]);
    model
}

/// Sandboxes like one of the model, with addresses of their own: there are more than it has numbers for.
fn many(model: &Model, count: usize) -> Vec<(Sandbox, Endpoint)> {
    let (like, endpoints) = &model.sandboxes[&1];
    let one = |n: u16| {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        let (id, [high, low]) = (SandboxId::from_random(bytes), n.to_be_bytes());
        let address = |like: &IpNetwork| {
            let address = match like.network() {
                IpAddr::V4(ip) => IpAddr::from((u32::from(ip) + u32::from(n) + 2).to_be_bytes()),
                IpAddr::V6(ip) => IpAddr::from((u128::from(ip) + u128::from(n) + 2).to_be_bytes()),
            };
            IpNetwork::new(address, like.prefix()).unwrap()
        };
        let endpoint = Endpoint {
            id: EndpointId::from_random(bytes),
            sandbox: id.clone(),
            mac: Mac::from([2, 0, 0, 9, high, low]),
            addresses: endpoints[0].addresses.iter().map(address).collect(),
            ..endpoints[0].clone()
        };
        (Sandbox { id, resolver: false, ..like.clone() }, endpoint)
    };
    (0..u16::try_from(count).unwrap()).map(one).collect()
}

fn planned(network: &Network, (sandbox, endpoint): &(Sandbox, Endpoint)) -> State {
    Drivers.sandbox(sandbox, &[Attachment { network, endpoint }]).unwrap()
}

/// All of them at once.
fn make(lab: &Lab, network: &Network, all: &[(Sandbox, Endpoint)]) -> (Linux, State) {
    let mut state = network.driver.network(network).unwrap();
    for one in all {
        state.extend(planned(network, one));
    }
    let kernel = lab.open();
    kernel.apply(&diff(&State::default(), &state)).unwrap();
    (kernel, state)
}

/// Nobody listens, and who is reached says so. A question that met others in a queue that is too short for all
/// of them is asked again.
fn assert_reached(from: &Host, to: SocketAddr) {
    wait_until(&format!("{to} is reached"), || {
        let tried = from.run(|| TcpStream::connect_timeout(&to, TIMEOUT));
        tried.expect_err("nobody listens").kind() == ErrorKind::ConnectionRefused
    });
}

#[test]
fn eleven_hundred_endpoints_of_one_network_without_a_bridge_are_all_reached() {
    let (lab, model) = (Lab::new(), network(&[("rnet.bridge.topology", "l3")]));
    let network = &model.networks[&1];
    assert_eq!(network.driver.room(network), None);
    let all = many(&model, 1_100);
    let (kernel, state) = make(&lab, network, &all);
    let first = lab.sandbox(&kernel, &all[0].0.id);
    thread::scope(|scope| {
        for part in all.chunks(100) {
            let (first, lab) = (&first, &lab);
            scope.spawn(move || {
                for address in part.iter().flat_map(|(_, endpoint)| &endpoint.addresses) {
                    let to = SocketAddr::new(address.ip(), 9);
                    assert_reached(&lab.host, to);
                    assert_reached(first, to);
                }
            });
        }
    });
    assert_eq!(kernel.dismantle(&diff(&state, &State::default())).len(), 0);
}

/// Somebody on a bridge, and what it is called there.
struct Party {
    host: Host,
    device: u32,
    addresses: Vec<IpAddr>,
}

impl Party {
    fn new(host: Host, device: &str, addresses: Vec<IpAddr>) -> Self {
        let device = host.link(device).unwrap().index;
        Self { host, device, addresses }
    }

    /// Finds another one by each family. Both forget that again: the kernel remembers a thousand of all
    /// namespaces together, of other tests as well.
    fn finds(&self, other: &Self) {
        for (own, to) in self.addresses.iter().zip(&other.addresses) {
            assert_reached(&self.host, SocketAddr::new(*to, 9));
            for (who, whom) in [(self, to), (other, own)] {
                let forget = [neighbour::unset(who.device, *whom)];
                // It may have no need to ask for who asked it.
                who.host.run(|| drop(Socket::open().unwrap().batch(&forget)));
            }
        }
    }
}

/// A question who has an address is copied to all of them, so there is one at a time.
#[test]
fn a_thousand_endpoints_of_one_bridge_are_all_found() {
    let (lab, model) = (Lab::new(), network(&[]));
    let network = &model.networks[&1];
    let room = network.driver.room(network).unwrap().endpoints;
    assert_eq!(room, 1_000);
    let all = many(&model, room);
    let (kernel, state) = make(&lab, network, &all);
    let bridge = network.profile().device.unwrap();
    let host = Party::new(lab.host.another(), bridge.as_str(), model.gateways(1));
    let inside = |(sandbox, endpoint): &(Sandbox, Endpoint)| {
        let addresses = endpoint.addresses.iter().map(IpNetwork::ip).collect();
        Party::new(lab.sandbox(&kernel, &sandbox.id), "eth0", addresses)
    };
    let first = inside(&all[0]);
    // Every one of them by the host or by a neighbour, the last ones by both.
    for (number, one) in all.iter().enumerate() {
        let (one, last) = (inside(one), number + 10 > room);
        if last || number % 2 == 0 {
            host.finds(&one);
        }
        if last || number % 2 == 1 {
            first.finds(&one);
        }
    }
    assert_eq!(kernel.dismantle(&diff(&state, &State::default())).len(), 0);
}
