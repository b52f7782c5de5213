//! What other hosts of a cluster say: join tokens, messages of nodes and managers, records of the store.
//! What is understood is said again in the same way.
#![no_main]

use std::fmt::Debug;

use cluster::record::{
    AddressRecord, EndpointRecord, IdentityRecord, LiveRecord, NetworkRecord, NodeRecord, Read,
    SchemaRecord, read, write,
};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use swarm::Token;
use swarm::protocol::{Answer, Request};

fn record<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    match read::<T>(bytes) {
        Read::Record(found) => assert_eq!(read(&write(&found)), Read::Record(found)),
        Read::Not(why) => assert!(!why.is_empty()),
    }
}

/// Whether it is said again, and the same then.
fn message<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(found) = serde_json::from_slice::<T>(bytes) else { return };
    let said = serde_json::to_vec(&found).expect("what was read is JSON");
    let again = serde_json::from_slice::<T>(&said).expect("our own words");
    assert_eq!(serde_json::to_vec(&again).expect("the same"), said);
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(token) = text.parse::<Token>()
    {
        assert_eq!(token.to_string().parse::<Token>().as_ref(), Ok(&token));
    }
    message::<Request>(bytes);
    message::<Answer>(bytes);
    record::<NodeRecord>(bytes);
    record::<LiveRecord>(bytes);
    record::<NetworkRecord>(bytes);
    record::<AddressRecord>(bytes);
    record::<EndpointRecord>(bytes);
    record::<SchemaRecord>(bytes);
    record::<IdentityRecord>(bytes);
});
