//! What the daemon and a shim say to each other, and what runtimes say to both: no line ends either of
//! them, and what is understood is said again in the same way.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shim::protocol::{Config, Event, Exec, Exit, Reply, Request, Started};
use shim::said;

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
    let Ok(read) = serde_json::from_slice::<T>(bytes) else { return };
    let line = serde_json::to_vec(&read).expect("what was read is JSON");
    assert!(!line.contains(&b'\n'), "it is one line");
    assert_eq!(serde_json::from_slice::<T>(&line).expect("our own words"), read);
}

fuzz_target!(|bytes: &[u8]| {
    check::<Request>(bytes);
    check::<Reply>(bytes);
    check::<Event>(bytes);
    check::<Exec>(bytes);
    check::<Exit>(bytes);
    check::<Started>(bytes);
    if let Ok(config) = serde_json::from_slice::<Config>(bytes) {
        let line = serde_json::to_vec(&config).expect("what was read is JSON");
        serde_json::from_slice::<Config>(&line).expect("our own words");
    }
    let text = String::from_utf8_lossy(bytes);
    let reason = said::reason(&text);
    assert!(reason.is_none() || !text.trim().is_empty(), "nobody said {reason:?}");
});
