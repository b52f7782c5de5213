//! What the daemon asks of `rnet-dns`: what is understood is said again in the same way, and names can be
//! asked for whatever was published.
#![no_main]

use dns::answer::{Answer, Transport, answer};
use dns::names::Names;
use dns::protocol::{Reply, Request, SandboxView};
use libfuzzer_sys::fuzz_target;

/// `web`, an address.
const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";

fn ask(names: &Names, view: &SandboxView) {
    for transport in [Transport::Udp, Transport::Tcp] {
        let answered = answer(QUESTION, transport, view, names, 7);
        assert_ne!(answered, Answer::Ignore);
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(reply) = serde_json::from_slice::<Reply>(bytes) {
        let text = serde_json::to_vec(&reply).expect("what was read is JSON");
        assert_eq!(serde_json::from_slice::<Reply>(&text).expect("our own words"), reply);
    }
    // Several in a row, as a list: a conversation.
    let requests = serde_json::from_slice::<Vec<Request>>(bytes)
        .or_else(|_| serde_json::from_slice::<Request>(bytes).map(|one| vec![one]));
    let Ok(requests) = requests else { return };
    let mut names = Names::default();
    for request in requests {
        let text = serde_json::to_vec(&request).expect("what was read is JSON");
        assert_eq!(serde_json::from_slice::<Request>(&text).expect("our own words"), request);
        match request {
            Request::Publish { network, name, endpoints } => {
                names.publish(network, name, endpoints)
            }
            Request::Withdraw { network, endpoints } => names.withdraw(&network, &endpoints),
            Request::Retain { endpoints } => names.retain(|network, endpoint| {
                endpoints.get(network).is_some_and(|kept| kept.contains(endpoint))
            }),
            Request::Serve(view) | Request::Update(view) => ask(&names, &view),
            Request::Hold(ports) | Request::Lead(ports) => {
                for port in ports {
                    assert_eq!(port.apart().count(), port.bindings().count());
                }
            }
            _ => {}
        }
    }
});
