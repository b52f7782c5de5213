//! Bodies of `POST /containers/create`: what `inspect` shows of one that is taken is taken again, and
//! means the same.
#![no_main]

use engine::api::wire::container_create::{Defaults, spec};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fn defaults() -> Defaults {
    Defaults {
        network_mode: "bridge".to_owned(),
        shm_size: 64 << 20,
        ipc_mode: "private".to_owned(),
        cgroupns_mode: "host".to_owned(),
        runtime: "crun".to_owned(),
        log_driver: "json-file".to_owned(),
        ..Defaults::default()
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(body) = serde_json::from_slice::<Value>(bytes) else { return };
    let Ok(made) = spec(body, &defaults()) else { return };
    let mut shown = Value::clone(&made.wire_config);
    shown["HostConfig"] = Value::clone(&made.wire_host_config);
    let again = spec(shown, &defaults()).expect("what is shown is a request");
    assert_eq!(
        (again.wire_config, again.wire_host_config),
        (made.wire_config, made.wire_host_config)
    );
});
