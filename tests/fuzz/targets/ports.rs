//! `PortBindings` and `ExposedPorts`: what is taken means the same when it is written again.
#![no_main]

use engine::api::wire::container_config::Set;
use engine::api::wire::go;
use engine::api::wire::ports::{self, PortMap};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| {
    if let Ok(((first, last), protocol)) = ports::port_range(text) {
        assert!(0 < first && first <= last);
        let again = format!("{first}-{last}/{protocol}");
        assert_eq!(ports::port_range(&again).ok(), Some(((first, last), protocol)));
    }
    let Ok(value) = serde_json::from_str::<Value>(text) else { return };
    if let Ok(Ok(published)) =
        go::from_value::<PortMap>(value.clone()).map(|map| ports::published(&map))
    {
        let again = ports::published(&ports::port_bindings(&published)).expect("our own words");
        // What has one key is told together: the order may be another.
        assert_eq!(again.len(), published.len());
        assert!(published.iter().all(|port| again.contains(port)));
    }
    let Ok(Ok(exposed)) = go::from_value::<Set>(value).map(|set| ports::exposed(&set)) else {
        return;
    };
    assert!(exposed.is_sorted() && exposed.windows(2).all(|pair| pair[0] != pair[1]));
    let again = ports::exposed(&ports::port_set(exposed.iter().copied())).expect("our own words");
    assert_eq!(again, exposed);
});
