//! A plugin that is killed, at any moment, leaves nothing that the next call does not settle.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::runtime::{Pod, Runtime};

/// At how many moments of a call it is killed.
const MOMENTS: u32 = 24;

/// A network with one address for pods, which must be free again each time.
fn runtime() -> Runtime {
    Runtime::new(json!({
        "cniVersion": "1.1.0", "name": "pods", "isDefaultGateway": true, "ipMasq": true,
        "ipam": {"subnet": "10.88.0.0/30"},
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}
    }))
}

/// Calls the plugin and kills it after a time, unless it is done before.
fn kill(runtime: &Runtime, command: &str, pod: &Pod, after: Duration) {
    let mut child = runtime.spawn(command, pod, &runtime.config.to_string());
    let (_never, patience) = mpsc::channel::<()>();
    let _ = patience.recv_timeout(after);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// How long a call takes when it is not disturbed.
fn duration(runtime: &Runtime, command: &str, pod: &Pod) -> Duration {
    let begun = Instant::now();
    runtime.ok(command, pod);
    begun.elapsed()
}

#[test]
fn killed_add_leaks_nothing() {
    let runtime = runtime();
    let before = runtime.traces();
    let pod = Pod::new("first");
    let whole = duration(&runtime, "ADD", &pod);
    runtime.del(&pod);
    let collecting = runtime.with(|config| config["cni.dev/valid-attachments"] = json!([]));
    let links = |pod: &Pod| pod.space.output("ip", &["-br", "link"]).lines().count();
    let mut settled = 0;
    for moment in moments() {
        let pod = Pod::new(&format!("p{moment}"));
        kill(&runtime, "ADD", &pod, whole * moment / MOMENTS);
        // The runtime cleans up after what failed, sooner or later.
        let cleaning = if moment % 2 == 0 {
            runtime.settles("DEL", &pod)
        } else {
            collecting.settles("GC", &pod)
        };
        settled += u32::from(cleaning);
        assert_eq!(runtime.traces(), before, "killed at moment {moment}");
        assert_eq!(links(&pod), 1);
        let next = Pod::new("next");
        let result = runtime.add(&next);
        assert_eq!(result["ips"][0]["address"], "10.88.0.2/30");
        runtime.del(&next);
        if enough(moment, settled) {
            return;
        }
    }
    panic!("none was killed at an interesting moment");
}

#[test]
fn killed_del_is_finished_by_the_next_call() {
    let runtime = runtime();
    let before = runtime.traces();
    let pod = Pod::new("first");
    runtime.add(&pod);
    let whole = duration(&runtime, "DEL", &pod);
    let mut settled = 0;
    for moment in moments() {
        let pod = Pod::new(&format!("p{moment}"));
        runtime.add(&pod);
        kill(&runtime, "DEL", &pod, whole * moment / MOMENTS);
        settled += u32::from(runtime.settles("DEL", &pod));
        assert_eq!(runtime.traces(), before, "killed at moment {moment}");
        assert_eq!(pod.space.output("ip", &["-br", "link"]).lines().count(), 1);
        if enough(moment, settled) {
            return;
        }
    }
    panic!("none was killed at an interesting moment");
}

/// All moments, and again, as long as it takes.
fn moments() -> impl Iterator<Item = u32> {
    (0..MOMENTS).cycle().take(8 * MOMENTS as usize)
}

/// Whether a round is complete, and some of the calls were killed with their work half done.
fn enough(moment: u32, settled: u32) -> bool {
    moment == MOMENTS - 1 && settled > 0
}
