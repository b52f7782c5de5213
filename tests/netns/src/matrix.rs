//! Who reaches what: an engine's networks, tried from everywhere there is.
//!
//! The engine is spoken to as any client does, by Docker's API, so that it may be any. Servers and
//! clients run inside its containers' namespaces and on machines beside its host.

mod engine;
mod listener;
mod page;
mod plan;
mod scene;
mod trial;

pub use engine::Engine;
pub use page::Page;

use crate::{Host, Lab};
use scene::Scene;

/// Whether bridged packets pass the host's own rules as well (`br_netfilter`).
const BRIDGED: [&str; 3] = [
    "net/bridge/bridge-nf-call-arptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/bridge/bridge-nf-call-iptables",
];

/// Whether a host's kernel has `br_netfilter`.
pub fn knows_br_netfilter(host: &Host) -> bool {
    BRIDGED.iter().all(|path| !read(host, path).is_empty())
}

/// Tries everything, without `br_netfilter` and with it, if there is such a thing. What is expected to be reached is waited
/// for longer.
pub fn measure(engine: &Engine, lab: &Lab, expected: Option<&Page>) -> Result<Page, String> {
    let scene = Scene::new(engine, lab)?;
    if !knows_br_netfilter(&lab.host) {
        return Ok(scene.page(expected));
    }
    let before = BRIDGED.map(|path| read(&lab.host, path));
    let measured = ["0", "1"].map(|bridged| {
        for path in BRIDGED {
            write(&lab.host, path, bridged);
        }
        scene.page(expected)
    });
    for (path, value) in BRIDGED.iter().zip(before) {
        write(&lab.host, path, &value);
    }
    let [without, with] = measured;
    Ok(without.beside(&with))
}

/// A kernel without the module has none of them.
fn read(host: &Host, path: &str) -> String {
    host.run(|| std::fs::read_to_string(format!("/proc/sys/{path}"))).unwrap_or_default()
}

fn write(host: &Host, path: &str, value: &str) {
    let _ = host.run(|| std::fs::write(format!("/proc/sys/{path}"), value.trim()));
}
